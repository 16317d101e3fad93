"""What is made of what Slurm says of itself, and of what a site asks of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccatwm.core.checkup_slurm import (
    COMMANDS,
    Association,
    Command,
    JobFate,
    Submitter,
    judge_account,
    judge_accounting,
    judge_answer,
    judge_commands,
    judge_grace,
    judge_job,
    judge_limits,
    judge_memory_of_queue,
    judge_partition,
    judge_refused,
    judge_version,
    parse_associations,
    parse_commands,
    parse_job_result,
    parse_partitions,
    parse_version,
)

pytestmark = pytest.mark.quick

ME = Submitter("ops", ("ops", "chai"), "smp", "ag-chai", "")
PARTITIONS = parse_partitions(
    b"PartitionName=smp AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=NO MaxTime=2-00:00:00 State=UP\n"
    b"PartitionName=gpu AllowGroups=gpu,root AllowAccounts=ag-gpu Default=YES MaxTime=UNLIMITED State=UP\n"
    b"PartitionName=old AllowGroups=ALL DenyAccounts=ag-chai Default=NO MaxTime=01:00:00 State=DRAIN\n"
)


# --- commands and versions ------------------------------------------------------------------------------------


def commands(version: str = "slurm 23.11.5", **changed: str) -> list[Command]:
    return [Command(name, f"/usr/bin/{name}", changed.get(name, version)) for name in COMMANDS]


def test_all_commands_of_one_release_are_needed() -> None:
    assert judge_commands("a", commands(), accounting=True).state == "ok"
    assert judge_commands("a", commands(sacct="slurm 22.05.8"), accounting=True).state == "warning"
    without = [c if c.name != "sacct" else Command("sacct", "", "") for c in commands()]
    assert judge_commands("a", without, accounting=False).state == "ok"
    finding = judge_commands("a", without, accounting=True)
    assert (finding.state, "sacct" in finding.found, "slurm.bin_dir" in finding.next) == ("wrong", True, True)


def test_lines_about_commands_are_read_and_noise_is_not() -> None:
    assert parse_commands(b"sbatch\t/opt/s/bin/sbatch\tslurm 23.02.7\nmotd\nsacct\t\t\n") == [
        Command("sbatch", "/opt/s/bin/sbatch", "slurm 23.02.7"), Command("sacct", "", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("slurm 24.05.4", "ok"), ("slurm 23.11.5", "ok"), ("slurm 23.11.1", "warning"), ("slurm 23.11.0-0rc1", "warning"),
        ("slurm 23.02.7", "warning"), ("slurm-wlm 22.05.8", "warning"), ("slurm 20.02.3", "wrong"), ("", "warning"),
    ],
)  # fmt: skip
def test_old_releases_are_warned_about(said: str, state: str) -> None:
    assert judge_version("a", parse_version(said)).state == state


@pytest.mark.parametrize(
    ("said", "open_"),
    [("22.05.8", True), ("22.05.11", False), ("23.02.6", True), ("23.02.7", False), ("23.11.1", False)],
)
def test_the_hole_in_slurmdbd_is_named_where_it_was_open(said: str, open_: bool) -> None:
    assert ("CVE-2023-49934" in judge_version("a", parse_version(said)).found) is open_


# --- silence -------------------------------------------------------------------------------------------------


def test_a_silent_controller_is_away_and_nobodys_fault() -> None:
    assert judge_answer("a", "slurmctld", 0, b"") is None
    silent = judge_answer("a", "slurmctld", 1, b"Unable to contact slurm controller\n")
    assert silent is not None and silent.away and "scontrol ping" in silent.next


def test_no_accounting_is_a_setting_and_a_silent_slurmdbd_is_not() -> None:
    none = judge_accounting("a", {"AccountingStorageType": "accounting_storage/none"}, 1, b"disabled")
    assert (none.state, none.away, "slurm.accounting = false" in none.next) == ("wrong", False, True)
    silent = judge_accounting(
        "a", {"AccountingStorageType": "accounting_storage/slurmdbd"}, 1, b"Connection refused"
    )
    assert silent.away and "slurmdbd" in silent.found
    assert (
        judge_accounting("a", {"AccountingStorageType": "accounting_storage/slurmdbd"}, 0, b"").state == "ok"
    )


# --- partition and account -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "hours", "state", "said"),
    [
        (ME, None, "ok", "2-00:00:00"),
        (replace(ME, partition="smpp"), None, "wrong", "gpu, old, smp"),
        (replace(ME, partition="gpu"), None, "wrong", "account ag-chai"),
        (replace(ME, partition="gpu", account="AG-GPU"), None, "wrong", "groups gpu, root"),
        (replace(ME, partition="gpu", account="ag-gpu", groups=("gpu",)), None, "ok", "UNLIMITED"),
        (replace(ME, partition="", account="ag-gpu", groups=("gpu",)), None, "ok", "gpu is up"),
        (replace(ME, partition="old"), None, "wrong", "account ag-chai"),
        (replace(ME, partition="old", account="other"), None, "warning", "DRAIN"),
        (ME, 72.0, "warning", "slurm.max_time_hours = 48"),
    ],
)
def test_a_partition_is_there_up_and_open_to_us(
    who: Submitter, hours: float | None, state: str, said: str
) -> None:
    finding = judge_partition("a", PARTITIONS, who, hours)
    assert finding.state == state
    assert said in finding.found + finding.next


def test_without_a_partition_there_must_be_a_default() -> None:
    some = {"smp": PARTITIONS["smp"]}
    assert judge_partition("a", some, replace(ME, partition=""), None).state == "wrong"


ASSOCIATIONS = parse_associations(b"ag-chai||normal,long||500|2000\nag-gpu|gpu|normal|||\n")


@pytest.mark.parametrize(
    ("who", "enforced", "state", "said"),
    [
        (ME, True, "ok", "ops may submit for ag-chai"),
        (replace(ME, account="AG-CHAI"), True, "ok", ""),
        (replace(ME, account="ag-chia"), True, "wrong", "accounts of ops: ag-chai, ag-gpu"),
        (replace(ME, account="ag-chia"), False, "warning", "not enforced"),
        (replace(ME, account="ag-gpu"), True, "wrong", "other partitions only: gpu"),
        (replace(ME, qos="long"), True, "ok", "QOS long"),
        (replace(ME, qos="short"), True, "wrong", "long, normal"),
        (replace(ME, account=""), True, "ok", "the default counts"),
    ],
)
def test_an_account_is_one_of_ours(who: Submitter, enforced: bool, state: str, said: str) -> None:
    finding = judge_account("a", ASSOCIATIONS, who, enforced=enforced)
    assert finding.state == state
    assert said in finding.found + finding.next


def test_who_has_no_account_at_all_is_told_so() -> None:
    assert judge_account("a", [], replace(ME, account=""), enforced=True).state == "wrong"


# --- limits and times ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "array", "queued", "state"),
    [
        ("1001", None, None, "ok"),
        ("1001", 2000, None, "warning"),
        ("1001", 100, 600, "warning"),
        ("1", None, None, "warning"),
    ],
)
def test_what_the_site_wants_fits_what_the_cluster_takes(
    size: str, array: int | None, queued: int | None, state: str
) -> None:
    finding = judge_limits(
        "a", {"MaxArraySize": size}, ASSOCIATIONS, "ag-chai", max_array_size=array, max_queued=queued
    )
    assert finding.state == state
    assert "MaxSubmitJobs 500" in finding.found


@pytest.mark.parametrize(
    ("age", "accounting", "state"),
    [
        ("300 sec", False, "ok"),
        ("30 sec", False, "wrong"),
        ("30 sec", True, "ok"),
        ("0 sec", False, "ok"),
        ("", True, "skipped"),
    ],
)
def test_without_accounting_the_queue_must_remember_for_three_polls(
    age: str, accounting: bool, state: str
) -> None:
    assert judge_memory_of_queue("a", {"MinJobAge": age}, accounting=accounting).state == state


@pytest.mark.parametrize(
    ("config", "grace", "state", "said"),
    [
        ({"MessageTimeout": "10 sec"}, 900, "ok", "300 s life"),
        ({"MessageTimeout": "10 sec"}, 300, "warning", "GRACE_SECONDS = 370"),
        (
            {"MessageTimeout": "60 sec", "AuthInfo": "socket=/x,ttl=1200"},
            900,
            "warning",
            "GRACE_SECONDS = 1320",
        ),
    ],
)
def test_grace_covers_credential_message_and_command(
    config: dict[str, str], grace: int, state: str, said: str
) -> None:
    finding = judge_grace("a", config, grace_seconds=grace, command_timeout_seconds=60)
    assert finding.state == state
    assert said in finding.found + finding.next


# --- the job ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fate", "state", "said"),
    [
        (JobFate("7", "", "", {"host": "n1", "umask": "0002"}), "ok", "ran on n1"),
        (JobFate("7", "PENDING", "Resources", None), "warning", "Resources"),
        (JobFate("7", "RUNNING", "None", None), "warning", "started but wrote nothing"),
        (JobFate("7", "FAILED", "NonZeroExitCode", None), "wrong", "mount the base directory"),
        (JobFate("7", "", "", None), "wrong", "it left the queue"),
    ],
)
def test_a_job_that_waits_is_a_warning_and_one_that_says_nothing_is_wrong(
    fate: JobFate, state: str, said: str
) -> None:
    finding = judge_job("a", fate, 60)
    assert finding.state == state
    assert said in finding.found + finding.next


def test_a_refusal_is_for_a_person_and_silence_is_not() -> None:
    refused = judge_refused("a", 1, b"sbatch: error: Batch job submission failed: Invalid account\n")
    assert (refused.state, refused.away) == ("wrong", False)
    assert "Batch job submission failed: Invalid account" in refused.found
    assert judge_refused("a", 1, b"sbatch: error: Unable to contact slurm controller").away
    assert judge_refused("a", None, b"").away


def test_what_a_job_wrote_is_read_as_data() -> None:
    assert parse_job_result(b"host=n1\nruntime=a=b\nnoise\n") == {"host": "n1", "runtime": "a=b"}


def test_an_association_has_its_smallest_limit_or_none() -> None:
    assert Association("ag-chai", "", ("normal", "long"), 500) in ASSOCIATIONS
    assert Association("ag-gpu", "gpu", ("normal",), None) in ASSOCIATIONS
