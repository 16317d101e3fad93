"""Judges how a program kept the container contract (v1) in a few trials: what was seen, in; findings, out. Pure.

Every point is told as what is so and how to mend it. What could not be looked at is told as such, with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from pathlib import PurePosixPath

from ccatwm.core.checkup import Finding, Judgement, ok, skipped, warning, wrong
from ccatwm.core.fits_sums import changed_keywords
from ccatwm.core.model import EntryKind, ProductType, StepRole, TreeEntry
from ccatwm.core.names import encode_name
from ccatwm.core.products import DECLARATION, ProductPlan, parse_declaration, plan_products
from ccatwm.core.wording import count_text

POINTS = (
    "exit-code", "manifest", "inputs", "products", "product-types", "products-json", "writes", "home", "network",
    "left-running", "source-date", "repeatable", "nonsense-input", "term",
)  # fmt: skip
EXIT_HOLDS, EXIT_BROKEN = 0, 1
MANIFEST = "config/manifest.json"
MAX_NAMED = 5
RETRY = 75
KILLED = 137
NOT_FOUND = (126, 127)  # of shells and env: what they were to run cannot be run, or is not there
NOT_THERE = re.compile(r"can't open file|No such file or directory|cannot open|Exec format error", re.IGNORECASE)
REFUSED_WRITE = re.compile(r"Read-only file system|EROFS", re.IGNORECASE)


@dataclass(frozen=True)
class FileSeen:
    """A product file as compared: its SHA-256, its data sums where it is FITS, and a time of the day it was made found in
    it (`clock`), or None."""

    sha256: str
    data_sums: tuple[int, ...] | None = None
    header: Mapping[str, str] = field(default_factory=dict)
    clock: str | None = None


@dataclass(frozen=True)
class Trial:
    """One run of the program. `reason` and `signal` are those of the job's record (`exit.json`).

    `opened`: files below the run's folder that were opened, None if that could not be seen, for the reason `unseen`.
    `changed`: what was written where nothing may be. `left`: processes that it left behind. `end_seconds`: how long it
    took to end after TERM.
    """

    exit_code: int
    reason: str = "payload"
    signal: str | None = None
    seconds: float = 0.0
    timed_out: bool = False
    stderr: str = ""
    entries: tuple[TreeEntry, ...] = ()
    hashes: Mapping[PurePosixPath, str] = field(default_factory=dict)
    declaration: bytes | None = None
    files: Mapping[PurePosixPath, FileSeen] = field(default_factory=dict)
    opened: frozenset[str] | None = None
    unseen: str = ""
    changed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    end_seconds: float = 0.0

    def last_line(self) -> str:
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


@dataclass(frozen=True)
class Case:
    """What was tried. `second` repeats `first`, `offline` is the trial without network (it may be the second one too);
    where one is None its reason is in `why_not` by the name of the point."""

    runtime: str
    role: StepRole
    input_files: Mapping[str, tuple[str, ...]]  # by input: its files below the run's folder
    made_up_input: bool
    home: str  # HOME as the program sees it
    compared: str  # which places were compared for changes
    first: Trial
    second: Trial | None = None
    offline: Trial | None = None
    nonsense: Trial | None = None
    ended: Trial | None = None
    partial_exit_codes: tuple[int, ...] = ()
    term_seconds: float = 15.0
    why_not: Mapping[str, str] = field(default_factory=dict)

    def good(self, trial: Trial) -> bool:
        """Whether a real run would have collected the output."""
        return not trial.timed_out and trial.exit_code in (0, *self.partial_exit_codes)


def judge_contract(case: Case) -> list[Finding]:
    """A finding for every point, in the order of `POINTS`."""
    if not has_started(case):
        return [_not_started(case), *(_unchecked(name, "the program could not be started") for name in POINTS[1:])]
    judges = (
        _exit_code, _manifest, _inputs, _products, _product_types, _products_json, _writes, _home, _network, _left_running,
        _source_date, _repeatable, _nonsense_input, _term,
    )  # fmt: skip
    return [judge(name, case) for name, judge in zip(POINTS, judges, strict=True)]


def has_started(case: Case) -> bool:
    """False where it ended badly, nothing was read or made, and what it said is that something is not there to be run."""
    trial = case.first
    made = any(entry.kind is not EntryKind.DIRECTORY for entry in trial.entries)  # folders are there before it begins
    if case.good(trial) or trial.timed_out or trial.opened or made:
        return True
    return trial.exit_code not in NOT_FOUND and not NOT_THERE.search(trial.last_line())


def _not_started(case: Case) -> Finding:
    last = case.first.last_line()
    said = f": {last}" if last else ""
    return wrong(
        POINTS[0], f"it could not be started, exit code {case.first.exit_code}{said}",
        "correct the command, or put what it names where the program looks for it",
    )  # fmt: skip


def exit_code(findings: Sequence[Finding]) -> int:
    return EXIT_BROKEN if any(f.state is Judgement.WRONG for f in findings) else EXIT_HOLDS


def _unchecked(name: str, why: str) -> Finding:
    return skipped(name, f"not checked, because {why}")


def _not_good(name: str) -> Finding:
    return _unchecked(name, "the program did not end well")


# --- what it reads ---------------------------------------------------------------------------------------------------


def _manifest(name: str, case: Case) -> Finding:
    opened = case.first.opened
    if opened is None:
        return _unchecked(name, case.first.unseen)
    if MANIFEST in opened:
        return ok(name, "it opened its manifest")
    return warning(
        name, "it did not open its manifest: it cannot know its configuration, nor what its inputs are",
        "read the file that WORKFLOW_MANIFEST names (ccatwm schema manifest)",
    )  # fmt: skip


def _inputs(name: str, case: Case) -> Finding:
    opened, files = case.first.opened, case.input_files
    if opened is None:
        return _unchecked(name, case.first.unseen)
    if not any(files.values()):
        return _unchecked(name, "there is no file in its input; give some: --input DIR")
    ignored = [key for key, below in files.items() if below and opened.isdisjoint(below)]
    mend = "take the paths of `inputs` in the manifest, or look below WORKFLOW_INPUT_DIR and WORKFLOW_WORKSPACE_DIR"
    if len(ignored) == sum(bool(below) for below in files.values()):
        return wrong(name, f"it opened none of its inputs ({_names(ignored)})", mend)
    if ignored:
        return warning(name, f"it opened no file of {_names(ignored)}", mend)
    return ok(name, f"it opened files of {'its input' if len(files) == 1 else f'all {len(files)} inputs'}")


# --- how it ends -------------------------------------------------------------------------------------------------------


def _exit_code(name: str, case: Case) -> Finding:
    first, last = case.first, case.first.last_line()
    said = f": {last}" if last else ""
    if first.timed_out:
        return wrong(name, f"it did not end in {first.seconds:.0f} s", "give it more time: --timeout S; or less input")
    if first.exit_code == 0:
        return ok(name, f"0, after {first.seconds:.1f} s")
    if first.exit_code in case.partial_exit_codes:
        return ok(name, f"{first.exit_code}, which the step declares a success with warnings (partial_exit_codes)")
    if first.exit_code == RETRY:
        return wrong(name, f"75 asks for a retry{said}", "end with 75 only for what passes by itself")
    mend = "its input was made up here, so give it real data: --input DIR" if case.made_up_input else (
        "see its logs (--keep DIR keeps them); a success ends with 0, or with one of the step's partial_exit_codes"
    )  # fmt: skip
    return wrong(name, f"it ended with exit code {first.exit_code}{said}", mend)


def _nonsense_input(name: str, case: Case) -> Finding:
    trial = case.nonsense
    if trial is None:
        return _unchecked(name, case.why_not.get(name, "it was not tried"))
    if not case.good(case.first):
        return _unchecked(name, "it does not end well on good input either")
    if trial.timed_out:
        return wrong(name, f"it did not end in {trial.seconds:.0f} s on files with nonsense in them", "check what is read")
    if trial.exit_code in (0, *case.partial_exit_codes):
        return wrong(
            name, f"exit code {trial.exit_code} with nonsense in every input file: bad data would become products",
            "check what is read, and end with a code other than 0",
        )  # fmt: skip
    if trial.exit_code == RETRY:
        return wrong(name, "75 on nonsense asks for a retry, which would not help", "end with another code")
    return ok(name, f"exit code {trial.exit_code} on files with nonsense in them")


def _term(name: str, case: Case) -> Finding:
    trial = case.ended
    if trial is None:
        return _unchecked(name, case.why_not.get(name, "it was not tried"))
    if trial.signal is None:
        return _unchecked(name, "it had ended before TERM came; give it more input")
    if trial.exit_code == KILLED and trial.end_seconds >= case.term_seconds:
        return wrong(
            name, f"it did not end within {case.term_seconds:g} s after TERM and was killed",
            "end at TERM, and pass it on to what you started (a shell script: `exec` the last command, or trap and kill)",
        )  # fmt: skip
    return ok(name, f"it ended {trial.end_seconds:.1f} s after TERM")


def _left_running(name: str, case: Case) -> Finding:
    ended = None if case.ended is None or case.ended.exit_code == KILLED else case.ended  # what was killed left more
    trials = [t for t in (case.first, case.second, case.nonsense, ended) if t is not None]
    left = [process for trial in trials for process in trial.left]
    if left:
        return wrong(name, f"processes went on after the program had ended: {_names(left)}", "wait for what you start")
    return ok(name, "no process went on after the program had ended")


# --- what it makes -----------------------------------------------------------------------------------------------------


def _plan(case: Case, *, declared: bool) -> ProductPlan:
    """Planned as `collect` would; without `products.json` where that is judged by itself."""
    trial = case.first
    return plan_products(trial.entries, trial.hashes, trial.declaration if declared else None, role=case.role)


def _whole_plan(case: Case) -> ProductPlan:
    plan = _plan(case, declared=True)
    return plan if plan.problem is None or not _declaration_problems(case) else _plan(case, declared=False)


def _declaration_problems(case: Case) -> list[str]:
    """What is wrong with `products.json` in itself, or with what it names."""
    if case.first.declaration is None:
        return []
    problems = list(parse_declaration(case.first.declaration).problems)
    if not problems:
        whole, bare = _plan(case, declared=True).problem, _plan(case, declared=False).problem
        problems = [whole] if whole and whole != bare else []
    return problems


def _products(name: str, case: Case) -> Finding:
    if not case.good(case.first):
        return _not_good(name)
    plan = _whole_plan(case)
    if plan.problem is not None:
        return wrong(
            name, plan.problem, "write products as plain files below the folder that WORKFLOW_OUTPUT_DIR names"
        )
    types = [p.type.value for p in plan.products]
    counts = ", ".join(f"{types.count(kind)} {kind}" for kind in sorted(set(types)))
    return ok(name, f"{count_text(len(types), 'product')}: {counts}")


def _product_types(name: str, case: Case) -> Finding:
    plan = _whole_plan(case)
    if not case.good(case.first) or plan.problem is not None:
        return _unchecked(name, "there are no products to look at")
    loose = [str(p.path) for p in plan.products if p.type is ProductType.UNCLASSIFIED]
    special = [str(e.path) for e in case.first.entries if e.kind in (EntryKind.SYMLINK, EntryKind.OTHER)]
    if loose:
        return wrong(
            name, f"in no folder that says a type (UNCLASSIFIED): {_names(loose)}",
            "write below science/ qa/ plots/ statistics/ logs/, or declare the type in products.json",
        )  # fmt: skip
    if special:
        return wrong(name, f"links and special files are no products: {_names(special)}", "write plain files")
    return ok(name, "every product has a type")


def _products_json(name: str, case: Case) -> Finding:
    if not case.good(case.first):
        return _not_good(name)
    if case.first.declaration is None:
        return ok(name, f"there is no {DECLARATION}: folders alone say what products are")
    problems = _declaration_problems(case)
    if problems:
        return wrong(name, "; ".join(problems), "see products.json in docs/explanation/container-contract.md")
    return ok(name, f"{DECLARATION} is valid")


def _writes(name: str, case: Case) -> Finding:
    mend = "write below WORKFLOW_OUTPUT_DIR, WORKFLOW_LOG_DIR, WORKFLOW_SCRATCH_DIR, TMPDIR and HOME alone"
    trials = [t for t in (case.first, case.second, case.nonsense, case.ended) if t is not None]
    changed = list(dict.fromkeys(line for trial in trials for line in trial.changed))
    if changed:
        return wrong(name, f"it wrote where nothing may be written: {_names(changed)}", mend)
    if not case.good(case.first) and REFUSED_WRITE.search(case.first.stderr):
        return wrong(name, f"it tried to write where nothing may be written: {case.first.last_line()}", mend)
    if case.runtime == "none":
        return ok(name, f"nothing has changed in {case.compared}; the rest of this host was not looked at")
    return ok(name, "mounts and image are read-only, and it ended as well as it did; nothing has changed on this host")


# --- what it needs -----------------------------------------------------------------------------------------------------


def _home(name: str, case: Case) -> Finding:
    if case.good(case.first):
        return ok(name, "it ran with an empty HOME")
    if case.home in case.first.stderr or re.search(r"\bHOME\b", case.first.stderr):
        return wrong(
            name, f"it failed with an empty HOME and speaks of it: {case.first.last_line()}",
            "keep what it needs in the image or in reference data, not in a home",
        )  # fmt: skip
    return _not_good(name)


def _network(name: str, case: Case) -> Finding:
    if not case.good(case.first):
        return _not_good(name)
    trial = case.offline
    if trial is None:
        return _unchecked(name, case.why_not.get(name, "it was not tried"))
    if case.good(trial):
        return ok(name, "it did as well with the network cut off")
    return wrong(
        name, f"without network it ended with exit code {trial.exit_code}: {trial.last_line()}",
        "take what it needs from the image or from reference data: nodes may have no network",
    )  # fmt: skip


# --- whether it does the same again ------------------------------------------------------------------------------------


def _source_date(name: str, case: Case) -> Finding:
    if not case.good(case.first):
        return _not_good(name)
    found = [f"{path} ({seen.clock})" for path, seen in sorted(_data(case.first, case.role).items()) if seen.clock]
    if found:
        return wrong(
            name, f"the time of the day is in {_names(found)}",
            "write the time that SOURCE_DATE_EPOCH says (seconds since 1970, UTC) wherever a file holds when it was made",
        )  # fmt: skip
    return ok(name, "no product holds the time at which it was made here")


def _repeatable(name: str, case: Case) -> Finding:
    if not case.good(case.first):
        return _not_good(name)
    second = case.second
    if second is None or not case.good(second):
        return _unchecked(name, case.why_not.get(name, "the second run did not end well"))
    different = list_differences(_data(case.first, case.role), _data(second, case.role))
    if different:
        return wrong(
            name, f"two runs on the same input differ: {_names(different)}",
            "fix seeds, the order of files and of sums, and leave times out",
        )  # fmt: skip
    return ok(name, "two runs on the same input made the same data")


def list_differences(first: Mapping[PurePosixPath, FileSeen], second: Mapping[PurePosixPath, FileSeen]) -> list[str]:
    """Files that differ, each with how; FITS by their data sums alone."""
    told = [f"{path} (in one of them only)" for path in sorted(first.keys() ^ second.keys())]
    for path in sorted(first.keys() & second.keys()):
        one, other = first[path], second[path]
        if one.data_sums is not None and other.data_sums is not None:
            if one.data_sums != other.data_sums:
                told.append(f"{path} (DATASUM)")
            elif keywords := changed_keywords(one.header, other.header):
                told.append(f"{path} (the same data, but other values of {', '.join(keywords[:MAX_NAMED])})")
        elif one.sha256 != other.sha256:
            told.append(f"{path} (SHA-256)")
    return told


def _data(trial: Trial, role: StepRole) -> Mapping[PurePosixPath, FileSeen]:
    """Files that are compared: not the logs, which may tell times."""
    plan = plan_products(trial.entries, trial.hashes, trial.declaration, role=role)
    logs = [p.path for p in plan.products if p.type is ProductType.LOG]
    inside = {path for path in trial.files if any(root == path or root in path.parents for root in logs)}
    return {path: seen for path, seen in trial.files.items() if path not in inside}


def find_clock(content: bytes, begun: datetime, ended: datetime, zones: Sequence[tzinfo]) -> str | None:
    """A time between `begun` and `ended` (aware) in the bytes of a file: as text of ISO 8601 in one of `zones`, or the
    stamp of gzip."""
    if content[:2] == b"\x1f\x8b" and len(content) >= 8:  # RFC 1952, 2.3: MTIME, little-endian
        stamp = int.from_bytes(content[4:8], "little")
        if begun.timestamp() - 1 <= stamp <= ended.timestamp() + 1:
            return "the time of gzip's header"
    for zone in zones:
        at = begun
        while at <= ended + timedelta(minutes=1):
            minute = at.astimezone(zone).strftime("%Y-%m-%d?%H:%M")
            for separator in "T ":
                text = minute.replace("?", separator)
                if text.encode() in content:
                    return text
            at += timedelta(minutes=1)
    return None


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(encode_name(name) for name in names[:MAX_NAMED]) + more


def not_asked(name: str) -> Finding:
    """For a point that was left out on request."""
    return _unchecked(name, "it was not asked for (--skip)")
