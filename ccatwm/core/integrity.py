"""What differs between what the ops-db says of files and what lies on disk, and what mends it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.digests import tree_digest
from ccatwm.core.latest import LATEST, LatestLink
from ccatwm.core.model import EntryKind, TreeEntry
from ccatwm.core.names import decode_path, encode_name, raw_name
from ccatwm.core.outputs import Listing
from ccatwm.core.products import DECLARATION
from ccatwm.core.reconciling import RUN_DEPTH, Copy, parse_attempt_name, parse_run_directory, run_directory_of
from ccatwm.core.set_records import SetRecord, differing_words, has_same_products, record_path, words_command
from ccatwm.core.shell_text import quote_path
from ccatwm.core.wording import count_text

MEND = "`ccatwm fsck --yes --reason TEXT`"
RECONCILE = "`ccatwm doctor --reconcile`"


class Kind(StrEnum):
    """What is wrong. The order is that of a report."""

    TREE_AWAY = "tree-away"  # all of a pipeline: not mounted, or lost
    PRODUCT_MISSING = "product-missing"  # a row says that it is there
    PRODUCT_CHANGED = "product-changed"
    PRODUCT_BACK = "product-back"  # a row says that it is missing
    PRODUCTS_IN_TRASH = "products-in-trash"  # a row says that they are there, or missing; none that `gc` took them away
    CACHE_DAMAGED = "cache-damaged"  # a staged package that is not what was staged
    RUN_RECORD_MISSING = "run-record-missing"
    RUN_RECORD_DAMAGED = "run-record-damaged"
    OUTPUT_LINK_WRONG = "output-link-wrong"  # or gone
    LATEST_LINK_WRONG = "latest-link-wrong"
    RUN_UNKNOWN = "run-unknown"  # on disk only
    ATTEMPT_UNKNOWN = "attempt-unknown"
    FILE_UNKNOWN = "file-unknown"
    SET_RECORD_MISSING = "set-record-missing"  # of a published set
    SET_RECORD_DAMAGED = "set-record-damaged"
    SET_RECORD_DIFFERS = "set-record-differs"  # from what the ops-db says of the set
    SET_UNKNOWN = "set-unknown"  # on disk only
    STRAY = "stray"  # what is no step, no sub-group and no run lies among them
    CACHE_UNKNOWN = "cache-unknown"
    TRASH_MISSING = "trash-missing"  # what `gc` could have brought back
    TRASH_UNKNOWN = "trash-unknown"


MENDED = frozenset({
    Kind.PRODUCT_MISSING, Kind.PRODUCT_CHANGED, Kind.PRODUCT_BACK, Kind.CACHE_DAMAGED, Kind.CACHE_UNKNOWN,
    Kind.OUTPUT_LINK_WRONG, Kind.LATEST_LINK_WRONG, Kind.PRODUCTS_IN_TRASH,
    Kind.RUN_RECORD_MISSING, Kind.RUN_RECORD_DAMAGED, Kind.SET_RECORD_MISSING, Kind.SET_RECORD_DAMAGED,
})  # fmt: skip

# What follows where the whole folder of a pipeline is away, or that of the cache: it is told as one, and not mended.
_OF_A_TREE = frozenset({
    Kind.PRODUCT_MISSING, Kind.RUN_RECORD_MISSING, Kind.OUTPUT_LINK_WRONG, Kind.LATEST_LINK_WRONG, Kind.CACHE_DAMAGED,
})  # fmt: skip
_GONE = (Kind.PRODUCT_MISSING, Kind.RUN_RECORD_MISSING)


@dataclass(frozen=True)
class Difference:
    """One difference: `path` below the base directory, percent-encoded where it is not plain text.

    `row`: number of the product, run or cache row that it is about. `target`: what a link has to lead to, or where a folder
    belongs.
    """

    kind: Kind
    path: str
    what: str
    next: str
    row: int | None = None
    sub_group: int | None = None
    target: str | None = None

    @property
    def pipeline(self) -> str:
        """Or what else lies in the base directory, such as the cache."""
        return self.path.partition("/")[0]

    @property
    def run_directory(self) -> str:
        return run_directory_of(self.path)


@dataclass(frozen=True)
class KnownProduct:
    """A product that the ops-db says is there. `path` is below the output of its attempt."""

    id: int
    run_id: int
    sub_group_id: int
    path: str
    full_path: str
    is_directory: bool
    size_bytes: int
    file_count: int
    sha256: str


@dataclass(frozen=True)
class KnownPackage:
    """A package that the ops-db says is in the cache."""

    id: int
    name: str
    directory: str
    size_bytes: int | None
    file_count: int | None
    tree_digest: str | None


# --- products of one run ----------------------------------------------------------------------------------------------


def product_differences(
    products: Sequence[KnownProduct],
    entries: Sequence[TreeEntry] | None,
    output: str,
    hashes: Mapping[PurePosixPath, str] | None = None,
    *,
    root: PurePosixPath = PurePosixPath(),
    left: Collection[PurePosixPath] = (),
    missing: Sequence[KnownProduct] = (),
) -> list[Difference]:
    """`missing`: products of the run that are recorded as such, of which nothing is said here.

    `entries` of the run's output folder `output`, None where it is gone; `hashes` (sha256 hex) of its files by path
    below it where these were read; `left`: links and special files that its own program left there.

    Empty folders are no difference: no product, and no digest of one, knows of them.
    """
    files = {entry.path: entry for entry in entries or () if entry.kind is EntryKind.FILE}
    found = list_lost(products, entries, hashes)
    special = [entry for entry in special_entries(entries) if entry.path not in left]
    return found + _unknown_files([*products, *missing], files, output, root) + _unknown_special(special, output, root)


def list_lost(
    products: Sequence[KnownProduct],
    entries: Sequence[TreeEntry] | None,
    hashes: Mapping[PurePosixPath, str] | None = None,
) -> list[Difference]:
    """Products that are not there as recorded; by size alone without `hashes`."""
    files = {entry.path: entry for entry in entries or () if entry.kind is EntryKind.FILE}
    folders = {entry.path for entry in entries or () if entry.kind is EntryKind.DIRECTORY}
    differences = (_difference(product, files, folders, hashes) for product in products)
    return [difference for difference in differences if difference is not None]


def special_entries(entries: Sequence[TreeEntry] | None) -> list[TreeEntry]:
    """What is neither file nor folder."""
    return [entry for entry in entries or () if entry.kind in (EntryKind.SYMLINK, EntryKind.OTHER)]


def left_by_program(special: Sequence[TreeEntry], then: Listing) -> set[PurePosixPath]:
    """Of links and special files those that were there when the job had ended: `collect` has told of them."""
    return {entry.path for entry in special if _was_so(entry, raw_name(str(entry.path)), then)}


def _was_so(entry: TreeEntry, path: bytes, then: Listing) -> bool:
    kind = then.entries.get(path, b"")[:1]
    if entry.kind is EntryKind.SYMLINK:
        return kind == b"l" and then.targets.get(path) == raw_name(entry.link_target or "")
    return kind not in (b"", b"f", b"d", b"l")


def products_back(
    products: Sequence[KnownProduct], entries: Sequence[TreeEntry] | None, hashes: Mapping[PurePosixPath, str] | None
) -> list[Difference]:
    """Of products that are recorded as missing those that are there as they were; by size alone without `hashes`."""
    files = {entry.path: entry for entry in entries or () if entry.kind is EntryKind.FILE}
    folders = {entry.path for entry in entries or () if entry.kind is EntryKind.DIRECTORY}
    return [
        Difference(
            Kind.PRODUCT_BACK, product.full_path,
            f"product {product.id} of run {product.run_id} is recorded as missing, and is there as it was",
            f"{MEND} counts it again", product.id, product.sub_group_id,
        )
        for product in products
        if _difference(product, files, folders, hashes) is None
    ]  # fmt: skip


def _difference(
    product: KnownProduct,
    files: Mapping[PurePosixPath, TreeEntry],
    folders: Collection[PurePosixPath],
    hashes: Mapping[PurePosixPath, str] | None,
) -> Difference | None:
    path = decode_path(product.path)
    there = path in folders if product.is_directory else path in files
    if not there:
        return _about(product, Kind.PRODUCT_MISSING, "is not there")
    parts = [entry for name, entry in files.items() if path in name.parents] if product.is_directory else [files[path]]
    size = sum(entry.size_bytes for entry in parts)
    if (size, len(parts)) != (product.size_bytes, product.file_count):
        recorded = f"{product.size_bytes} in {product.file_count} recorded"
        what = f"has {size} bytes in {count_text(len(parts), 'file')}, {recorded}"
        return _about(product, Kind.PRODUCT_CHANGED, what)
    if hashes is None:
        return None
    digest = tree_digest(_tree(path, parts, hashes)) if product.is_directory else hashes.get(path, "")
    if digest == product.sha256:
        return None
    return _about(product, Kind.PRODUCT_CHANGED, f"has the digest {digest or 'of no file'}, {product.sha256} recorded")


def _tree(
    root: PurePosixPath, parts: Sequence[TreeEntry], hashes: Mapping[PurePosixPath, str]
) -> list[tuple[bytes, int, str]]:
    return [
        (raw_name(str(entry.path.relative_to(root))), entry.size_bytes, hashes.get(entry.path, ""))
        for entry in parts
    ]


def _about(product: KnownProduct, kind: Kind, what: str) -> Difference:
    return Difference(
        kind, product.full_path, f"product {product.id} of run {product.run_id} {what}",
        f"{MEND} writes it down; its run is then made again where it counts", product.id, product.sub_group_id,
    )  # fmt: skip


def name_published(differences: Iterable[Difference], sets: Mapping[int, Sequence[str]]) -> list[Difference]:
    """Differences, those of products with the published sets (names by product) that they are in."""
    lost = (Kind.PRODUCT_MISSING, Kind.PRODUCT_CHANGED)
    return [
        _published(d, names) if d.kind in lost and (names := sets.get(d.row or 0)) else d for d in differences
    ]


def _published(difference: Difference, names: Sequence[str]) -> Difference:
    commands = ", ".join(f"`ccatwm publish {name}`" for name in names)
    return replace(
        difference, what=f"{difference.what}; it is published in {', '.join(names)}",
        next=f"{difference.next}; then what brings back the files of its set: {commands}",
    )  # fmt: skip


def _unknown_files(
    products: Sequence[KnownProduct], files: Mapping[PurePosixPath, TreeEntry], output: str, root: PurePosixPath
) -> list[Difference]:
    """Files beside the products of a run: nobody recorded them, nobody reads them."""
    known = {decode_path(product.path) for product in products} | {PurePosixPath(DECLARATION)}
    extra = [path for path in files if path not in known and not known.intersection(path.parents)]
    return [
        Difference(
            Kind.FILE_UNKNOWN, f"{output}/{encode_name(str(path))}", "a file that is no product of its run",
            f"`mv {_place(root, output, path)} FOLDER` moves it away; or let it be: nothing reads it",
        )
        for path in extra
    ]  # fmt: skip


def _unknown_special(special: Sequence[TreeEntry], output: str, root: PurePosixPath) -> list[Difference]:
    """Wherever they lie, also inside a product: they came after its job had ended."""
    return [
        Difference(
            Kind.FILE_UNKNOWN, f"{output}/{encode_name(str(entry.path))}", f"{_special_text(entry)}, of no product",
            f"`rm {_place(root, output, entry.path)}` takes it away, and nothing else",
        )
        for entry in special
    ]  # fmt: skip


def _special_text(entry: TreeEntry) -> str:
    if entry.kind is EntryKind.SYMLINK:
        return f"a link to {encode_name(entry.link_target or '')}"
    return "neither a file nor a folder nor a link (a FIFO, a socket, a device)"


def _place(root: PurePosixPath, output: str, path: PurePosixPath) -> str:
    return quote_path(root / decode_path(output) / path)


# --- whole trees ------------------------------------------------------------------------------------------------------


def pipelines_missed(differences: Iterable[Difference]) -> list[str]:
    """Pipelines of which products or records are not there: whether anything of them is has to be looked at."""
    return sorted({d.pipeline for d in differences if d.kind in _GONE})


def gather_away(differences: Sequence[Difference], away: Collection[str], root: PurePosixPath) -> list[Difference]:
    """One difference for each pipeline that is `away` as a whole, instead of all that follows from it.

    A file system that is not mounted, and a base directory of which only the mark is there, look like this.
    """
    kept = [d for d in differences if not (d.kind in _OF_A_TREE and d.pipeline in away)]
    gone = [d for d in differences if d.kind in _GONE and d.pipeline in away]
    runs = Counter(pipeline for pipeline, _ in {(d.pipeline, d.run_directory) for d in gone})
    return kept + [_tree_away(pipeline, count, root) for pipeline, count in sorted(runs.items())]


def _tree_away(pipeline: str, runs: int, root: PurePosixPath) -> Difference:
    folder = quote_path(root / pipeline / "lost")
    return Difference(
        Kind.TREE_AWAY, pipeline,
        f"there is no folder of any step, and {count_text(runs, 'run')} with products or a record should be",
        "mount it, or bring it back; nothing of it is written down. Only if it is lost for good: "
        f"`mkdir -p {folder}`, then {MEND}",
    )  # fmt: skip


def runs_losing(differences: Iterable[Difference]) -> int:
    """Runs whose products would be written down as missing."""
    return len({d.run_directory for d in differences if d.kind in (Kind.PRODUCT_MISSING, Kind.PRODUCT_CHANGED)})


# --- the cache -----------------------------------------------------------------------------------------------------------


def cache_difference(
    package: KnownPackage, entries: Sequence[TreeEntry] | None, hashes: Mapping[PurePosixPath, str] | None = None
) -> Difference | None:
    """`hashes` (sha256 hex) by path below the package's folder."""
    files = [entry for entry in entries or () if entry.kind is EntryKind.FILE]
    size = sum(entry.size_bytes for entry in files)
    what = None
    if entries is None:
        what = "is not there"
    elif (size, len(files)) != (package.size_bytes, package.file_count):
        were = f"{package.size_bytes} in {package.file_count} were staged"
        what = f"has {size} bytes in {count_text(len(files), 'file')}, {were}"
    elif hashes is not None and package.tree_digest is not None:
        digest = f"sha256:{tree_digest(_tree(PurePosixPath(), files, hashes))}"
        what = None if digest == package.tree_digest else f"has the digest {digest}, {package.tree_digest} was staged"
    if what is None:
        return None
    return Difference(
        Kind.CACHE_DAMAGED, package.directory, f"the staged package {package.name} {what}",
        f"{MEND} takes it out of the cache; the next run that needs it has it brought again", package.id,
    )  # fmt: skip


