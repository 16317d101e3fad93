"""Says what a product stands on, and what stands on a raw data package. Touches: the ops-db, reading only.

The tree of inputs is a list in depth-first order with a depth: chains may be longer than recursion allows.
A run that several branches share is opened once; where it is met again its row says `shared`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ccatwm.core.selection import suggest
from ccatwm.core.wording import role_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores.exclusions import published_sets_of
from ccatwm.errors import UsageError
from ccatwm.views.copies import copy_lines, list_copies
from ccatwm.views.places import Places
from ccatwm.views.products import files_text, product_json, told_product

PACKAGE_PREFIX = "package:"
PRODUCT_PREFIX = "product:"
SCHEMA = "ccatwm.lineage/1"
FILES = ("status", "removed_at", "removed_because", "deleted_at")  # of a product, as `products` has them


def build_lineage(
    database: Database,
    grouping: GroupingEngine,
    subject: str,
    *,
    places: Places,
) -> dict[str, Any]:
    """The lineage of `17` or `product:17`, or of `package:NAME`. Errors: UsageError for what is not there."""
    subject = subject.strip()
    if subject.startswith(PACKAGE_PREFIX):
        name = subject.removeprefix(PACKAGE_PREFIX)
        return build_package_lineage(database, grouping, name, places=places)
    number = subject.removeprefix(PRODUCT_PREFIX)
    if not number.isascii() or not number.isdigit():
        next = _meant(database, grouping, subject)
        raise UsageError(f"{subject!r} is neither a product number nor `package:NAME`", next=next)
    return build_product_lineage(database, int(number), places=places)


def _meant(database: Database, grouping: GroupingEngine, subject: str) -> str:
    """What to type for the lineage of what was named otherwise."""
    with database.read() as connection:
        if subject and views.find_package(connection, grouping, subject) is not None:
            return f"`ccatwm lineage {shlex.quote(f'{PACKAGE_PREFIX}{subject}')}`"
    run = subject.removeprefix("run:")
    if run != subject and run.isascii() and run.isdigit():
        return f"`ccatwm show {run}` lists the products of the run; name one of them"
    return "`ccatwm products` lists products; a raw data package is `package:NAME`"


# --- what a product stands on -------------------------------------------------------------------------------


def build_product_lineage(database: Database, product_id: int, *, places: Places) -> dict[str, Any]:
    """Everything a product stands on, back to the raw data."""
    with database.read() as connection:
        product = views.get_product(connection, product_id)
        run_ids = views.list_ancestor_runs(connection, product["run"])
        made_by = views.list_provenance(connection, run_ids)
        inputs = views.list_inputs(connection, run_ids)
        attempts = views.list_attempts(connection, run_ids)
        product_ids = {row["product_id"] for rows in inputs.values() for row in rows if row["product_id"]}
        products = views.list_products_by_id(connection, product_ids)
        published = published_sets_of(connection, [product_id])
    runs = {run_id: _run(made_by[run_id], attempts[run_id], places) for run_id in run_ids}
    own = runs[product["run"]]
    return {
        "schema": SCHEMA,
        "product": product_json(product, places),
        "run": own,
        "inputs": _tree(product["run"], inputs, products, places),
        "raw_data_packages": _packages(inputs),
        "references": _references(inputs),
        "software": own["software"],
        "config": own["config"],
        "runs": [runs[run_id] for run_id in run_ids],
        "published_sets": published,
    }


def _run(row: dict[str, Any], attempts: Sequence[dict[str, Any]], places: Places) -> dict[str, Any]:
    """What made a product: the frozen step, and the attempt that won."""
    step = row["resolved_step"]
    attempt = _winning(row, attempts)
    return {
        "run": row["run"],
        "pipeline": row["pipeline"],
        "step": row["step"],
        "sub_group": row["sub_group"],
        "status": row["status"],
        "decision": row["decision"],
        "reason": row["reason"],
        "recipe": row["recipe"],
        "recipe_parts": row["recipe_parts"],
        "software": _software(step["software"]),
        "config": step["config"],
        "environment": step["environment"],
        "references": step["references"],
        "warnings": list(row["warnings"] or []),
        "attempt": attempt.get("number"),
        "job_id": attempt.get("job_id"),
        "cluster": attempt.get("cluster"),
        "host": attempt.get("host"),
        "exit_code": attempt.get("exit_code"),
        "created_at": utc_text(row["created_at"]),
        "started_at": utc_text(attempt.get("started_at")),
        "ended_at": utc_text(attempt.get("ended_at") or row["ended_at"]),
        "wall_seconds": row["wall_seconds"],
        "cpu_hours": row["cpu_hours"],
        "peak_memory_gb": row["peak_memory_gb"],
        "processing_location": row["processing_location"],
        "output": places.path(row["processing_location"], row["output_directory"]),
        "relative_output": row["output_directory"],
    }


def _winning(row: dict[str, Any], attempts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The attempt whose output counts, else the newest."""
    for attempt in attempts:
        if row["output_directory"] == f"{attempt['directory']}/output":
            return attempt
    return attempts[-1] if attempts else {}


