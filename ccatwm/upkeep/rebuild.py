"""Makes a product again from raw data packages, with all that it stands on, and says whether it is the same.

Touches: the ops-db, the base directory, copies, images and references (read); a folder of somebody's own; programs that it
starts. Nothing is written to the ops-db or below the base directory, and no lock is taken.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from ccatwm.core.commands import attempt_directories
from ccatwm.core.model import Attempt, EntryKind, Run, RunInput, SoftwareVersion
from ccatwm.core.names import decode_path, encode_name
from ccatwm.core.products import DECLARATION, PlannedProduct, plan_products
from ccatwm.core.rebuilding import Chain, build_chain, package_key, references_of, software_of
from ccatwm.core.sameness import IDENTICAL, Answer, Sameness, Since, compare_contents
from ccatwm.core.staging import cache_directory, input_path, packages_of, products_of, workspace_path
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.stores import attempts, runs, views
from ccatwm.edges.trials.programs import run_program
from ccatwm.edges.trials.trees import read_contents
from ccatwm.errors import CcatwmError, Problem, UsageError
from ccatwm.interfaces import Clock
from ccatwm.upkeep._by_hand import (
    Here,
    build_facts,
    check_folder,
    check_image,
    check_references,
    make_folder,
    runtime_of,
    write_command,
)
from ccatwm.upkeep._restage import Wanted, bring, list_unavailable, list_wanted, remove_all

PACKAGES = PurePosixPath(".packages")  # no pipeline is called so
FAILED = "failed"
TOLD_BYTES = 4096


@dataclass(frozen=True)
class Asked:
    """What is wanted: `folder` is empty or not there; `jobs` programs may run side by side."""

    product_id: int
    folder: Path
    jobs: int = 1


@dataclass(frozen=True)
class Known:
    """What the ops-db says of a product: its chain, and of every run in it what is frozen. Rows are those of
    `views.list_products_of_runs`."""

    product: Mapping[str, Any]
    chain: Chain
    runs: Mapping[int, Run]
    inputs: Mapping[int, Sequence[RunInput]]
    newest: Mapping[int, Attempt]
    rows: Mapping[int, Mapping[str, Any]]
    places: Mapping[int, str]


@dataclass(frozen=True)
class Compared:
    """A product of the chain, and whether it is the same."""

    row: Mapping[str, Any]
    answer: Answer


@dataclass
class Report:
    """What was made. `failed`: why the product could not be made again, though everything for it was there."""

    known: Known
    folder: Path
    origins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    compared: dict[int, Compared] = field(default_factory=dict)
    exit_codes: dict[int, int] = field(default_factory=dict)
    failed: str | None = None

    @property
    def answer(self) -> Answer | None:
        mine = self.compared.get(self.known.product["product"])
        return None if mine is None else mine.answer

    @property
    def exit_code(self) -> int:
        return int(self.answer is None or self.answer.sameness is Sameness.DIFFERS)

    @property
    def path(self) -> str:
        """Where the product lies that was made again."""
        row = self.known.product
        return str(self.folder / self.known.runs[row["run"]].directory / "output" / decode_path(row["name"]))

    def to_json(self) -> dict[str, Any]:
        row, answer = self.known.product, self.answer
        return {
            "schema": "ccatwm.rebuild/1",
            "product": row["product"],
            "run": row["run"],
            "name": row["name"],
            "answer": FAILED if answer is None else answer.sameness.value,
            "where": [self.failed] if answer is None else list(answer.where),
            "directory": str(self.folder),
            "path": self.path,
            "runs": [self._run(run_id) for run_id in self.exit_codes],
            "inputs": [{"name": name, "from": place} for name, place in self.origins.items()],
            "warnings": list(self.warnings),
        }

    def _run(self, run_id: int) -> dict[str, Any]:
        run = self.known.runs[run_id]
        software = run.resolved_step.software
        return {
            "run": run_id, "pipeline": run.pipeline, "step": run.step, "sub_group": run.sub_group,
            "software": software.software, "version": software.version, "exit_code": self.exit_codes[run_id],
            "directory": str(self.folder / run.directory),
            "products": [
                {"product": number, "name": c.row["name"], "answer": c.answer.sameness.value, "where": list(c.answer.where)}
                for number, c in sorted(self.compared.items()) if c.row["run"] == run_id
            ],
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The last word; what was told on the way is not told again."""
        row, answer = self.known.product, self.answer
        if answer is None:
            next = f"see {self.folder}; `ccatwm lineage {row['product']}` tells what it stands on"
            return [f"failed: {self.failed}", f"next: {next}"]
        of = f"product {row['product']} {row['name']}"
        lines = [f"{answer.sameness.value}: {of}, made again with {count_text(len(self.exit_codes), 'run')}"]
        lines += [*(f"  {text}" for text in answer.where), f"made again: {self.path}"]
        return [*lines, f"next: remove {self.folder} when you have seen enough"]


