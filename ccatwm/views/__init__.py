"""Read-only answers for people."""
