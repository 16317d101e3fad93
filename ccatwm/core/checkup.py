"""Judges what a check of a site has measured: facts in, findings out. Pure.

A finding that is `wrong` needs a person, unless it is `away`: then something outside did not answer, and the next
try may find it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from ccatwm.core.wording import GB, size_text
from ccatwm.errors import (
    AgentStartError,
    CcatwmError,
    CopyUnavailableError,
    HostKeyError,
    LoginError,
    WorldError,
)

EXIT_FINE, EXIT_PERSON, EXIT_AWAY = 0, 3, 4


class Judgement(StrEnum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `found` is what is so, `next` what to do about it."""

    name: str
    state: Judgement
    found: str
    next: str = ""
    away: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "state": self.state.value,
            "found": self.found,
            "next": self.next,
            "away": self.away,
        }


def ok(name: str, found: str) -> Finding:
    return Finding(name, Judgement.OK, found)


def warning(name: str, found: str, next: str) -> Finding:
    return Finding(name, Judgement.WARNING, found, next)


def wrong(name: str, found: str, next: str) -> Finding:
    return Finding(name, Judgement.WRONG, found, next)


def skipped(name: str, why: str) -> Finding:
    return Finding(name, Judgement.SKIPPED, why)


def away(name: str, found: str, next: str) -> Finding:
    return Finding(name, Judgement.WRONG, found, next, away=True)


def exit_code(findings: Iterable[Finding]) -> int:
    """What a person must do outweighs what may pass by itself."""
    bad = [finding for finding in findings if finding.state is Judgement.WRONG]
    if any(not finding.away for finding in bad):
        return EXIT_PERSON
    return EXIT_AWAY if bad else EXIT_FINE


def error_findings(name: str, error: CcatwmError) -> list[Finding]:
    """An error as findings: one for each of its problems. A shut door at the login, or a Python that is not there, is a
    person's affair."""
    if error.problems:
        return [wrong(name, f"{p.where}: {p.what}", p.next) for p in error.problems]
    found = f"{error.where}: {error.message}" if error.where else error.message
    of_a_person = isinstance(error, AgentStartError | HostKeyError | LoginError)
    outside = isinstance(error, WorldError | CopyUnavailableError) and not of_a_person
    return [Finding(name, Judgement.WRONG, found, error.next or "try again", away=outside)]


# --- space --------------------------------------------------------------------------------------------------

FEW_INODES = 10_000


def judge_space(
    name: str, free_bytes: int, free_inodes: int, min_free_gb: float, min_free_inodes: int = 0
) -> Finding:
    """Below `min_free_gb` and `min_free_inodes` staging waits; no inodes are as bad as no bytes."""
    free = f"{size_text(free_bytes)} and {free_inodes} inodes are free"
    if free_bytes < min_free_gb * GB:
        return wrong(
            name,
            f"{free}, less than MIN_FREE_GB = {min_free_gb:g}: staging waits",
            "make room there, or lower MIN_FREE_GB",
        )
    if free_inodes < min_free_inodes:
        return wrong(
            name,
            f"{free}, fewer than MIN_FREE_INODES = {min_free_inodes}: staging waits",
            "remove files there, or lower MIN_FREE_INODES",
        )
    if free_inodes < FEW_INODES:
        return wrong(
            name, f"{free}: a run makes some twenty files", "remove files there, or ask for more inodes"
        )
    return ok(name, free)


# --- file systems -------------------------------------------------------------------------------------------

NETWORK_KINDS = (
    "nfs", "lustre", "gpfs", "cifs", "smb", "beegfs", "ceph", "fuse.sshfs", "glusterfs", "9p", "afs", "pvfs", "orangefs",
)  # fmt: skip


@dataclass(frozen=True)
class Mount:
    """What a path lies on: `point`, the kind of file system and its options (proc(5), mountinfo)."""

    point: str
    kind: str
    options: tuple[str, ...] = ()

    @property
    def network(self) -> bool:
        return self.kind.startswith(NETWORK_KINDS)


def find_mount(mountinfo: str, path: str) -> Mount | None:
    """The mount that `path` (absolute, links resolved) lies on: the longest point above it, the latest of those."""
    best: Mount | None = None
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, others = left.split(), right.split()
        if not separator or len(fields) < 6 or not others:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        options = (*fields[5].split(","), *(others[2].split(",") if len(others) > 2 else ()))
        above = f"{path}/".startswith(f"{point.rstrip('/')}/")
        if above and (best is None or len(point) >= len(best.point)):
            best = Mount(point, others[0], options)
    return best