class _StopError(CcatwmError):
    """A run of the chain did not make what is needed."""


def rebuild(asked: Asked, here: Here, clock: Clock, tell: Callable[[str], None]) -> Report:
    """Make it again, run after run. `tell` hears what is being done.

    Errors: UsageError with all that cannot be had any more at once; then there is no folder that was not there before.
    """
    known = _read(here, asked.product_id)
    check_folder(asked.folder, Path(here.settings.pipeline_base_dir))
    wanted = _wanted_packages(here, known)
    warnings = _check(here, known, wanted)
    made = make_folder(asked.folder)
    try:
        tell(f"{count_text(len(known.runs), 'run')} from {count_text(len(wanted), 'raw data package')}")
        origins = bring(here.files, here.storages, wanted, tell, here.progress)
    except BaseException:
        remove_all(here.files, (entry.name for entry in os.scandir(asked.folder)))
        if made:
            asked.folder.rmdir()
        raise
    report = Report(known, asked.folder, origins, tuple(warnings))
    for warning in warnings:
        tell(f"warning: {warning}")
    here.database.dispose()  # nobody knows how long the programs take
    try:
        _in_order(known.chain, asked.jobs, _Maker(here, clock, tell, report).remake)
    except _StopError as error:
        report.failed = error.message
    return report


# --- what is known, and what cannot be had ---------------------------------------------------------------------------


def _read(here: Here, product_id: int) -> Known:
    """Errors: UsageError for a product that is not there, or that stands on runs that are not."""
    with here.database.read() as connection:
        product = views.get_product(connection, product_id)
        ids = views.list_ancestor_runs(connection, product["run"])
        inputs = runs.list_inputs(connection, ids)
        chain = build_chain(product_id, product["run"], inputs)
        found = runs.get_runs(connection, list(chain.needs))
        known = Known(
            product, chain, found, inputs, attempts.newest_attempts(connection, list(found)),
            {row["product"]: row for row in views.list_products_of_runs(connection, list(found))},
            {run: row["processing_location"] for run, row in views.list_provenance(connection, list(found)).items()},
        )  # fmt: skip
    gone = [Problem(f"run {run}", "the ops-db does not know it") for run in chain.needs if run not in found]
    if gone:
        raise UsageError(f"product {product_id} stands on runs that are not known any more", problems=gone)
    return known


def _wanted_packages(here: Here, known: Known) -> list[Wanted]:
    """Every raw data package, once, with the places where it may lie, and where it will."""
    wanted = []
    for run_id, item in known.chain.packages:
        (found,) = list_wanted(
            here.database, here.grouping, here.settings, known.runs[run_id], [item], known.places[run_id]
        )
        wanted.append(replace(found, path=_brought_to(item)))
    return wanted


def _brought_to(item: RunInput) -> PurePosixPath:
    return PACKAGES / cache_directory(*package_key(item)).name


