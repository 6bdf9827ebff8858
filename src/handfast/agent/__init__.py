"""What runs on a managed machine: it is introduced by its controller, and does for it what its own policy allows."""
