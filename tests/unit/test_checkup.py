"""What is made of measured facts of a site: spaces, mounts, clocks, modes, secrets, groups, cron."""

from __future__ import annotations

import pytest

from ccatwm.core.checkup import (
    FileFacts,
    Finding,
    Kept,
    Mount,
    Sharing,
    away,
    error_findings,
    exit_code,
    find_mount,
    judge_base_mount,
    judge_clock,
    judge_cron_environment,
    judge_kept,
    judge_local_disk,
    judge_runtime,
    judge_sharing,
    judge_space,
    judge_writers,
    ok,
    parse_stat,
    parse_umask,
    skipped,
    warning,
    with_parents,
    wrong,
)
from ccatwm.core.wording import GB
from ccatwm.errors import AgentStartError, HostKeyError, LoginError, Problem, SettingsError, TransportError

pytestmark = pytest.mark.quick


def facts(path: str, mode: int, *, group: str = "chai", gid: int = 7) -> FileFacts:
    return FileFacts(path, mode, 1, gid, "ops", group)


def judged(finding: Finding) -> tuple[str, str]:
    return finding.state.value, finding.next


# --- the whole ----------------------------------------------------------------------------------------------


def test_what_a_person_must_do_outweighs_silence_and_warnings_cost_nothing() -> None:
    fine, warned, silent, bad = ok("a", ""), warning("b", "", ""), away("c", "", ""), wrong("d", "", "")
    assert [exit_code(f) for f in ([fine, warned, skipped("e", "")], [fine, silent], [silent, bad])] == [
        0,
        4,
        3,
    ]


@pytest.mark.parametrize(
    ("error", "is_away"),
    [(TransportError("no route"), True), (HostKeyError("changed"), False), (LoginError("refused"), False),
     (AgentStartError("no python"), False),
     (SettingsError("wrong"), False)],
)  # fmt: skip
def test_a_shut_door_is_for_a_person_and_a_silent_host_is_not(error: TransportError, is_away: bool) -> None:
    assert [f.away for f in error_findings("ssh", error)] == [is_away]


def test_each_mistake_in_the_settings_is_a_finding_of_its_own() -> None:
    error = SettingsError(
        "wrong", problems=[Problem("a.toml: X", "no such setting", "did you mean Y?"), Problem("b", "c")]
    )
    found = error_findings("settings", error)
    assert [(f.found, f.next) for f in found] == [
        ("a.toml: X: no such setting", "did you mean Y?"),
        ("b: c", ""),
    ]


