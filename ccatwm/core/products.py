"""Which products a run made: by directory, or as `products.json` declares them. Pure."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ccatwm.core.digests import tree_digest
from ccatwm.core.model import ProductType, StepRole, TreeEntry
from ccatwm.core.names import encode_name, raw_name
from ccatwm.core.outputs import Hashes, Listing, hash_differences, listing_of, shown, size_of, text_path

DECLARATION = PurePosixPath("products.json")
DECLARED_IN = b"products.json"
DECLARATION_SCHEMA = "ccatwm.products/1"
TYPE_BY_DIRECTORY = {
    "science": ProductType.SCIENCE,
    "qa": ProductType.QA_METRIC,
    "plots": ProductType.PLOT,
    "statistics": ProductType.STATISTICS,
    "logs": ProductType.LOG,
}
TREE_MARKERS = frozenset({"zarr.json", ".zgroup", ".zattrs", ".zarray"})
_MARKERS = frozenset(name.encode() for name in TREE_MARKERS)
_MARKER_ENDS = tuple(_MARKERS)
_TYPES = {name.encode(): kind for name, kind in TYPE_BY_DIRECTORY.items()}
MAX_NAMED = 20
LONGEST_PATH = 2500  # bytes as recorded: what fits into an index of PostgreSQL (a third of a page, 2704)
APPTAINER_FAILED = 255


class PlannedProduct(NamedTuple):
    """A product to be recorded. `raw` is its path below the output; `sha256` of a directory is its tree digest (hex).

    A tuple, because a run may have 100,000 of them.
    """

    type: ProductType
    raw: bytes
    is_directory: bool
    size_bytes: int
    file_count: int
    sha256: str
    dims: Mapping[str, Any] | None = None
    quality: Mapping[str, Any] | None = None

    @property
    def path(self) -> PurePosixPath:
        return text_path(self.raw)

    @property
    def name(self) -> str:
        """Its path as it is recorded: percent-encoded where it is not plain text."""
        return encode_name(self.raw)


@dataclass(frozen=True)
class ProductPlan:
    """Products and warnings, or `problem`: why the output is bad."""

    products: tuple[PlannedProduct, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Declared:
    """One entry of `products.json`."""

    raw: bytes  # path below the output
    type: ProductType | None
    dims: Mapping[str, Any] | None
    quality: Mapping[str, Any] | None


@dataclass(frozen=True)
class Declaration:
    """What `products.json` says."""

    products: tuple[Declared, ...] = ()
    warnings: tuple[str, ...] = ()
    quality: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = field(default=())


def plan_products(
    entries: Iterable[TreeEntry],
    hashes: Mapping[PurePosixPath, str],
    products_json: bytes | None,
    *,
    role: StepRole,
) -> ProductPlan:
    """`plan_output` of few entries, as `WorkFiles` list them."""
    raw = {raw_name(str(path)): digest.encode("ascii") for path, digest in hashes.items()}
    return plan_output(listing_of(entries), raw, products_json, role=role)


def plan_output(listing: Listing, hashes: Hashes, products_json: bytes | None, *, role: StepRole) -> ProductPlan:
    """The products of an output that holds this, whose files the job hashed."""
    declaration = parse_declaration(products_json)
    found = _Found.of(listing)
    problems = [*declaration.problems, *_foreign_problems(found, listing, declaration)]
    if not found.all_are_in(hashes):
        problems += hash_differences(listing, hashes)
    problems += [
        f"products.json declares {shown(d.raw)}, which is not there"
        for d in declaration.products
        if d.raw not in found.files and d.raw not in found.folders and not _passed(d.raw, found.special)
    ]
    if problems:
        return ProductPlan(problem=joined(problems))
    planned = _plan(found, listing, hashes, declaration, role)
    if not planned:
        return ProductPlan(problem="the program ended well but left no product")
    if too_long := [p.name for p in planned if len(p.raw) > LONGEST_PATH // 3 and len(p.name.encode()) > LONGEST_PATH]:
        return ProductPlan(problem=joined(f"{name[:80]}... is longer than {LONGEST_PATH} bytes" for name in too_long))
    warnings = [*declaration.warnings, *_special_warnings(found), *_unclassified_warnings(planned)]
    return ProductPlan(tuple(planned), tuple(warnings))


@dataclass(frozen=True)
class _Found:
    """Paths of an output by what they are; `products.json` itself is no product."""

    files: dict[bytes, None]
    folders: set[bytes]
    special: dict[bytes, None]
    declares: bool = False  # whether `products.json` is there

    @staticmethod
    def of(listing: Listing) -> _Found:
        files: dict[bytes, None] = {}
        folders: set[bytes] = set()
        special: dict[bytes, None] = {}
        for path, head in listing.entries.items():
            if head.startswith(b"f"):
                files[path] = None
            elif head.startswith(b"d"):
                folders.add(path)
            else:
                special[path] = None
        declares = DECLARED_IN in files
        files.pop(DECLARED_IN, None)
        return _Found(files, folders, special, declares)

    def all_are_in(self, hashes: Hashes) -> bool:
        """Whether exactly these files were hashed; without another set of 100,000."""
        return (
            len(hashes) == len(self.files) + self.declares
            and self.files.keys() <= hashes.keys()
            and (not self.declares or DECLARED_IN in hashes)
        )


# --- products.json -------------------------------------------------------------------------------------------------


def parse_declaration(content: bytes | None) -> Declaration:
    """`products.json`: {"schema": "ccatwm.products/1", "products": [{path, type, dims, quality}], "warnings": [...]}."""
    if content is None:
        return Declaration()
    try:
        data = json.loads(content, parse_constant=_refuse_constant)
        _refuse_unstorable(data)
    except (ValueError, RecursionError) as error:
        return Declaration(problems=(f"products.json is no JSON: {error}",))
    if not isinstance(data, dict) or not isinstance(data.get("products", []), list):
        return Declaration(problems=('products.json is not {"products": [...]}',))
    problems: list[str] = []
    if data.get("schema", DECLARATION_SCHEMA) != DECLARATION_SCHEMA:
        problems.append(f"products.json: schema {data['schema']!r} is not {DECLARATION_SCHEMA!r}")
    declared = [_declared(n, entry, problems) for n, entry in enumerate(data.get("products", []))]
    found = tuple(d for d in declared if d is not None)
    warnings = _warnings(data, problems)
    quality = _mapping(data, "quality", "products.json", problems)
    return Declaration(found, warnings, quality, (*problems, *_twice(found)))


def _refuse_unstorable(data: Any) -> None:
    """Texts and numbers that no ops-db takes: lone surrogates, NUL, numbers beyond a double. Errors: ValueError."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a text has half a character (a lone surrogate)") from None
    if "\\u0000" in text:
        raise ValueError("a text has a NUL character")


