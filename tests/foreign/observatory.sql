-- A submillimetre observatory's own database. The schema `ops` is theirs; `public` has tables that are called as ours are.
CREATE SCHEMA ops;
CREATE TABLE public.alembic_version (version_num text PRIMARY KEY);
INSERT INTO public.alembic_version VALUES ('their_17');
CREATE TABLE public.pipeline (id serial PRIMARY KEY, title text NOT NULL);
INSERT INTO public.pipeline (title) VALUES ('a data transfer route');
CREATE TABLE public.sub_group (id serial PRIMARY KEY, members text[]);
CREATE TABLE public.raw_data_package (id serial PRIMARY KEY, remark text);
INSERT INTO public.raw_data_package (remark) VALUES ('a decoy');

CREATE TYPE ops.package_state AS ENUM ('WAITING', 'TRANSFERRING', 'ARCHIVED', 'FAILED');
CREATE TYPE ops.copy_status AS ENUM ('PRESENT', 'STAGED', 'DELETION_POSSIBLE', 'DELETED');
CREATE TYPE ops.place_kind AS ENUM ('SOURCE', 'BUFFER', 'LONG_TERM_ARCHIVE', 'PROCESSING');
CREATE TYPE ops.outcome AS ENUM ('RUNNING', 'SUCCESSFUL', 'ABORTED');

CREATE TABLE ops.site (site_no int PRIMARY KEY, short_name character(12) NOT NULL);
CREATE TABLE ops.data_location (
  loc_id uuid PRIMARY KEY, site_no int REFERENCES ops.site, label text NOT NULL UNIQUE, kind ops.place_kind NOT NULL,
  storage text NOT NULL, rank int, changed timestamptz NOT NULL);
CREATE TABLE ops.disk_data_location (loc_id uuid PRIMARY KEY REFERENCES ops.data_location, folder text NOT NULL);
CREATE TABLE ops.instrument (code text PRIMARY KEY, label text NOT NULL, changed timestamptz NOT NULL);
CREATE TABLE ops.instrument_module (
  module_id bigint PRIMARY KEY, instrument_code text NOT NULL REFERENCES ops.instrument, "Module" character(10) NOT NULL,
  changed timestamptz NOT NULL);
-- No change time at all.
CREATE TABLE ops.target (
  target_uuid uuid PRIMARY KEY, target_name varchar(80) NOT NULL, target_class text NOT NULL, ra_hours double precision,
  annotations text);
CREATE TABLE ops.obs_unit (
  uuid uuid PRIMARY KEY, label text NOT NULL, target_uuid uuid REFERENCES ops.target, spectral_line text,
  mode text, tiling int[], changed timestamptz NOT NULL);
CREATE TABLE ops.executed_obs_unit (
  uuid uuid PRIMARY KEY, label text NOT NULL, unit_uuid uuid REFERENCES ops.obs_unit, began timestamp, outcome ops.outcome,
  pwv_mm numeric(6, 3), changed timestamp NOT NULL);
CREATE INDEX ON ops.executed_obs_unit (changed);
CREATE INDEX ON ops.executed_obs_unit (unit_uuid);
CREATE TABLE ops.raw_data_package (
  uuid uuid PRIMARY KEY, label text NOT NULL UNIQUE, exec_uuid uuid REFERENCES ops.executed_obs_unit,
  module_id bigint REFERENCES ops.instrument_module, lifecycle ops.package_state NOT NULL, sha256 character(64),
  n_bytes numeric, shift_leader text, night date, secret_note text, changed timestamptz NOT NULL);
CREATE INDEX ON ops.raw_data_package (changed);
CREATE INDEX ON ops.raw_data_package (exec_uuid);
CREATE TABLE ops.package_metadata (uuid uuid PRIMARY KEY, package_uuid uuid NOT NULL REFERENCES ops.raw_data_package,
  document jsonb NOT NULL, changed timestamptz NOT NULL);
CREATE INDEX ON ops.package_metadata (package_uuid);
CREATE TABLE ops.physical_copy (
  copy_uuid uuid PRIMARY KEY, loc_id uuid NOT NULL REFERENCES ops.data_location, status ops.copy_status NOT NULL);
CREATE TABLE ops.raw_data_package_physical_copy (
  copy_uuid uuid PRIMARY KEY REFERENCES ops.physical_copy, package_uuid uuid NOT NULL REFERENCES ops.raw_data_package,
  rel_path text NOT NULL);
CREATE INDEX ON ops.raw_data_package_physical_copy (package_uuid);
