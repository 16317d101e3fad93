"""Changes outside the passes: apply, ingest, control."""
