"""The files and the commands of NiFi's tls-toolkit, so that Handfast can stand in for it."""