def unknown_cache_folder(directory: str) -> Difference:
    return Difference(
        Kind.CACHE_UNKNOWN, directory, "a staged package that the ops-db does not know",
        f"{MEND} removes it: it is a copy of ours",
    )  # fmt: skip


# --- runs ------------------------------------------------------------------------------------------------------------


def run_differences(
    run_id: int, directory: str, output: str, there: Mapping[str, bool], link: str | None, damage: str | None = None
) -> list[Difference]:
    """Of a completed run: `there` says of `run.json` and `output` whether they are; `link` is what `output` leads to;
    `damage`: what is wrong with a `run.json` that is there."""
    found = []
    if not there["run.json"]:
        found.append(Difference(
            Kind.RUN_RECORD_MISSING, f"{directory}/run.json", f"run {run_id} has no record beside its output",
            f"{MEND} makes it again from the ops-db; without it the files do not tell what they are", run_id,
        ))  # fmt: skip
    elif damage:
        found.append(Difference(
            Kind.RUN_RECORD_DAMAGED, f"{directory}/run.json", f"the record of run {run_id} is damaged: {damage}",
            f"{MEND} makes it again from the ops-db; a folder in its place has to be moved away before", run_id,
        ))  # fmt: skip
    target = str(PurePosixPath(output).relative_to(directory))
    if link != target:
        what = f"run {run_id} has no link to the output that counts"
        wrong = _wrong_link(there["output"], link)
        found.append(Difference(
            Kind.OUTPUT_LINK_WRONG, f"{directory}/output", f"{what}{wrong}", _mend_link(there["output"], link), run_id,
            target=target,
        ))  # fmt: skip
    return found


