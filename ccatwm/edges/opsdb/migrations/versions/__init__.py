"""One file per revision, named after it; the first of each branch has no predecessor."""
