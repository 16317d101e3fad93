-- A solar radio observatory: names in capitals, states as numbers, one file for each session and station.
CREATE SCHEMA obs;
CREATE TABLE obs."Campaigns" ("Id" serial PRIMARY KEY, "Title" text NOT NULL);
CREATE TABLE obs."Sessions" (
  "Id" bigserial PRIMARY KEY, "CampaignId" int REFERENCES obs."Campaigns", "StartUtc" timestamp NOT NULL,
  "StopUtc" timestamp, "UpdatedAt" timestamptz NOT NULL DEFAULT now());
CREATE TABLE obs."Stations" ("Id" smallint PRIMARY KEY, "Code" varchar(8) NOT NULL);
CREATE TABLE obs."Recordings" (
  "Id" bigserial PRIMARY KEY, "SessionId" bigint NOT NULL REFERENCES obs."Sessions",
  "StationId" smallint NOT NULL REFERENCES obs."Stations", "Status" smallint NOT NULL, "File" text NOT NULL UNIQUE,
  "Bytes" bigint, "Md5" char(32), "Settings" jsonb, "UpdatedAt" timestamptz NOT NULL DEFAULT now());
CREATE TABLE obs."Weather" ("At" timestamptz PRIMARY KEY, "Wind" real);
INSERT INTO obs."Campaigns" ("Title") VALUES ('quiet sun'), ('flares');
INSERT INTO obs."Stations" VALUES (1, 'north'), (2, 'south');