def _wrong_link(there: bool, link: str | None) -> str:
    if link is not None:
        return f": it leads to {encode_name(link)}"
    return ": something else is in its place" if there else ""


def _mend_link(there: bool, link: str | None) -> str:
    if there and link is None:
        return f"move away what is there, then {MEND} puts it right"
    return f"{MEND} puts it right"


def latest_difference(wanted: LatestLink, link: str | None, *, there: bool) -> Difference | None:
    """Of the stable path of a sub-group: `link` is what it leads to, `there` whether anything is."""
    if link == wanted.target:  # also where nothing is wanted, and something of somebody else's lies there
        return None
    what = f"is to be {wanted.target}" if wanted.target else "of this sub-group is none to be used"
    in_the_way = there and link is None
    return Difference(
        Kind.LATEST_LINK_WRONG, encode_name(str(wanted.path)), f"the newest product {what}{_wrong_link(there, link)}",
        f"{_mend_link(there, link)}, with the next `ccatwm collect`", None,
        None if in_the_way else wanted.sub_group_id, wanted.target,
    )  # fmt: skip


def unknown_run(directory: str, *, has_record: bool, copy: Copy | None = None, root: PurePosixPath) -> Difference:
    """`copy`: where it is one of a run that the ops-db knows."""
    if copy is not None:
        let_be = "; or let it be: nothing reads it" if copy.there else ""
        what, next = copy.what, f"{copy.mend(root)}{let_be}"
    elif has_record:
        what = "a completed run that the ops-db does not know"
        next = f"`ccatwm fsck --import {directory}` makes its rows again"
    else:
        what, next = "a run that the ops-db does not know", f"{RECONCILE} adopts what can be, and names the rest"
    return Difference(Kind.RUN_UNKNOWN, directory, what, next)


