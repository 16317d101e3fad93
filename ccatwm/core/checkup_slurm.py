"""Judges what Slurm says of itself, and of what this site asks of it: facts in, findings out. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccatwm.core.checkup import Finding, away, ok, skipped, warning, wrong

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sacct", "sacctmgr")
OF_ACCOUNTING = ("sacct", "sacctmgr")
POLL_SECONDS = 60  # passes run every minute
MUNGE_SECONDS = 300  # munge(7): how long a credential is good unless said otherwise

Version = tuple[int, ...]


# --- commands and versions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command of Slurm: where it was found (empty: nowhere) and its `--version`."""

    name: str
    path: str
    said: str

    @property
    def version(self) -> Version:
        return parse_version(self.said)


def parse_version(text: str) -> Version:
    """`slurm 23.02.7`, `slurm-wlm 22.05.8`; nothing for what names none."""
    found = re.search(r"\b(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups("0")) if found else ()


def parse_commands(stdout: bytes) -> list[Command]:
    """Lines `name TAB path TAB version`."""
    lines = [line.split("\t") for line in stdout.decode("utf-8", "replace").splitlines()]
    return [Command(*fields) for fields in lines if len(fields) == 3 and fields[0] in COMMANDS]


def judge_commands(name: str, commands: Sequence[Command], *, accounting: bool) -> Finding:
    """All that passes call, from one release."""
    found = {command.name: command for command in commands if command.path}
    needed = [c for c in COMMANDS if accounting or c not in OF_ACCOUNTING]
    missing = [c for c in needed if c not in found]
    if missing:
        return wrong(
            name, f"not found on the processing host: {', '.join(missing)}",
            "set slurm.bin_dir to the folder of Slurm's commands there (`command -v sbatch` in a login shell tells it)",
        )  # fmt: skip
    versions = {found[c].version for c in needed}
    where = sorted({found[c].path.rpartition("/")[0] for c in needed})
    if len(versions) > 1:
        said = ", ".join(f"{found[c].path} {_dotted(found[c].version)}" for c in needed)
        return warning(name, f"commands of several releases: {said}", "see that slurm.bin_dir comes first")
    return ok(name, f"{', '.join(needed)} in {', '.join(where)}")


def no_conf(name: str, path: str) -> Finding:
    return wrong(
        name, f"slurm.conf is {path}: there is no such file on the processing host, or this account may not read it",
        "correct slurm.conf (it becomes SLURM_CONF), or leave it out where Slurm finds its own",
    )  # fmt: skip


def no_sbatch(name: str, folder: str) -> Finding:
    return wrong(
        name, f"slurm.bin_dir is {folder}: there is no sbatch in it on the processing host, the plain PATH is what counts",
        "correct slurm.bin_dir (`command -v sbatch` in a login shell there tells it), or leave it out",
    )  # fmt: skip


# What changed at a release, as far as we depend on it; the newest first. The condition is of the version at hand.
PATCHED = {
    (22, 5): 11,
    (23, 2): 7,
    (23, 11): 1,
}  # first release with CVE-2023-49933 to -49938 mended, by series


def judge_version(name: str, version: Version) -> Finding:
    """Old releases answer wrongly in places, or have holes. Sources: Slurm's release notes."""
    if not version:
        return warning(
            name, "sbatch --version names no version", "see what `sbatch` is on the processing host"
        )
    shown = _dotted(version)
    if version < (20, 11):
        return wrong(
            name, f"Slurm {shown}: its sacct does not read relative times, by which lost submissions are found",
            "ask the centre for Slurm 20.11 or newer; 23.11.5 or newer is advised",
        )  # fmt: skip
    notes = []
    if _unpatched(version):
        notes.append(
            "CVE-2023-49934 (SQL injection in slurmdbd) and its like are open unless the distribution mended them"
        )
    if version < (23, 11, 4):
        notes.append("some errors of sacct exit 0 and look like an empty answer (until 23.11.4)")
    if notes:
        return warning(
            name, f"Slurm {shown}: {'; '.join(notes)}", "ask the centre for Slurm 23.11.5 or newer"
        )
    return ok(name, f"Slurm {shown}")


def _unpatched(version: Version) -> bool:
    series = version[:2]
    if series in PATCHED:
        return version[2] < PATCHED[series]
    return series < (23, 11)


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]:02d}.{version[2]}" if version else "?"


# --- controller ---------------------------------------------------------------------------------------------


