-- An optical telescope: nights, exposures and detectors. Frames are files, one per exposure and detector; where they lie
-- is said by the frame itself.
CREATE SCHEMA mosaic;
CREATE TABLE mosaic.nights (night_no serial PRIMARY KEY, "date" date NOT NULL UNIQUE, observer text, seeing_arcsec real);
CREATE TABLE mosaic.fields (field_code text PRIMARY KEY, survey text NOT NULL, centre point);
CREATE TABLE mosaic.exposures (
  exposure_no bigint PRIMARY KEY, night_no int NOT NULL REFERENCES mosaic.nights, field_code text REFERENCES mosaic.fields,
  filter varchar(8) NOT NULL, opened_at timestamptz NOT NULL, seconds real NOT NULL, quality smallint,
  modified timestamptz NOT NULL);
CREATE INDEX ON mosaic.exposures (modified);
CREATE TABLE mosaic.detectors (detector_no smallint PRIMARY KEY, serial_name text NOT NULL, works boolean NOT NULL);
CREATE TABLE mosaic.frames (
  frame_no bigserial PRIMARY KEY, exposure_no bigint NOT NULL REFERENCES mosaic.exposures,
  detector_no smallint NOT NULL REFERENCES mosaic.detectors, file_name text NOT NULL UNIQUE, md5 text, kilobytes int,
  header json, modified timestamptz NOT NULL);
CREATE INDEX ON mosaic.frames (modified);
CREATE INDEX ON mosaic.frames (exposure_no);