def unknown_attempt(directory: str, run_id: int, number: int) -> Difference:
    return Difference(
        Kind.ATTEMPT_UNKNOWN, f"{directory}/attempt-{number}", f"an attempt of run {run_id} that the ops-db does not know",
        f"{RECONCILE} adopts it, or names it", run_id,
    )  # fmt: skip


# --- published sets --------------------------------------------------------------------------------------------------


def set_difference(
    row: Mapping[str, Any], recorded: tuple[SetRecord | None, str] | None, root: PurePosixPath
) -> Difference | None:
    """Of a published set: `recorded` is its record, or what is wrong with it; None where there is none."""
    path, name = record_path(row["name"]), row["name"]
    if recorded is None:
        return Difference(
            Kind.SET_RECORD_MISSING, str(path), f"the published set {name} has no record on disk",
            f"{MEND} makes it again from the ops-db; a restore of an older backup would lose the set without it",
        )  # fmt: skip
    record, problem = recorded
    if record is None:
        return Difference(
            Kind.SET_RECORD_DAMAGED, str(path), f"the record of the published set {name} is damaged: {problem}",
            f"{MEND} makes it again from the ops-db",
        )  # fmt: skip
    if not has_same_products(record, row["products"]):
        what = f"the record of the published set {name} has other products than the ops-db"
        next = f"`ccatwm publish {name}` shows those; if they are right, `mv {quote_path(root / path)} FOLDER`, then {MEND}"
        return Difference(Kind.SET_RECORD_DIFFERS, str(path), what, next)
    if words := differing_words(record, row):
        what = f"the record of the published set {name} has another {' and '.join(words)} than the ops-db"
        next = f"{words_command(record, words)} says what the record has; say the others where these are right"
        return Difference(Kind.SET_RECORD_DIFFERS, str(path), what, next)
    return None


