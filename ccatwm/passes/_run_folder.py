"""The folder of a run: whose it is, its inputs, and the files of the host that it needs. Touches: the ops-db (read),
files below the base directory, files of the host (read)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ccatwm.core.model import FailureClass, Run, RunInput
from ccatwm.core.names import decode_path
from ccatwm.core.staging import input_path, packages_of, products_of, workspace_path
from ccatwm.edges.opsdb.stores import products
from ccatwm.errors import CcatwmError
from ccatwm.interfaces import FileWrite
from ccatwm.passes._bring import directory_of
from ccatwm.passes._context import Context

MARKER = ".ccatwm-run.json"


class StagingError(CcatwmError):
    """The inputs of a run cannot be had: this attempt fails; for good where nothing but a person changes that."""

    def __init__(self, message: str, failure: FailureClass = FailureClass.STAGING, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.failure = failure
        self.for_good = for_good


def check_host_files(context: Context, run: Run) -> None:
    """The image and the references are there, and the image is the one that was frozen."""
    step = run.resolved_step
    if step.software.image is not None and context.settings.container_runtime != "none":
        digest = context.host_files.digest(step.software.image)
        if digest is None:
            raise StagingError(
                f"image {step.software.image} of {step.software.software} {step.software.version} is missing; "
                f"put it there, then `ccatwm retry {run.id} --reason TEXT`",
                FailureClass.CONTAINER,
            )
        if step.software.image_digest not in (None, digest):
            raise StagingError(
                f"image {step.software.image} is not the one that {step.software.software} {step.software.version} "
                f"was applied with ({step.software.image_digest}, found {digest}); "
                "put the old file back, or apply the new one as a new version",
                FailureClass.CONTAINER,
            )
    for reference in step.references:
        found = context.host_files.digest(reference.path)
        if found is None:
            raise StagingError(f"reference {reference.name} {reference.version}: {reference.path} is missing")
        if reference.checksum not in (None, found):
            raise StagingError(
                f"reference {reference.path} is not the one that {reference.name} {reference.version} was applied "
                f"with ({reference.checksum}, found {found}); put the old one back, or apply the new one as a new version"
            )


def make_run_directories(context: Context, runs: Sequence[Run]) -> dict[int, CcatwmError]:
    """The folders of runs, made once; a marker says whose each is, so that a restored ops-db cannot write into it.

    Returns what went wrong, by run.
    """
    try:
        return _make_directories(context, runs)
    except CcatwmError as error:
        if len(runs) == 1:
            return {runs[0].id: error}
    errors: dict[int, CcatwmError] = {}
    for run in runs:
        errors |= make_run_directories(context, [run])
    return errors


def _make_directories(context: Context, runs: Sequence[Run]) -> dict[int, CcatwmError]:
    files, folders = context.workfiles, {run.id: PurePosixPath(run.directory) for run in runs}
    made = files.make_exclusives(folders.values())
    there = [folders[run.id] / MARKER for run in runs if not made[folders[run.id]]]
    texts = files.read_files(there) if there else {}
    errors: dict[int, CcatwmError] = {}
    markers = []
    for run in runs:
        marker, content = folders[run.id] / MARKER, _marker(context, run)
        text = texts.get(marker)
        if text is None:
            markers.append(FileWrite(marker, json.dumps(content).encode()))
        elif json.loads(text) != content:
            said = text.decode("utf-8", "replace")
            errors[run.id] = StagingError(f"{run.directory} belongs to another run: {said}")
    if markers:
        files.write_files(markers)
    return errors


def _marker(context: Context, run: Run) -> dict[str, object]:
    return {
        "format": 1,
        "run": run.id,
        "ops_db": context.ops_db_uid,
        "created_at": run.created_at.isoformat(),
    }


def remove_links(context: Context, run: Run) -> None:
    folder = PurePosixPath(run.directory)
    context.workfiles.remove_trees([folder / "input", folder / "workspace"])


@dataclass(frozen=True)
class Links:
    """What a run's folder gets from where: packages, of which it is known how whole they are, and upstream products."""

    folders: Sequence[PurePosixPath]
    packages: Sequence[tuple[PurePosixPath, PurePosixPath]]
    products: Sequence[tuple[PurePosixPath, PurePosixPath]]
    whole: dict[PurePosixPath, tuple[int, int]]
    hard: bool

    @property
    def pairs(self) -> list[tuple[PurePosixPath, PurePosixPath]]:
        return [*self.packages, *self.products]

    def lines(self, listed: Mapping[PurePosixPath, bytes | None]) -> bytes | None:
        """The list of the run's inputs, where each of them was linked now."""
        lines = [listed[target] for _, target in self.pairs]
        return None if None in lines else b"".join(line for line in lines if line is not None)


def make_links(context: Context, some: Sequence[Links]) -> dict[PurePosixPath, bytes | None]:
    """By target what `WorkFiles.link_trees` tells of it.

    Errors: IncompleteTreeError for a package that lost files; of many nobody says which.
    """
    files, listed = context.workfiles, dict[PurePosixPath, bytes | None]()
    files.make_trees([folder for links in some for folder in links.folders])
    for hard in (True, False):
        alike = [links for links in some if links.hard is hard]
        whole = {folder: count for links in alike for folder, count in links.whole.items()}
        pairs = [pair for links in alike for pair in links.pairs]
        if pairs:
            listed |= files.link_trees(pairs, hard=hard, whole=whole)
    return listed


def plan_links(
    context: Context, run: Run, inputs: Sequence[RunInput], whole: dict[PurePosixPath, tuple[int, int]]
) -> Links:
    folder = PurePosixPath(run.directory)
    packages = [(directory_of(p), folder / input_path(p)) for p in packages_of(inputs)]
    upstream = products_of(inputs)
    paths: dict[int, str] = {}
    if upstream:
        with context.database.read() as connection:
            paths = products.product_paths(connection, [int(p.identity) for p in upstream])
            gone = products.gone_products(connection, [int(p.identity) for p in upstream])
        for product in upstream:
            if int(product.identity) in gone:
                raise StagingError(_gone_text(run, product, gone[int(product.identity)]))
    linked = [
        (decode_path(paths[int(product.identity)]), workspace_of(run, product)) for product in upstream
    ]
    hard = gets_hard_links(context, run)
    return Links([folder / "input", folder / "workspace"], packages, linked, whole, hard)


def workspace_of(run: Run, product: RunInput) -> PurePosixPath:
    """Where an upstream product lies in the run's folder."""
    return PurePosixPath(run.directory) / decode_path(workspace_path(run.resolved_step, product))


def gets_hard_links(context: Context, run: Run) -> bool:
    """Nothing keeps a program without a container from writing into its inputs: it gets copies."""
    return context.settings.container_runtime != "none" and run.resolved_step.software.image is not None


def _gone_text(run: Run, product: RunInput, status: str) -> str:
    """Of a run that was frozen with a product whose files went since: only one that nobody needed to keep has such."""
    asking = f"ccatwm trigger --pipeline {run.pipeline} --step {run.step} --sub-group {run.sub_group} --force --reason TEXT"
    made_by, whose = product.upstream_run_id, f"{product.upstream_step} {product.upstream_sub_group}"
    undo = f"`ccatwm gc --undo {made_by}` may bring them back, then `ccatwm retry {run.id} --reason TEXT`; else "
    return (
        f"the files of {product.name} of run {made_by} ({whose}) are {status}; "
        f"{undo if status == 'removed' else ''}`{asking}` has all made again"
    )