def _software(software: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": software["software"],
        "version": software["version"],
        "image": software["image"],
        "image_digest": software["image_digest"],
        "command": list(software["command"]),
        "contract": software["contract"],
    }


def _tree(
    run_id: int,
    inputs: Mapping[int, Sequence[dict[str, Any]]],
    products: Mapping[int, dict[str, Any]],
    places: Places,
) -> list[dict[str, Any]]:
    """Inputs in depth-first order; `of_run` used it, `depth` 1 is an input of the product's own run."""
    rows: list[dict[str, Any]] = []
    opened = {run_id}
    stack = [(row, 1) for row in reversed(inputs[run_id])]
    while stack:
        row, depth = stack.pop()
        made_by = products[row["product_id"]]["run"] if row["product_id"] in products else None
        shared = made_by in opened
        rows.append(_node(row, depth, made_by, shared, products.get(row["product_id"]), places))
        if made_by is not None and not shared:
            opened.add(made_by)
            stack += [(below, depth + 1) for below in reversed(inputs.get(made_by, ()))]
    return rows


def _node(
    row: dict[str, Any],
    depth: int,
    made_by: int | None,
    shared: bool,
    product: dict[str, Any] | None,
    places: Places,
) -> dict[str, Any]:
    node = {
        "depth": depth,
        "of_run": row["run_id"],
        "kind": row["kind"],
        "role": row["role"],
        "companion": (row["details"] or {}).get("companion"),
        "name": row["name"],
        "identity": row["identity"],
        "checksum": row["checksum"],
        "size": row["size_bytes"],
    }
    if product is not None:
        location = product["processing_location"]
        place = {key: product[key] for key in ("pipeline", "step", "sub_group", "type", "current")}
        files = {key: product_json(product, places)[key] for key in FILES}
        where = {"path": places.path(location, product["full_path"]), "relative_path": product["full_path"]}
        node |= {"product": product["product"], "run": made_by, **place, **files, **where, "shared": shared}
    return node