def unknown_set(name: str) -> Difference:
    return Difference(
        Kind.SET_UNKNOWN, str(record_path(name)), f"a published set {name} that the ops-db does not know",
        "`ccatwm fsck --import` makes its row again, where its products have theirs; `ccatwm gc` leaves these until then",
    )  # fmt: skip


# --- what lies between runs ---------------------------------------------------------------------------------------------


def run_places(levels: Sequence[Sequence[PurePosixPath]], known: Collection[str]) -> set[PurePosixPath]:
    """Folders of pipelines, steps and sub-groups that have runs, and the runs: by what lies on disk (`levels`), and by the
    ops-db (`known`: folders of sub-groups)."""
    runs = [path for path in levels[-1] if parse_run_directory(str(path)) is not None]
    below = {*runs, *map(PurePosixPath, known)}
    return below.union(*(path.parents for path in below)) - {PurePosixPath()}


def stray_folders(levels: Sequence[Sequence[PurePosixPath]], places: Collection[PurePosixPath]) -> list[PurePosixPath]:
    """Folders beside those of steps, sub-groups and runs. What lies beside pipelines may be anything of the site's."""
    return [path for level in levels[1:] for path in level if path not in places and path.parent in places]


def is_stray(path: PurePosixPath) -> bool:
    """Whether a file or link may not be where it is, in the folder of a pipeline, step or sub-group."""
    is_latest = path.name == LATEST and len(path.parts) == RUN_DEPTH
    return not path.name.startswith(".") and not is_latest


