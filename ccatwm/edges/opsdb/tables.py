"""The tables of the ops-db: observation tables (may be somebody else's) and pipeline tables (ours).

Touches: nothing. Pipeline tables are declared in the schema `ccatwm`; the engine maps it away on SQLite. No foreign
key leads from a pipeline table to an observation table, and observation ids are text on our side.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
)

from ccatwm.edges.opsdb.types import Id, Json, UtcDateTime

SCHEMA = "ccatwm"

# --- observation tables ------------------------------------------------------------------------------------------

observation = sa.MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s"})


def _observation_table(name: str, *columns: sa.schema.SchemaItem) -> Table:
    return Table(
        name,
        observation,
        Column("id", Id, primary_key=True),
        *columns,
        Column("updated_at", UtcDateTime, nullable=False, index=True),
        sqlite_autoincrement=True,
    )


def _refers(name: str, target: str, nullable: bool = True) -> Column[int]:
    return Column(name, Id, ForeignKey(f"{target}.id"), nullable=nullable, index=True)


site = _observation_table(
    "site",
    Column("name", Text, nullable=False, unique=True),
    Column("short_name", Text),
    Column("location", Text),
)
data_location = _observation_table(
    "data_location",
    _refers("site_id", "site"),
    Column("name", Text, nullable=False, unique=True),
    Column("location_type", Text, nullable=False),  # source, buffer, long_term_archive, processing
    Column("storage_type", Text, nullable=False),  # disk, s3, tape
    Column("priority", Integer, nullable=False, server_default="0"),  # larger first
    Column("active", Boolean, nullable=False, server_default=sa.true()),
    Column("base_path", Text),  # a setting LOCATIONS.<name>.root wins over it
    Column("details", Json),
)
observatory = _observation_table("observatory", Column("name", Text, nullable=False, unique=True))
telescope = _observation_table(
    "telescope",
    _refers("observatory_id", "observatory"),
    Column("name", Text, nullable=False, unique=True),
    Column("longitude_deg", Float),
    Column("latitude_deg", Float),
    Column("altitude_m", Float),
)
instrument = _observation_table(
    "instrument",
    _refers("telescope_id", "telescope"),
    Column("name", Text, nullable=False, unique=True),
    Column("instrument_type", Text),
    Column("available", Boolean, nullable=False, server_default=sa.true()),
)
instrument_module = _observation_table(
    "instrument_module",
    _refers("instrument_id", "instrument"),
    Column("name", Text, nullable=False),
    Column("pixels", Integer),
    Column("frequency_ghz", Float),
    sa.UniqueConstraint("instrument_id", "name"),
)
observing_program = _observation_table(
    "observing_program",
    Column("short_name", Text, nullable=False, unique=True),
    Column("name", Text),
    Column("description", Text),
)
source = _observation_table(
    "source",
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),  # fixed, solar_system_object, constant_elevation
    Column("ra_deg", Float),
    Column("dec_deg", Float),
    Column("frame", Text),
    Column("velocity_km_s", Float),
    Column("naif_id", Integer),
    Column("azimuth_min_deg", Float),
    Column("azimuth_max_deg", Float),
    Column("elevation_deg", Float),
)
obs_unit = _observation_table(
    "obs_unit",
    Column("name", Text, nullable=False, unique=True),
    _refers("source_id", "source"),
    _refers("observing_program_id", "observing_program"),
    Column("line_id", Text),
    Column("obs_mode", Text),
    Column("details", Json),
)
executed_obs_unit = _observation_table(
    "executed_obs_unit",
    Column("name", Text, nullable=False, unique=True),
    _refers("obs_unit_id", "obs_unit"),
    Column("start_time", UtcDateTime, index=True),
    Column("end_time", UtcDateTime),
    Column("status", Text),
    Column("details", Json),
)
raw_data_package = _observation_table(
    "raw_data_package",
    Column("name", Text, nullable=False, unique=True),
    _refers("executed_obs_unit_id", "executed_obs_unit"),
    _refers("instrument_module_id", "instrument_module"),
    Column("state", Text, nullable=False, index=True),  # waiting, transferring, archived, failed
    Column("checksum", Text),  # algorithm:hex
    Column("size_bytes", BigInteger),
    Column("created_at", UtcDateTime, nullable=False),
)
raw_data_package_metadata = _observation_table(
    "raw_data_package_metadata",
    Column("raw_data_package_id", Id, ForeignKey("raw_data_package.id"), nullable=False, unique=True),
    Column("data", Json, nullable=False),
)
raw_data_file = _observation_table(
    "raw_data_file",
    _refers("raw_data_package_id", "raw_data_package", nullable=False),
    Column("name", Text, nullable=False),  # path inside the package, percent-encoded where not plain text
    Column("size_bytes", BigInteger),
    Column("checksum", Text),
    sa.UniqueConstraint("raw_data_package_id", "name"),
)
physical_copy = _observation_table(
    "physical_copy",
    _refers("raw_data_package_id", "raw_data_package", nullable=False),
    _refers("data_location_id", "data_location", nullable=False),
    Column("path", Text, nullable=False),  # relative to the location's root
    Column("status", Text, nullable=False),  # present, staged, deletion_..., deleted, corrupt
    Column("verified_at", UtcDateTime),
    sa.UniqueConstraint("raw_data_package_id", "data_location_id", "path"),
)
staging_job = _observation_table(
    "staging_job",
    _refers("raw_data_package_id", "raw_data_package", nullable=False),
    _refers("destination_location_id", "data_location", nullable=False),
    Column("status", Text, nullable=False),  # pending, scheduled, in_progress, completed, failed
    Column("active", Boolean, nullable=False, server_default=sa.true()),
    Column("requested_by", Text),
    Column("message", Text),
    Column("created_at", UtcDateTime, nullable=False),
)

# --- pipeline tables ------------------------------------------------------------------------------------------------

pipeline_metadata = sa.MetaData(
    schema=SCHEMA, naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s"}
)


def _table(name: str, *columns: sa.schema.SchemaItem) -> Table:
    return Table(
        name, pipeline_metadata, Column("id", Id, primary_key=True), *columns, sqlite_autoincrement=True
    )


_partial: list[tuple[Index, str]] = []


def _partial_index(
    name: str, *columns: str, where: str, sqlite: str | None = None, unique: bool = False
) -> Index:
    """`sqlite`: the condition as its queries say it, where that is not `where`: SQLite uses a partial index for a query
    that has the very words of its condition (sqlite.org, Partial Indexes, 3), and SQLAlchemy says `= 1` of a boolean."""
    index = Index(name, *columns, unique=unique, sqlite_where=sa.text(sqlite or where))
    _partial.append((index, where))
    return index


def complete_for_postgresql() -> None:
    """Whoever makes or compares tables says this first. Passes need not: it imports the dialect, 25 ms at each start."""
    for index, where in _partial:
        index.dialect_options["postgresql"]["where"] = sa.text(where)


def _ours(name: str, target: str, nullable: bool = False, index: bool = True) -> Column[int]:
    return Column(name, Id, ForeignKey(f"{SCHEMA}.{target}.id"), nullable=nullable, index=index)


ops_db = _table(
    "ops_db",  # one row: who this database is
    Column("uid", Text, nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("submission_blocked", Text),  # why, after a restore, until `doctor --reconcile`
    Column("paused", Text),  # why all passes are paused
)

data_grouping = _table(
    "data_grouping",
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text),
    Column("filter_rules", Json, nullable=False),
    Column("digest", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
pipeline = _table(
    "pipeline",
    Column("name", Text, nullable=False, unique=True),
    _ours("data_grouping_id", "data_grouping"),
    Column("processing_location", Text, nullable=False),  # name of a data location
    Column("trigger_type", Text, nullable=False),
    Column("trigger_config", Json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("held", Text),  # why, when a person holds it
    Column("created_by", Text),
    Column("definition", Json, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
grouping_scope = _table(
    # one data grouping under one group_by: what sub_group_member belongs to; shared by steps and pipelines
    "grouping_scope",
    _ours("data_grouping_id", "data_grouping"),
    Column("group_by", Json, nullable=False),
    Column("group_by_digest", Text, nullable=False),
    Column(
        "resolved_digest", Text
    ),  # digest of the rules that the members stand for; another one means: regroup all
    Column("progress", Json),  # of a full comparison: rules' digest, phase, after, fresh
    sa.UniqueConstraint("data_grouping_id", "group_by_digest"),
)
reduction_software = _table("reduction_software", Column("name", Text, nullable=False, unique=True))
reduction_software_version = _table(
    "reduction_software_version",
    _ours("software_id", "reduction_software"),
    Column("version", Text, nullable=False),
    Column("image", Text),
    Column("image_digest", Text),
    Column("command", Json, nullable=False),
    Column("contract", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("software_id", "version"),
)
reduction_step_config = _table(
    "reduction_step_config",
    Column("digest", Text, nullable=False, unique=True),
    Column("data", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
reduction_step = _table(
    "reduction_step",
    _ours("pipeline_id", "pipeline"),
    Column("name", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("role", Text, nullable=False),  # intermediate, final; fixed at the first apply
    _ours("scope_id", "grouping_scope"),
    _ours("software_id", "reduction_software"),
    _ours("config_id", "reduction_step_config"),
    Column("trigger_type", Text),  # None: the pipeline's
    Column("trigger_config", Json),
    Column("enabled", Boolean, nullable=False),
    Column("held", Text),
    Column("tripped", Text),  # failure class that tripped it
    Column(
        "failures", Integer, nullable=False, server_default="0"
    ),  # attempts that failed alike, without a success
    Column("failures_class", Text),
    Column("learned", Json),  # memory_gb, time_hours that retries had to grow to before a run succeeded
    Column("oldest_first", Boolean, nullable=False, server_default=sa.false()),  # its `order`
    Column("definition", Json, nullable=False),  # the whole step as written, with defaults
    Column("updated_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("pipeline_id", "name"),
)
reduction_step_dependency = _table(
    "reduction_step_dependency",
    _ours("step_id", "reduction_step"),
    _ours("upstream_step_id", "reduction_step"),
    sa.UniqueConstraint("step_id", "upstream_step_id"),
)
step_companion = _table(
    # what a step reads from outside its sub-groups: its packages, grouped by `same`, and those of the step itself
    "step_companion",
    _ours("step_id", "reduction_step", index=False),
    Column("name", Text, nullable=False),
    Column("position", Integer, nullable=False),
    _ours("scope_id", "grouping_scope"),
    _ours("target_scope_id", "grouping_scope"),
    sa.UniqueConstraint("step_id", "name"),
)
reference_data = _table("reference_data", Column("name", Text, nullable=False, unique=True))
reference_data_version = _table(
    "reference_data_version",
    _ours("reference_id", "reference_data"),
    Column("version", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("checksum", Text),
    Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("reference_id", "version"),
)

trigger_event = _table(
    "trigger_event",
    _ours("step_id", "reduction_step"),
    Column("kind", Text, nullable=False),  # changed, due, cron, manual, full
    Column("scope", Json, nullable=False),  # {"sub_group": key or null, "force": bool}
    Column("reason", Text, nullable=False),
    Column("actor", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    _partial_index("ix_trigger_event_open", "step_id", where="closed_at IS NULL"),
)
backfill = _table(
    # what a person asked for: a period of a pipeline's data, made a few runs at a time
    "backfill",
    _ours("pipeline_id", "pipeline"),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("priority", Integer, nullable=False),  # of its runs
    Column("most_runs", Integer),  # at most so many are made; None: as many as are missing
    Column("state", Text, nullable=False),  # open, paused, done, cancelled
    Column("state_reason", Text),  # why it is paused, cancelled, or done before all was looked at
    Column("progress", Json, nullable=False),  # step id -> {"done_to": sub-group id, "finished": bool}
    Column("estimate", Json, nullable=False),  # what was told when it was asked for
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    _partial_index("ix_backfill_open", "pipeline_id", where="ended_at IS NULL"),
)
change_cursor = _table(
    "change_cursor",
    Column("table_name", Text, nullable=False, unique=True),  # or `cron:<step id>` for the last tick
    Column("position", UtcDateTime),
    Column("full_at", UtcDateTime),
    Column("details", Json),
)
change_seen = _table(
    # rows read inside the overlap of the cursor, so that reading them again is no change
    "change_seen",
    Column("table_name", Text, nullable=False),
    Column("row_id", Text, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("table_name", "row_id"),
)
changed_package = _table(
    "changed_package",
    Column("package_id", Text, nullable=False),
    Column("cause", Text, nullable=False),  # the observation table that changed
    Column("noted_at", UtcDateTime, nullable=False),
    Index("ix_changed_package_package_id", "package_id"),
)
sub_group = _table(
    "sub_group",
    _ours("step_id", "reduction_step", index=False),
    Column("key", Text, nullable=False),
    Column("dims", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime),  # when it must be looked at next; None: nothing to look at
    Column("round_at", UtcDateTime),  # when it fell due; later upstream sub-groups belong to the next round
    Column("input_changed_at", UtcDateTime),  # last change of its members
    Column("decision", Integer, nullable=False, server_default="0"),
    Column("outcome", Text),  # run, or why there is none: up-to-date, cooling-down, ...
    Column("reason", Text),  # reason to run of the last decision, or None
    Column("details", Json),
    Column("decided_at", UtcDateTime),
    Column("wanted_recipe", Text),
    Column("current_run_id", Id, index=True),  # no foreign key: runs refer to sub-groups
    Column("current_decision", Integer, nullable=False, server_default="0"),
    Column("stale", Text),  # why the current product is stale, or None
    Column("latest_due", Boolean, nullable=False, server_default=sa.false()),  # its link `latest` is to be looked at
    Column("held", Text),
    Column("requested", Json),  # {"reason","text","force","actor"} until a decision carried it out
    Column(
        "asked", Boolean, nullable=False, server_default=sa.false()
    ),  # a tick or a person opened it, it had to wait
    Column("backfill_id", Id),  # the backfill that opened it, while it has to wait
    sa.UniqueConstraint("step_id", "key"),
    Index("ix_sub_group_outcome", "step_id", "outcome", "current_run_id"),  # what is counted of all
    _partial_index("ix_sub_group_stale", "step_id", where="stale IS NOT NULL"),
    _partial_index("ix_sub_group_latest", "step_id", where="latest_due", sqlite="latest_due = 1"),
    _partial_index("ix_sub_group_backfill", "backfill_id", "step_id", where="backfill_id IS NOT NULL"),
    _partial_index("ix_sub_group_due", "step_id", "due_at", where="due_at IS NOT NULL"),
)
sub_group_member = _table(
    "sub_group_member",
    _ours("scope_id", "grouping_scope", index=False),
    Column("key", Text, nullable=False),
    Column("dims", Json, nullable=False),
    Column("package_id", Text, nullable=False),
    Column("package_name", Text, nullable=False),
    Column("checksum", Text),
    Column("size_bytes", BigInteger),
    Column("state", Text, nullable=False),  # package state; only `archived` ones are inputs
    Column("executed_obs_unit_id", Text),
    Column("instrument_module_id", Text),
    Column("ended", Boolean, nullable=False),  # whether its executed obs unit has ended
    Column("observed_at", UtcDateTime),  # when its executed obs unit began
    Column("since", UtcDateTime, nullable=False),
    sa.UniqueConstraint("scope_id", "package_id"),
    Index("ix_sub_group_member_key", "scope_id", "key", "observed_at"),
    Index("ix_sub_group_member_package", "package_id"),
)

executed_reduction_step = _table(
    "executed_reduction_step",
    _ours("step_id", "reduction_step", index=False),
    _ours("sub_group_id", "sub_group"),
    Column("pipeline_name", Text, nullable=False),
    Column("step_name", Text, nullable=False),
    Column("sub_group_key", Text, nullable=False),
    Column("processing_location", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("status_at", UtcDateTime, nullable=False),
    Column("is_open", Boolean, nullable=False),  # not final, or FAILED with attempts left
    Column("decision", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("reason_details", Json),
    Column("recipe", Text, nullable=False),
    Column("recipe_parts", Json, nullable=False),
    Column("resolved_step", Json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column(
        "observed_at", UtcDateTime, nullable=False
    ),  # when its newest observation began, else when it was made
    Column("trial", Boolean, nullable=False, server_default=sa.false()),
    _ours("backfill_id", "backfill", nullable=True, index=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("retries_used", Integer, nullable=False, server_default="0"),
    Column("free_retries_used", Integer, nullable=False, server_default="0"),
    Column("due_at", UtcDateTime),  # next retry, or when a waiting run may be looked at again
    Column("next_resources", Json),  # what the next attempt asks for, where experience says so
    Column("failure_class", Text),
    Column("message", Text),
    Column("room_figure", Text),  # it waits for room for its inputs: how much there is
    Column("room_reason", Text),
    Column(
        "blocking", Boolean, nullable=False, server_default=sa.false()
    ),  # FAILED for good, or CANCELLED by a person
    Column("superseded", Boolean, nullable=False, server_default=sa.false()),
    Column("warnings", Json, nullable=False),
    Column("cancel_requested_at", UtcDateTime),
    Column("cancel_reason", Text),
    Column("held", Text),
    Column("wall_seconds", Float),
    Column("cpu_hours", Float),
    Column("peak_memory_gb", Float),
    Column("exit_code", Integer),
    Column("output_directory", Text),  # of the winning attempt, below the base directory
    Column("inputs_removed_at", UtcDateTime),
    Column("replaced_at", UtcDateTime),  # when another run became the current one instead
    Column("created_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    CheckConstraint(
        "status IN ('PENDING','STAGING_DATA','STAGED','SUBMITTING','SUBMITTED','RUNNING',"
        "'COLLECTING_RESULTS','COMPLETED','FAILED','CANCELLED')",
        name="run_status",
    ),
    _partial_index(
        "uq_open_run_per_sub_group", "sub_group_id", unique=True, where="is_open AND NOT trial",
        sqlite="is_open = 1 AND trial = 0",
    ),
    _partial_index("ix_run_open", "processing_location", "status", where="is_open", sqlite="is_open = 1"),
    Index("ix_run_recipe", "sub_group_id", "recipe"),
    Index("ix_run_status", "step_id", "status", "trial"),  # what is counted of all there ever were
    _partial_index("ix_run_blocking", "step_id", where="blocking", sqlite="blocking = 1"),
    _partial_index("ix_run_measured", "step_id", "id", where="wall_seconds IS NOT NULL"),  # a step's last ones
    _partial_index("ix_run_backfill", "backfill_id", where="backfill_id IS NOT NULL"),
    _partial_index("ix_run_inputs_there", "processing_location", where="inputs_removed_at IS NULL"),
)
run_input = _table(
    "run_input",
    _ours("run_id", "executed_reduction_step"),
    Column("kind", Text, nullable=False),  # package, product, reference
    Column("role", Text, nullable=False),  # member, companion, outside
    Column("identity", Text, nullable=False),  # package id, product id, name@version
    Column("name", Text, nullable=False),
    Column("checksum", Text),
    Column("size_bytes", BigInteger),
    _ours("product_id", "data_product", nullable=True),
    Column("details", Json),  # the rest of a RunInput
    Index("ix_run_input_identity", "kind", "identity"),
)
submission = _table(
    "submission",
    Column("token", Text, nullable=False, unique=True),
    Column("backend", Text, nullable=False),
    Column("cluster", Text, nullable=False),
    Column("state", Text, nullable=False),  # INTENDED, HELD, RELEASED, ABSENT
    Column("job_id", Text, index=True),
    Column("message", Text),
    Column(
        "doubtful", Boolean, nullable=False, server_default=sa.false()
    ),  # given up, its job may appear yet
    Column("created_at", UtcDateTime, nullable=False),
    Column("submitted_at", UtcDateTime),
    Index("ix_submission_state", "state"),  # few are INTENDED or HELD
    _partial_index("ix_submission_doubtful", "created_at", where="doubtful", sqlite="doubtful = 1"),
)
run_attempt = _table(
    "run_attempt",
    _ours("run_id", "executed_reduction_step"),
    Column("number", Integer, nullable=False),
    _ours("submission_id", "submission"),
    Column("array_index", Integer, nullable=False),
    Column("directory", Text, nullable=False),  # below the base directory
    Column("restart", Integer, nullable=False, server_default="0"),
    Column("host", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("outcome", Text),  # succeeded, failed, cancelled, absent
    Column("exit_code", Integer),
    Column("failure_class", Text),
    Column("message", Text),
    Column("resources_asked", Json, nullable=False),
    Column("resources_used", Json),
    Column("metrics_at", UtcDateTime),  # when accounting is asked again for what is missing of them
    sa.UniqueConstraint("run_id", "number"),
    sa.UniqueConstraint("submission_id", "array_index"),
    _partial_index("ix_run_attempt_metrics", "metrics_at", where="metrics_at IS NOT NULL"),
)
run_event = _table(
    "run_event",
    _ours("run_id", "executed_reduction_step"),
    Column("event", Text, nullable=False),
    Column("from_status", Text),
    Column("to_status", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("by_pass", Text),
    Column("actor", Text),
    Column("message", Text),
)
data_product = _table(
    "data_product",
    _ours("run_id", "executed_reduction_step"),
    Column("type", Text, nullable=False),
    Column("path", Text, nullable=False),  # below the attempt's output, percent-encoded where not plain text
    Column("full_path", Text, nullable=False),  # below the base directory, through attempt-{n}/
    Column("is_directory", Boolean, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("file_count", Integer, nullable=False),
    Column("sha256", Text, nullable=False),  # hex; of a directory its tree digest
    Column("dims", Json),
    Column("quality", Json),
    Column("status", Text, nullable=False),  # present, removed (by `gc`), missing (gone, nobody of ours did it)
    Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("run_id", "path"),
    _partial_index("ix_data_product_gone", "run_id", "status", where="status <> 'present'"),
)
trash = _table(
    # what `gc` took away: first the row, then the rename into .trash/, then nothing at all
    "trash",
    Column("kind", Text, nullable=False),  # products, scratch, logs
    _ours("run_id", "executed_reduction_step"),
    Column("path", Text, nullable=False, index=True),  # where it was, below the base directory
    Column("trash_path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("inodes", BigInteger, nullable=False),
    Column("freed_bytes", BigInteger, nullable=False),  # without what has other names (hard links)
    Column("rule", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("doomed_at", UtcDateTime, nullable=False),
    Column("trashed_at", UtcDateTime),
    Column("emptying_at", UtcDateTime),  # from here on nothing brings it back
    Column("deleted_at", UtcDateTime),
    Column("undone_at", UtcDateTime),
    _partial_index("ix_trash_open", "id", where="deleted_at IS NULL AND undone_at IS NULL"),
)
staged_package = _table(
    # the shared cache at the processing location
    "staged_package",
    Column("processing_location", Text, nullable=False),
    Column("package_id", Text, nullable=False),
    Column("package_name", Text, nullable=False),
    Column("checksum", Text),
    Column("directory", Text, nullable=False),  # below the base directory
    Column("state", Text, nullable=False),  # STAGING, PRESENT, GONE
    Column("claim", Text),
    Column("claimed_until", UtcDateTime),
    Column("size_bytes", BigInteger),
    Column("file_count", Integer),
    Column("tree_digest", Text),
    Column("staged_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    sa.UniqueConstraint("processing_location", "directory"),
    Index("ix_staged_package_state", "processing_location", "state"),
    Index("ix_staged_package_package", "package_id"),
    _partial_index("ix_staged_package_claim", "claim", where="claim IS NOT NULL"),
)
transfer_job = _table(
    # a batch job that brings packages into the cache; which ones says `staged_package.claim`
    "transfer_job",
    Column("processing_location", Text, nullable=False),
    Column("token", Text, nullable=False, unique=True),
    Column("backend", Text, nullable=False),
    Column("cluster", Text, nullable=False),
    Column("state", Text, nullable=False),  # INTENDED, HELD, RELEASED, ENDED
    Column("job_id", Text),
    Column("packages", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("limit_seconds", Float, nullable=False),
    Column("doubtful", Boolean, nullable=False, server_default=sa.false()),  # given up, its job may appear yet
    Column("brought", Integer),  # packages, of one that began and has ended
    Column("message", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("submitted_at", UtcDateTime),
    Column("gone_at", UtcDateTime),  # since when the batch system does not have it
    Column("ended_at", UtcDateTime),
    _partial_index("ix_transfer_job_open", "processing_location", where="state <> 'ENDED'"),
    _partial_index("ix_transfer_job_doubtful", "created_at", where="doubtful", sqlite="doubtful = 1"),
)
staging_request = _table(
    # what is asked of data transfer where the observation tables have no `staging_job` that may be written
    "staging_request",
    Column("raw_data_package_id", Text, nullable=False),
    Column("package_name", Text, nullable=False),
    Column("destination_location_id", Text, nullable=False),  # name of the data location
    Column("status", Text, nullable=False),  # pending, scheduled, in_progress, completed, failed: data transfer's to set
    Column("active", Boolean, nullable=False, server_default=sa.true()),
    Column("requested_by", Text),
    Column("message", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime),
    Index("ix_staging_request_package", "raw_data_package_id"),
    _partial_index("ix_staging_request_active", "destination_location_id", where="active", sqlite="active = 1"),
)
copy_report = _table(
    # what stage found of physical copies: a corrupt or missing one is not tried first again
    "copy_report",
    Column("package_id", Text, nullable=False),
    Column("package_name", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("finding", Text, nullable=False),  # corrupt, missing
    Column("message", Text),
    Column("found_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("package_id", "location", "path"),
)

exclusion = _table(
    "exclusion",
    Column("kind", Text, nullable=False),
    Column("selection", Json, nullable=False),
    Column("pipeline_name", Text),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("until", UtcDateTime),
    Column("ended_at", UtcDateTime),
)
acceptance = _table(
    "acceptance",
    _ours("sub_group_id", "sub_group"),
    Column("recipe", Text, nullable=False),
    _ours("run_id", "executed_reduction_step"),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
published_set = _table(
    "published_set",
    Column("name", Text, nullable=False, unique=True),
    Column("products", Json, nullable=False),  # frozen: product, run, names, recipe, type, path, sha256, size
    Column("doi", Text),
    Column("contact", Text),
    Column("note", Text),
    Column("actor", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
change_log = _table(
    "change_log",
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("reason", Text),
    Column("text", Text),
    Column("digest", Text),
    Column("details", Json),
)
pass_record = _table(
    "pass_record",
    Column("pass_name", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("latest", Boolean, nullable=False),
    Column("host", Text),
    Column("pid", Integer),
    Column("selected", Integer),
    Column("done", Integer),
    Column("waiting", Integer),
    Column("failed", Integer),
    Column("message", Text),
    _partial_index("uq_pass_record_latest", "pass_name", "location", unique=True, where="latest", sqlite="latest = 1"),
)
pass_lease = _table(
    "pass_lease",
    Column("pass_name", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("holder", Text),  # unique per process start
    Column("host", Text),
    Column("pid", Integer),
    Column("boot_id", Text),
    Column("fence", Integer, nullable=False),
    Column("taken_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    sa.UniqueConstraint("pass_name", "location"),
)


def pipeline_table_names() -> list[str]:
    return sorted(table.name for table in pipeline_metadata.tables.values())


def observation_table_names() -> list[str]:
    return sorted(table.name for table in observation.tables.values())