def judge_local_disk(name: str, path: str, mount: Mount | None, what: str, *, needed: bool) -> Finding:
    """`needed`: what lies there cannot be trusted to a network file system; else it can do without."""
    if mount is None:
        return ok(name, f"{path}: the kind of its file system is not known here")
    if not mount.network:
        return ok(name, f"{path} lies on {mount.kind} ({mount.point})")
    found = f"{path} lies on {mount.kind} ({mount.point}): {what}"
    advice = "put it on a disk of this host" if needed else "a disk of this host is better"
    return wrong(name, found, advice) if needed else warning(name, found, advice)


def judge_absent(name: str, path: str, above: str, writable: bool) -> Finding:
    """A folder that is made when it is first needed, below the folder `above`, which is there."""
    if writable:
        return warning(
            name,
            f"{path} is not there yet",
            "`ccatwm init` makes it, or the first pass; else correct the setting",
        )
    found = f"{path} is not there and cannot be made: {above} is closed to this account"
    return wrong(name, found, "make it, or correct the setting")


def judge_base_mount(name: str, path: str, mount: Mount | None) -> Finding:
    """A base directory may lie anywhere that can be written."""
    if mount is None:
        return ok(name, f"{path}: the kind of its file system is not known here")
    if "ro" in mount.options:
        return wrong(
            name, f"{path} lies on {mount.kind} ({mount.point}), mounted read-only", "mount it read-write"
        )
    return ok(name, f"{path} lies on {mount.kind} ({mount.point})")


# --- clocks -------------------------------------------------------------------------------------------------

CLOCK_WARNING_SECONDS = 2.0
CLOCK_WRONG_SECONDS = 60.0


def judge_clock(name: str, whose: str, offset_seconds: float, asked_seconds: float) -> Finding:
    """`offset_seconds` is how much `whose` clock is ahead of ours, known to half of the time that the question took.

    Leases go by the ops-db's clock alone; times of jobs are compared across hosts, and munge takes no credential that
    is older than its time to live.
    """
    certain = max(0.0, abs(offset_seconds) - asked_seconds / 2)
    word = "ahead of" if offset_seconds > 0 else "behind"
    found = f"the clock of {whose} is {abs(offset_seconds):.1f} s {word} ours"
    advice = "let both hosts keep their time by the same NTP servers (`chronyc tracking`, `timedatectl`)"
    if certain >= CLOCK_WRONG_SECONDS:
        return wrong(name, found, advice)
    if certain >= CLOCK_WARNING_SECONDS:
        return warning(name, found, advice)
    return ok(
        name, f"the clock of {whose} and ours agree to {max(abs(offset_seconds), asked_seconds / 2):.1f} s"
    )


# --- owners, groups and modes -------------------------------------------------------------------------------

STAT_FORMAT = "%a %u %g %U %G %n"  # of GNU stat


@dataclass(frozen=True)
class FileFacts:
    """Who owns a path, and its permission bits."""

    path: str
    mode: int
    uid: int
    gid: int
    owner: str
    group: str


def parse_stat(stdout: bytes) -> dict[str, FileFacts]:
    """Lines of `stat -c STAT_FORMAT`, by path; what is no such line is passed over."""
    facts = {}
    for line in stdout.decode("utf-8", "surrogateescape").splitlines():
        match = re.fullmatch(r"([0-7]{1,5}) (\d+) (\d+) (\S+) (\S+) (.+)", line)
        if match:
            mode, uid, gid, owner, group, path = match.groups()
            facts[path] = FileFacts(path, int(mode, 8), int(uid), int(gid), owner, group)
    return facts


def with_parents(paths: Iterable[str]) -> list[str]:
    """The paths and every folder above them, each once."""
    return list(
        dict.fromkeys(str(p) for path in paths for p in (PurePosixPath(path), *PurePosixPath(path).parents))
    )


def judge_writers(name: str, what: str, paths: Sequence[str], facts: Mapping[str, FileFacts]) -> Finding:
    """Nobody but an owner or a group may put something else there (as StrictModes of sshd_config(5)).

    A folder that all may write to is fine as a parent if it is sticky: then nobody replaces what others have there.
    """
    open_to_all = [facts[p] for p in with_parents(paths) if p in facts and facts[p].mode & 0o002]
    bad = [f for f in open_to_all if f.path in paths or not f.mode & 0o1000]
    if bad:
        names = ", ".join(f"{f.path} ({f.mode:o})" for f in bad[:5])
        return wrong(
            name, f"everybody may write to {names}: {what} could be exchanged", f"chmod o-w {bad[0].path}"
        )
    missing = [path for path in paths if path not in facts]
    if missing:
        return warning(
            name, f"{', '.join(missing)}: not there, or not to be looked at", "see that the path is right"
        )
    return ok(name, f"only owners and groups may write to {', '.join(paths)}")


