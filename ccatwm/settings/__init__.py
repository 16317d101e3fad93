"""Settings: schema and load."""
