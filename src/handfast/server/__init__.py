"""The registrar over HTTPS: the one place with HTTP statuses, sockets and signals."""