@dataclass(frozen=True)
class Kept:
    """A file of the settings; `secret`: a password or a key is in it."""

    path: str
    secret: bool


def judge_kept(name: str, files: Sequence[Kept], facts: Mapping[str, FileFacts]) -> list[Finding]:
    """Secrets are read by their account alone; nobody else changes settings."""
    findings = []
    for file in files:
        found = facts.get(file.path)
        if found is None:
            findings.append(
                warning(name, f"{file.path} is not there, or cannot be looked at", "correct the path")
            )
        elif file.secret and found.mode & 0o006:
            findings.append(
                wrong(
                    name,
                    f"{file.path} holds a secret and is open to everybody ({found.mode:o})",
                    f"chmod 600 {file.path}",
                )
            )
        elif found.mode & 0o002:
            findings.append(
                wrong(name, f"everybody may write to {file.path} ({found.mode:o})", f"chmod o-w {file.path}")
            )
        elif file.secret and found.mode & 0o060:
            findings.append(
                warning(
                    name,
                    f"{file.path} holds a secret, which the group {found.group} may read ({found.mode:o})",
                    f"chmod 600 {file.path}, unless all of that group may act for this site",
                )
            )
    whole = ", ".join(file.path for file in files)
    return findings or [ok(name, f"{whole}: not open to others" if files else "no file")]


@dataclass(frozen=True)
class Sharing:
    """How the base directory is shared: its own facts, those of a folder that was just made in it, and the umask of
    the account that made it."""

    base: FileFacts
    made: FileFacts
    umask: int


def parse_umask(text: str) -> int | None:
    """What umask(1) prints."""
    text = text.strip()
    return int(text, 8) if re.fullmatch(r"[0-7]{1,4}", text) else None


def judge_sharing(name: str, sharing: Sharing) -> Finding:
    """A folder that a group writes to hands its group on (set-gid), and the umask lets the group write.

    Without either, what one account makes the next one cannot change or remove.
    """
    base, made = sharing.base, sharing.made
    seen = f"{base.path} is {base.owner}:{base.group} {base.mode:04o}"
    if base.mode & 0o002:
        return wrong(name, f"{seen}: everybody may write to it", f"chmod o-w {base.path}")
    if not base.mode & 0o020:
        return ok(name, f"{seen}: of one account; umask {sharing.umask:04o}")
    if not base.mode & 0o2000 or made.gid != base.gid:
        return warning(
            name, f"{seen}: its group may write, but what is made in it gets the group {made.group}",
            f"chmod g+s {base.path} (and its folders: find {base.path} -type d -exec chmod g+s {{}} +)",
        )  # fmt: skip
    if sharing.umask & 0o020:
        return warning(
            name, f"{seen}: its group may write, but the umask of {made.owner} is {sharing.umask:04o}: not to what is made",
            "set `umask 0002` for that account: before the command in the crontab, or for SSH in its profile",
        )  # fmt: skip
    return ok(name, f"{seen}; umask {sharing.umask:04o}: the group {base.group} shares what is made")


# --- containers ---------------------------------------------------------------------------------------------


def judge_runtime(name: str, runtime: str, where: str, exit_status: int | None, said: str) -> Finding:
    """`apptainer --version` on the host `where`."""
    line = said.strip().splitlines()[0][:200] if said.strip() else ""
    if exit_status == 0:
        return ok(name, f"{where}: {line}")
    if exit_status in (126, 127):
        what = f"{where}: there is no {runtime} on the path of jobs"
    else:
        what = f"{where}: {runtime} does not work: {line or exit_status}"
    return wrong(
        name,
        what,
        "install it there, or set CONTAINER_RUNTIME; `module load` of a profile does not reach jobs",
    )


# --- cron ----------------------------------------------------------------------------------------------------------------

CRON_PATH = "/usr/bin:/bin"


def judge_cron_environment(name: str, set_here: Sequence[str], agent: bool) -> Finding:
    """`set_here`: variables of ours in the environment of the person who asks, which cron does not have."""
    known = [*set_here, *(["SSH_AUTH_SOCK"] if agent else [])]
    if not known:
        return ok(name, f"nothing of this environment is needed; checked with PATH={CRON_PATH} alone")
    return warning(
        name, f"set here, but not under cron: {', '.join(known)}; all checks are made without them",
        "write them into settings.toml, or as NAME=value lines at the top of the crontab",
    )  # fmt: skip
