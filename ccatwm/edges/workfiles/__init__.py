"""Everything below the base directory, behind the WorkFiles port."""
