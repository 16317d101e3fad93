-- The database of an observatory that was there before: `bin/demo --foreign` has the demo's scans in it. Nothing here is
-- made for ccatwm. `pipeline`, `data_product` and `alembic_version` are called as tables of ours are, and are others.
CREATE TABLE alembic_version (version_num text PRIMARY KEY);
CREATE TABLE pipeline (id serial PRIMARY KEY, title text NOT NULL);
CREATE TABLE data_product (id serial PRIMARY KEY, bulletin text NOT NULL);
CREATE TABLE observer_account (login text PRIMARY KEY, secret text NOT NULL);

CREATE TYPE package_state AS ENUM ('ANNOUNCED', 'IN_TRANSFER', 'ARCHIVED', 'LOST');
CREATE TYPE copy_status AS ENUM ('PRESENT', 'DELETION_POSSIBLE', 'DELETED');
CREATE TYPE place_kind AS ENUM ('SOURCE', 'BUFFER', 'LONG_TERM_ARCHIVE', 'PROCESSING');
CREATE TYPE storage_kind AS ENUM ('POSIX', 'OBJECT_STORE');
CREATE TYPE scan_outcome AS ENUM ('RUNNING', 'FINISHED', 'ABORTED');

CREATE TABLE site (site_no smallint PRIMARY KEY, short_name character(12) NOT NULL);
CREATE TABLE storage_location (
  loc_uuid uuid PRIMARY KEY, site_no smallint NOT NULL REFERENCES site, label text NOT NULL UNIQUE,
  kind place_kind NOT NULL, storage storage_kind NOT NULL, folder text NOT NULL, rank int NOT NULL, contact text,
  changed timestamptz NOT NULL DEFAULT now());

CREATE TABLE instrument (code text PRIMARY KEY, label text NOT NULL, changed timestamptz NOT NULL DEFAULT now());
CREATE TABLE receiver (
  receiver_no int PRIMARY KEY, instrument_code text NOT NULL REFERENCES instrument, module_name character(8) NOT NULL,
  cooled_down date, changed timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON receiver (instrument_code);

-- `changed` is set when a target is entered. Whoever corrects one later does not touch it.
CREATE TABLE target (
  target_uuid uuid PRIMARY KEY, target_name varchar(80) NOT NULL, target_class text NOT NULL, ra_deg double precision,
  dec_deg double precision, entered_by text, changed timestamptz NOT NULL DEFAULT now());
CREATE TABLE observing_block (
  block_uuid uuid PRIMARY KEY, label text NOT NULL UNIQUE, target_uuid uuid REFERENCES target, spectral_line text,
  mode text NOT NULL, tiling int[], changed timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON observing_block (target_uuid);
CREATE INDEX ON observing_block (changed);

-- When a scan ended is not written down. Times are UTC, and do not say so.
CREATE TABLE scan (
  scan_uuid uuid PRIMARY KEY, label text NOT NULL UNIQUE, block_uuid uuid NOT NULL REFERENCES observing_block,
  began timestamp NOT NULL, outcome scan_outcome NOT NULL, pwv_mm numeric(6, 3),
  changed timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'));
CREATE INDEX ON scan (block_uuid);
CREATE INDEX ON scan (began);
CREATE INDEX ON scan (changed);

CREATE TABLE data_package (
  package_uuid uuid PRIMARY KEY, label text NOT NULL UNIQUE, scan_uuid uuid NOT NULL REFERENCES scan,
  receiver_no int NOT NULL REFERENCES receiver, lifecycle package_state NOT NULL, sha256 character(64), n_bytes numeric,
  shift_leader text, changed timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON data_package (scan_uuid);
CREATE INDEX ON data_package (receiver_no);
CREATE INDEX ON data_package (changed);
CREATE TABLE package_metadata (
  metadata_uuid uuid PRIMARY KEY, package_uuid uuid NOT NULL UNIQUE REFERENCES data_package, document jsonb NOT NULL,
  changed timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON package_metadata (changed);
CREATE TABLE raw_file (
  file_uuid uuid PRIMARY KEY, package_uuid uuid NOT NULL REFERENCES data_package, path text NOT NULL, n_bytes bigint,
  sha256 character(64), changed timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON raw_file (package_uuid);
CREATE INDEX ON raw_file (changed);
CREATE TABLE package_copy (
  copy_uuid uuid PRIMARY KEY, package_uuid uuid NOT NULL REFERENCES data_package,
  loc_uuid uuid NOT NULL REFERENCES storage_location, rel_path text NOT NULL, status copy_status NOT NULL,
  changed timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON package_copy (package_uuid);
CREATE INDEX ON package_copy (loc_uuid);
CREATE INDEX ON package_copy (changed);

INSERT INTO alembic_version VALUES ('their_17');
INSERT INTO pipeline (title) VALUES ('a route of data transfer');
INSERT INTO data_product (bulletin) VALUES ('what the press was told');
INSERT INTO observer_account VALUES ('ada', 'nobody else''s business');
