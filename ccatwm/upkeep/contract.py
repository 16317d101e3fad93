"""Tries a program against the container contract, without any site. Touches: a folder of its own, processes.

The trials are real attempts: folders, manifest, command line and job script are those of a run, made by the same code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from ccatwm.core import contract
from ccatwm.core.archives import without_tar_ending
from ccatwm.core.checkup import Finding
from ccatwm.core.commands import (
    CONTRACT_VERSION,
    HOST_PATH,
    RunFacts,
    attempt_directories,
    build_argv,
    build_argv_file,
    places,
)
from ccatwm.core.contract import Case, Trial
from ccatwm.core.lineage import parse_sha256_list
from ccatwm.core.manifest import build_manifest
from ccatwm.core.model import (
    EntryKind,
    InputKind,
    InputRole,
    ProductType,
    ResolvedStep,
    RunInput,
    StepRole,
    TreeEntry,
    UpstreamStep,
    run_directory,
)
from ccatwm.core.outcomes import PROGRAMS_MISSING, missing_text, parse_exit_record
from ccatwm.core.products import DECLARATION, container_failure, plan_products
from ccatwm.core.staging import SUBMISSIONS, input_path, workspace_path
from ccatwm.edges.storage.receiving import receive_copy
from ccatwm.edges.trials.local import OFFLINE, LocalTrials, Watched
from ccatwm.edges.trials.trees import list_changes, look_at, read_files
from ccatwm.errors import SettingsError, UsageError
from ccatwm.interfaces import Clock, FileWrite, PackageCopy, Received, Storage, WorkFiles
from ccatwm.upkeep._contract_step import Asked, find_step

MADE_AT = datetime(2020, 2, 2, 20, 20, 20, tzinfo=UTC)  # of the run, and so SOURCE_DATE_EPOCH: surely not now
SUB_GROUP = "all"
MADE_UP = b"made up by `ccatwm contract check`: no data were given\n"
NONSENSE_BYTES = 1 << 16
LOG_BYTES = 1 << 16
LONGEST_START_SECONDS = 2.0
FEEDING = (ProductType.SCIENCE, ProductType.INTERMEDIATE)  # what steps get of those upstream
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/dev", "/proc", "/sys")


@dataclass
class Stand:
    """Where trials are made: a folder as if it were the base directory of a site, and the ports to it."""

    base: Path
    clock: Clock
    workfiles: WorkFiles
    storage: Storage
    trials: LocalTrials


@dataclass(frozen=True)
class Options:
    """How it is tried. `skip`: points that are not asked for."""

    runtime: str = "apptainer"
    input: Path | None = None
    timeout_seconds: float = 600.0
    term_seconds: float = 15.0
    skip: tuple[str, ...] = ()


@dataclass
class Report:
    """What `contract check` found."""

    step: ResolvedStep
    runtime: str
    findings: list[Finding]
    kept: Path | None = None

    @property
    def exit_code(self) -> int:
        return contract.exit_code(self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.contract/1",
            "version": CONTRACT_VERSION,
            "image": self.step.software.image,
            "command": list(self.step.software.command),
            "runtime": self.runtime,
            "role": self.step.role.value,
            "holds": self.exit_code == contract.EXIT_HOLDS,
            "contract": [f.to_json() for f in self.findings],
            "kept": str(self.kept) if self.kept else None,
        }


def check_contract(stand: Stand, asked: Asked, options: Options, say: Callable[[str], None]) -> Report:
    """Try the program, and judge. `say` hears what is being tried.

    Errors: SettingsError where it cannot be run at all, UsageError and DefinitionsError for what was asked.
    """
    unknown = [name for name in options.skip if name not in contract.POINTS]
    if unknown:
        raise UsageError(f"no point {', '.join(unknown)}", next=f"there are: {', '.join(contract.POINTS)}")
    _check_input(options.input)
    step = _with_real_paths(find_step(replace(asked, upstream=_upstream_folders(options.input))))
    _check_runtime(step, options.runtime)
    findings = _try(_Trials(stand, step, options, say))
    told = [f if f.name not in options.skip else contract.not_asked(f.name) for f in findings]
    return Report(step, options.runtime, told)


def _check_input(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is no folder", next="--input names a folder with the raw data packages in it")


def _upstream_folders(folder: Path | None) -> tuple[str, ...]:
    """Steps that the input has products of."""
    workspace = folder / "workspace" if folder is not None else None
    if workspace is None or not workspace.is_dir():
        return ()
    return tuple(sorted(path.name for path in workspace.iterdir() if path.is_dir()))


def _with_real_paths(step: ResolvedStep) -> ResolvedStep:
    """An image as a file is named by its whole path."""
    image = step.software.image
    if image is None or "://" in image:
        return step
    return replace(step, software=replace(step.software, image=str(Path(image).absolute())))


def _check_runtime(step: ResolvedStep, runtime: str) -> None:
    """Errors: SettingsError for what is not there."""
    image, program = step.software.image, step.software.command[0]
    if runtime == "none":
        if shutil.which(program, path=HOST_PATH) is None:
            raise SettingsError(
                f"there is no program {program!r}", next=f"name it by its whole path; PATH is {HOST_PATH}"
            )
        return
    if image is None:
        raise UsageError("which image?", next="name one, or say --runtime none to run the command on this host")
    if shutil.which(runtime, path=HOST_PATH) is None:
        raise SettingsError(f"{runtime} is not installed here", next="install it, or say --runtime none with a command")
    if "://" not in image and not Path(image).exists():
        raise SettingsError(f"there is no image {image}", next="correct the path")


# --- the order of the trials -----------------------------------------------------------------------------------------


def _try(trials: _Trials) -> list[Finding]:
    options, why_not = trials.options, dict[str, str]()
    plain, strange = _Run(trials, 1), _Run(trials, 2)
    plain.stage_inputs()
    first = plain.attempt(1, "a plain run")
    case = trials.case(plain, first)
    if not contract.has_started(case):
        return contract.judge_contract(case)
    if case.good(first):
        case = _try_again(trials, plain, case, why_not)
    if {"nonsense-input"}.isdisjoint(options.skip):
        if options.input is None:
            why_not["nonsense-input"] = "no input was given: --input DIR"
        else:
            strange.stage_nonsense(plain)
            case = replace(case, nonsense=strange.attempt(1, "nonsense instead of data"))
    if "term" not in options.skip:
        after = min(LONGEST_START_SECONDS, 0.4 * first.seconds)
        case = replace(case, ended=plain.attempt(4, "TERM in the middle", term_after_seconds=after))
    return contract.judge_contract(replace(case, why_not=why_not))


def _try_again(trials: _Trials, run: _Run, case: Case, why_not: dict[str, str]) -> Case:
    """The same once more, without network where that can be had, else as before."""
    why = trials.stand.trials.why_network_stays() if "network" not in trials.options.skip else "it is not asked for"
    if why is None:
        trial = run.attempt(2, "the same without network", launcher=OFFLINE)
        if not _runtime_failed(trial):
            case = replace(case, offline=trial)
            if case.good(trial):
                return replace(case, second=trial)
            why_not["repeatable"] = "it did not end well without network"
        else:
            why = f"{trials.options.runtime} does not start without network here: {trial.last_line()}"
    if why is not None:
        why_not["network"] = why
    if "repeatable" not in trials.options.skip:
        case = replace(case, second=run.attempt(3, "the same again"))
    return case


def _runtime_failed(trial: Trial) -> bool:
    return container_failure(trial.exit_code, trial.stderr.encode())


# --- trials ----------------------------------------------------------------------------------------------------------


@dataclass
class _Trials:
    """What all trials share."""

    stand: Stand
    step: ResolvedStep
    options: Options
    say: Callable[[str], None]

    def case(self, run: _Run, first: Trial) -> Case:
        facts = run.facts(1)
        return Case(
            runtime=self.options.runtime, role=self.step.role, input_files=run.input_files(),
            made_up_input=self.options.input is None,
            home=str(places(self.step, facts, runtime=self.options.runtime).home),
            compared=", ".join(self.compared_names()), first=first, partial_exit_codes=self.step.partial_exit_codes,
            term_seconds=self.options.term_seconds,
        )  # fmt: skip

    def compared_names(self) -> list[str]:
        given = ["the data that were given"] if self.options.input is not None else []
        references = ["reference data"] if self.step.references else []
        programs = ["the folder of the program"] if self.programs() else []
        return ["the run's folder", *given, *references, *programs]

    def watched_trees(self) -> list[Path]:
        """What no program may change, its own attempt apart."""
        given = [self.options.input] if self.options.input is not None else []
        return [self.stand.base, *given, *(Path(r.path) for r in self.step.references), *self.programs()]

    def programs(self) -> list[Path]:
        """Folders of what the command names by path on this host, those of the system apart."""
        if self.options.runtime != "none":
            return []
        named = [Path(word) for word in self.step.software.command if os.path.isabs(word) and os.path.isfile(word)]
        return sorted({p.parent for p in named if not str(p).startswith(tuple(f"{top}/" for top in SYSTEM))})


@dataclass
class _Run:
    """A run of the stand: its inputs, and attempts that share them."""

    trials: _Trials
    number: int
    inputs: list[RunInput] = field(default_factory=list)
    found: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def directory(self) -> PurePosixPath:
        step = self.trials.step
        return PurePosixPath(run_directory(step.pipeline, step.step, SUB_GROUP, self.number))

    @property
    def path(self) -> Path:
        return self.trials.stand.base / self.directory

    def attempt_directory(self, number: int) -> PurePosixPath:
        return self.directory / f"attempt-{number}"

    def facts(self, number: int, launcher: tuple[str, ...] = ()) -> RunFacts:
        step = self.trials.step
        return RunFacts(
            run_id=self.number, sub_group=SUB_GROUP, attempt=number, base_dir=self.trials.stand.workfiles.root(),
            run_directory=self.directory, attempt_directory=self.attempt_directory(number), created_at=MADE_AT,
            cpu=step.resources.cpu, memory_gb=step.resources.memory_gb, launcher=launcher,
        )  # fmt: skip

    # --- inputs ---

    def stage_inputs(self) -> None:
        """Bring the data that were given below the run, as `stage` does."""
        work, given = self.trials.stand.workfiles, self.trials.options.input
        work.make_trees([self.directory / "input", self.directory / "workspace"])
        if given is None:
            self._make_up()
            return
        shaped = [given / name for name in ("input", "companions", "workspace") if (given / name).is_dir()]
        for entry in _entries(given / "input" if shaped else given):
            self._stage_package(entry, None)
        for what in _entries(given / "companions"):
            for entry in _entries(what):
                self._stage_package(entry, what.name)
        for upstream in self.trials.step.upstream:
            self._stage_products(given / "workspace" / upstream.directory, upstream)
        if not self.inputs:
            raise UsageError(f"{given} has nothing in it that the step would get", next="ccatwm contract check --help")

    def _make_up(self) -> None:
        item = RunInput(InputKind.PACKAGE, InputRole.MEMBER, "made-up", "1", _sha256(MADE_UP), len(MADE_UP))
        self.trials.stand.workfiles.write_files([FileWrite(self.directory / input_path(item) / "data.txt", MADE_UP)])
        self.inputs.append(item)

    def _stage_package(self, path: Path, companion: str | None) -> None:
        role = InputRole.MEMBER if companion is None else InputRole.COMPANION
        name = without_tar_ending(path.name) if path.is_file() else path.name
        number = str(len(self.inputs) + 1)
        item = RunInput(InputKind.PACKAGE, role, name, number, None, None, companion=companion)
        received = self._receive(path, self.directory / input_path(item))
        self.inputs.append(item._replace(checksum=received.tree_digest, size_bytes=received.unpacked_bytes))

    def _receive(self, path: Path, target: PurePosixPath) -> Received:
        work, storage = self.trials.stand.workfiles, self.trials.stand.storage
        real = path.resolve()  # what was given may be a link to the data
        copy = PackageCopy("1", "input", "disk", str(real.parent), real.name)
        return receive_copy(work, storage, copy, target, name=path.name)

    def _stage_products(self, folder: Path, upstream: UpstreamStep) -> None:
        """What lies there as the products of an upstream step, typed as `collect` would."""
        if not folder.is_dir():
            return
        below = PurePosixPath("workspace") / upstream.directory
        target = self.directory / (below if upstream.same_group_by else below / SUB_GROUP)
        self._receive(folder, target)
        work = self.trials.stand.workfiles
        entries = work.list_tree(target) or []
        names = [e.path for e in entries if e.kind is EntryKind.FILE]
        hashed = work.hash_files([target / name for name in names])
        hashes = {name: found[1] for name in names if (found := hashed[target / name]) is not None}
        declared = work.read_files([target / DECLARATION])[target / DECLARATION]
        for product in plan_products(entries, hashes, declared, role=StepRole.INTERMEDIATE).products:
            if product.type not in FEEDING:
                continue
            self.inputs.append(RunInput(
                InputKind.PRODUCT, InputRole.MEMBER, str(product.path), str(len(self.inputs) + 1),
                f"sha256:{product.sha256}", product.size_bytes, upstream_run_id=1, upstream_pipeline=upstream.pipeline,
                upstream_step=upstream.step, upstream_sub_group=SUB_GROUP, product_type=product.type.value,
                is_directory=product.is_directory,
            ))  # fmt: skip

    def stage_nonsense(self, like: _Run) -> None:
        """The same files as another run has, with nonsense in them."""
        work = self.trials.stand.workfiles
        self.inputs = like.inputs
        work.make_trees([self.directory / "input", self.directory / "workspace"])
        for path, entry in like.listed_inputs():
            if entry.kind is EntryKind.FILE:
                content = nonsense(str(path), min(entry.size_bytes, NONSENSE_BYTES))
                work.write_files([FileWrite(self.directory / path, content)])
            elif entry.kind is EntryKind.DIRECTORY:
                work.make_trees([self.directory / path])

    def listed_inputs(self) -> list[tuple[PurePosixPath, TreeEntry]]:
        """(path below the run, entry) of everything in `input` and `workspace`."""
        work = self.trials.stand.workfiles
        return [
            (PurePosixPath(name) / entry.path, entry)
            for name in ("input", "workspace")
            for entry in work.list_tree(self.directory / name) or ()
        ]

    def input_files(self) -> Mapping[str, tuple[str, ...]]:
        """By input its files below the run."""
        names = [str(path) for path, entry in self.listed_inputs() if entry.kind is EntryKind.FILE]
        found = {}
        for item in self.inputs:
            package = item.kind is InputKind.PACKAGE
            top = str(input_path(item) if package else workspace_path(self.trials.step, item))
            found[item.name] = tuple(name for name in names if name == top or name.startswith(f"{top}/"))
        return found

    # --- attempts ---

    def attempt(
        self, number: int, what: str, *, launcher: tuple[str, ...] = (), term_after_seconds: float | None = None
    ) -> Trial:
        """Run the program once, by the job script, as a run's attempt. Errors: SettingsError where it cannot be run."""
        stand, options = self.trials.stand, self.trials.options
        self.trials.say(f"trying: {what}")
        folder = stand.base / self.attempt_directory(number)
        token = f"check-{self.number}-{number}"
        self._write_files(number, token, launcher)
        submission = stand.base / SUBMISSIONS / token
        own = [folder / name for name in ("output", "logs", "scratch", "job")]
        before = look_at(self.trials.watched_trees(), without=own)
        begun = stand.clock.now()
        watched = stand.trials.run(
            ["/bin/sh", str(submission / "job.sh"), str(submission), "0"], begun=folder / "job" / "started.json",
            watch=[self.path / "input", self.path / "workspace", folder / "config"],
            timeout_seconds=options.timeout_seconds, term_after_seconds=term_after_seconds,
        )  # fmt: skip
        changed = list_changes(before, look_at(self.trials.watched_trees(), without=own))
        trial = self._read(number, watched, begun)
        _refuse_unusable(trial, options.runtime, self.trials.step)
        return replace(trial, changed=tuple(self._shown(line, number) for line in changed))

    def _shown(self, line: str, number: int) -> str:
        """A path below the run, or below its attempt, without what is above."""
        for top in (self.trials.stand.base / self.attempt_directory(number), self.path):
            line = line.removeprefix(f"{top}/")
        return line

    def _write_files(self, number: int, token: str, launcher: tuple[str, ...]) -> None:
        """What `submit` writes for an attempt, by the same functions."""
        step, runtime, work = self.trials.step, self.trials.options.runtime, self.trials.stand.workfiles
        folder, facts = self.attempt_directory(number), self.facts(number, launcher)
        manifest = build_manifest(step, facts, self.inputs, runtime=runtime)
        kill_after = self.trials.options.term_seconds
        limits = f"kill_after_seconds={kill_after:g}\nfinal={int(step.role is StepRole.FINAL)}\n"
        script = (files("ccatwm.edges.scheduler") / "job.sh").read_bytes()
        work.make_trees(folder / name for name in attempt_directories(step))
        work.write_files([
            FileWrite(folder / "config" / "manifest.json", json.dumps(manifest, indent=1).encode()),
            FileWrite(folder / "job" / "limits", limits.encode()),
            FileWrite(folder / "job" / "argv", build_argv_file(build_argv(step, facts, runtime=runtime))),
            FileWrite(SUBMISSIONS / token / "tasks", f"{folder}\n".encode("utf-8", "surrogateescape")),
            FileWrite(SUBMISSIONS / token / "job.sh", script, 0o755),
        ])  # fmt: skip

    def _read(self, number: int, watched: Watched, begun: datetime) -> Trial:
        """The trial by its records, as `poll` and `collect` read them."""
        work, folder = self.trials.stand.workfiles, self.attempt_directory(number)
        records = [folder / "job" / "exit.json", folder / "job" / "outputs.sha256", folder / "output" / DECLARATION]
        read = work.read_files(records, max_bytes=1 << 26)
        record = parse_exit_record(read[records[0]])
        if record is None:
            raise SettingsError(
                "the job script left no record of the trial", where=str(self.trials.stand.base / folder / "job"),
                next="is there room on the disk? --keep DIR keeps the folder",
            )  # fmt: skip
        if record.reason == PROGRAMS_MISSING:
            raise SettingsError(missing_text(record), next="the same command again")
        hashes = parse_sha256_list(read[records[1]] or b"")
        stderr = work.read_tails([folder / "logs" / "stderr.log"], max_bytes=LOG_BYTES)[folder / "logs" / "stderr.log"]
        output = self.trials.stand.base / folder / "output"
        attempt = self.trials.stand.base / folder
        return Trial(
            exit_code=record.exit_code, reason=record.reason, signal=None if watched.timed_out else record.signal,
            seconds=watched.seconds, timed_out=watched.timed_out, stderr=(stderr or b"").decode("utf-8", "replace"),
            entries=tuple(work.list_tree(folder / "output") or ()), hashes=hashes, declaration=read[records[2]],
            files=read_files(output, hashes, begun, self.trials.stand.clock.now()),
            opened=_below(watched.opened, [attempt, self.path]), unseen=watched.unseen, left=watched.left,
            end_seconds=watched.end_seconds,
        )  # fmt: skip


