"""The first pipeline tables. Touches: the ops-db."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from ccatwm.edges.opsdb.types import UtcDateTime

revision = "pipeline_0001"
down_revision = None
branch_labels = ("pipeline",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "change_cursor",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("position", UtcDateTime(), nullable=True),
        sa.Column("full_at", UtcDateTime(), nullable=True),
        sa.Column("details", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("table_name"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "change_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("details", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_change_log_at"), "change_log", ["at"], unique=False, schema="ccatwm")
    op.create_table(
        "change_seen",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("row_id", sa.Text(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("table_name", "row_id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "changed_package",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("package_id", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("noted_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_changed_package_package_id", "changed_package", ["package_id"], unique=False, schema="ccatwm"
    )
    op.create_table(
        "copy_report",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("package_id", sa.Text(), nullable=False),
        sa.Column("package_name", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("finding", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("found_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("package_id", "location", "path"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "data_grouping",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("filter_rules", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "exclusion",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("selection", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("pipeline_name", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "ops_db",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("submission_blocked", sa.Text(), nullable=True),
        sa.Column("paused", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("uid"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "pass_lease",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pass_name", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("boot_id", sa.Text(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("taken_at", UtcDateTime(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("pass_name", "location"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "pass_record",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pass_name", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("latest", sa.Boolean(), nullable=False),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("selected", sa.Integer(), nullable=True),
        sa.Column("done", sa.Integer(), nullable=True),
        sa.Column("waiting", sa.Integer(), nullable=True),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_pass_record_latest",
        "pass_record",
        ["pass_name", "location"],
        unique=True,
        schema="ccatwm",
        sqlite_where=sa.text("latest = 1"),
        postgresql_where=sa.text("latest"),
    )
    op.create_table(
        "published_set",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("products", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("doi", sa.Text(), nullable=True),
        sa.Column("contact", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reduction_software",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reduction_step_config",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reference_data",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "staged_package",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("processing_location", sa.Text(), nullable=False),
        sa.Column("package_id", sa.Text(), nullable=False),
        sa.Column("package_name", sa.Text(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=True),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("claim", sa.Text(), nullable=True),
        sa.Column("claimed_until", UtcDateTime(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("file_count", sa.Integer(), nullable=True),
        sa.Column("tree_digest", sa.Text(), nullable=True),
        sa.Column("staged_at", UtcDateTime(), nullable=True),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("processing_location", "directory"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_staged_package_claim",
        "staged_package",
        ["claim"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("claim IS NOT NULL"),
        postgresql_where=sa.text("claim IS NOT NULL"),
    )
    op.create_index(
        "ix_staged_package_package", "staged_package", ["package_id"], unique=False, schema="ccatwm"
    )
    op.create_index(
        "ix_staged_package_state",
        "staged_package",
        ["processing_location", "state"],
        unique=False,
        schema="ccatwm",
    )
    op.create_table(
        "staging_request",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("raw_data_package_id", sa.Text(), nullable=False),
        sa.Column("package_name", sa.Text(), nullable=False),
        sa.Column("destination_location_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_staging_request_active",
        "staging_request",
        ["destination_location_id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("active = 1"),
        postgresql_where=sa.text("active"),
    )
    op.create_index(
        "ix_staging_request_package",
        "staging_request",
        ["raw_data_package_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_table(
        "submission",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("doubtful", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("submitted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_submission_doubtful",
        "submission",
        ["created_at"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("doubtful = 1"),
        postgresql_where=sa.text("doubtful"),
    )
    op.create_index(op.f("ix_submission_job_id"), "submission", ["job_id"], unique=False, schema="ccatwm")
    op.create_index("ix_submission_state", "submission", ["state"], unique=False, schema="ccatwm")
    op.create_table(
        "transfer_job",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("processing_location", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("packages", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("limit_seconds", sa.Float(), nullable=False),
        sa.Column("doubtful", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("brought", sa.Integer(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("submitted_at", UtcDateTime(), nullable=True),
        sa.Column("gone_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_transfer_job_doubtful",
        "transfer_job",
        ["created_at"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("doubtful = 1"),
        postgresql_where=sa.text("doubtful"),
    )
    op.create_index(
        "ix_transfer_job_open",
        "transfer_job",
        ["processing_location"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("state <> 'ENDED'"),
        postgresql_where=sa.text("state <> 'ENDED'"),
    )
    op.create_table(
        "grouping_scope",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("data_grouping_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("group_by", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("group_by_digest", sa.Text(), nullable=False),
        sa.Column("resolved_digest", sa.Text(), nullable=True),
        sa.Column("progress", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.ForeignKeyConstraint(
            ["data_grouping_id"],
            ["ccatwm.data_grouping.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("data_grouping_id", "group_by_digest"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_grouping_scope_data_grouping_id"),
        "grouping_scope",
        ["data_grouping_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_table(
        "pipeline",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("data_grouping_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("processing_location", sa.Text(), nullable=False),
        sa.Column("trigger_type", sa.Text(), nullable=False),
        sa.Column("trigger_config", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("held", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("definition", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["data_grouping_id"],
            ["ccatwm.data_grouping.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_pipeline_data_grouping_id"), "pipeline", ["data_grouping_id"], unique=False, schema="ccatwm"
    )
    op.create_table(
        "reduction_software_version",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("software_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("image_digest", sa.Text(), nullable=True),
        sa.Column("command", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("contract", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["software_id"],
            ["ccatwm.reduction_software.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("software_id", "version"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_reduction_software_version_software_id"),
        "reduction_software_version",
        ["software_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_table(
        "reference_data_version",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("reference_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["reference_id"],
            ["ccatwm.reference_data.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("reference_id", "version"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_reference_data_version_reference_id"),
        "reference_data_version",
        ["reference_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_table(
        "backfill",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pipeline_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("most_runs", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("progress", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("estimate", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["ccatwm.pipeline.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_backfill_open",
        "backfill",
        ["pipeline_id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        op.f("ix_backfill_pipeline_id"), "backfill", ["pipeline_id"], unique=False, schema="ccatwm"
    )
    op.create_table(
        "reduction_step",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pipeline_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("scope_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("software_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("config_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("trigger_type", sa.Text(), nullable=True),
        sa.Column("trigger_config", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("held", sa.Text(), nullable=True),
        sa.Column("tripped", sa.Text(), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures_class", sa.Text(), nullable=True),
        sa.Column("learned", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("oldest_first", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("definition", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["config_id"],
            ["ccatwm.reduction_step_config.id"],
        ),
        sa.ForeignKeyConstraint(
            ["pipeline_id"],
            ["ccatwm.pipeline.id"],
        ),
        sa.ForeignKeyConstraint(
            ["scope_id"],
            ["ccatwm.grouping_scope.id"],
        ),
        sa.ForeignKeyConstraint(
            ["software_id"],
            ["ccatwm.reduction_software.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("pipeline_id", "name"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_reduction_step_config_id"), "reduction_step", ["config_id"], unique=False, schema="ccatwm"
    )
    op.create_index(
        op.f("ix_reduction_step_pipeline_id"),
        "reduction_step",
        ["pipeline_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_index(
        op.f("ix_reduction_step_scope_id"), "reduction_step", ["scope_id"], unique=False, schema="ccatwm"
    )
    op.create_index(
        op.f("ix_reduction_step_software_id"),
        "reduction_step",
        ["software_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_table(
        "sub_group_member",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("scope_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("dims", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("package_id", sa.Text(), nullable=False),
        sa.Column("package_name", sa.Text(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("executed_obs_unit_id", sa.Text(), nullable=True),
        sa.Column("instrument_module_id", sa.Text(), nullable=True),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("observed_at", UtcDateTime(), nullable=True),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["scope_id"],
            ["ccatwm.grouping_scope.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("scope_id", "package_id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_sub_group_member_key",
        "sub_group_member",
        ["scope_id", "key", "observed_at"],
        unique=False,
        schema="ccatwm",
    )
    op.create_index(
        "ix_sub_group_member_package", "sub_group_member", ["package_id"], unique=False, schema="ccatwm"
    )
    op.create_table(
        "reduction_step_dependency",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("upstream_step_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["step_id"],
            ["ccatwm.reduction_step.id"],
        ),
        sa.ForeignKeyConstraint(
            ["upstream_step_id"],
            ["ccatwm.reduction_step.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("step_id", "upstream_step_id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_reduction_step_dependency_step_id"),
        "reduction_step_dependency",
        ["step_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_index(
        op.f("ix_reduction_step_dependency_upstream_step_id"),
        "reduction_step_dependency",
        ["upstream_step_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_table(
        "step_companion",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("scope_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("target_scope_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["scope_id"],
            ["ccatwm.grouping_scope.id"],
        ),
        sa.ForeignKeyConstraint(
            ["step_id"],
            ["ccatwm.reduction_step.id"],
        ),
        sa.ForeignKeyConstraint(
            ["target_scope_id"],
            ["ccatwm.grouping_scope.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("step_id", "name"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_step_companion_scope_id"), "step_companion", ["scope_id"], unique=False, schema="ccatwm"
    )
    op.create_index(
        op.f("ix_step_companion_target_scope_id"),
        "step_companion",
        ["target_scope_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_table(
        "sub_group",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("dims", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.Column("round_at", UtcDateTime(), nullable=True),
        sa.Column("input_changed_at", UtcDateTime(), nullable=True),
        sa.Column("decision", sa.Integer(), server_default="0", nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("details", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.Column("wanted_recipe", sa.Text(), nullable=True),
        sa.Column("current_run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("current_decision", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stale", sa.Text(), nullable=True),
        sa.Column("latest_due", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("held", sa.Text(), nullable=True),
        sa.Column("requested", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("asked", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("backfill_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.ForeignKeyConstraint(
            ["step_id"],
            ["ccatwm.reduction_step.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("step_id", "key"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_sub_group_backfill",
        "sub_group",
        ["backfill_id", "step_id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("backfill_id IS NOT NULL"),
        postgresql_where=sa.text("backfill_id IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_sub_group_current_run_id"), "sub_group", ["current_run_id"], unique=False, schema="ccatwm"
    )
    op.create_index(
        "ix_sub_group_due",
        "sub_group",
        ["step_id", "due_at"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_sub_group_latest",
        "sub_group",
        ["step_id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("latest_due = 1"),
        postgresql_where=sa.text("latest_due"),
    )
    op.create_index(
        "ix_sub_group_outcome",
        "sub_group",
        ["step_id", "outcome", "current_run_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_index(
        "ix_sub_group_stale",
        "sub_group",
        ["step_id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("stale IS NOT NULL"),
        postgresql_where=sa.text("stale IS NOT NULL"),
    )
    op.create_table(
        "trigger_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("scope", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("closed_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["step_id"],
            ["ccatwm.reduction_step.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_trigger_event_open",
        "trigger_event",
        ["step_id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_index(
        op.f("ix_trigger_event_step_id"), "trigger_event", ["step_id"], unique=False, schema="ccatwm"
    )
    op.create_table(
        "executed_reduction_step",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sub_group_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pipeline_name", sa.Text(), nullable=False),
        sa.Column("step_name", sa.Text(), nullable=False),
        sa.Column("sub_group_key", sa.Text(), nullable=False),
        sa.Column("processing_location", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_at", UtcDateTime(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("decision", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("reason_details", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("recipe_parts", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("resolved_step", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("observed_at", UtcDateTime(), nullable=False),
        sa.Column("trial", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("backfill_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retries_used", sa.Integer(), server_default="0", nullable=False),
        sa.Column("free_retries_used", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.Column("next_resources", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("room_figure", sa.Text(), nullable=True),
        sa.Column("room_reason", sa.Text(), nullable=True),
        sa.Column("blocking", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("superseded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("warnings", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("cancel_requested_at", UtcDateTime(), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("held", sa.Text(), nullable=True),
        sa.Column("wall_seconds", sa.Float(), nullable=True),
        sa.Column("cpu_hours", sa.Float(), nullable=True),
        sa.Column("peak_memory_gb", sa.Float(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("output_directory", sa.Text(), nullable=True),
        sa.Column("inputs_removed_at", UtcDateTime(), nullable=True),
        sa.Column("replaced_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "status IN ('PENDING','STAGING_DATA','STAGED','SUBMITTING','SUBMITTED','RUNNING','COLLECTING_RESULTS','COMPLETED','FAILED','CANCELLED')",  # noqa: E501
            name="run_status",
        ),
        sa.ForeignKeyConstraint(
            ["backfill_id"],
            ["ccatwm.backfill.id"],
        ),
        sa.ForeignKeyConstraint(
            ["step_id"],
            ["ccatwm.reduction_step.id"],
        ),
        sa.ForeignKeyConstraint(
            ["sub_group_id"],
            ["ccatwm.sub_group.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_executed_reduction_step_sub_group_id"),
        "executed_reduction_step",
        ["sub_group_id"],
        unique=False,
        schema="ccatwm",
    )
    op.create_index(
        "ix_run_backfill",
        "executed_reduction_step",
        ["backfill_id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("backfill_id IS NOT NULL"),
        postgresql_where=sa.text("backfill_id IS NOT NULL"),
    )
    op.create_index(
        "ix_run_blocking",
        "executed_reduction_step",
        ["step_id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("blocking = 1"),
        postgresql_where=sa.text("blocking"),
    )
    op.create_index(
        "ix_run_inputs_there",
        "executed_reduction_step",
        ["processing_location"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("inputs_removed_at IS NULL"),
        postgresql_where=sa.text("inputs_removed_at IS NULL"),
    )
    op.create_index(
        "ix_run_measured",
        "executed_reduction_step",
        ["step_id", "id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("wall_seconds IS NOT NULL"),
        postgresql_where=sa.text("wall_seconds IS NOT NULL"),
    )
    op.create_index(
        "ix_run_open",
        "executed_reduction_step",
        ["processing_location", "status"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("is_open = 1"),
        postgresql_where=sa.text("is_open"),
    )
    op.create_index(
        "ix_run_recipe", "executed_reduction_step", ["sub_group_id", "recipe"], unique=False, schema="ccatwm"
    )
    op.create_index(
        "ix_run_status",
        "executed_reduction_step",
        ["step_id", "status", "trial"],
        unique=False,
        schema="ccatwm",
    )
    op.create_index(
        "uq_open_run_per_sub_group",
        "executed_reduction_step",
        ["sub_group_id"],
        unique=True,
        schema="ccatwm",
        sqlite_where=sa.text("is_open = 1 AND trial = 0"),
        postgresql_where=sa.text("is_open AND NOT trial"),
    )
    op.create_table(
        "acceptance",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sub_group_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["ccatwm.executed_reduction_step.id"],
        ),
        sa.ForeignKeyConstraint(
            ["sub_group_id"],
            ["ccatwm.sub_group.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_acceptance_run_id"), "acceptance", ["run_id"], unique=False, schema="ccatwm")
    op.create_index(
        op.f("ix_acceptance_sub_group_id"), "acceptance", ["sub_group_id"], unique=False, schema="ccatwm"
    )
    op.create_table(
        "data_product",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("full_path", sa.Text(), nullable=False),
        sa.Column("is_directory", sa.Boolean(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_count", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("dims", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("quality", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["ccatwm.executed_reduction_step.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("run_id", "path"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_data_product_gone",
        "data_product",
        ["run_id", "status"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("status <> 'present'"),
        postgresql_where=sa.text("status <> 'present'"),
    )
    op.create_index(op.f("ix_data_product_run_id"), "data_product", ["run_id"], unique=False, schema="ccatwm")
    op.create_table(
        "run_attempt",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("submission_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("array_index", sa.Integer(), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("restart", sa.Integer(), server_default="0", nullable=False),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column(
            "resources_asked", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False
        ),
        sa.Column("resources_used", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("metrics_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["ccatwm.executed_reduction_step.id"],
        ),
        sa.ForeignKeyConstraint(
            ["submission_id"],
            ["ccatwm.submission.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("run_id", "number"),
        sa.UniqueConstraint("submission_id", "array_index"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_run_attempt_metrics",
        "run_attempt",
        ["metrics_at"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("metrics_at IS NOT NULL"),
        postgresql_where=sa.text("metrics_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_run_attempt_run_id"), "run_attempt", ["run_id"], unique=False, schema="ccatwm")
    op.create_index(
        op.f("ix_run_attempt_submission_id"), "run_attempt", ["submission_id"], unique=False, schema="ccatwm"
    )
    op.create_table(
        "run_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=True),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("by_pass", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["ccatwm.executed_reduction_step.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_run_event_run_id"), "run_event", ["run_id"], unique=False, schema="ccatwm")
    op.create_table(
        "trash",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("trash_path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("inodes", sa.BigInteger(), nullable=False),
        sa.Column("freed_bytes", sa.BigInteger(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("doomed_at", UtcDateTime(), nullable=False),
        sa.Column("trashed_at", UtcDateTime(), nullable=True),
        sa.Column("emptying_at", UtcDateTime(), nullable=True),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.Column("undone_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["ccatwm.executed_reduction_step.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_trash_open",
        "trash",
        ["id"],
        unique=False,
        schema="ccatwm",
        sqlite_where=sa.text("deleted_at IS NULL AND undone_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL AND undone_at IS NULL"),
    )
    op.create_index(op.f("ix_trash_path"), "trash", ["path"], unique=False, schema="ccatwm")
    op.create_index(op.f("ix_trash_run_id"), "trash", ["run_id"], unique=False, schema="ccatwm")
    op.create_table(
        "run_input",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("product_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("details", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["ccatwm.data_product.id"],
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["ccatwm.executed_reduction_step.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="ccatwm",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_run_input_identity", "run_input", ["kind", "identity"], unique=False, schema="ccatwm")
    op.create_index(
        op.f("ix_run_input_product_id"), "run_input", ["product_id"], unique=False, schema="ccatwm"
    )
    op.create_index(op.f("ix_run_input_run_id"), "run_input", ["run_id"], unique=False, schema="ccatwm")
