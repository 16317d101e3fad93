"""Measures a site from top to bottom for `core.checkup` to judge. Touches: all that passes touch; leaves nothing behind.

Everything is looked at from where passes would use it: files of the settings on this host, the base directory by
`WorkFiles`, commands on the processing host by `Transport`.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ccatwm.core import checkup, checkup_slurm
from ccatwm.core.checkup import FileFacts, Finding, error_findings, ok, skipped, warning, wrong
from ccatwm.core.commands import HOST_PATH
from ccatwm.core.path_map import path_there
from ccatwm.core.staging import not_readable_here
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import leases, pausing
from ccatwm.edges.workfiles.local import space_at
from ccatwm.errors import (
    CcatwmError,
    CorruptCopyError,
    FilesUnavailableError,
    MissingCopyError,
    SettingsError,
)
from ccatwm.interfaces import (
    Clock,
    CommandResult,
    FileWrite,
    HostFiles,
    Scheduler,
    Storage,
    Transport,
    WorkFiles,
)
from ccatwm.settings.schema import Settings
from ccatwm.upkeep.base_dir import check_database_file, check_files, settle_location
from ccatwm.upkeep.schema_versions import check_schema

ENVIRONMENT = {"PATH": HOST_PATH, "LC_ALL": "C"}
POLL_SECONDS = 1.0  # between looks at the tiny job
LAG_SECONDS = 10.0  # how long after its end what a job wrote may take to show

# Constant scripts; what they work on are arguments, which no shell reads.
LIST_COMMANDS = (
    'for name; do path=$(command -v "$name") || path=; '
    'said=; [ -z "$path" ] || said=$("$path" --version 2>/dev/null | head -n 1); '
    'printf "%s\\t%s\\t%s\\n" "$name" "$path" "$said"; done'
)
TRY_RUNTIME = 'exec env -i PATH="$1" "$2" --version 2>&1'
JOB_SCRIPT = b"""\
#!/bin/sh
# A job of `ccatwm doctor`. $1: folder below the base directory, $2: runtime of containers or `none`, $3: PATH of jobs.
cd "$1" || exit 1
{
    echo "host=$(uname -n)"
    echo "umask=$(umask)"
    if [ "$2" != none ]; then
        said=$(env -i PATH="$3" "$2" --version 2>&1)
        echo "runtime_exit=$?"
        printf 'runtime=%s\\n' "$said" | head -n 1
    fi
} >result.part && mv result.part result
"""


@dataclass
class Checked:
    """The site that is checked: its settings and the ports that its passes would use. `here` gives commands on this
    host, `there` on the processing host."""

    settings: Settings
    database: Database
    grouping: GroupingEngine
    clock: Clock
    here: Transport
    there: Transport
    files: WorkFiles
    host_files: HostFiles
    storages: Mapping[str, Storage]
    make_scheduler: Callable[[], Scheduler]

    @property
    def over_ssh(self) -> bool:
        return self.settings.transport == "ssh"

    @property
    def there_name(self) -> str:
        return self.settings.ssh.host if self.over_ssh else "this host"


def examine(site: Checked, *, job: bool = True, wait_seconds: float = 60.0) -> Iterator[Finding]:
    """Findings as they are made, from the settings to a job on a compute node. `job` False: none is submitted."""
    yield ok(
        "settings",
        f"{site.settings.site_dir or 'environment variables'}: every key is known and every value fits",
    )
    yield from _told("settings-files", lambda: _settings_files(site))
    yield from _told("program", lambda: _program(site))
    yield from _told("state-dir", lambda: _state_dir(site))
    ops_db = []
    for finding in _ops_db(site):
        ops_db.append(finding)
        yield finding
    answers = not any(f.name == "ops-db" and f.state is checkup.Judgement.WRONG for f in ops_db)
    there = list(_processing_host(site))
    yield from there
    if any(finding.state is checkup.Judgement.WRONG for finding in there):
        for name in ("base-dir", "container-runtime", "batch-system", "job"):
            yield skipped(name, f"{site.there_name} is not reached")
        return
    if not any(finding.state is checkup.Judgement.WRONG for finding in ops_db):
        yield from _told("data-locations", lambda: _data_locations(site))
    with _probe(site, site.database if answers else None) as probe:
        yield from probe.findings
        yield from _told("container-runtime", lambda: _containers(site))
        yield from _batch_system(site, probe, job=job, wait_seconds=wait_seconds)


def _told(name: str, check: Callable[[], Iterator[Finding] | list[Finding]]) -> list[Finding]:
    """The findings of a check; an error that it meets is one."""
    try:
        return list(check())
    except CcatwmError as error:
        return error_findings(name, error)
    except OSError as error:
        return [
            wrong(
                name,
                f"{error.filename or ''}: {error.strerror or error}",
                "give this account the right to it",
            )
        ]


# --- asking a host ------------------------------------------------------------------------------------------


def _ask(
    host: Transport, *argv: str, environment: Mapping[str, str] = ENVIRONMENT, seconds: float = 60.0
) -> CommandResult:
    return host.run(argv, environment=environment, timeout_seconds=seconds)


def _text(host: Transport, *argv: str) -> str:
    return _ask(host, *argv).stdout.decode("utf-8", "surrogateescape").strip()


def _stat(host: Transport, paths: Sequence[str]) -> dict[str, FileFacts]:
    """Owners and modes, links followed; what is not there is left out."""
    found = _ask(host, "stat", "-L", "-c", checkup.STAT_FORMAT, "--", *paths) if paths else CommandResult(0)
    return checkup.parse_stat(found.stdout)


def _mount(host: Transport, path: str) -> tuple[str, checkup.Mount | None]:
    """The path without links, and what it lies on."""
    real = _text(host, "realpath", "-m", "--", path) or path
    return real, checkup.find_mount(_text(host, "cat", "/proc/self/mountinfo"), real)


# --- this host ----------------------------------------------------------------------------------------------


def _settings_files(site: Checked) -> list[Finding]:
    settings, origin = site.settings, site.settings.origins.get("OPSDB_URL", "")
    password = bool(site.database.url.password)
    files = []
    if settings.site_dir is not None:
        file = str(settings.site_dir / "settings.toml")
        files.append(checkup.Kept(file, password and origin.startswith(file)))
    if origin and Path(origin).is_file():
        files.append(checkup.Kept(origin, password))
    if site.over_ssh and settings.ssh.key_file:
        files.append(checkup.Kept(str(Path(settings.ssh.key_file).expanduser()), True))
    return checkup.judge_kept("settings-files", files, _stat(site.here, [file.path for file in files]))


def _program(site: Checked) -> list[Finding]:
    """The package, its environment and its interpreter: whoever may change them acts for this site."""
    package = Path(__file__).resolve().parents[1]
    paths = list(
        dict.fromkeys((str(package), os.path.realpath(sys.prefix), os.path.realpath(sys.executable)))
    )
    return [
        checkup.judge_writers("program", "the program", paths, _stat(site.here, checkup.with_parents(paths)))
    ]


def _state_dir(site: Checked) -> Iterator[Finding]:
    folder = site.settings.state_dir
    if not folder.exists():  # made by whoever needs it first; nothing is left behind here
        above = next(parent for parent in folder.parents if parent.exists())
        yield checkup.judge_absent("state-dir", str(folder), str(above), os.access(above, os.W_OK | os.X_OK))
        return
    _try_lock(folder)
    real, mount = _mount(site.here, str(folder))
    yield checkup.judge_local_disk(
        "state-dir", real, mount, "locks there may be seen by one host only, or by none", needed=False
    )
    space = space_at(folder)
    yield checkup.judge_space("state-dir-space", space.free_bytes, space.free_inodes, 0.05)
    yield checkup.judge_writers("state-dir-mode", "what lies there", [real], _stat(site.here, [real]))


def _try_lock(folder: Path) -> None:
    """Errors: OSError, SettingsError where the file system has no locks (Lustre without `-o flock`)."""
    import fcntl

    file = folder / f".doctor-{secrets.token_hex(6)}"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SettingsError(
            f"there are no locks on its file system: {error.strerror}",
            where=str(folder),
            next="put STATE_DIR on a disk of this host",
        ) from error
    finally:
        os.close(descriptor)
        file.unlink()


# --- the ops-db ---------------------------------------------------------------------------------------------


def _ops_db(site: Checked) -> Iterator[Finding]:
    """Whether it answers; only then its schema, rights, clock and what it says of this site."""
    found = _told("ops-db", lambda: _answering(site))
    yield from found
    if any(finding.state is checkup.Judgement.WRONG for finding in found):
        yield skipped("ops-db-schema", "the ops-db does not answer")
        return
    schema = _told("ops-db-schema", lambda: _schema(site))
    yield from schema
    if any(finding.state is checkup.Judgement.WRONG for finding in schema):
        return
    yield from _told("ops-db-rights", lambda: _rights(site))
    if site.settings.observations == "foreign":
        theirs = _told("observation-tables", lambda: _observations(site))
        yield from theirs
        if any(finding.state is checkup.Judgement.WRONG for finding in theirs):
            yield skipped("processing-location", "it is told by the observation tables")
            return
    yield from _told("processing-location", lambda: _location(site))
    yield from _told("brakes", lambda: _brakes(site))


def _answering(site: Checked) -> Iterator[Finding]:
    check_database_file(site.settings)
    site.database.check_answers()
    asked = site.clock.now()
    with site.database.read() as connection:
        at = leases.read_clock(connection)
    answered = site.clock.now()
    yield ok("ops-db", f"{site.database.safe_url} answers")
    if site.database.dialect == "sqlite":
        real, mount = _mount(site.here, str(site.database.url.database))
        yield checkup.judge_local_disk(
            "ops-db-disk", real, mount, "SQLite cannot be trusted on a network file system", needed=True
        )
        return
    took = (answered - asked).total_seconds()
    offset = (at - asked).total_seconds() - took / 2
    yield checkup.judge_clock("ops-db-clock", "the ops-db", offset, took)


def _schema(site: Checked) -> list[Finding]:
    report = check_schema(site.database, observations=site.settings.observations)
    versions = ", ".join(f"{v.branch} {v.found or 'no tables'} ({v.state})" for v in report.versions)
    if report.fine:
        return [ok("ops-db-schema", versions)]
    return [wrong("ops-db-schema", "; ".join([versions, *report.differences[:5]]), report.next)]


def _rights(site: Checked) -> list[Finding]:
    """Writes what is there already."""
    with site.database.write() as connection:
        pausing.write_nothing(connection)
    return [ok("ops-db-rights", "this account may write to it")]


def _observations(site: Checked) -> Iterator[Finding]:
    """Whether the tables of others are as the map says."""
    from ccatwm.upkeep.opsdb_check import check_observations

    report = check_observations(site.settings, site.database)
    if report.missing:
        yield wrong("observation-tables", "; ".join(map(str, report.missing[:5])), "`ccatwm db check` lists all of it")
    elif report.slow:
        columns = ", ".join(problem.where for problem in report.slow[:5])
        lacking = f"without an index that passes look by: {columns}"
        yield warning("observation-tables", lacking, "`ccatwm db check` has the statements to ask for")
    else:
        yield ok("observation-tables", f"are as {report.map_path} says")


def _location(site: Checked) -> list[Finding]:
    settled = settle_location(site.settings, site.database, site.grouping)
    return [ok("processing-location", f"{settled.processing_location} is a data location for processing")]


def _data_locations(site: Checked) -> Iterator[Finding]:
    """Whether each place that raw data packages are read from can be asked, by one copy there: that itself may be bad."""
    with site.database.read() as connection:
        copies = site.grouping.first_copies(connection)
    if site.settings.staging_mode == "request":  # what lies elsewhere is not read
        copies = [copy for copy in copies if copy.location == site.settings.processing_location]
    for copy in copies:
        storage, name = site.storages.get(copy.storage), f"data-location {copy.location}"
        if storage is None:
            yield skipped(name, not_readable_here(copy.storage, copy.location))
            continue
        try:
            storage.form(copy.at_root(site.settings.root_of(copy.location)))
        except (MissingCopyError, CorruptCopyError):
            pass  # the place has answered
        except CcatwmError as error:
            yield from error_findings(name, error)
            continue
        yield ok(name, "raw data packages can be read there")


def _brakes(site: Checked) -> Iterator[Finding]:
    with site.database.read() as connection:
        paused, blocked = leases.read_brakes(connection)
    if paused is not None:
        yield warning("brakes", f"all passes are paused: {paused}", "ccatwm resume")
    if blocked is not None:
        yield warning("brakes", f"submission is blocked: {blocked}", "ccatwm doctor --reconcile")
    if paused is None and blocked is None:
        yield ok("brakes", "passes are not paused, submission is not blocked")


# --- the processing host ------------------------------------------------------------------------------------


def _processing_host(site: Checked) -> list[Finding]:
    """Whether it lets us in, and its clock."""
    if not site.over_ssh:
        return []
    return _told("ssh", lambda: _login(site))


def _login(site: Checked) -> Iterator[Finding]:
    user = _text(site.there, "id", "-un")  # opens the connection
    asked = site.clock.now()
    told = _text(site.there, "date", "+%s.%N")
    took = (site.clock.now() - asked).total_seconds()
    yield ok("ssh", f"logged in at {site.there_name} as {user}; its host key is known")
    offset = float(told) - asked.timestamp() - took / 2
    yield checkup.judge_clock("clock", site.there_name, offset, took)


# --- the base directory -------------------------------------------------------------------------------------


@dataclass
class Probe:
    """A folder of ours in the base directory, for as long as the check lasts; `path` None where none could be made."""

    findings: list[Finding]
    path: PurePosixPath | None = None


@contextmanager
def _probe(site: Checked, database: Database | None) -> Iterator[Probe]:
    """`database` None: the ops-db does not answer."""
    probe = Probe([])
    probe.findings += _told("base-dir", lambda: _base_dir(site, probe, database))
    if probe.path is not None:
        probe.findings += _told("base-dir-group", lambda: _sharing(site, probe))
        if site.over_ssh and not site.settings.files_over_ssh:
            probe.findings += _told("base-dir-shared", lambda: _seen_there(site, probe))
    try:
        yield probe
    finally:
        if probe.path is not None:
            _told("base-dir", lambda: _remove(site, probe))


def _base_dir(site: Checked, probe: Probe, database: Database | None) -> Iterator[Finding]:
    """There, ours, writable; with room."""
    host, folder = _writer(site)
    where = f"{site.there_name}:{folder}" if site.settings.files_over_ssh else folder
    check_files(site.files, database)
    path = PurePosixPath(f".ccatwm-doctor-{secrets.token_hex(6)}")
    try:
        site.files.make_trees([path])
        probe.path = path
        site.files.write_files([FileWrite(path / "job.sh", JOB_SCRIPT, 0o755)])
    except FilesUnavailableError:
        raise
    except CcatwmError as error:
        yield wrong(
            "base-dir", f"{where} cannot be written to: {error.message}",
            error.next or "give the account that writes there the right to it",
        )  # fmt: skip
        return
    whose = "belongs to this ops-db" if database is not None else "is prepared (for which ops-db was not asked)"
    yield ok("base-dir", f"{where} {whose} and can be written to")
    real, mount = _mount(host, folder)
    yield checkup.judge_base_mount("base-dir-disk", real, mount)
    space = site.files.space()
    yield checkup.judge_space(
        "base-dir-space", space.free_bytes, space.free_inodes, site.settings.min_free_gb, site.settings.min_free_inodes
    )


def _writer(site: Checked) -> tuple[Transport, str]:
    """The host from which passes write the base directory, and what it is called there."""
    if site.settings.files_over_ssh:
        return site.there, str(site.files.root())
    return site.here, str(site.settings.pipeline_base_dir)


def _sharing(site: Checked, probe: Probe) -> list[Finding]:
    host, folder = _writer(site)
    made = f"{folder}/{probe.path}"
    facts = _stat(host, [folder, made])
    umask = checkup.parse_umask(_text(host, "sh", "-c", "umask"))
    if umask is None or folder not in facts or made not in facts:
        return [skipped("base-dir-group", "owners and modes cannot be looked at")]
    return [checkup.judge_sharing("base-dir-group", checkup.Sharing(facts[folder], facts[made], umask))]


def _seen_there(site: Checked, probe: Probe) -> list[Finding]:
    """For a base directory that this host writes and jobs elsewhere use: it must be the same one under its name there."""
    root = site.settings.path_there(site.settings.pipeline_base_dir)
    name, folder = "base-dir-shared", f"{root}/{probe.path}"
    until = site.clock.monotonic() + LAG_SECONDS
    while _ask(site.there, "test", "-f", f"{folder}/job.sh").exit_code != 0:
        if site.clock.monotonic() > until:
            return [
                wrong(
                    name,
                    f"{site.there_name} does not see in {root} what is written here",
                    "set PATH_MAP to what the folder is called there, or WORKFILES = ssh if it is not shared",
                )
            ]
        site.clock.sleep(POLL_SECONDS)
    if _ask(site.there, "test", "-w", folder).exit_code != 0:
        return [
            wrong(
                name,
                f"the account at {site.there_name} may not write to what is made here",
                f"put both accounts into one group, chmod g+ws {root}, and `umask 0002` here",
            )
        ]
    return [ok(name, f"{site.there_name} sees it as {root}, and may write to it")]


def _remove(site: Checked, probe: Probe) -> list[Finding]:
    if probe.path is not None:
        site.files.remove_trees([probe.path])
    return []


# --- containers ---------------------------------------------------------------------------------------------


def _containers(site: Checked) -> Iterator[Finding]:
    runtime = site.settings.container_runtime
    if runtime == "none":
        yield skipped("container-runtime", "CONTAINER_RUNTIME is none: programs run on the host, uncontained")
    else:
        tried = _ask(site.there, "sh", "-c", TRY_RUNTIME, "sh", HOST_PATH, runtime)
        said = (tried.stdout + tried.stderr).decode("utf-8", "replace")
        yield checkup.judge_runtime("container-runtime", runtime, site.there_name, tried.exit_code, said)
    if site.settings.sif_cache_dir is None:
        return
    ours = str(site.settings.sif_cache_dir)
    if not site.host_files.exists(ours):
        yield wrong("images", f"SIF_CACHE_DIR {ours} is not there", "make it, or correct the setting")
        return
    folder = path_there(ours, site.settings.path_map) if site.over_ssh else ours
    yield checkup.judge_writers(
        "images", "images", [folder], _stat(site.there, checkup.with_parents([folder]))
    )


# --- the batch system ---------------------------------------------------------------------------------------


def _batch_system(site: Checked, probe: Probe, *, job: bool, wait_seconds: float) -> Iterator[Finding]:
    backend = site.settings.hpc_backend
    if backend != "slurm":
        yield from _told("batch-system", lambda: _limits(site))
        yield skipped("job", f"HPC_BACKEND is {backend}: no test job is known for it")
        return
    slurm = _Slurm(site)
    yield from _told("slurm-commands", slurm.commands)
    if not slurm.usable:
        yield skipped("job", "Slurm cannot be used")
        return
    for name, check in slurm.checks.items():
        yield from _told(name, check)
    if not job:
        yield skipped("job", "not asked for (--no-job)")
    elif not slurm.answers:
        yield skipped("job", "slurmctld does not answer")
    elif probe.path is None:
        yield skipped("job", "the base directory cannot be used, see base-dir")
    else:
        yield from _told("job", _TinyJob(slurm, probe.path, wait_seconds).findings)


def _limits(site: Checked) -> list[Finding]:
    limits = site.make_scheduler().limits()
    free = "any number of" if limits.free_tasks is None else limits.free_tasks
    return [ok("batch-system", f"{site.settings.hpc_backend} answers: {free} jobs may be handed over now")]


class _Slurm:
    """Slurm's commands on the processing host, asked as the passes ask them."""

    def __init__(self, site: Checked) -> None:
        self.site = site
        self.settings = site.settings.slurm
        self.usable = False
        self.answers = False

    def run(self, *argv: str, zone: bool = True) -> CommandResult:
        path = f"{self.settings.bin_dir}:{HOST_PATH}" if self.settings.bin_dir else HOST_PATH
        environment = {"PATH": path, "LC_ALL": "C"} | ({"TZ": "UTC"} if zone else {})
        if self.settings.conf:
            environment["SLURM_CONF"] = self.settings.conf
        return _ask(
            self.site.there,
            *argv,
            environment=environment,
            seconds=float(self.settings.command_timeout_seconds),
        )

    def commands(self) -> Iterator[Finding]:
        bin_dir, conf = self.settings.bin_dir, self.settings.conf
        if bin_dir and not self._is_there("-x", f"{bin_dir}/sbatch"):
            yield checkup_slurm.no_sbatch("slurm-bin-dir", bin_dir)
        if conf and not self._is_there("-r", conf):  # each command would wait for it, and say nothing
            yield checkup_slurm.no_conf("slurm-conf", conf)
            return
        told = self.run("sh", "-c", LIST_COMMANDS, "sh", *checkup_slurm.COMMANDS)
        found = checkup_slurm.parse_commands(told.stdout)
        finding = checkup_slurm.judge_commands("slurm-commands", found, accounting=self.settings.accounting)
        self.usable = finding.state is not checkup.Judgement.WRONG
        yield finding
        if self.usable:
            version = next(c.version for c in found if c.name == "sbatch")
            yield checkup_slurm.judge_version("slurm-version", version)

    def _is_there(self, how: str, path: str) -> bool:
        """test(1): 1 is no, anything else is no answer."""
        return _ask(self.site.there, "test", how, path).exit_code != 1

    @property
    def checks(self) -> dict[str, Callable[[], list[Finding]]]:
        return {
            "slurm-controller": self._controller,
            "slurm-accounting": self._accounting,
            "slurm-partition": self._partition,
            "slurm-account": self._account,
            "slurm-limits": self._limits,
        }

    @cached_property
    def _shown_config(self) -> CommandResult:
        return self.run("scontrol", "show", "config")

    @cached_property
    def _config(self) -> dict[str, str]:
        return (
            checkup_slurm.parse_config(self._shown_config.stdout) if self._shown_config.exit_code == 0 else {}
        )

    @cached_property
    def _associations(self) -> list[checkup_slurm.Association] | None:
        """None where accounting does not answer."""
        cluster = self._config.get("ClusterName")
        where = [f"user={self._who.user}", *([f"cluster={cluster}"] if cluster else [])]
        told = self.run(
            "sacctmgr", "-nP", "show", "assoc", "where", *where, f"format={checkup_slurm.ASSOCIATION_FIELDS}"
        )
        return checkup_slurm.parse_associations(told.stdout) if told.exit_code == 0 else None

    @cached_property
    def _who(self) -> checkup_slurm.Submitter:
        groups = _text(self.site.there, "id", "-Gn").split()
        partition = self.settings.partition or self.site.settings.slurm_partition
        return checkup_slurm.Submitter(
            _text(self.site.there, "id", "-un"),
            tuple(groups),
            partition,
            self.settings.account,
            self.settings.qos,
        )

    def _controller(self) -> list[Finding]:
        told = self._shown_config
        silent = checkup_slurm.judge_answer("slurm-controller", "slurmctld", told.exit_code, told.stderr)
        self.answers = silent is None
        cluster = self._config.get("ClusterName", "?")
        return [silent or ok("slurm-controller", f"slurmctld of the cluster {cluster} answers")]

    def _accounting(self) -> list[Finding]:
        if not self.settings.accounting:
            return [
                skipped(
                    "slurm-accounting",
                    "slurm.accounting is false: the queue and the jobs' own records decide",
                )
            ]
        told = self.run(
            "sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-1minute", "--format=JobID"
        )
        return [checkup_slurm.judge_accounting("slurm-accounting", self._config, told.exit_code, told.stderr)]

    def _partition(self) -> list[Finding]:
        told = (
            self.run("scontrol", "--oneliner", "show", "partition") if self.answers else CommandResult(None)
        )
        if told.exit_code != 0:
            return [skipped("slurm-partition", "slurmctld does not answer")]
        partitions = checkup_slurm.parse_partitions(told.stdout)
        return [
            checkup_slurm.judge_partition(
                "slurm-partition", partitions, self._who, self.settings.max_time_hours
            )
        ]

    def _account(self) -> list[Finding]:
        if not self.settings.accounting:
            return [skipped("slurm-account", "slurm.accounting is false: nobody can be asked")]
        if self._associations is None:
            return [skipped("slurm-account", "accounting does not answer")]
        enforced = "associations" in self._config.get("AccountingStorageEnforce", "")
        return [
            checkup_slurm.judge_account("slurm-account", self._associations, self._who, enforced=enforced)
        ]

    def _limits(self) -> list[Finding]:
        if not self._config:
            return [skipped("slurm-limits", "slurmctld does not answer")]
        settings, config = self.settings, self._config
        return [
            checkup_slurm.judge_limits(
                "slurm-limits", config, self._associations or [], settings.account,
                max_array_size=settings.max_array_size, max_queued=settings.max_queued,
            ),
            checkup_slurm.judge_memory_of_queue("slurm-queue", config, accounting=settings.accounting),
            checkup_slurm.judge_grace(
                "slurm-grace", config, grace_seconds=self.site.settings.grace_seconds,
                command_timeout_seconds=settings.command_timeout_seconds,
            ),
        ]  # fmt: skip


