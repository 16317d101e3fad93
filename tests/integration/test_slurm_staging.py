"""On a real Slurm, from here and over SSH: batch jobs on a partition of their own bring packages."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.interfaces import Effects
from ccatwm.passes._frame import PassOptions, PassReport
from ccatwm.settings.find import MARK_FILE
from ccatwm.settings.schema import StageSettings
from tests.crash.rig import ingest
from tests.integration.conftest import SlurmSites
from tests.integration.slurm_site import GRACE, SlurmSite

pytestmark = pytest.mark.slurm
STAGE = StageSettings(executor="job", partition="short", memory_gb=0.25, time_hours=0.05, cpu=1)
TIMED_OUT = 'echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'
LATE = """
executed_obs_units:
  - {name: late, obs_unit: ou, start_time: "2026-02-01T01:00:00Z", end_time: "2026-02-01T01:10:00Z", status: completed}
raw_data_packages:
  - {name: late-LFA, executed_obs_unit: late, instrument_module: CHAI/LFA, state: archived, size_bytes: 5,
     copies: [{location: raw, path: late.fits}]}
"""


class StagingSite(SlurmSite):
    """A site with one run whose package is still to be staged."""

    def run_pass(self, name: str, effects: Effects | None = None, **options: Any) -> PassReport:
        context = self.context(effects)
        try:
            return wiring.run_pass(name, context, PassOptions(**options))
        finally:
            context.close()
            context.database.dispose()

    def jobs(self) -> list[dict[str, Any]]:
        return self.rows("transfer_job")

    def late(self) -> dict[str, Any]:
        return self.rows("executed_reduction_step")[-1]

    def stage_until(self, status: str, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while self.late()["status"] != status:
            assert time.monotonic() < until, (self.late(), self.jobs(), self.cluster.squeue(fields="%j|%T|%r"))
            self.run_pass("stage")
            self.later(31)  # after which a run that waits is looked at again
            time.sleep(0.2)

    def state(self) -> str:
        """Of the newest staging job, as the queue has it."""
        rows = self.cluster.squeue("--states=all", fields="%j|%T|%P")
        return next((f"{row[1]} on {row[2]}" for row in rows if row[0] == f"ccatwm-{self.jobs()[-1]['token']}"), "gone")

    def wait_until(self, state: str) -> None:
        until = time.monotonic() + 30
        while self.state() != state:
            assert time.monotonic() < until, self.state()
            time.sleep(0.05)


@pytest.fixture
def site(request: pytest.FixtureRequest, slurm_sites: SlurmSites) -> StagingSite:
    made = StagingSite(**vars(slurm_sites(1)))
    made.changes["stage"] = STAGE
    context = made.context()
    with context.database.write() as connection:
        connection.execute(sa.text("INSERT INTO ops_db (uid, created_at) VALUES ('me', '2026-03-01T00:00:00.000000Z')"))
    (raw,) = [row for row in made.rows("data_location") if row["name"] == "raw"]
    (made.folder / "raw").mkdir()
    (made.folder / "raw" / "late.fits").write_text("data\n")
    with context.database.write() as connection:
        connection.execute(
            sa.text("UPDATE data_location SET base_path = :path WHERE id = :id"),
            {"path": str(made.folder / "raw"), "id": raw["id"]},
        )
    (made.folder / "late.yaml").write_text(LATE)
    ingest(context, [made.folder / "late.yaml"])
    context.database.dispose()
    (made.base / MARK_FILE).write_text(json.dumps({"ops_db_uid": "me"}))
    if getattr(request, "param", "local") == "ssh":
        slurm_sites.root.chmod(0o755)
        made.folder.chmod(0o755)
        made.reach_by_ssh()
    for name in ("trigger", "resolve"):
        assert made.run_pass(name).error is None
    return made


@pytest.mark.ssh
@pytest.mark.parametrize("site", ["local", "ssh"], indirect=True)
def test_a_package_comes_by_a_job_on_its_partition_and_this_host_reads_none_of_it(site: StagingSite) -> None:
    report = site.run_pass("stage")
    assert report.error is None, report.error
    (job,) = site.jobs()
    (told,) = report.items
    assert (told.outcome, told.reason) == (
        "transferring", f"package late-LFA: staging job {job['job_id']} on partition short brings it",
    )  # fmt: skip
    site.wait_until("COMPLETED on short")
    site.stage_until("STAGED")
    site.run_pass("stage")
    (cached,) = site.base.glob(".cache/packages/late-LFA-*/late.fits")
    assert cached.read_text() == "data\n"
    owner = site.cluster.user if site.changes.get("transport") == "ssh" else "root"
    assert (cached.owner(), oct(cached.stat().st_mode & 0o777)) == (owner, "0o444")
    assert site.jobs()[0]["state"] == "ENDED" and not list(site.base.glob(".transfers/*"))
    assert len(site.jobs()) == 1


def test_an_answer_of_sbatch_that_is_lost_makes_no_second_job(site: StagingSite) -> None:
    commands = site.commands()
    commands.once("sbatch", f'real "$@" >/dev/null; {TIMED_OUT}')
    report = site.run_pass("stage")
    assert report.error is not None and "whether the batch system took a staging job is not known" in str(report.error)
    assert [(job["state"], job["job_id"]) for job in site.jobs()] == [("INTENDED", None)]
    site.stage_until("STAGED")
    assert len(site.jobs()) == 1 and commands.count("sbatch") == 1


def test_a_job_that_never_came_to_be_is_given_up_and_another_one_made(site: StagingSite) -> None:
    commands = site.commands()
    commands.once("sbatch", TIMED_OUT)
    site.run_pass("stage")
    site.run_pass("stage")
    assert [job["state"] for job in site.jobs()] == ["INTENDED"]  # it may show up yet
    site.later(10 * GRACE)
    site.stage_until("STAGED")
    site.wait_until("COMPLETED on short")  # it may have answered before it ended
    site.run_pass("stage")
    assert [job["state"] for job in site.jobs()] == ["ENDED", "ENDED"]
    assert [job["job_id"] is None for job in site.jobs()] == [True, False]


def test_a_partition_that_there_is_not_is_told_and_costs_no_run_anything(site: StagingSite) -> None:
    site.changes["stage"] = StageSettings(executor="job", partition="nowhere")
    report = site.run_pass("stage")
    assert report.error is not None and "invalid partition" in report.error.message.lower()
    assert "table `stage`" in report.error.next
    assert (site.late()["status"], site.late()["retries_used"]) == ("STAGING_DATA", 0)
    site.changes["stage"] = STAGE
    site.later(31)
    site.stage_until("STAGED")


def test_a_job_that_somebody_cancels_is_for_a_person(site: StagingSite) -> None:
    site.cluster.scontrol("update", f"NodeName={site.cluster.node}", "State=DRAIN", "Reason=full")
    try:
        site.run_pass("stage")
        site.cluster.run("scancel", str(site.jobs()[-1]["job_id"]))
    finally:
        site.cluster.scontrol("update", f"NodeName={site.cluster.node}", "State=RESUME")
    site.stage_until("FAILED")
    assert site.late()["failure_class"] == "cancelled-outside"
    assert f"staging job {site.jobs()[-1]['job_id']} ended before it had brought the package" in site.late()["message"]


def test_a_copy_that_is_no_file_fails_the_run_as_ever(site: StagingSite) -> None:
    file = site.folder / "raw" / "late.fits"
    file.unlink()
    os.mkfifo(file)
    site.run_pass("stage")
    site.stage_until("FAILED")
    assert site.late()["failure_class"] == "staging"
    assert "is neither a file nor a folder" in site.late()["message"]