def _refuse_unusable(trial: Trial, runtime: str, step: ResolvedStep) -> None:
    """Errors: SettingsError where the program did not begin at all."""
    if runtime != "none" and _runtime_failed(trial) and not trial.files:
        last = trial.last_line()
        raise SettingsError(f"the container could not be started: {last}", next="correct the image or the command")
    of_env = trial.last_line().startswith(("/usr/bin/env:", "env:"))
    if runtime == "none" and trial.exit_code in contract.NOT_FOUND and of_env:
        program = step.software.command[0]
        raise SettingsError(f"{program} could not be started: {trial.last_line()}", next="correct the command")


def _below(opened: Iterable[Path] | None, tops: Sequence[Path]) -> frozenset[str] | None:
    """Paths relative to the first of `tops` that they lie in."""
    if opened is None:
        return None
    found = ((next((top for top in tops if top in path.parents), None), path) for path in opened)
    return frozenset(str(path.relative_to(top)) for top, path in found if top is not None)


def _entries(folder: Path) -> list[Path]:
    """What lies directly in a folder and is not hidden; nothing where there is none."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def nonsense(name: str, size: int) -> bytes:
    """Bytes without meaning, the same for the same name; at least a few."""
    size = max(size, 64)
    blocks = (hashlib.sha256(f"{name}\0{n}".encode("utf-8", "surrogateescape")).digest() for n in range(size // 32 + 1))
    return b"".join(blocks)[:size]