def is_stray_in_run(path: PurePosixPath) -> bool:
    """The same in a run directory, and in the folder of an attempt, where there are folders alone."""
    is_ours = len(path.parts) == RUN_DEPTH + 1 and path.name in ("run.json", "output")
    return not path.name.startswith(".") and not is_ours


def strange_attempts(folders: Mapping[PurePosixPath, Iterable[str]]) -> list[PurePosixPath]:
    """Of the folders in run directories those that are called attempts, and by no number."""
    return [
        run / name
        for run, names in folders.items()
        for name in names
        if name.startswith("attempt-") and parse_attempt_name(name) is None
    ]


def stray(
    path: PurePosixPath, kind: EntryKind, link: str | None, root: PurePosixPath, of: str = "of no step, sub-group or run"
) -> Difference:
    """Something in the folder of a pipeline, step or sub-group, or where `of` says; `link`: what a link leads to."""
    place = quote_path(root / path)
    if kind is EntryKind.DIRECTORY:
        what, next = "a folder in which no run is", f"`mv {place} FOLDER` moves it away; or let it be: nothing reads it"
    elif link is not None:
        what, next = f"a link to {encode_name(link)}", f"`rm {place}` takes it away, and nothing else"
    else:
        what, next = "a file", f"`mv {place} FOLDER` moves it away; or let it be: nothing reads it"
    return Difference(Kind.STRAY, encode_name(str(path)), f"{what}, {of}", next)


# --- the trash ------------------------------------------------------------------------------------------------------------


def trash_missing(path: str, run_id: int, what: str, back_at: str | None = None) -> Difference:
    """`back_at`: its place before, where something lies there again."""
    gone = f"{what} of run {run_id}, taken away by `ccatwm gc`, lies in the trash no more"
    if back_at is not None:
        return Difference(
            Kind.TRASH_MISSING, path,
            f"{gone}, and is back at {back_at}: somebody moved it, or the ops-db was restored from before a "
            "`ccatwm gc --undo`", f"`ccatwm gc --undo {run_id}` writes that down; so does `ccatwm gc`", run_id,
        )  # fmt: skip
    return Difference(
        Kind.TRASH_MISSING, path, gone,
        "nothing brings it back; `ccatwm lineage PRODUCT` tells from what it can be made again", run_id,
    )  # fmt: skip


def trash_unknown(path: str) -> Difference:
    return Difference(
        Kind.TRASH_UNKNOWN, path,
        "something in the trash that `ccatwm gc` does not know; it does not hold what is missing of any run as a whole",
        "let it be, or look at it and remove it by hand once nobody needs it",
    )  # fmt: skip


