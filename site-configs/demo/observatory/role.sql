-- What their owner is asked for: a role that reads what was observed, and a schema for the tables of ccatwm.
GRANT USAGE ON SCHEMA public TO ccatwm;
GRANT SELECT ON site, storage_location, instrument, receiver, target, observing_block, scan, data_package, package_metadata,
  raw_file, package_copy TO ccatwm;
CREATE SCHEMA ccatwm AUTHORIZATION ccatwm;
