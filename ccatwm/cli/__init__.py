"""Options in, one call, report out."""
