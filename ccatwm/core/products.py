"""Which products a run made: by directory, or as `products.json` declares them. Pure."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.digests import tree_digest
from ccatwm.core.model import EntryKind, ProductType, StepRole, TreeEntry
from ccatwm.core.names import encode_name

DECLARATION = PurePosixPath("products.json")
DECLARATION_SCHEMA = "ccatwm.products/1"
TYPE_BY_DIRECTORY = {
    "science": ProductType.SCIENCE,
    "qa": ProductType.QA_METRIC,
    "plots": ProductType.PLOT,
    "statistics": ProductType.STATISTICS,
    "logs": ProductType.LOG,
}
TREE_MARKERS = frozenset({"zarr.json", ".zgroup", ".zattrs", ".zarray"})
MAX_NAMED = 20
LONGEST_PATH = 2500  # bytes as recorded: what fits into an index of PostgreSQL (a third of a page, 2704)
APPTAINER_FAILED = 255


@dataclass(frozen=True)
class PlannedProduct:
    """A product to be recorded. `path` is relative to the output; `sha256` of a directory is its tree digest (hex)."""

    type: ProductType
    path: PurePosixPath
    is_directory: bool
    size_bytes: int
    file_count: int
    sha256: str
    dims: Mapping[str, Any] | None = None
    quality: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ProductPlan:
    """Products and warnings, or `problem`: why the output is bad."""

    products: tuple[PlannedProduct, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Declared:
    """One entry of `products.json`."""

    path: PurePosixPath
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
    entries: Sequence[TreeEntry],
    hashes: Mapping[PurePosixPath, str],
    products_json: bytes | None,
    *,
    role: StepRole,
) -> ProductPlan:
    """The products of an output with these entries, whose files the job hashed."""
    declaration = parse_declaration(products_json)
    problems = (
        list(declaration.problems) + _foreign_problems(entries, declaration) + _hash_problems(entries, hashes)
    )
    files = {e.path: e for e in entries if e.kind is EntryKind.FILE and e.path != DECLARATION}
    folders = {e.path for e in entries if e.kind is EntryKind.DIRECTORY}
    missing = [d.path for d in declaration.products if d.path not in files and d.path not in folders]
    special = {e.path for e in entries if e.kind in (EntryKind.SYMLINK, EntryKind.OTHER)}  # told already
    problems += [
        f"products.json declares {_shown(p)}, which is not there"
        for p in missing
        if special.isdisjoint((p, *p.parents))
    ]
    if problems:
        return ProductPlan(problem=_joined(problems))
    planned = _plan(files, folders, hashes, declaration, role)
    if not planned:
        return ProductPlan(problem="the program ended well but left no product")
    if too_long := [p.path for p in planned if len(_shown(p.path).encode()) > LONGEST_PATH]:
        return ProductPlan(
            problem=_joined(f"{_shown(p)[:80]}... is longer than {LONGEST_PATH} bytes" for p in too_long)
        )
    warnings = [*declaration.warnings, *_special_warnings(entries), *_unclassified_warnings(planned)]
    return ProductPlan(tuple(planned), tuple(warnings))


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
    counts = Counter(d.path for d in declared)
    return [f"products.json declares {_shown(path)} twice" for path, count in counts.items() if count > 1]


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
        problems.append(f"{where}: path {_shown(path)} leads out of the output")
        return None
    kind = entry.get("type")
    if kind is not None and str(kind).upper() not in ProductType.__members__:
        problems.append(f"{where}: type {kind!r} is none of {', '.join(ProductType.__members__)}")
        kind = None  # its path is looked at, too
    dims, quality = (_mapping(entry, key, where, problems) for key in ("dims", "quality"))
    return Declared(path, ProductType(str(kind).upper()) if kind else None, dims, quality)


def _mapping(data: Mapping[str, Any], key: str, where: str, problems: list[str]) -> Mapping[str, Any] | None:
    value = data.get(key)
    if value is not None and not isinstance(value, dict):
        problems.append(f"{where}: {key} is not an object")
        return None
    return value


# --- what may not be there -------------------------------------------------------------------------------------------


def _foreign_problems(entries: Sequence[TreeEntry], declaration: Declaration) -> list[str]:
    """Links that lead out of the output, and declared products that are no files or folders."""
    special = {e.path: e for e in entries if e.kind in (EntryKind.SYMLINK, EntryKind.OTHER)}
    problems = [
        f"{_shown(e.path)} is a symbolic link that leads out of the output"
        for e in special.values()
        if _leads_out(e)
    ]
    for declared in declaration.products:
        passed = [p for p in (declared.path, *declared.path.parents) if p in special]
        problems += [f"products.json declares {_shown(declared.path)}, which is or passes a link or special file"
                     for _ in passed[:1]]  # fmt: skip
    return problems


def _leads_out(entry: TreeEntry) -> bool:
    if entry.kind is not EntryKind.SYMLINK or entry.link_target is None:
        return False
    target = posixpath.normpath(posixpath.join(str(entry.path.parent), entry.link_target))
    return target.startswith(("/", "..")) or entry.link_target.startswith("/")


def _hash_problems(entries: Sequence[TreeEntry], hashes: Mapping[PurePosixPath, str]) -> list[str]:
    files = {e.path for e in entries if e.kind is EntryKind.FILE}
    problems = [
        f"{_shown(path)} was hashed by the job, but is gone" for path in sorted(hashes.keys() - files)
    ]
    return problems + [
        f"{_shown(path)} came after the job had hashed its output" for path in sorted(files - hashes.keys())
    ]


def _special_warnings(entries: Sequence[TreeEntry]) -> list[str]:
    special = [e for e in entries if e.kind in (EntryKind.SYMLINK, EntryKind.OTHER)]
    return (
        [_named("refused (links and special files are no products)", [e.path for e in special])]
        if special
        else []
    )


def _unclassified_warnings(planned: Sequence[PlannedProduct]) -> list[str]:
    paths = [p.path for p in planned if p.type is ProductType.UNCLASSIFIED]
    return [_named("in no known directory (UNCLASSIFIED)", paths)] if paths else []


# --- planning ----------------------------------------------------------------------------------------------------------


def _plan(
    files: Mapping[PurePosixPath, TreeEntry],
    folders: set[PurePosixPath],
    hashes: Mapping[PurePosixPath, str],
    declaration: Declaration,
    role: StepRole,
) -> list[PlannedProduct]:
    declared = {d.path: d for d in declaration.products}
    trees = {p for p in declared if p in folders} | _found_trees(files, folders, declared)
    planned: dict[PurePosixPath, PlannedProduct] = {}
    for root in _outermost(trees):
        planned[root] = _tree_product(root, files, hashes, declared.get(root), role)
    inside = _outermost(trees)
    for path, entry in files.items():
        if not any(root in path.parents for root in inside) or path in declared:
            planned[path] = _file_product(entry, hashes[path], declared.get(path), role)
    if declaration.quality is not None:
        planned = _with_run_quality(planned, declaration.quality)
    return [planned[path] for path in sorted(planned)]


def _found_trees(
    files: Mapping[PurePosixPath, TreeEntry],
    folders: set[PurePosixPath],
    declared: Mapping[PurePosixPath, Declared],
) -> set[PurePosixPath]:
    """Zarr-like trees: folders named *.zarr, or that hold a store's marker file; not the type directories themselves."""
    named = {p for p in folders if p.suffix == ".zarr"}
    marked = {p.parent for p in files if p.name in TREE_MARKERS and p.parent != PurePosixPath(".")}
    plain = {PurePosixPath(name) for name in TYPE_BY_DIRECTORY}
    return {p for p in named | marked if p not in plain and p not in declared}