class _TinyJob:
    """A job of one minute that looks around on a compute node; it is gone when the check is over."""

    def __init__(self, slurm: _Slurm, path: PurePosixPath, wait_seconds: float) -> None:
        self._slurm = slurm
        self._site = slurm.site
        self._path = path
        self._wait_seconds = wait_seconds

    def findings(self) -> Iterator[Finding]:
        told = self._slurm.run(*self._argv(), zone=False)
        job_id = told.stdout.decode("ascii", "replace").strip().partition(";")[0]
        if told.exit_code != 0 or not job_id.isdigit():
            yield checkup_slurm.judge_refused("job", told.exit_code, told.stderr)
            return
        try:
            fate = self._watch(job_id)
        finally:
            self._slurm.run("scancel", "--quiet", job_id)
        yield checkup_slurm.judge_job("job", fate, self._wait_seconds)
        if fate.wrote is not None:
            yield from self._of_node(fate.wrote)

    def _argv(self) -> list[str]:
        """As the passes submit, with the site's defaults; nothing in it comes from anybody else."""
        folder, settings = f"{self._site.files.root()}/{self._path}", self._slurm.settings
        wanted = {
            "partition": settings.partition or self._site.settings.slurm_partition,
            "account": settings.account,
            "qos": settings.qos,
            "constraint": settings.constraint,
        }
        return [
            "sbatch", "--parsable", f"--job-name=doctor-{self._path.name}", "--no-requeue", "--export=ALL",
            "--time=1", "--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--mem=200M", f"--chdir={folder}",
            f"--output={folder.replace('%', '%%')}/job.log",
            *(f"--{name}={value}" for name, value in wanted.items() if value), *settings.extra,
            f"{folder}/job.sh", folder, self._site.settings.container_runtime, HOST_PATH,
        ]  # fmt: skip

    def _watch(self, job_id: str) -> checkup_slurm.JobFate:
        clock, result = self._site.clock, self._path / "result"
        until = clock.monotonic() + self._wait_seconds
        ended_at: float | None = None
        while True:
            wrote = self._site.files.read_files([result])[result]
            state, reason = self._look(job_id)
            now = clock.monotonic()
            if wrote is not None:
                return checkup_slurm.JobFate(job_id, state, reason, checkup_slurm.parse_job_result(wrote))
            ended = state not in (*checkup_slurm.WAITING, "RUNNING", "COMPLETING", "UNKNOWN")
            ended_at = (ended_at or now) if ended else None
            if (ended_at is not None and now - ended_at >= LAG_SECONDS) or (
                ended_at is None and now >= until
            ):
                return checkup_slurm.JobFate(job_id, state, reason, None)
            clock.sleep(POLL_SECONDS)

    def _look(self, job_id: str) -> tuple[str, str]:
        """State and reason; no state where the queue knows the job no more, UNKNOWN where it does not answer."""
        told = self._slurm.run("squeue", "--noheader", "--states=all", "--format=%T|%r", f"--jobs={job_id}")
        if told.exit_code != 0 and b"Invalid job id" not in told.stderr:
            return "UNKNOWN", ""
        state, _, reason = told.stdout.decode("utf-8", "replace").strip().partition("|")
        return state, reason

    def _of_node(self, wrote: Mapping[str, str]) -> Iterator[Finding]:
        """The container runtime of the compute node."""
        node = f"node {wrote.get('host', '?')}"
        runtime = self._site.settings.container_runtime
        if runtime != "none":
            status = wrote.get("runtime_exit", "")
            yield checkup.judge_runtime(
                "container-runtime-node",
                runtime,
                node,
                int(status) if status.isdigit() else None,
                wrote.get("runtime", ""),
            )


def document(site: str | None, findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "schema": "ccatwm.doctor/1",
        "site": site,
        "findings": [finding.to_json() for finding in findings],
    }
