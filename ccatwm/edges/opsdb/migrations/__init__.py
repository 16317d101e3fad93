"""Migrations of the ops-db: branch `observation` (where those tables are ours) and branch `pipeline`."""
