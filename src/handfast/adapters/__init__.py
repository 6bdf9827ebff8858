"""The real world behind the ports: files, clocks, TLS contexts, systemd."""
