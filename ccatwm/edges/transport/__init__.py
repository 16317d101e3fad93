"""How commands reach the host of a batch system."""