def _check(here: Here, known: Known, wanted: Sequence[Wanted]) -> list[str]:
    """Warnings. Errors: UsageError with everything that is missing, before anything is read or run."""
    problems: list[Problem] = []
    warnings: list[str] = []
    for software in software_of(known.runs.values()):
        warnings += _check_software(here, software, problems)
    references = references_of(known.runs.values())
    check_references(references, here.host_files, problems)
    for r in references:
        found = here.host_files.digest(r.path) if r.checksum is not None else None
        if found is not None and found != r.checksum:
            problems.append(
                Problem(f"reference {r.name} {r.version}", f"{r.path} is another file ({found}, recorded {r.checksum})",
                        "put the old one back there")
            )  # fmt: skip
    problems += list_unavailable(here.storages, wanted)
    if problems:
        raise UsageError(
            f"product {known.product['product']} cannot be made again: not everything is there any more",
            problems=list(dict.fromkeys(problems)),
        )
    return warnings


def _check_software(here: Here, software: SoftwareVersion, problems: list[Problem]) -> list[str]:
    """What of it cannot be checked; what is missing goes to `problems`."""
    runtime = runtime_of(here.settings, software)
    others = check_image(software, runtime, here.host_files, problems, mend="put the file back there")
    problems += [Problem(f"image {software.image}", text, "put the old one back there") for text in others]
    named = f"{software.software} {software.version}"
    if runtime == "none":
        return [f"{named} runs on this host without a container: whether it is the program of then cannot be checked"]
    if software.image_digest is None or "://" in str(software.image):
        return [f"{named}: whether {software.image} is the image of then cannot be checked"]
    return []


# --- run after run ---------------------------------------------------------------------------------------------------