def _refuse_constant(name: str) -> Any:
    """Python reads these, JSON and PostgreSQL do not know them."""
    raise ValueError(f"{name} is no number of JSON (write null)")


def _twice(declared: Sequence[Declared]) -> list[str]:
    counts = Counter(d.raw for d in declared)
    return [f"products.json declares {shown(path)} twice" for path, count in counts.items() if count > 1]


def _warnings(data: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    warnings = data.get("warnings", [])
    if not isinstance(warnings, list) or not all(isinstance(text, str) for text in warnings):
        problems.append("products.json: warnings is not a list of texts")
        return ()
    return tuple(encode_name(text)[:500] for text in warnings)


def _declared(number: int, entry: Any, problems: list[str]) -> Declared | None:
    where = f"products.json: product {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
        problems.append(f"{where} has no path")
        return None
    path = PurePosixPath(entry["path"])
    if path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        problems.append(f"{where}: path {encode_name(str(path))} leads out of the output")
        return None
    kind = entry.get("type")
    if kind is not None and str(kind).upper() not in ProductType.__members__:
        problems.append(f"{where}: type {kind!r} is none of {', '.join(ProductType.__members__)}")
        kind = None  # its path is looked at, too
    dims, quality = (_mapping(entry, key, where, problems) for key in ("dims", "quality"))
    return Declared(raw_name(str(path)), ProductType(str(kind).upper()) if kind else None, dims, quality)


def _mapping(data: Mapping[str, Any], key: str, where: str, problems: list[str]) -> Mapping[str, Any] | None:
    value = data.get(key)
    if value is not None and not isinstance(value, dict):
        problems.append(f"{where}: {key} is not an object")
        return None
    return value


# --- what may not be there -------------------------------------------------------------------------------------------


def _foreign_problems(found: _Found, listing: Listing, declaration: Declaration) -> list[str]:
    """Links that lead out of the output, and declared products that are no files or folders."""
    problems = [
        f"{shown(path)} is a symbolic link that leads out of the output"
        for path in sorted(found.special)
        if _leads_out(path, listing.targets.get(path))
    ]
    return problems + [
        f"products.json declares {shown(declared.raw)}, which is or passes a link or special file"
        for declared in declaration.products
        if _passed(declared.raw, found.special)
    ]


def _passed(path: bytes, special: Mapping[bytes, None]) -> bool:
    """Whether the path is, or leads through, something special."""
    return bool(special) and any(part in special for part in (path, *_above(path)))


def _leads_out(path: bytes, target: bytes | None) -> bool:
    if target is None:
        return False
    end = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return end.startswith((b"/", b"..")) or target.startswith(b"/")


def _special_warnings(found: _Found) -> list[str]:
    what = "refused (links and special files are no products)"
    return [_named(what, sorted(found.special))] if found.special else []


def _unclassified_warnings(planned: Sequence[PlannedProduct]) -> list[str]:
    paths = [p.raw for p in planned if p.type is ProductType.UNCLASSIFIED]
    return [_named("in no known directory (UNCLASSIFIED)", paths)] if paths else []


# --- planning ----------------------------------------------------------------------------------------------------------


def _plan(
    found: _Found, listing: Listing, hashes: Hashes, declaration: Declaration, role: StepRole
) -> list[PlannedProduct]:
    """In the order of their paths. Each file is looked at once, however many trees there are."""
    declared = {d.raw: d for d in declaration.products}
    trees = {path for path in declared if path in found.folders} | _found_trees(found, declared)
    tree_of = _TreeOf(_outermost(trees))
    below: dict[bytes, list[bytes]] = {root: [] for root in tree_of.roots}
    plain = [path for path in found.files if path not in declared]
    planned = [_declared_file(path, listing, hashes, declared[path], role) for path in declared if path in found.files]
    if tree_of.roots:
        plain = [path for path in plain if not _put_below(below, tree_of.path(path), path)]
        for path in declared.keys() & found.files.keys():
            _put_below(below, tree_of.path(path), path)
    planned += _plain_files(plain, listing, hashes, role)
    for root, paths in below.items():
        planned.append(_tree_product(root, paths, listing, hashes, declared.get(root), role))
    if declaration.quality is not None:
        planned = [_with_run_quality(product, declaration.quality) for product in planned]
    return sorted(planned, key=_by_parts)


def _by_parts(product: PlannedProduct) -> bytes:
    """Folder by folder: what separates names sorts before all that may be in one."""
    return product.raw.replace(b"/", b"\0")


class _TreeOf:
    """In which of some trees, none inside another, a file lies; folders are remembered, since many files share one."""

    def __init__(self, roots: set[bytes]) -> None:
        self.roots = sorted(roots)
        self._known: dict[bytes, bytes | None] = {b"": None, **{root: root for root in roots}}

    def path(self, path: bytes) -> bytes | None:
        if len(self._known) == 1:
            return None
        return self._folder(path.rpartition(b"/")[0])

    def _folder(self, folder: bytes) -> bytes | None:
        way = []
        while folder not in self._known:
            way.append(folder)
            folder = folder.rpartition(b"/")[0]
        found = self._known[folder]
        self._known |= dict.fromkeys(way, found)
        return found


def _found_trees(found: _Found, declared: Mapping[bytes, Declared]) -> set[bytes]:
    """Zarr-like trees: folders named *.zarr, or that hold a store's marker file; not the type directories themselves."""
    named = {path for path in found.folders if _is_zarr(path.rpartition(b"/")[2])}
    marked = set()
    for path in found.files:
        if path.endswith(_MARKER_ENDS):
            folder, _, name = path.rpartition(b"/")
            if name in _MARKERS and folder:
                marked.add(folder)
    return {path for path in named | marked if path not in _TYPES and path not in declared}


def _is_zarr(name: bytes) -> bool:
    return name.endswith(b".zarr") and name != b".zarr"


def _outermost(trees: set[bytes]) -> set[bytes]:
    return {path for path in trees if not any(folder in trees for folder in _above(path))}


def _above(path: bytes) -> Iterable[bytes]:
    """The folders that a path lies in, the nearest first."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


def _type(path: bytes, declared: Declared | None, role: StepRole) -> ProductType:
    if declared is not None and declared.type is not None:
        return declared.type
    first, slash, _ = path.partition(b"/")
    if slash and first in _TYPES:
        return _TYPES[first]
    return ProductType.INTERMEDIATE if role is StepRole.INTERMEDIATE else ProductType.UNCLASSIFIED


def _put_below(below: Mapping[bytes, list[bytes]], root: bytes | None, path: bytes) -> bool:
    """Whether the file belongs to a tree."""
    if root is not None:
        below[root].append(path)
    return root is not None


def _declared_file(
    path: bytes, listing: Listing, hashes: Hashes, declared: Declared, role: StepRole
) -> PlannedProduct:
    return PlannedProduct(
        _type(path, declared, role), path, False, size_of(listing.entries[path]), 1, hashes[path].decode("ascii"),
        declared.dims, declared.quality,
    )  # fmt: skip


def _plain_files(paths: Iterable[bytes], listing: Listing, hashes: Hashes, role: StepRole) -> Iterable[PlannedProduct]:
    """Files that nobody declared: there may be 100,000, and files of one folder have one type."""
    entries = listing.entries
    types: dict[bytes, ProductType] = {}
    for path in paths:
        folder = path.rpartition(b"/")[0]
        if folder not in types:
            types[folder] = _type(path, None, role)
        size = int(entries[path].split(b" ", 2)[1])
        yield PlannedProduct(types[folder], path, False, size, 1, hashes[path].decode("ascii"))


def _tree_product(
    root: bytes, paths: Sequence[bytes], listing: Listing, hashes: Hashes, declared: Declared | None, role: StepRole
) -> PlannedProduct:
    start = len(root) + 1
    sizes = [size_of(listing.entries[path]) for path in paths]
    digest = tree_digest(
        (path[start:], size, hashes[path].decode("ascii")) for path, size in zip(paths, sizes, strict=True)
    )
    return PlannedProduct(
        _type(root, declared, role), root, True, sum(sizes), len(paths), digest,
        declared.dims if declared else None, declared.quality if declared else None,
    )  # fmt: skip


def _with_run_quality(product: PlannedProduct, quality: Mapping[str, Any]) -> PlannedProduct:
    """Metrics of the whole run go to its science and intermediate products that have none of their own."""
    main = (ProductType.SCIENCE, ProductType.INTERMEDIATE)
    return product._replace(quality=quality) if product.type in main and product.quality is None else product


# --- containers ----------------------------------------------------------------------------------------------------------


def container_failure(exit_code: int, stderr_tail: bytes) -> bool:
    """Whether Apptainer itself failed: 255 with its own `FATAL:` as the last line (a program may end with 255 too)."""
    lines = stderr_tail.decode("utf-8", "replace").strip().splitlines()
    return (
        exit_code == APPTAINER_FAILED
        and bool(lines)
        and lines[-1].lstrip("\x1b[0123456789;m").startswith("FATAL:")
    )


def _named(what: str, paths: Sequence[bytes]) -> str:
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    return f"{what}: {', '.join(shown(p) for p in paths[:MAX_NAMED])}{more}"


def joined(problems: Iterable[str]) -> str:
    """Problems as one sentence: the first of many, and how many more there are."""
    listed = list(problems)
    more = f" (and {len(listed) - MAX_NAMED} more)" if len(listed) > MAX_NAMED else ""
    return "; ".join(listed[:MAX_NAMED]) + more