# --- disks ----------------------------------------------------------------------------------------------------

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /scratch rw,noatime shared:5 - lustre 10.0.0.1@o2ib:/scratch rw,flock
31 22 0:41 / /scratch/with\\040space ro - nfs4 server:/x rw,vers=4.2
32 30 0:42 / /scratch rw - beegfs beegfs_nodev rw
"""


def test_a_path_lies_on_the_latest_of_the_longest_mounts_above_it() -> None:
    kinds = {
        path: find_mount(MOUNTS, path) for path in ("/", "/scratchy", "/scratch/a", "/scratch/with space/b")
    }
    assert {path: mount.kind if mount else None for path, mount in kinds.items()} == {
        "/": "ext4", "/scratchy": "ext4", "/scratch/a": "beegfs", "/scratch/with space/b": "nfs4",
    }  # fmt: skip
    assert find_mount("", "/") is None


def test_a_network_file_system_is_wrong_for_sqlite_a_warning_for_locks_and_fine_for_runs() -> None:
    nfs = Mount("/home", "nfs4")
    assert judge_local_disk("a", "/users/db", nfs, "no", needed=True).state == "wrong"
    assert judge_local_disk("a", "/users/state", nfs, "no", needed=False).state == "warning"
    assert judge_local_disk("a", "/var", Mount("/", "xfs"), "no", needed=True).state == "ok"
    assert judge_base_mount("a", "/users/runs", nfs).state == "ok"
    assert judge_base_mount("a", "/users/runs", Mount("/home", "nfs4", ("ro",))).state == "wrong"


@pytest.mark.parametrize(
    ("free_gb", "inodes", "state"), [(5.0, 10**6, "ok"), (0.5, 10**6, "wrong"), (5.0, 900, "wrong")]
)
def test_space_is_bytes_and_inodes(free_gb: float, inodes: int, state: str) -> None:
    assert judge_space("a", int(free_gb * GB), inodes, 1.0).state == state


# --- clocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "asked", "state"),
    [
        (0.4, 0.1, "ok"),
        (3.0, 0.1, "warning"),
        (-3.0, 0.1, "warning"),
        (-70.0, 0.1, "wrong"),
        (3.0, 4.0, "ok"),
    ],
)
def test_clocks_may_differ_by_less_than_the_question_took(offset: float, asked: float, state: str) -> None:
    finding = judge_clock("a", "login", offset, asked)
    assert finding.state == state
    if state != "ok":
        assert ("behind" if offset < 0 else "ahead of") in finding.found
        assert "NTP" in finding.next


# --- modes ------------------------------------------------------------------------------------------------------


def test_lines_of_stat_are_read_and_others_passed_over() -> None:
    out = b"2775 10 20 ops chai /srv/a b\nstat: cannot statx '/x'\n1777 0 0 root root /tmp\n"
    assert parse_stat(out) == {
        "/srv/a b": FileFacts("/srv/a b", 0o2775, 10, 20, "ops", "chai"),
        "/tmp": FileFacts("/tmp", 0o1777, 0, 0, "root", "root"),
    }


def test_what_everybody_may_write_to_is_wrong_but_a_sticky_folder_above_is_not() -> None:
    assert with_parents(["/tmp/a", "/tmp/b"]) == ["/tmp/a", "/tmp", "/", "/tmp/b"]
    modes = {"/": 0o755, "/tmp": 0o1777, "/tmp/a": 0o775}
    good = {path: facts(path, mode) for path, mode in modes.items()}
    assert judge_writers("a", "images", ["/tmp/a"], good).state == "ok"
    for path, mode in (("/tmp", 0o777), ("/tmp/a", 0o1777)):
        assert judged(judge_writers("a", "images", ["/tmp/a"], good | {path: facts(path, mode)})) == (
            "wrong", f"chmod o-w {path}",
        )  # fmt: skip
    assert judge_writers("a", "images", ["/gone"], good).state == "warning"


@pytest.mark.parametrize(
    ("mode", "secret", "state"),
    [
        (0o644, False, "ok"),
        (0o600, True, "ok"),
        (0o640, True, "warning"),
        (0o644, True, "wrong"),
        (0o666, False, "wrong"),
    ],
)
def test_secrets_are_for_their_account_alone(mode: int, secret: bool, state: str) -> None:
    assert [f.state for f in judge_kept("a", [Kept("/f", secret)], {"/f": facts("/f", mode)})] == [state]


@pytest.mark.parametrize(
    ("base", "made_gid", "umask", "state", "said"),
    [
        (0o755, 7, 0o022, "ok", ""),
        (0o2775, 7, 0o002, "ok", ""),
        (0o775, 1, 0o002, "warning", "chmod g+s /b"),
        (0o2775, 7, 0o022, "warning", "umask 0002"),
        (0o777, 7, 0o002, "wrong", "chmod o-w /b"),
    ],
)
def test_a_shared_folder_hands_on_its_group_and_the_umask_lets_it_write(
    base: int, made_gid: int, umask: int, state: str, said: str
) -> None:
    finding = judge_sharing("a", Sharing(facts("/b", base), facts("/b/x", 0o755, gid=made_gid), umask))
    assert finding.state == state
    assert said in finding.next


def test_umask_is_octal() -> None:
    assert [parse_umask(text) for text in ("0022\n", "2", "u=rwx", "")] == [0o22, 2, None, None]


# --- containers and cron ------------------------------------------------------------------------------------------


def test_a_runtime_is_there_missing_or_broken() -> None:
    assert (
        judge_runtime("a", "apptainer", "login", 0, "apptainer version 1.4.5\n").found
        == "login: apptainer version 1.4.5"
    )
    assert "no apptainer on the path" in judge_runtime("a", "apptainer", "login", 127, "").found
    assert "cannot map" in judge_runtime("a", "apptainer", "login", 1, "cannot map\nmore").found


def test_what_cron_does_not_have_is_named() -> None:
    assert judge_cron_environment("a", [], agent=False).state == "ok"
    assert (
        "SSH_AUTH_SOCK"
        in judge_cron_environment("a", ["CCAT_WORKFLOW_MANAGER_SLURM__ACCOUNT"], agent=True).found
    )
