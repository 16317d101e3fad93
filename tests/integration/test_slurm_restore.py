"""On a real Slurm, the whole story over SSH: the ops-db goes back in time while jobs run, wait and end.

What was executed is told by the program itself, what was handed over by the files of submissions and the queue.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.errors import SchedulerUnavailableError
from ccatwm.interfaces import Effects
from ccatwm.passes._claims import supersede
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport, holder_is_gone
from ccatwm.settings.find import MARK_FILE
from ccatwm.upkeep.backup import Said, back_up, restore
from ccatwm.upkeep.reconcile import ReconcileReport, reconcile
from tests.crash.rig import ingest
from tests.integration.conftest import SlurmSites
from tests.integration.slurm_site import GRACE, SlurmSite, Strike, die

pytestmark = pytest.mark.slurm
HOUR = 3600.0
BEHAVIOUR = """
case $attempt in
*/run-1/* | */run-2/* | */run-6/*)
    run=${attempt%/attempt-*}
    until [ -e "$base/go-${run##*/}" ]; do sleep 0.05; done ;;
*/run-3/attempt-1) exit 75 ;;
esac
"""


@dataclass
class RestoredSite(SlurmSite):
    """A site with a backup; its base directory is reached by `transport`."""

    transport: str = "local"

    @property
    def user(self) -> str:
        return self.cluster.user if self.transport == "ssh" else "root"

    @property
    def backup(self) -> Path:
        return self.folder / "ops.dump"

    @contextmanager
    def opened(self, effects: Effects | None = None) -> Iterator[Context]:
        context = self.context(effects)
        try:
            yield context
        finally:
            context.close()
            context.database.dispose()

    def run_pass(self, name: str, effects: Effects | None = None, **options: Any) -> PassReport:
        with self.opened(effects) as context:
            report = wiring.run_pass(name, context, PassOptions(**options))
        assert report.error is None, report.error
        return report

    def back_up(self) -> None:
        with self.opened() as context:
            back_up(context.database, self.backup, observations="managed", now=context.clock.now(), overwrite=True)

    def restore(self, *, later: float = 0.0) -> None:
        self.later(later)
        with self.opened() as context:
            said = Said("tester", "here", context.clock.now(), "a test")
            restore(self.settings(), context.database, context.workfiles, self.backup, said, yes=True,
                    is_gone=holder_is_gone)  # fmt: skip

    def reconcile(self, *, yes: bool = False) -> ReconcileReport:
        with self.opened() as context:
            return reconcile(
                context.database, context.workfiles, lambda: context.scheduler, supersede=supersede,
                now=context.clock.now(), actor="tester", host="here", yes=yes, uid=context.ops_db_uid,
            )  # fmt: skip

    def observe(self, scan: str) -> None:
        """One more scan, older than all others, and its run."""
        (raw,) = [row for row in self.rows("data_location") if row["name"] == "raw"]
        (Path(raw["base_path"]) / f"{scan}.fits").write_text("data\n")
        (self.folder / f"{scan}.yaml").write_text(
            f'executed_obs_units: [{{name: {scan}, obs_unit: ou, start_time: "2026-02-01T01:00:00Z", '
            'end_time: "2026-02-01T01:10:00Z", status: completed}]\n'
            f"raw_data_packages: [{{name: {scan}-LFA, executed_obs_unit: {scan}, instrument_module: CHAI/LFA, "
            f"state: archived, size_bytes: 5, copies: [{{location: raw, path: {scan}.fits}}]}}]\n"
        )
        with self.opened() as context:
            ingest(context, [self.folder / f"{scan}.yaml"])
        for name in ("trigger", "resolve", "stage"):
            self.run_pass(name)

    def go(self, *runs: int) -> None:
        """These end."""
        for run in runs:
            (self.base / f"go-run-{run}").touch()

    # --- an independent reading -----------------------------------------------------------------------------------

    def handed_over(self) -> dict[str, list[str]]:
        """By run and attempt, the states of all jobs that were ever made for it, as the queue still has them."""
        tasks = {}
        for folder in (self.base / ".submissions").iterdir():
            for index, line in enumerate((folder / "tasks").read_text().splitlines()):
                tasks[f"ccatwm-{folder.name}", str(index)] = "/".join(Path(line).parts[-2:])
        found: dict[str, list[str]] = {}
        rows = self.cluster.squeue(f"--user={self.user}", fields="%j|%K|%T")
        for name, index, state in (row for row in rows if len(row) == 3):  # other tests name jobs as they like
            if (name, index) in tasks:
                found.setdefault(tasks[name, index], []).append(state)
        return found

    def wait_for_states(self, **wanted: str) -> None:
        """`run_3__2="PENDING"`: attempt 2 of run 3."""
        names = {name.replace("run_", "run-").replace("__", "/attempt-"): [state] for name, state in wanted.items()}
        until = time.monotonic() + 30
        while not names.items() <= (seen := self.handed_over()).items():
            assert time.monotonic() < until, f"{seen} instead of {names}"
            time.sleep(0.05)

    def status(self, run: int) -> str:
        return str(self.runs()[run - 1]["status"])

    def check(self) -> None:
        """Every run of the ops-db ended well; no attempt was handed over or executed twice; nothing is left."""
        assert [run for run in self.runs() if run["status"] != "COMPLETED"] == []
        assert set(Counter(self.executions()).values()) == {1}
        assert {name: states for name, states in self.handed_over().items() if len(states) != 1} == {}
        live = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED"}
        assert {name: states for name, states in self.handed_over().items() if live & set(states)} == {}
        winners = [a["directory"] for a in self.attempts() if a["outcome"] == "succeeded"]
        assert set(winners) <= set(self.executions())
        made = Counter(product["run_id"] for product in self.rows("data_product"))
        assert set(made.values()) == {1} and set(made) == {run["id"] for run in self.runs()}


@pytest.fixture
def site(request: pytest.FixtureRequest, slurm_sites: SlurmSites) -> Iterator[RestoredSite]:
    """Five staged runs, and a backup of that moment."""
    plain = slurm_sites(5)
    made = RestoredSite(**vars(plain), transport=getattr(request, "param", "local"))
    with made.opened() as context, context.database.write() as connection:
        connection.execute(sa.text("INSERT INTO ops_db (uid, created_at) VALUES ('me', '2026-03-01T00:00:00.000000Z')"))
    (made.base / MARK_FILE).write_text(json.dumps({"ops_db_uid": "me"}))
    for mark in made.base.glob("line/reduce/*/run-*/.ccatwm-run.json"):  # staged when it had none
        mark.chmod(0o644)
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {"ops_db": "me"}))
    made.behave(BEHAVIOUR)
    if made.transport == "ssh":
        slurm_sites.root.chmod(0o755)
        made.reach_by_ssh()
    made.back_up()
    yield made
    made.go(1, 2, 6)


@contextmanager
def full(site: RestoredSite) -> Iterator[None]:
    """What is handed over waits; what runs runs on."""
    site.cluster.scontrol("update", f"NodeName={site.cluster.node}", "State=DRAIN", "Reason=full")
    try:
        yield
    finally:
        site.cluster.scontrol("update", f"NodeName={site.cluster.node}", "State=RESUME")


@pytest.mark.ssh
@pytest.mark.parametrize("site", ["ssh"], indirect=True)
def test_jobs_that_run_wait_and_end_around_a_restore_are_found_again(site: RestoredSite) -> None:
    site.run_pass("submit", limit=4)
    site.wait_for_states(run_1__1="RUNNING", run_2__1="RUNNING", run_3__1="FAILED", run_4__1="COMPLETED")
    site.poll_until(lambda: site.status(4) == "COLLECTING_RESULTS" and site.status(3) in ("FAILED", "PENDING"))
    site.run_pass("collect")
    site.poll()
    site.observe("late-a")
    site.run_pass("submit", limit=1)
    site.wait_for_states(run_6__1="RUNNING")
    with full(site):
        site.observe("late-b")
        site.submit()
        site.wait_for_states(run_3__2="PENDING", run_5__1="PENDING", run_7__1="PENDING")
        before = site.handed_over()

        site.restore()
        assert [run["status"] for run in site.runs()] == ["STAGED"] * 5
        assert [item.outcome for item in site.submit().items] == ["blocked"]
        site.go(1)
        site.wait_for_states(run_1__1="COMPLETED")
        report = site.reconcile()
        assert {(a.run_id, a.number) for a in report.plan.live} == {(1, 1), (2, 1), (3, 2), (4, 1), (5, 1)}
        assert {(a.run_id, a.number) for a in report.plan.past} == {(3, 1)}
        assert {(a.run_id, report.jobs[a.token].state) for item in report.open for a in item.attempts} == {
            (6, "running"), (7, "pending"),
        }  # fmt: skip
        assert report.blocked
        site.submit()
        for _ in range(3):  # whatever time goes by they are jobs that wait and run
            site.poll()
            site.later(10 * GRACE)
        assert [site.status(n) for n in (2, 3, 5)] == ["RUNNING", "SUBMITTED", "SUBMITTED"], site.runs()
        assert site.handed_over().keys() == before.keys(), "nothing was submitted"

        assert site.reconcile(yes=True).blocked is None
        site.wait_for_states(run_3__2="PENDING", run_5__1="PENDING")
        assert "run-7/attempt-1" not in site.handed_over(), "a task that is cancelled while it waits leaves no trace"
    site.go(2)
    site.observe("late-a")
    site.observe("late-b")
    assert [run["id"] for run in site.runs()] == [1, 2, 3, 4, 5, 8, 9]
    site.until_quiet()
    site.wait_for_states(run_6__1="CANCELLED")
    site.check()
    executed = {"/".join(Path(directory).parts[-2:]) for directory in site.executions()}
    assert executed == {
        "run-1/attempt-1", "run-2/attempt-1", "run-3/attempt-1", "run-3/attempt-2", "run-4/attempt-1", "run-5/attempt-1",
        "run-6/attempt-1", "run-8/attempt-1", "run-9/attempt-1",
    }  # fmt: skip


@pytest.mark.parametrize("at", ["slurm.sbatch", "slurm.scontrol"])
def test_jobs_that_are_held_when_the_ops_db_goes_back_are_let_go_once(site: RestoredSite, at: str) -> None:
    """The pass that handed them over was killed; the backup knows nothing of it."""
    site.behave("")
    site.context().scheduler.limits()
    assert site.killed("submit", Strike(die, at, when="after" if at == "slurm.sbatch" else "before"))
    assert {state for states in site.handed_over().values() for state in states} == {"PENDING"}
    site.restore(later=HOUR)
    assert len(site.reconcile().plan.live) == 5
    site.until_quiet()
    site.check()
    assert len(site.executions()) == 5


def test_a_backup_made_half_way_through_a_submission_finds_what_came_of_it(site: RestoredSite) -> None:
    site.behave("")
    site.context().scheduler.limits()
    assert site.killed("submit", Strike(die, "slurm.sbatch", when="after"))
    site.back_up()
    site.until_quiet()
    site.check()
    site.wait_for_accounting(5)
    site.commands().always("squeue", "exit 0")  # by now the queue has forgotten all of it
    site.restore()
    assert {run["status"] for run in site.runs()} == {"SUBMITTING"}
    site.submit()
    assert site.reconcile().open == ()
    site.until_quiet()
    site.check()
    assert len(site.executions()) == 5


def test_a_run_that_is_let_be_leaves_the_queue_with_the_twin_of_its_job(site: RestoredSite) -> None:
    with full(site):
        site.observe("late")
        site.run_pass("submit", limit=1)
        token = site.submissions()[-1]["token"]
        folder = site.base / ".submissions" / token
        site.cluster.run("sbatch", "--hold", "--array=0-0", f"--job-name=ccatwm-{token}", "--output=/dev/null",
                         folder / "job.sh", folder)  # fmt: skip
        assert site.handed_over() == {"run-6/attempt-1": ["PENDING", "PENDING"]}
        site.restore()
        site.commands().once("squeue", "exit 1")
        with pytest.raises(SchedulerUnavailableError):
            site.reconcile(yes=True)
        assert list((site.base / "line").rglob("job/claims/*")) == [], "nothing is done while Slurm does not answer"
        assert [item.outcome for item in site.submit().items] == ["blocked"]
        assert site.reconcile(yes=True).blocked is None
        assert "PENDING" not in site.handed_over().get("run-6/attempt-1", [])
    assert site.executions() == []


def test_an_attempt_that_failed_after_the_backup_is_not_tried_again_where_it_was(site: RestoredSite) -> None:
    """Passes of cron come before a person does: to them the retry is due that was made long ago."""
    site.behave("""
        case $attempt in
        */run-1/attempt-1) exit 75 ;;
        */run-1/attempt-2) until [ -e "$base/go-run-1" ]; do sleep 0.05; done ;;
        esac
    """)
    site.run_pass("submit", limit=1)
    site.back_up()
    site.poll_until(lambda: site.status(1) == "PENDING")
    site.run_pass("stage")
    site.run_pass("submit", limit=1)
    site.wait_for_states(run_1__2="RUNNING")
    site.restore()
    site.poll_until(lambda: site.status(1) == "PENDING")
    assert [site.run_pass(name).exit_code for name in ("stage", "submit")] == [0, 0]
    assert site.status(1) == "STAGED"
    assert [(a.run_id, a.number) for a in site.reconcile().plan.live] == [(1, 2)]
    site.go(1)
    site.until_quiet()
    site.check()
    assert len(site.executions()) == 6