def _packages(inputs: Mapping[int, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every raw data package once for each checksum it was frozen with, and the runs that read it."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for row in _of_kind(inputs, "package"):
        entry = found.setdefault(
            (row["identity"], row["checksum"]),
            {
                "name": row["name"],
                "id": row["identity"],
                "checksum": row["checksum"],
                "size": row["size_bytes"],
                "role": row["role"],
                "companion": (row["details"] or {}).get("companion"),
                "runs": [],
            },
        )
        entry["runs"].append(row["run_id"])
        if row["role"] == "member":  # of the one run, though a companion of another
            entry |= {"role": "member", "companion": None}
    return sorted(found.values(), key=lambda entry: (entry["name"], entry["checksum"] or ""))


def _references(inputs: Mapping[int, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for row in _of_kind(inputs, "reference"):
        _, _, version = row["identity"].rpartition("@")
        entry = {"name": row["name"], "version": version, "checksum": row["checksum"], "runs": []}
        found.setdefault((row["identity"], row["checksum"]), entry)["runs"].append(row["run_id"])
    return [found[key] for key in sorted(found, key=str)]


def _of_kind(inputs: Mapping[int, Sequence[dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    return [row for rows in inputs.values() for row in rows if row["kind"] == kind]


# --- what stands on a package -------------------------------------------------------------------------------


def build_package_lineage(
    database: Database, grouping: GroupingEngine, name: str, *, places: Places
) -> dict[str, Any]:
    """Every product that stands on a raw data package, directly or through others, current or not."""
    with database.read() as connection:
        package = views.find_package(connection, grouping, name)
        if package is None:
            names = views.list_package_names(connection, name)
            raise UsageError(f"there is no raw data package {name!r}", next=suggest(name, names))
        run_ids = views.list_descendant_runs(connection, package["ids"])
        products = views.list_products_of_runs(connection, run_ids)
        members = [
            *({**row, "companion": None} for row in views.list_memberships(connection, package["ids"])),
            *views.list_served(connection, package["ids"]),
        ]
        runs = views.list_provenance(connection, run_ids)
        copies = list_copies(connection, grouping, package["ids"])
        published = published_sets_of(connection, [row["product"] for row in products])
    return {
        "schema": SCHEMA,
        "package": {
            "name": name,
            "ids": sorted(package["ids"]),
            **{key: package[key] for key in ("state", "checksum", "size")},
        },
        "copies": copies,
        "sub_groups": members,
        "runs": [_brief(runs[run_id]) for run_id in run_ids],
        "products": [product_json(row, places) for row in products],
        "published_sets": published,
    }


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    keys = ("run", "pipeline", "step", "sub_group", "status", "reason", "recipe")
    software = row["resolved_step"]["software"]
    return {**{key: row[key] for key in keys}, "software": _software(software)}


# --- for people ---------------------------------------------------------------------------------------------


def lineage_lines(document: Mapping[str, Any]) -> list[str]:
    """The lineage in words, one input a line, indented by depth."""
    return _package_lines(document) if "package" in document else _product_lines(document)


def _product_lines(document: Mapping[str, Any]) -> list[str]:
    product, runs = document["product"], {run["run"]: run for run in document["runs"]}
    now = "current" if product["current"] else "not current: a newer one replaced it"
    lines = [
        f"product {product['product']} {product['type']} {product['name']} ({now})",
        f"  {told_product(product)}",
        *([f"  {gone}"] if (gone := files_text(product)) else []),
        f"  sha256:{product['sha256']}",
        *(f"  {line}" for line in _run_lines(document["run"])),
        "inputs:",
    ]
    for node in document["inputs"]:
        lines += [f"{'  ' * node['depth']}{line}" for line in _node_lines(node, runs)]
    packages = document["raw_data_packages"]
    lines.append(f"raw data packages ({len(packages)}):")
    lines += [f"  {p['name']}{role_text(p)}  {p['checksum'] or 'no checksum'}" for p in packages]
    return lines + [f"published in {row['name']}" for row in document["published_sets"]]


def _run_lines(run: Mapping[str, Any]) -> list[str]:
    software = run["software"]
    where = (
        f", attempt {run['attempt']}, job {run['job_id']} on {run['host'] or '?'}" if run["attempt"] else ""
    )
    lines = [
        f"made by run {run['run']} {run['pipeline']}/{run['step']} {run['sub_group']}{where}",
        f"  {software['name']} {software['version']}: {' '.join(software['command'])}",
    ]
    if software["image"]:
        lines.append(f"  image {software['image']} {software['image_digest'] or ''}".rstrip())
    if run["config"]:
        lines.append("  config " + ", ".join(f"{key}: {value}" for key, value in run["config"].items()))
    return lines


def _node_lines(node: Mapping[str, Any], runs: Mapping[int, Mapping[str, Any]]) -> list[str]:
    role = role_text(node)
    if "product" not in node:
        return [f"{node['kind']} {node['name']}{role}"]
    gone = files_text(node)
    line = f"product {node['product']} {node['name']}{role}, {node['sub_group']}" + (f" ({gone})" if gone else "")
    if node["shared"]:
        return [f"{line}, by run {node['run']} (see above)"]
    return [line, *(f"  {text}" for text in _run_lines(runs[node["run"]]))]


def _package_lines(document: Mapping[str, Any]) -> list[str]:
    package = document["package"]
    lines = [
        f"raw data package {package['name']} {package['checksum'] or 'no checksum'}",
        "products that stand on it:",
    ]
    for product in document["products"]:
        mark = "current" if product["current"] else "not current"
        mark += f"; stale: {product['stale']}" if product["stale"] else ""
        place = f"{product['pipeline']}/{product['step']} {product['sub_group']}"
        lines.append(f"  {product['product']}  run {product['run']} {place}  {product['name']} ({mark})")
    if not document["products"]:
        lines.append("  none")
    lines += [*copy_lines(document["copies"]), *_membership_lines(document)]
    return lines + [
        f"published set {row['name']} holds {', '.join(map(str, row['products']))}" for row in document["published_sets"]
    ]


def _membership_lines(document: Mapping[str, Any]) -> list[str]:
    if not document["sub_groups"]:
        return ["no pipeline selects it"]
    places: dict[bool, list[str]] = {True: [], False: []}  # by whether it is a companion there
    for m in document["sub_groups"]:
        role = f" ({m['companion']})" if m["companion"] else ""
        text = f"  {m['pipeline']}/{m['step']} {m['sub_group']}{role}: {m['outcome'] or 'undecided'}"
        places[m["companion"] is not None].append(text)
    headings = ((False, "sub-groups that it belongs to:"), (True, "sub-groups whose current run has it as a companion:"))
    return [line for served, heading in headings if places[served] for line in (heading, *places[served])]
