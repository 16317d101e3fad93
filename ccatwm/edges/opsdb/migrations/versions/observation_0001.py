"""The first observation tables. Touches: the ops-db."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from ccatwm.edges.opsdb.types import UtcDateTime

revision = "observation_0001"
down_revision = None
branch_labels = ("observation",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "observatory",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_observatory_updated_at"), "observatory", ["updated_at"], unique=False)
    op.create_table(
        "observing_program",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("short_name", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("short_name"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_observing_program_updated_at"), "observing_program", ["updated_at"], unique=False
    )
    op.create_table(
        "site",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("short_name", sa.Text(), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_site_updated_at"), "site", ["updated_at"], unique=False)
    op.create_table(
        "source",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ra_deg", sa.Float(), nullable=True),
        sa.Column("dec_deg", sa.Float(), nullable=True),
        sa.Column("frame", sa.Text(), nullable=True),
        sa.Column("velocity_km_s", sa.Float(), nullable=True),
        sa.Column("naif_id", sa.Integer(), nullable=True),
        sa.Column("azimuth_min_deg", sa.Float(), nullable=True),
        sa.Column("azimuth_max_deg", sa.Float(), nullable=True),
        sa.Column("elevation_deg", sa.Float(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_source_updated_at"), "source", ["updated_at"], unique=False)
    op.create_table(
        "data_location",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("site_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("location_type", sa.Text(), nullable=False),
        sa.Column("storage_type", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("base_path", sa.Text(), nullable=True),
        sa.Column("details", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["site_id"],
            ["site.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_data_location_site_id"), "data_location", ["site_id"], unique=False)
    op.create_index(op.f("ix_data_location_updated_at"), "data_location", ["updated_at"], unique=False)
    op.create_table(
        "obs_unit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column(
            "observing_program_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column("line_id", sa.Text(), nullable=True),
        sa.Column("obs_mode", sa.Text(), nullable=True),
        sa.Column("details", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["observing_program_id"],
            ["observing_program.id"],
        ),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["source.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_obs_unit_observing_program_id"), "obs_unit", ["observing_program_id"], unique=False
    )
    op.create_index(op.f("ix_obs_unit_source_id"), "obs_unit", ["source_id"], unique=False)
    op.create_index(op.f("ix_obs_unit_updated_at"), "obs_unit", ["updated_at"], unique=False)
    op.create_table(
        "telescope",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("observatory_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("longitude_deg", sa.Float(), nullable=True),
        sa.Column("latitude_deg", sa.Float(), nullable=True),
        sa.Column("altitude_m", sa.Float(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["observatory_id"],
            ["observatory.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_telescope_observatory_id"), "telescope", ["observatory_id"], unique=False)
    op.create_index(op.f("ix_telescope_updated_at"), "telescope", ["updated_at"], unique=False)
    op.create_table(
        "executed_obs_unit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("obs_unit_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("start_time", UtcDateTime(), nullable=True),
        sa.Column("end_time", UtcDateTime(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("details", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["obs_unit_id"],
            ["obs_unit.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_executed_obs_unit_obs_unit_id"), "executed_obs_unit", ["obs_unit_id"], unique=False
    )
    op.create_index(
        op.f("ix_executed_obs_unit_start_time"), "executed_obs_unit", ["start_time"], unique=False
    )
    op.create_index(
        op.f("ix_executed_obs_unit_updated_at"), "executed_obs_unit", ["updated_at"], unique=False
    )
    op.create_table(
        "instrument",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("telescope_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("instrument_type", sa.Text(), nullable=True),
        sa.Column("available", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["telescope_id"],
            ["telescope.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_instrument_telescope_id"), "instrument", ["telescope_id"], unique=False)
    op.create_index(op.f("ix_instrument_updated_at"), "instrument", ["updated_at"], unique=False)
    op.create_table(
        "instrument_module",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("instrument_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("pixels", sa.Integer(), nullable=True),
        sa.Column("frequency_ghz", sa.Float(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instrument_id"],
            ["instrument.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("instrument_id", "name"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_instrument_module_instrument_id"), "instrument_module", ["instrument_id"], unique=False
    )
    op.create_index(
        op.f("ix_instrument_module_updated_at"), "instrument_module", ["updated_at"], unique=False
    )
    op.create_table(
        "raw_data_package",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "executed_obs_unit_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "instrument_module_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["executed_obs_unit_id"],
            ["executed_obs_unit.id"],
        ),
        sa.ForeignKeyConstraint(
            ["instrument_module_id"],
            ["instrument_module.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_raw_data_package_executed_obs_unit_id"),
        "raw_data_package",
        ["executed_obs_unit_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_raw_data_package_instrument_module_id"),
        "raw_data_package",
        ["instrument_module_id"],
        unique=False,
    )
    op.create_index(op.f("ix_raw_data_package_state"), "raw_data_package", ["state"], unique=False)
    op.create_index(op.f("ix_raw_data_package_updated_at"), "raw_data_package", ["updated_at"], unique=False)
    op.create_table(
        "physical_copy",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "raw_data_package_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("data_location_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("verified_at", UtcDateTime(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["data_location_id"],
            ["data_location.id"],
        ),
        sa.ForeignKeyConstraint(
            ["raw_data_package_id"],
            ["raw_data_package.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("raw_data_package_id", "data_location_id", "path"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_physical_copy_data_location_id"), "physical_copy", ["data_location_id"], unique=False
    )
    op.create_index(
        op.f("ix_physical_copy_raw_data_package_id"), "physical_copy", ["raw_data_package_id"], unique=False
    )
    op.create_index(op.f("ix_physical_copy_updated_at"), "physical_copy", ["updated_at"], unique=False)
    op.create_table(
        "raw_data_file",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "raw_data_package_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("checksum", sa.Text(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["raw_data_package_id"],
            ["raw_data_package.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("raw_data_package_id", "name"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_raw_data_file_raw_data_package_id"), "raw_data_file", ["raw_data_package_id"], unique=False
    )
    op.create_index(op.f("ix_raw_data_file_updated_at"), "raw_data_file", ["updated_at"], unique=False)
    op.create_table(
        "raw_data_package_metadata",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "raw_data_package_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("data", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["raw_data_package_id"],
            ["raw_data_package.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("raw_data_package_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_raw_data_package_metadata_updated_at"),
        "raw_data_package_metadata",
        ["updated_at"],
        unique=False,
    )
    op.create_table(
        "staging_job",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "raw_data_package_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "destination_location_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["destination_location_id"],
            ["data_location.id"],
        ),
        sa.ForeignKeyConstraint(
            ["raw_data_package_id"],
            ["raw_data_package.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_staging_job_destination_location_id"),
        "staging_job",
        ["destination_location_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_staging_job_raw_data_package_id"), "staging_job", ["raw_data_package_id"], unique=False
    )
    op.create_index(op.f("ix_staging_job_updated_at"), "staging_job", ["updated_at"], unique=False)
