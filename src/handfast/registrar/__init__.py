"""The registrar's flows: introduce, administer, maintain. They reach the world only through ports."""