def _in_order(chain: Chain, jobs: int, remake: Callable[[int], None]) -> None:
    """Each run after those that it needs, so many side by side. Errors: the first one; what runs then ends first."""
    order = TopologicalSorter({run: sorted(needs) for run, needs in chain.needs.items()})
    order.prepare()
    begun: dict[Future[None], int] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while order.is_active():
                begun |= {pool.submit(remake, run): run for run in sorted(order.get_ready())}
                ended, _ = wait(begun, return_when=FIRST_COMPLETED)
                for future in ended:
                    order.done(begun.pop(future))
                    future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _Maker:
    """Makes runs again below the folder, each where it lies below the base directory."""

    def __init__(self, here: Here, clock: Clock, tell: Callable[[str], None], report: Report) -> None:
        self._here, self._clock, self._tell, self._report = here, clock, tell, report
        self._known = report.known
        self._made: dict[int, PlannedProduct] = {}  # by the number of the product that it is instead of
        self._lock = threading.Lock()  # of what is written down: runs may be made side by side

    def remake(self, run_id: int) -> None:
        """Make a run again and compare what is of use. Errors: _StopError."""
        run = self._known.runs[run_id]
        folder = PurePosixPath(run.directory)
        runtime = runtime_of(self._here.settings, run.resolved_step.software)
        self._link_inputs(run, folder, hard=runtime != "none")
        argv = self._write(run, folder, runtime)
        software = run.resolved_step.software
        self._tell(f"run {run_id} {run.pipeline}/{run.step} {run.sub_group}: {software.software} {software.version}")
        begun_at = self._clock.now()
        self._start(run, folder, argv)
        self._compare(run, self._list_products(run, folder), Since(run.created_at, begun_at))

    def _link_inputs(self, run: Run, folder: PurePosixPath, *, hard: bool) -> None:
        """Packages, and what the runs before have made. Nothing keeps a program without a container from writing into
        its inputs: it gets copies."""
        step, inputs = run.resolved_step, self._known.inputs[run.id]
        below = [*attempt_directories(step), PurePosixPath("input")]
        below += [PurePosixPath("workspace") / u.directory for u in step.upstream]
        self._here.files.make_trees(folder / path for path in below)
        links = [(_brought_to(item), folder / input_path(item)) for item in packages_of(inputs)]
        for item in products_of(inputs):
            before = self._known.runs[int(item.upstream_run_id or 0)]
            made = PurePosixPath(before.directory) / "output" / decode_path(item.name)
            links.append((made, folder / decode_path(workspace_path(step, item))))
        self._here.files.link_trees(links, hard=hard)

    def _write(self, run: Run, folder: PurePosixPath, runtime: str) -> tuple[str, ...]:
        """The manifest tells what the inputs are now."""
        asked_for = self._known.newest.get(run.id)
        resources = run.resources if asked_for is None else asked_for.resources
        base = PurePosixPath(self._report.folder)
        facts = build_facts(
            run, self._here.settings, resources, max(1, run.attempt), base_dir=base, inputs_in=folder, folder=folder
        )
        inputs = [self._as_made(item) for item in self._known.inputs[run.id]]
        return write_command(self._here.files, run.resolved_step, facts, inputs, runtime)

    def _as_made(self, item: RunInput) -> RunInput:
        made = self._made.get(int(item.identity)) if item.upstream_run_id is not None else None
        return item if made is None else item._replace(checksum=f"sha256:{made.sha256}", size_bytes=made.size_bytes)

    def _start(self, run: Run, folder: PurePosixPath, argv: Sequence[str]) -> None:
        place = self._report.folder / folder
        stderr = place / "logs" / "stderr.log"
        try:
            code = run_program(argv, cwd=place / "scratch", stdout=place / "logs" / "stdout.log", stderr=stderr)
        except OSError as error:
            raise _StopError(f"run {run.id}: {argv[0]} cannot be started: {error.strerror}") from error
        with self._lock:
            self._report.exit_codes[run.id] = code
        if code != 0 and code not in run.resolved_step.partial_exit_codes:
            last = _last_line(stderr)
            raise _StopError(f"run {run.id} ended with exit code {code}{': ' + last if last else ''} ({stderr})")

    def _list_products(self, run: Run, folder: PurePosixPath) -> dict[str, PlannedProduct]:
        """By recorded name, planned as `collect` does."""
        files, output = self._here.files, folder / "output"
        entries = files.list_tree(output) or []
        hashed = files.hash_files([output / e.path for e in entries if e.kind is EntryKind.FILE])
        hashes = {path.relative_to(output): found[1] for path, found in hashed.items() if found is not None}
        declared = files.read_files([output / DECLARATION])[output / DECLARATION]
        plan = plan_products(entries, hashes, declared, role=run.resolved_step.role)
        if plan.problem is not None:
            raise _StopError(f"run {run.id}: {plan.problem}")
        return {encode_name(str(product.path)): product for product in plan.products}

    def _compare(self, run: Run, made: Mapping[str, PlannedProduct], since: Since) -> None:
        """Those that are of use. Errors: _StopError where one was not made that a run needs."""
        for number in sorted(self._known.chain.kept[run.id]):
            row = self._known.rows[number]
            product = made.get(row["name"])
            if product is None or product.is_directory != row["is_directory"]:
                raise _StopError(f"run {run.id} has not made {row['name']} this time")
            answer = self._same(row, product, self._report.folder / run.directory / "output" / product.path, since)
            with self._lock:
                self._made[number] = product
                self._report.compared[number] = Compared(row, answer)
            self._tell(f"  {answer.sameness.value}: product {number} {row['name']}")

    def _same(self, row: Mapping[str, Any], made: PlannedProduct, path: Path, since: Since) -> Answer:
        if made.sha256 == row["sha256"]:
            return IDENTICAL
        kept = Path(self._here.settings.pipeline_base_dir) / decode_path(row["full_path"])
        found = self._here.host_files.digest(str(kept))
        if found != f"sha256:{row['sha256']}":
            why = "is gone" if found is None else "is not what was recorded"
            told = f"{row['name']}: other bytes; their data are not compared: the kept one {why}"
            return Answer(Sameness.DIFFERS, (told,))
        name = decode_path(row["name"])
        return compare_contents(read_contents(kept, name), read_contents(path, name), since)


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TOLD_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""


