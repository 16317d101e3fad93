"""Migrations of the ops-db: branch `observation` (where ccatwm manages those tables) and branch `pipeline`."""
