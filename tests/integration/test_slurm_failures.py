"""What goes wrong on a real cluster, and what becomes of the runs: failures, retries, cancelling, metrics, full disks."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disks import small_disk
from tests.integration.apptainer_image import find_image
from tests.integration.cluster import Cluster
from tests.integration.slurm_failures import FINAL, GOOD, Case, Site, site

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

FIRST = '[ "$WORKFLOW_ATTEMPT" = 1 ]'
FOREVER = "while :; do sleep 0.1; done"


def greedy(megabytes: int) -> str:
    return f'exec python3 -c \'held = bytearray({megabytes} << 20); open("science/out", "w").write("done")\''


FAILING = [
    Case(
        "good",
        "head -c 300000000 /dev/zero | sha256sum >science/sum; "
        "python3 -c 'import time; held = bytearray(60 << 20); time.sleep(3)'",  # accounting samples once a second
    ),
    Case("broken", "echo no such calibration >&2; exit 3"),
    Case("asks-again", f"{FIRST} && exit 75; {GOOD}"),
    Case("partial", f"{GOOD}; exit 2", step={"partial_exit_codes": [2]}),
    Case("no-account", resources={"account": "nobody"}),
    Case("no-feature", resources={"constraint": "gpu80"}),
    # Slurm takes these held, and never starts them.
    Case("too-wide", resources={"cpu": 4000}),
    Case("too-long", resources={"partition": "short", "time_hours": 10}),
    # USR1 comes before the time limit; the second attempt has time enough.
    Case(
        "late",
        f"{FIRST} || {{ {GOOD}; exit 0; }}; trap 'echo half >science/saved' USR1; {FOREVER}",
        resources={"time_hours": 1 / 60},
    ),
    Case(
        "yielding", f"{FIRST} || {{ {GOOD}; exit 0; }}; {FOREVER}", resources={"partition": "low", "cpu": 2}
    ),
    Case("kept"),
    # Each has a child, and where Slurm can track it one that left its session.
    Case("running", f"echo $$ >>PIDS; sleep 600 & echo $! >>PIDS; SETSID {FOREVER}", scans=2),
    Case("queued", scans=3, resources={"extra": ["--begin=now+3600"]}),
    Case("ended-outside", FOREVER),
    Case("one-of-two", scans=2, resources={"extra": ["--begin=now+3600"]}),
]
HUNGRY = [
    Case("hungry", greedy(115), scans=1, resources={"memory_gb": 0.1}),
    Case("glutton", greedy(400), resources={"memory_gb": 0.1}, step={"max_retries": 2}),
]  # fmt: skip
CONTAINED = ["contained", "image-gone", "image-lost", "ends-with-255"]


class Story:
    """One site on which everything goes wrong side by side; `tell` takes it from the first pass to the end."""

    def __init__(self, made: Site, images: dict[str, Path]) -> None:
        self.site = made
        self.images = images
        self.hungry = made.cluster.memory_enforced
        self.pids = made.folder / "pids"
        self.scancel_calls = 0
        self.status_of_kept = ""

    def cases(self) -> list[Case]:
        setsid = f"setsid sleep 600 & echo $! >>{self.pids};" if self.hungry else ""
        cases = [
            Case(
                **{**vars(c), "program": c.program.replace("PIDS", str(self.pids)).replace("SETSID", setsid)}
            )
            for c in FAILING
        ]
        programs = {"ends-with-255": "echo FATAL: not really >&2; echo but mine >&2; exit 255"}
        cases += [Case(name, programs.get(name, GOOD), image=image) for name, image in self.images.items()]
        return cases + (HUNGRY if self.hungry else [])

    def tell(self) -> None:
        self.site.prepare(self.cases())
        self._begin()
        self._preempt()
        self._end_from_outside()
        self._cancel()
        self._reach_the_time_limit()
        self._finish()

    def _begin(self) -> None:
        """`kept` is held before anything is submitted; one image goes before staging, another after it."""
        for name in ("trigger", "resolve"):
            self.site.run_pass(name)
        if self.images:
            self.images["image-gone"].unlink()
        self.site.run_pass("stage")
        if self.images:
            self.images["image-lost"].unlink()
        self.site.cli("hold", "kept", "--reason", "the weather")
        quick = {"good": "COMPLETED", "broken": "FAILED", "asks-again": "COMPLETED", "partial": "COMPLETED"}
        running = {"late": "RUNNING", "running": "RUNNING", "ended-outside": "RUNNING"}
        self.site.until_status(quick | running | {"queued": "SUBMITTED", "one-of-two": "SUBMITTED"})
        self.status_of_kept = self.site.run("kept")["status"]
        self.site.cli("release", "kept")

    def _preempt(self) -> None:
        """Of the 16 CPUs four are taken for good, and two by the job that has to yield (to others, too, if it must)."""
        self.site.until(
            lambda: self.site.statuses("yielding") == {"RUNNING"} or len(self.site.attempts("yielding")) > 1,
            "the job that is to yield has begun",
        )
        self.site.cluster.sbatch(
            "--partition=high", "--cpus-per-task=11", "--mem=50", wrap="sleep 1", as_user=False
        )
        self.site.until_status({"yielding": "COMPLETED"})

    def _end_from_outside(self) -> None:
        """By hand: a job that runs, and one task of an array that waits."""
        (running,) = self.site.attempts("ended-outside")
        waiting = self.site.attempts("one-of-two")[0]
        self.site.cluster.run("scancel", running["task"], waiting["task"])
        self.site.until(lambda: self.site.statuses("ended-outside") == {"FAILED"}, "it is ended outside")

    def _cancel(self) -> None:
        meant = [run["id"] for name in ("running", "queued") for run in self.site.runs(name)]
        jobs = {a["task"].partition("_")[0] for name in ("running", "queued") for a in self.site.attempts(name)}
        before = len(self.site.commands.said)
        self.site.cli("cancel", *meant, "--reason", "the wrong night")
        self.site.run_pass("poll")
        # Jobs of other cases that would wait for ever are ended by one of its own.
        ended = [words.split()[1:] for words in self.site.commands.said[before:] if words.startswith("scancel ")]
        self.scancel_calls = sum(any(task.partition("_")[0] in jobs for task in words) for words in ended)
        self.site.until_status({"running": "CANCELLED", "queued": "CANCELLED"})

    def _reach_the_time_limit(self) -> None:
        """Slurm looks at time limits every 30 s; the end is moved to where the next look finds it over."""
        (attempt,) = self.site.attempts("late")
        saved = self.site.attempt_file(attempt, "output/science/saved")
        self.site.until(saved.exists, "the warning before the time limit")
        self.site.cluster.scontrol("update", f"jobid={attempt['task']}", "EndTime=now+1")
        self.site.until_status({"late": "COMPLETED"})

    def _finish(self) -> None:
        """Nothing goes on by itself any more, but for the other task of the array, which waits."""
        if self.hungry:
            self.site.until_status({"hungry": "COMPLETED", "glutton": "FAILED"})
        ended = [name for name in self.site.states() if name != "one-of-two"]
        self.site.until(
            lambda: (
                all(not run["is_open"] for name in ended for run in self.site.runs(name))
                and "FAILED" in self.site.statuses("one-of-two")
            ),
            "all have ended",
        )


@pytest.fixture(scope="module")
def story(session_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    images = {}
    if session_cluster.description["apptainer"]:
        image = find_image()
        folder = tmp_path_factory.mktemp("images")
        images = {name: Path(shutil.copy(image, folder / f"{name}.sif")) for name in CONTAINED}
    runtime = "apptainer" if images else "none"
    caps = {"max_memory_gb": 0.2, "max_time_hours": 0.02, "warn_seconds": 20}
    with site(session_cluster, "failures", runtime=runtime, **caps) as made:
        told = Story(made, images)
        told.tell()
        yield told


def needs_memory(story: Story) -> None:
    if not story.hungry:
        pytest.skip("control groups cannot be written here, so Slurm cannot enforce memory limits")


def needs_containers(story: Story) -> None:
    if not story.images:
        pytest.skip("Apptainer cannot run here")


# --- failures and retries -----------------------------------------------------------------------------------


def test_a_program_that_fails_is_not_tried_again(story: Story) -> None:
    run = story.site.run("broken")
    assert (run["status"], run["failure_class"], run["exit_code"]) == ("FAILED", "non-zero-exit", 3)
    assert (run["attempt"], run["blocking"]) == (1, 1)


def test_a_program_that_asks_for_a_retry_by_exit_code_75_gets_it(story: Story) -> None:
    run = story.site.run("asks-again")
    assert (run["status"], run["attempt"], run["retries_used"]) == ("COMPLETED", 2, 1)
    assert [a["exit_code"] for a in story.site.attempts("asks-again")] == [75, 0]


def test_a_partial_exit_code_is_completion_with_a_warning(story: Story) -> None:
    run = story.site.run("partial")
    assert (run["status"], run["attempt"]) == ("COMPLETED", 1)
    assert json.loads(run["warnings"]) == ["partial: the program ended with exit code 2"]


def test_a_wrong_account_is_told_in_slurms_words_with_what_to_do(story: Story) -> None:
    run = story.site.run("no-account")
    assert (run["status"], run["failure_class"], run["blocking"]) == ("FAILED", "submit-rejected", 1)
    assert "Invalid account" in run["message"]
    assert "correct account in the step's resources" in run["message"]
    listed = story.site.document("show", run["id"])
    assert listed["run"]["needs_you"]
    assert f"ccatwm retry {run['id']} --reason TEXT" in listed["next"]


def test_features_that_no_node_has_are_told_in_slurms_words_with_what_to_do(story: Story) -> None:
    run = story.site.run("no-feature")
    assert (run["status"], run["failure_class"], run["attempt"]) == ("FAILED", "submit-rejected", 1)
    assert "Invalid feature specification" in run["message"]
    assert "correct constraint in the step's resources" in run["message"]


@pytest.mark.parametrize(
    ("name", "reason"), [("too-wide", "PartitionConfig"), ("too-long", "PartitionTimeLimit")]
)
def test_a_job_that_slurm_takes_and_never_starts_is_given_up_and_told(
    story: Story, name: str, reason: str
) -> None:
    run = story.site.run(name)
    assert (run["status"], run["failure_class"], run["attempt"]) == ("FAILED", "submit-rejected", 1)
    assert reason in run["message"]
    assert "lower them" in run["message"]
    (attempt,) = story.site.attempts(name)
    assert story.site.cluster.state(attempt["task"]) in ("", "CANCELLED")
    assert not story.site.attempt_file(attempt, "job/started.json").exists()


def test_a_program_warned_before_its_time_limit_saves_its_work(story: Story) -> None:
    first = story.site.attempts("late")[0]
    assert story.site.attempt_file(first, "output/science/saved").read_text() == "half\n"


def test_a_time_limit_brings_a_retry_with_more_time_up_to_the_cap(story: Story) -> None:
    assert [a["failure_class"] for a in story.site.attempts("late")] == ["timeout", None]
    assert story.site.asked("late", "time_hours") == [pytest.approx(1 / 60), 0.02]
    assert story.site.run("late")["retries_used"] == 1


def test_a_job_that_had_to_yield_is_tried_again_and_not_charged(story: Story) -> None:
    run = story.site.run("yielding")
    assert [a["failure_class"] for a in story.site.attempts("yielding")] == ["preempted", None]
    assert (run["status"], run["retries_used"], run["free_retries_used"]) == ("COMPLETED", 0, 1)


def test_a_job_out_of_memory_is_tried_again_with_half_as_much_more(story: Story) -> None:
    needs_memory(story)
    assert [a["failure_class"] for a in story.site.attempts("hungry")] == ["out-of-memory", None]
    assert story.site.asked("hungry", "memory_gb") == [0.1, pytest.approx(0.15)]
    assert story.site.run("hungry")["status"] == "COMPLETED"


def test_the_jobs_own_record_tells_that_its_memory_ran_out(story: Story) -> None:
    needs_memory(story)
    record = story.site.attempt_file(story.site.attempts("hungry")[0], "job/exit.json")
    assert json.loads(record.read_bytes())["reason"] == "out-of-memory"


def test_memory_grows_to_the_cap_of_the_site_and_then_a_person_is_needed(story: Story) -> None:
    needs_memory(story)
    assert story.site.asked("glutton", "memory_gb") == [0.1, pytest.approx(0.15), 0.2]
    run = story.site.run("glutton")
    assert (run["status"], run["failure_class"], run["retries_used"]) == ("FAILED", "out-of-memory", 2)
    assert story.site.document("show", run["id"])["run"]["needs_you"]


def test_what_a_retry_had_to_learn_is_what_the_next_run_begins_with(story: Story) -> None:
    needs_memory(story)
    assert "memory_gb 0.15" in story.site.cli("explain", "hungry")
    story.site.cli("trigger", "--pipeline", "hungry", "--force", "--reason", "again, please")
    story.site.until(
        lambda: [r["status"] for r in story.site.runs("hungry")] == ["COMPLETED"] * 2, "the run asked for"
    )
    second = story.site.runs("hungry")[1]
    assert (second["attempt"], second["retries_used"]) == (1, 0)
    assert story.site.asked("hungry", "memory_gb")[2:] == [pytest.approx(0.15)]
    assert "the step asks for memory_gb 0.1" in story.site.cli("show", second["id"])


def test_a_program_in_a_container_runs(story: Story) -> None:
    needs_containers(story)
    assert story.site.run("contained")["status"] == "COMPLETED"


def test_an_image_that_is_gone_is_told_before_a_job_is_made(story: Story) -> None:
    needs_containers(story)
    run = story.site.run("image-gone")
    assert (run["status"], run["failure_class"], run["blocking"]) == ("FAILED", "container", 1)
    assert story.site.attempts("image-gone") == []
    assert "image-gone.sif" in run["message"]
    assert "put it there" in run["message"]


def test_an_image_that_went_before_the_job_began_is_a_failure_of_the_container(story: Story) -> None:
    needs_containers(story)
    run = story.site.run("image-lost")
    assert (run["status"], run["failure_class"], run["exit_code"]) == ("FAILED", "container", 255)
    assert (run["attempt"], run["blocking"]) == (1, 1)


def test_a_program_that_ends_with_255_by_itself_is_no_failure_of_the_container(story: Story) -> None:
    needs_containers(story)
    run = story.site.run("ends-with-255")
    assert (run["failure_class"], run["exit_code"]) == ("non-zero-exit", 255)


# --- cancelling and holding ---------------------------------------------------------------------------------


def test_queued_and_running_jobs_are_cancelled_by_one_command(story: Story) -> None:
    assert story.scancel_calls == 1
    for name in ("running", "queued"):
        assert story.site.statuses(name) == {"CANCELLED"}
        assert {a["outcome"] for a in story.site.attempts(name)} == {"cancelled"}
        assert {r["blocking"] for r in story.site.runs(name)} == {1}


def test_no_process_of_a_cancelled_job_is_left(story: Story) -> None:
    pids = story.pids.read_text().split()
    assert len(pids) == (6 if story.hungry else 4)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_nothing_of_cancelled_runs_is_left_in_the_queue(story: Story) -> None:
    for attempt in story.site.attempts("running") + story.site.attempts("queued"):
        assert story.site.cluster.state(attempt["task"]) in ("", "CANCELLED")


def test_a_job_cancelled_outside_is_told_apart_and_not_tried_again(story: Story) -> None:
    run = story.site.run("ended-outside")
    assert (run["status"], run["failure_class"], run["attempt"]) == ("FAILED", "cancelled-outside", 1)
    assert run["blocking"] == 1
    assert "cancelled in Slurm" in run["message"]


def test_a_task_cancelled_outside_while_it_waited_is_told_apart_and_its_array_goes_on(story: Story) -> None:
    first = story.site.attempts("one-of-two")[0]["run_id"]
    waiting, ended = sorted(story.site.runs("one-of-two"), key=lambda run: run["id"] == first)
    assert (ended["status"], ended["failure_class"]) == ("FAILED", "cancelled-outside")
    assert waiting["status"] == "SUBMITTED"


def test_a_held_run_is_not_submitted_until_it_is_released(story: Story) -> None:
    assert story.status_of_kept == "STAGED"
    assert story.site.run("kept")["status"] == "COMPLETED"


# --- metrics ------------------------------------------------------------------------------------------------


def test_what_a_job_used_is_kept_with_its_attempt(story: Story) -> None:
    story.site.until(
        lambda: all(a["metrics_at"] is None for a in story.site.attempts("good")), "accounting", seconds=30
    )
    (attempt,) = story.site.attempts("good")
    used = json.loads(attempt["resources_used"])
    assert used["wall_seconds"] > 0
    assert 0 < used["cpu_hours"] < 0.01
    assert 0.05 < used["peak_memory_gb"] < 0.2
    assert (used["node"], used["scheduler_exit_code"]) == (story.site.cluster.node, 0)
    assert 0 <= used["queue_seconds"] < 60
    run = story.site.run("good")
    assert [run[key] for key in ("wall_seconds", "cpu_hours", "peak_memory_gb")] == [
        used[key] for key in ("wall_seconds", "cpu_hours", "peak_memory_gb")
    ]


def test_failed_and_cancelled_attempts_have_their_metrics_too(story: Story) -> None:
    attempts = [a for name in ("broken", "running", "late", "yielding") for a in story.site.attempts(name)]
    story.site.until(
        lambda: (
            not [
                a
                for name in ("broken", "running", "late")
                for a in story.site.attempts(name)
                if a["metrics_at"]
            ]
        ),
        "accounting",
        seconds=30,
    )
    used = [json.loads(a["resources_used"]) for a in attempts]
    assert {u["node"] for u in used} == {story.site.cluster.node}
    assert None not in [u["wall_seconds"] for u in used]


def test_metrics_are_shown_when_slurm_has_forgotten_the_job(story: Story) -> None:
    (attempt,) = story.site.attempts("good")
    end = time.monotonic() + 100
    while story.site.cluster.state(attempt["task"]):
        assert time.monotonic() < end, "MinJobAge is over, and the queue has it still"
        time.sleep(1)
    given = len(story.site.commands.given)
    run = story.site.run("good")["id"]
    (shown,) = story.site.document("show", run)["attempts"]
    assert shown["used"]["cpu_hours"] > 0
    text = story.site.cli("show", run)
    assert f"node {story.site.cluster.node}" in text
    assert "cpu_hours" in text and "peak_memory_gb" in text
    assert len(story.site.commands.given) == given


# --- several tasks ------------------------------------------------------------------------------------------


def test_several_tasks_are_started_by_srun_and_each_is_warned(cluster: Cluster) -> None:
    program = (
        f"trap 'echo half >>science/saved' USR1; echo begun >>science/begun; {FIRST} || exit 0; "
        "until [ -e science/saved ]; do sleep 0.1; done; sleep 1; exit 75"
    )
    with site(cluster, "tasks") as made:
        made.prepare([Case("wide", program, resources={"tasks": 3, "memory_gb": 0.2})])
        made.until_status({"wide": "RUNNING"})
        (attempt,) = made.attempts("wide")
        begun = made.attempt_file(attempt, "output/science/begun")
        made.until(lambda: begun.exists() and len(begun.read_text().splitlines()) == 3, "all tasks have begun")
        made.cluster.run("scancel", "--batch", "--signal=USR1", attempt["task"])
        made.until_status({"wide": "COMPLETED"})
        first, second = made.attempts("wide")
        saved = made.attempt_file(first, "output/science/saved").read_text()
        assert (saved, first["exit_code"]) == ("half\n" * 3, 75)
        assert len(made.attempt_file(second, "output/science/begun").read_text().splitlines()) == 3


# --- a full disk --------------------------------------------------------------------------------------------


def test_a_job_that_finds_its_disk_full_waits_for_room_and_is_not_charged(cluster: Cluster) -> None:
    program = f"head -c 12M /dev/zero >science/big || exit 4; {GOOD}"
    with site(cluster, "full") as made, small_disk(made.base, megabytes=24):
        made.prepare([Case("large", program, step={"max_retries": 0})])
        filler = made.base / "of-somebody-else"
        filler.write_bytes(bytes(16 << 20))
        made.until_status({"large": "FAILED"})
        run = made.run("large")
        assert (run["failure_class"], run["is_open"], run["blocking"]) == ("no-space", 1, 0)
        assert (run["retries_used"], run["free_retries_used"]) == (0, 0)
        assert "no space, again in" in made.document("show", run["id"])["run"]["state"]
        assert "full" in run["message"]
        record = made.attempt_file(made.attempts("large")[0], "job/exit.json")
        assert json.loads(record.read_bytes())["reason"] == "no-space"
        reports = made.cycle()
        assert made.run("large")["status"] == "FAILED"  # it waits, and that is told
        (told,) = [item for report in reports for item in report.items if item.outcome == "no-space"]
        assert (told.count, told.reason) == (1, run["message"])
        attempt = made.attempts("large")[0]
        assert not made.attempt_file(attempt, "output").exists()  # it would fill the disk again
        assert made.attempt_file(attempt, "logs").exists()
        filler.unlink()
        # Five minutes pass.
        made.execute("UPDATE executed_reduction_step SET due_at = status_at")
        made.until_status({"large": "COMPLETED"})
        assert made.run("large")["retries_used"] == 0


# --- a cluster that was away --------------------------------------------------------------------------------


def test_after_the_cluster_was_away_the_newest_data_go_out_first(cluster: Cluster) -> None:
    with site(cluster, "away", max_queued=16, max_array_size=2) as made:
        made.prepare([Case("nightly", scans=24), Case("urgent", scans=2, priority=90)])
        cluster.stop("slurmctld")
        for name in ("trigger", "resolve", "stage"):
            made.run_pass(name)
        refused = made.run_pass("submit")
        assert refused.error is not None and refused.exit_code == 4
        assert made.statuses("nightly") == {"STAGED"}
        cluster.start("slurmctld")
        passes = 0
        end = time.monotonic() + 90
        while made.statuses("nightly") | made.statuses("urgent") != {"COMPLETED"}:
            assert time.monotonic() < end, made.states()
            report = made.run_pass("submit", max_seconds=5)
            passes += bool(report.done)
            assert handed_over(made) == expected_order(made)[: len(handed_over(made))]
            for name in ("poll", "collect"):
                assert made.run_pass(name).error is None
            time.sleep(0.3)
        assert passes > 1
        assert len(handed_over(made)) == 26


def handed_over(made: Site) -> list[int]:
    """Runs in the order in which they went to the batch system."""
    order = sorted(made.attempts("nightly") + made.attempts("urgent"), key=lambda a: a["id"])
    return [attempt["run_id"] for attempt in order]


def expected_order(made: Site) -> list[int]:
    """The urgent ones, then the others; each from the last scan to the first."""
    newest = [sorted(made.runs(name), key=_observed, reverse=True) for name in ("urgent", "nightly")]
    return [run["id"] for runs in newest for run in runs]


def _observed(run: dict) -> str:
    return str(run["observed_at"])


# --- a node that dies (last: the cluster needs its time afterwards) ------------------------------------------------


def test_a_job_whose_node_died_is_tried_again_and_not_charged(cluster: Cluster) -> None:
    with site(cluster, "node") as made:
        made.prepare([Case("steady", f"{FIRST} && sleep 600; {GOOD}", step={"max_retries": 0})])
        made.until_status({"steady": "RUNNING"})
        cluster.kill("slurmd")
        made.until(lambda: made.run("steady")["failure_class"] == "node-failure", "the node is found dead")
        run = made.run("steady")
        assert (run["retries_used"], run["free_retries_used"]) == (0, 1)
        cluster.start("slurmd")
        made.until_status({"steady": "COMPLETED"})
        assert [a["failure_class"] for a in made.attempts("steady")] == ["node-failure", None]
        assert made.run("steady")["status"] in FINAL
