"""The newcomer's flows: join, renew, explain. Everything is checked before anything is kept."""
