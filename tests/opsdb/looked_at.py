"""A small observatory as rows of an ops-db: what views and acts of people are tested on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm.core.model import ResolvedStep, Resources, SoftwareVersion, StepRole
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.observations import ObservationTables

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    """Pipeline `otf`: `calibrate` per executed obs unit, `grid` over all; nothing has run yet."""
    with database.engine.connect() as connection:
        made = World(database, connection)
        made.insert(t.ops_db, uid="uid-1", created_at=NOW)
        made.define()
        yield made


SOFTWARE = SoftwareVersion("cal", "1.2.0", ("chai-cal", "--fast"), "/images/cal.sif", "sha256:aa")
RESOURCES: dict[str, Any] = {"cpu": 2, "memory_gb": 4.0, "time_hours": 1.0}


def resolved_step(name: str) -> ResolvedStep:
    return ResolvedStep(
        "otf", name, StepRole.FINAL, (), SOFTWARE, {"mode": "hot_cold"}, resources=Resources(**RESOURCES)
    )


@dataclass
class World:
    """Builders of rows; each returns the id of what it made."""

    database: Database
    connection: sa.Connection  # one for all rows that are made: connecting costs more than inserting
    steps: dict[str, int] = field(default_factory=dict)
    scopes: dict[str, int] = field(default_factory=dict)
    now: datetime = NOW

    @property
    def grouping(self) -> GroupingEngine:
        return GroupingEngine(ObservationTables.managed(), self.database.dialect, UTC)

    def insert(self, table: sa.Table, **values: Any) -> int:
        result = self.connection.execute(sa.insert(table).values(**values))
        self.connection.commit()
        assert result.inserted_primary_key is not None
        return int(result.inserted_primary_key[0])

    def update(self, table: sa.Table, row_id: int, **values: Any) -> None:
        self.connection.execute(sa.update(table).where(table.c.id == row_id).values(**values))
        self.connection.commit()

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        found = self.connection.execute(sa.select(table).order_by(table.c.id)).mappings().all()
        self.connection.rollback()
        return [dict(row) for row in found]

    def row(self, table: sa.Table, row_id: int) -> dict[str, Any]:
        return next(row for row in self.rows(table) if row["id"] == row_id)

    def define(self) -> None:
        grouping = self.insert(
            t.data_grouping, name="ngc253", filter_rules=[], digest="d", updated_at=NOW - 9 * MINUTE
        )
        self.software = self.insert(t.reduction_software, name="cal")
        self.insert(
            t.reduction_software_version,
            software_id=self.software,
            version="1.2.0",
            image="/images/cal.sif",
            image_digest="sha256:aa",
            command=["chai-cal"],
            contract=1,
            created_at=NOW,
        )
        self.config = self.insert(t.reduction_step_config, digest="c", data={}, created_at=NOW)
        for number, (name, group_by) in enumerate((("calibrate", ["executed_obs_unit"]), ("grid", []))):
            self.scopes[name] = self.insert(
                t.grouping_scope, data_grouping_id=grouping, group_by=group_by, group_by_digest=str(number)
            )
        self.pipeline = self.insert(
            t.pipeline,
            name="otf",
            data_grouping_id=grouping,
            processing_location="local",
            trigger_type="CONTINUOUS",
            trigger_config={},
            priority=10,
            enabled=True,
            definition={},
            updated_at=NOW,
        )
        self.step("calibrate", "intermediate")
        self.step("grid", "final", depends_on=["calibrate"])
        self.insert(
            t.reduction_step_dependency,
            step_id=self.steps["grid"],
            upstream_step_id=self.steps["calibrate"],
        )

    def step(self, name: str, role: str, **definition: Any) -> None:
        self.steps[name] = self.insert(
            t.reduction_step,
            pipeline_id=self.pipeline,
            name=name,
            position=len(self.steps),
            role=role,
            scope_id=self.scopes[name],
            software_id=self.software,
            config_id=self.config,
            enabled=True,
            definition={"name": name, "software": "cal", "cooldown_seconds": 60, "resources": {}, **definition},
            updated_at=NOW,
        )

    def sub_group(self, step: str, key: str, **values: Any) -> int:
        """A decided sub-group, `up-to-date` unless `values` say otherwise."""
        defaults = {"decision": 1, "outcome": "up-to-date", "decided_at": NOW - 5 * MINUTE, "details": {}}
        return self.insert(
            t.sub_group,
            step_id=self.steps[step],
            key=key,
            dims={},
            created_at=NOW - 60 * MINUTE,
            **{**defaults, **values},
        )

    def member(self, step: str, key: str, name: str, state: str = "archived", package_id: str = "") -> None:
        self.insert(
            t.sub_group_member,
            scope_id=self.scopes[step],
            key=key,
            dims={},
            package_id=package_id or name,
            package_name=name,
            checksum=f"sha256:{name}",
            size_bytes=10,
            state=state,
            ended=True,
            since=NOW,
        )

    def run(self, sub_group_id: int, status: str = "COMPLETED", **values: Any) -> int:
        group = self.row(t.sub_group, sub_group_id)
        step = next(name for name, step_id in self.steps.items() if step_id == group["step_id"])
        defaults: dict[str, Any] = {
            "status_at": NOW - 3 * MINUTE,
            "is_open": status not in ("COMPLETED", "FAILED", "CANCELLED"),
            "decision": 1,
            "reason": "new-sub-group",
            "recipe": "r1",
            "recipe_parts": {"inputs": "x"},
            "resolved_step": resolved_step(step).to_json(),
            "priority": 10,
            "warnings": [],
            "created_at": NOW - 4 * MINUTE,
            "observed_at": NOW - 60 * MINUTE,
        }
        return self.insert(
            t.executed_reduction_step,
            step_id=group["step_id"],
            sub_group_id=sub_group_id,
            pipeline_name="otf",
            step_name=step,
            sub_group_key=group["key"],
            processing_location="local",
            status=status,
            **{**defaults, **values},
        )

    def attempt(self, run_id: int, number: int = 1, job_id: str | None = "77", **values: Any) -> str:
        """An attempt with its submission; returns its directory."""
        run = self.row(t.executed_reduction_step, run_id)
        place = f"{run['pipeline_name']}/{run['step_name']}/{run['sub_group_key']}"
        directory = f"{place}/run-{run_id}/attempt-{number}"
        submission = self.insert(
            t.submission,
            token=f"t{run_id}-{number}",
            backend="local",
            cluster="local",
            state="RELEASED",
            job_id=job_id,
            created_at=NOW,
            submitted_at=NOW,
        )
        self.insert(
            t.run_attempt,
            run_id=run_id,
            number=number,
            submission_id=submission,
            array_index=0,
            directory=directory,
            created_at=NOW,
            resources_asked=RESOURCES,
            **{"host": "node7", "outcome": "succeeded", "exit_code": 0, **values},
        )
        self.update(t.executed_reduction_step, run_id, attempt=number)
        return directory

    def product(self, run_id: int, path: str = "map.fits", type: str = "SCIENCE", **values: Any) -> int:
        return self.insert(
            t.data_product,
            run_id=run_id,
            type=type,
            path=path,
            full_path=f"out/run-{run_id}/{path}",
            is_directory=False,
            size_bytes=5,
            file_count=1,
            sha256="ab" * 32,
            created_at=NOW,
            **{"status": "present", **values},
        )

    def input_package(self, run_id: int, name: str, checksum: str | None = None) -> None:
        self.insert(
            t.run_input,
            run_id=run_id,
            kind="package",
            role="member",
            identity=name,
            name=name,
            checksum=checksum or f"sha256:{name}",
            size_bytes=10,
            details={},
        )

    def input_product(self, run_id: int, product_id: int) -> None:
        product = self.row(t.data_product, product_id)
        self.insert(
            t.run_input,
            run_id=run_id,
            kind="product",
            role="member",
            identity=str(product_id),
            name=product["path"],
            checksum=f"sha256:{product['sha256']}",
            size_bytes=5,
            product_id=product_id,
            details={"upstream_run_id": product["run_id"], "upstream_step": "calibrate"},
        )

    def calibrated(self, key: str, package: str) -> tuple[int, int, int]:
        """A finished sub-group of `calibrate`: (sub-group, run, product)."""
        group = self.sub_group("calibrate", key)
        run = self.run(group)
        self.member("calibrate", key, package)
        self.member("grid", "all", package)
        self.input_package(run, package)
        product = self.product(run, "spectra.fits", "INTERMEDIATE")
        self.update(t.sub_group, group, current_run_id=run, details={"run": run})
        return group, run, product

    def gridded(self, *product_ids: int) -> tuple[int, int, int]:
        """A finished map of `grid` over these products: (sub-group, run, product)."""
        group = self.sub_group("grid", "all")
        run = self.run(group)
        for product_id in product_ids:
            self.input_product(run, product_id)
        product = self.product(run)
        self.update(t.sub_group, group, current_run_id=run, details={"run": run})
        return group, run, product
