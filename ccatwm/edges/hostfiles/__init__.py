"""Files of the processing host outside the base directory, behind the HostFiles port."""