def judge_answer(name: str, what: str, exit_code: int | None, stderr: bytes) -> Finding | None:
    """None where the command was answered."""
    if exit_code == 0:
        return None
    said = "; ".join(stderr.decode("utf-8", "replace").split("\n")).strip("; ")[-300:]
    return away(
        name, f"{what} gave no answer: {said or 'it did not end in time'}",
        "nothing to do if Slurm is being restarted, passes try again; else `scontrol ping` there, and tell the centre",
    )  # fmt: skip


def parse_config(stdout: bytes) -> dict[str, str]:
    """`scontrol show config`: lines `Name = value`."""
    pairs = (line.partition("=") for line in stdout.decode("utf-8", "replace").splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _seconds(text: str) -> int | None:
    """`300 sec`."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None


# --- accounting ---------------------------------------------------------------------------------------------


def accounting_configured(config: Mapping[str, str]) -> bool:
    kind = config.get("AccountingStorageType", "")
    return bool(kind) and not kind.endswith("none") and kind != "(null)"


def judge_accounting(name: str, config: Mapping[str, str], exit_code: int | None, stderr: bytes) -> Finding:
    """`sacct`, for a site with slurm.accounting = true."""
    if config and not accounting_configured(config):
        kind = config.get("AccountingStorageType") or "nothing"
        return wrong(
            name, f"slurm.accounting is true, but the cluster has no accounting (AccountingStorageType is {kind})",
            "set slurm.accounting = false: the queue and the jobs' own records then decide",
        )  # fmt: skip
    failed = judge_answer(name, "sacct", exit_code, stderr)
    if failed is not None:
        return away(
            name, f"{failed.found} (is slurmdbd down?)",
            "jobs that end meanwhile wait for their verdict; nothing is lost. `sacctmgr show cluster` there tells "
            "whether slurmdbd answers; tell the centre if it stays away",
        )  # fmt: skip
    return ok(name, "sacct answers")


# --- partition ----------------------------------------------------------------------------------------------


def parse_partitions(stdout: bytes) -> dict[str, dict[str, str]]:
    """`scontrol --oneliner show partition`: fields by name of partition."""
    found = {}
    for line in stdout.decode("utf-8", "replace").splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if fields.get("PartitionName"):
            found[fields["PartitionName"]] = fields
    return found


@dataclass(frozen=True)
class Submitter:
    """Who submits, and with what: the account on the processing host and the site's defaults."""

    user: str
    groups: tuple[str, ...]
    partition: str
    account: str
    qos: str


def judge_partition(
    name: str, partitions: Mapping[str, Mapping[str, str]], who: Submitter, max_time_hours: float | None
) -> Finding:
    """The partition of jobs whose step names none: there, up, and open to us."""
    known = ", ".join(sorted(partitions)) or "none that this account may see"
    if who.partition and who.partition not in partitions:
        return wrong(
            name, f"there is no partition {who.partition!r}", f"set slurm.partition to one of: {known}"
        )
    chosen = who.partition or next((n for n, f in partitions.items() if f.get("Default") == "YES"), "")
    if not chosen:
        return wrong(
            name, "slurm.partition is not set, and the cluster has no default partition",
            f"set slurm.partition to one of: {known}",
        )  # fmt: skip
    fields = partitions[chosen]
    refusal = _refusal(fields, who)
    if refusal:
        return wrong(
            name,
            f"partition {chosen} {refusal}",
            f"set slurm.partition or slurm.account; partitions: {known}",
        )
    if fields.get("State", "UP") != "UP":
        return warning(
            name,
            f"partition {chosen} is {fields['State']}: jobs wait, or are refused",
            "ask the centre until when",
        )
    longest = _minutes(fields.get("MaxTime", ""))
    if max_time_hours is not None and longest is not None and max_time_hours * 60 > longest:
        return warning(
            name, f"partition {chosen} takes jobs of {longest / 60:g} h, slurm.max_time_hours is {max_time_hours:g}",
            f"set slurm.max_time_hours = {longest / 60:g}, or retries after a timeout may be refused",
        )  # fmt: skip
    return ok(name, f"{chosen} is up, jobs of {fields.get('MaxTime', '?')} at most")


def _refusal(fields: Mapping[str, str], who: Submitter) -> str:
    account, qos = who.account.lower(), who.qos.lower()
    allowed, denied = _names(fields.get("AllowAccounts")), _names(fields.get("DenyAccounts"))
    if account and ((allowed and account not in allowed) or account in denied):
        return f"is not open to the account {who.account}" + (
            f" (open to {', '.join(allowed)})" if allowed else ""
        )
    groups = _names(fields.get("AllowGroups"))
    if groups and who.user != "root" and not {group.lower() for group in who.groups} & set(groups):
        return f"is not open to {who.user} (open to the groups {', '.join(groups)})"
    allowed, denied = _names(fields.get("AllowQos")), _names(fields.get("DenyQos"))
    if qos and ((allowed and qos not in allowed) or qos in denied):
        return f"is not open to the QOS {who.qos}"
    return ""


def _names(text: str | None) -> list[str]:
    """A list of names; none for ALL and for nothing."""
    return [] if text in (None, "", "ALL", "(null)", "N/A") else str(text).lower().split(",")


def _minutes(text: str) -> float | None:
    """`1-00:00:00`, `00:05:00`; None for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


# --- account ------------------------------------------------------------------------------------------------

ASSOCIATION_FIELDS = "Account,Partition,QOS,DefaultQOS,MaxSubmitJobs,GrpSubmitJobs"


@dataclass(frozen=True)
class Association:
    """One way in which accounting lets a user submit."""

    account: str
    partition: str
    qos: tuple[str, ...]
    max_submit: int | None


def parse_associations(stdout: bytes) -> list[Association]:
    """`sacctmgr -nP show assoc format=ASSOCIATION_FIELDS`."""
    found = []
    for line in stdout.decode("utf-8", "replace").splitlines():
        fields = line.split("|")
        if len(fields) == 6 and fields[0]:
            limits = [int(text) for text in fields[4:] if text.isdigit()]
            qos = tuple(filter(None, fields[2].split(",")))
            found.append(Association(fields[0], fields[1], qos, min(limits) if limits else None))
    return found


def judge_account(
    name: str, associations: Sequence[Association], who: Submitter, *, enforced: bool
) -> Finding:
    """Whether accounting knows the account as one of this user's."""
    mine = sorted({association.account for association in associations})
    known = f"accounts of {who.user}: {', '.join(mine) or 'none'}"
    if not who.account:
        if enforced and not mine:
            return wrong(
                name, f"slurm.account is not set, and accounting knows no account of {who.user}",
                f"ask the centre to add {who.user} to an account, then set slurm.account",
            )  # fmt: skip
        return ok(name, f"slurm.account is not set: the default counts; {known}")
    fitting = [a for a in associations if a.account.lower() == who.account.lower()]
    if not fitting:
        found = f"{who.user} may not submit for the account {who.account!r}"
        advice = f"set slurm.account ({known}), or ask the centre to add {who.user} to it"
        return (
            wrong(name, found, advice) if enforced else warning(name, f"{found}; it is not enforced", advice)
        )
    if fitting and all(a.partition not in ("", who.partition) for a in fitting) and who.partition:
        places = ", ".join(sorted({a.partition for a in fitting}))
        return wrong(
            name,
            f"{who.account} is open to {who.user} in other partitions only: {places}",
            "set slurm.partition",
        )
    if who.qos and not any(who.qos in a.qos for a in fitting):
        offered = ", ".join(sorted({qos for a in fitting for qos in a.qos})) or "none"
        return wrong(
            name,
            f"{who.account} has no QOS {who.qos!r} for {who.user}",
            f"set slurm.qos to one of: {offered}",
        )
    return ok(name, f"{who.user} may submit for {who.account}" + (f" with QOS {who.qos}" if who.qos else ""))


# --- limits and times ---------------------------------------------------------------------------------------


def judge_limits(
    name: str, config: Mapping[str, str], associations: Sequence[Association], account: str,
    *, max_array_size: int | None, max_queued: int | None,
) -> Finding:  # fmt: skip
    """MaxArraySize and MaxSubmitJobs against what the site sets."""
    size = _seconds(config.get("MaxArraySize", "")) or 0
    limits = [a.max_submit for a in associations if a.max_submit is not None and account in ("", a.account)]
    most = min(limits) if limits else None
    shown = f"MaxArraySize {size}, MaxSubmitJobs {'none' if most is None else most}"
    if size < 2:
        return warning(
            name,
            f"{shown}: there are no job arrays, each run is a submission of its own",
            "ask the centre for arrays",
        )
    if max_array_size is not None and max_array_size > size:
        return warning(
            name,
            f"{shown}, slurm.max_array_size is {max_array_size}",
            f"set it to {size} or less, or leave it out",
        )
    if most is not None and max_queued is not None and max_queued > most:
        return warning(
            name, f"{shown}, slurm.max_queued is {max_queued}", f"set it to {most} or less, or leave it out"
        )
    return ok(name, shown)


def judge_memory_of_queue(name: str, config: Mapping[str, str], *, accounting: bool) -> Finding:
    """How long slurmctld remembers an ended job (MinJobAge, 0: for ever), against how often passes look."""
    age = _seconds(config.get("MinJobAge", ""))
    if age is None:
        return skipped(name, "the cluster does not tell MinJobAge")
    shown = f"an ended job stays in the queue for {'ever' if age == 0 else f'{age} s'} (MinJobAge)"
    if accounting:
        return ok(name, f"{shown}; after that accounting decides")
    if 0 < age < 3 * POLL_SECONDS:
        return wrong(
            name, f"{shown}, there is no accounting, and `poll` looks every {POLL_SECONDS} s: a verdict may be missed",
            f"ask the centre for MinJobAge = {3 * POLL_SECONDS} or more, or for accounting; or run `poll` more often",
        )  # fmt: skip
    return ok(name, shown)


def judge_grace(
    name: str, config: Mapping[str, str], *, grace_seconds: int, command_timeout_seconds: int
) -> Finding:
    """A submission that got no answer may still arrive for as long as its credential lives and messages wait."""
    told = re.search(r"\bttl=(\d+)", config.get("AuthInfo", ""))
    ttl = int(told[1]) if told else MUNGE_SECONDS
    message = _seconds(config.get("MessageTimeout", "")) or 10
    least = ttl + message + command_timeout_seconds
    sum_of = f"{ttl} s life of a munge credential + {message} s MessageTimeout + {command_timeout_seconds} s of one command"
    if grace_seconds < least:
        return warning(
            name, f"GRACE_SECONDS is {grace_seconds}, less than {sum_of} = {least} s: a job given up may still come "
            "(it does no harm, but its attempt is lost)", f"set GRACE_SECONDS = {least} or more",
        )  # fmt: skip
    return ok(name, f"GRACE_SECONDS {grace_seconds} covers {sum_of}")


# --- the tiny job -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobFate:
    """How the tiny job stands: its state and reason in the queue (empty: left it), what it wrote (None: nothing)."""

    job_id: str
    state: str
    reason: str
    wrote: Mapping[str, str] | None


def parse_job_result(content: bytes) -> dict[str, str]:
    """`key=value` lines."""
    lines = content.decode("utf-8", "replace").splitlines()
    return {key: value for key, separator, value in (line.partition("=") for line in lines) if separator}


WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED", "STOPPED")


def judge_job(name: str, fate: JobFate, waited_seconds: float) -> Finding:
    """A job that does not start in time is a full cluster more often than a wrong one."""
    if fate.wrote is not None:
        where, umask = fate.wrote.get("host", "?"), fate.wrote.get("umask", "?")
        return ok(name, f"job {fate.job_id} ran on {where} (umask {umask}) and wrote to the base directory")
    if fate.state in WAITING:
        return warning(
            name,
            f"job {fate.job_id} did not start in {waited_seconds:.0f} s ({fate.reason or fate.state}) and was cancelled",
            "the cluster is busy, or the reason is to be mended; `ccatwm doctor --wait 600` waits longer",
        )  # fmt: skip
    if fate.state in ("RUNNING", "COMPLETING"):
        return warning(
            name, f"job {fate.job_id} started but wrote nothing within {waited_seconds:.0f} s, and was cancelled",
            "see whether compute nodes reach the base directory, and how long its file system takes",
        )  # fmt: skip
    return wrong(
        name, f"job {fate.job_id} ended ({fate.state or 'it left the queue'}) without a word in the base directory",
        "see that compute nodes mount the base directory under the same path, and that the account may write to it there",
    )  # fmt: skip


def judge_refused(name: str, exit_code: int | None, stderr: bytes) -> Finding:
    """What sbatch said of the tiny job when it gave no id."""
    said = "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ").strip()
                     for line in stderr.decode("utf-8", "replace").splitlines() if line.strip())[-300:]  # fmt: skip
    if exit_code is None or any(
        word in said.lower() for word in ("unable to contact", "timed out", "connection")
    ):
        return away(
            name, f"sbatch gave no answer: {said or 'it did not end in time'}", "try again when Slurm answers"
        )
    return wrong(
        name, f"sbatch refused a job of one minute: {said or exit_code}",
        "correct what it names: slurm.partition, slurm.account, slurm.qos, slurm.constraint or slurm.extra",
    )  # fmt: skip