def _outermost(trees: set[PurePosixPath]) -> set[PurePosixPath]:
    return {p for p in trees if not any(parent in trees for parent in p.parents)}


def _type(path: PurePosixPath, declared: Declared | None, role: StepRole) -> ProductType:
    if declared is not None and declared.type is not None:
        return declared.type
    if len(path.parts) > 1 and path.parts[0] in TYPE_BY_DIRECTORY:
        return TYPE_BY_DIRECTORY[path.parts[0]]
    return ProductType.INTERMEDIATE if role is StepRole.INTERMEDIATE else ProductType.UNCLASSIFIED


def _file_product(entry: TreeEntry, sha256: str, declared: Declared | None, role: StepRole) -> PlannedProduct:
    return PlannedProduct(
        _type(entry.path, declared, role), entry.path, False, entry.size_bytes, 1, sha256,
        declared.dims if declared else None, declared.quality if declared else None,
    )  # fmt: skip


def _tree_product(
    root: PurePosixPath,
    files: Mapping[PurePosixPath, TreeEntry],
    hashes: Mapping[PurePosixPath, str],
    declared: Declared | None,
    role: StepRole,
) -> PlannedProduct:
    below = [e for path, e in files.items() if root in path.parents]
    digest = tree_digest(
        (str(e.path.relative_to(root)).encode("utf-8", "surrogateescape"), e.size_bytes, hashes[e.path])
        for e in below
    )
    return PlannedProduct(
        _type(root, declared, role), root, True, sum(e.size_bytes for e in below), len(below), digest,
        declared.dims if declared else None, declared.quality if declared else None,
    )  # fmt: skip


def _with_run_quality(
    planned: Mapping[PurePosixPath, PlannedProduct], quality: Mapping[str, Any]
) -> dict[PurePosixPath, PlannedProduct]:
    """Metrics of the whole run go to its science and intermediate products that have none of their own."""
    main = (ProductType.SCIENCE, ProductType.INTERMEDIATE)
    return {
        path: replace(p, quality=quality) if p.type in main and p.quality is None else p
        for path, p in planned.items()
    }


# --- containers ----------------------------------------------------------------------------------------------------------


def container_failure(exit_code: int, stderr_tail: bytes) -> bool:
    """Whether Apptainer itself failed: 255 with its own `FATAL:` as the last line (a program may end with 255 too)."""
    lines = stderr_tail.decode("utf-8", "replace").strip().splitlines()
    return (
        exit_code == APPTAINER_FAILED
        and bool(lines)
        and lines[-1].lstrip("\x1b[0123456789;m").startswith("FATAL:")
    )


def _shown(path: PurePosixPath) -> str:
    return encode_name(str(path))


def _named(what: str, paths: Sequence[PurePosixPath]) -> str:
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    return f"{what}: {', '.join(_shown(p) for p in paths[:MAX_NAMED])}{more}"


def _joined(problems: Any) -> str:
    listed = list(problems)
    more = f" (and {len(listed) - MAX_NAMED} more)" if len(listed) > MAX_NAMED else ""
    return "; ".join(listed[:MAX_NAMED]) + more