@dataclass(frozen=True)
class GoneOutput:
    """The output of a run that is not there, though none of its products was removed by us. `recorded`: some of them are
    recorded as missing."""

    run_id: int
    sub_group_id: int
    output: PurePosixPath
    products: tuple[KnownProduct, ...]
    recorded: bool

    @property
    def clue(self) -> tuple[PurePosixPath, int | None]:
        """Its largest file, or a folder where it has none: what is looked for before anything is compared."""
        files = [product for product in self.products if not product.is_directory]
        if not files:
            return decode_path(self.products[0].path), None
        largest = max(files, key=lambda product: product.size_bytes)
        return decode_path(largest.path), largest.size_bytes


def runs_without_products(differences: Iterable[Difference]) -> set[int]:
    """Runs with products that are not there."""
    found = {parse_run_directory(d.run_directory) for d in differences if d.kind is Kind.PRODUCT_MISSING}
    return {run_id for run_id in found if run_id is not None}


def gone_outputs(
    differences: Iterable[Difference],
    present: Mapping[int, Sequence[KnownProduct]],
    missing: Mapping[int, Sequence[KnownProduct]],
) -> dict[int, GoneOutput]:
    """Outputs of runs of which no product is there: those that are recorded as `present` (by run) are not, the others are
    recorded as `missing`."""
    gone = {d.row for d in differences if d.kind is Kind.PRODUCT_MISSING}
    found = {}
    for run_id in present.keys() | missing.keys():
        recorded = missing.get(run_id, ())
        some = (*present.get(run_id, ()), *recorded)
        if some and all(product.id in gone for product in present.get(run_id, ())):
            found[run_id] = GoneOutput(run_id, some[0].sub_group_id, _output_of(some[0]), some, bool(recorded))
    return found


def _output_of(product: KnownProduct) -> PurePosixPath:
    return decode_path(product.full_path.removesuffix(f"/{product.path}"))


def clues_of(entries: Sequence[TreeEntry]) -> set[tuple[PurePosixPath, int | None]]:
    """What a tree has that may be the clue to an output."""
    files = {(entry.path, entry.size_bytes) for entry in entries if entry.kind is EntryKind.FILE}
    return files | {(entry.path, None) for entry in entries if entry.kind is EntryKind.DIRECTORY}


def is_whole(
    gone: GoneOutput, entries: Sequence[TreeEntry], hashes: Mapping[PurePosixPath, str] | None = None
) -> bool:
    """Whether a tree has all products of an output as they were recorded; by size alone without `hashes`."""
    return len(products_back(gone.products, entries, hashes)) == len(gone.products)


def products_in_trash(path: str, gone: GoneOutput, root: PurePosixPath) -> Difference:
    move = f"mv {quote_path(root / decode_path(path))} {quote_path(root / gone.output)}"
    says = "was told that they are missing from" if gone.recorded else "says are at"
    again = f", and then {MEND} counts them again" if gone.recorded else ""
    return Difference(
        Kind.PRODUCTS_IN_TRASH, path,
        f"it holds {count_text(len(gone.products), 'product')} of run {gone.run_id}, which the ops-db {says} "
        f"{encode_name(str(gone.output))}: `ccatwm gc` took them away, and the ops-db was restored from before that",
        f"{MEND} brings them back; so does `{move}`{again}", gone.run_id, gone.sub_group_id, str(gone.output),
    )  # fmt: skip


def without_found(differences: Iterable[Difference], found: Iterable[Difference]) -> list[Difference]:
    """Nothing is missing that lies in the trash as it was, and nothing there is unknown that it is known to be."""
    runs = {d.row for d in found}
    folders = {d.path for d in found}
    return [
        d
        for d in differences
        if not (d.kind is Kind.PRODUCT_MISSING and parse_run_directory(d.run_directory) in runs)
        and not (d.kind is Kind.TRASH_UNKNOWN and d.path in folders)
    ]
