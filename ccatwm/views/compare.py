"""Says how two runs differ: what they were made from, their cost, their products. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccatwm.core.gap import config_changes
from ccatwm.core.wording import number_text, size_text, some_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import views

METRICS = ("wall_seconds", "cpu_hours", "peak_memory_gb")
COLUMNS = ("what", "first", "second")
SHOWN = 30


def build_compare(database: Database, first: int, second: int) -> dict[str, Any]:
    """The document `ccatwm.compare/1`. Errors: UsageError for a run that is not there."""
    with database.read() as connection:
        full = [views.get_run(connection, run_id) for run_id in (first, second)]
        inputs = views.list_inputs(connection, [first, second])
        products = {
            run_id: views.list_products_of_runs(connection, [run_id]) for run_id in (first, second)
        }
    steps = [row["resolved_step"] for row in full]
    return {
        "schema": "ccatwm.compare/1",
        "runs": [_run(row) for row in full],
        "software": [_software(step) for step in steps],
        "config": config_changes(dict(steps[0]["config"]), dict(steps[1]["config"])),
        "environment": config_changes(dict(steps[0]["environment"]), dict(steps[1]["environment"])),
        "inputs": _inputs(inputs[first], inputs[second]),
        "metrics": {name: [row[name] for row in full] for name in METRICS},
        "compare": _products(products[first], products[second]),
    }


def _run(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": row["id"],
        "pipeline": row["pipeline_name"],
        "step": row["step_name"],
        "sub_group": row["sub_group_key"],
        "status": row["status"],
        "trial": bool(row["trial"]),
    }


def _software(step: Mapping[str, Any]) -> str:
    return f"{step['software']['software']} {step['software']['version']}"


def _inputs(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of inputs by what became of them; an input is its kind, its name and its bytes."""
    one, two = ({(i["kind"], i["name"], i["checksum"]) for i in side} for side in (first, second))
    return {
        "only_first": sorted(name for _, name, _ in one - two),
        "only_second": sorted(name for _, name, _ in two - one),
    }


def _products(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each path that either has: whether the bytes are the same, sizes, and quality metrics that differ."""
    one, two = ({p["name"]: p for p in side} for side in (first, second))
    rows = []
    for path in sorted(one.keys() | two.keys()):
        a, b = one.get(path), two.get(path)
        same = a is not None and b is not None and a["sha256"] == b["sha256"]
        metrics = [dict((p or {}).get("quality") or {}) for p in (a, b)]
        missing = "only in the first" if b is None else "only in the second" if a is None else ""
        rows.append(
            {
                "path": path,
                "type": (a or b or {})["type"],
                "result": missing or ("identical" if same else "differs"),
                "sizes": [p["size"] if p is not None else None for p in (a, b)],
                "quality": config_changes(metrics[0], metrics[1]),
            }
        )
    return rows


# --- for people ---------------------------------------------------------------------------------------------


def compare_rows(document: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """(what, first, second), what differs first."""
    rows: list[tuple[str, object, object]] = [
        ("run", *_pair([_named(run) for run in document["runs"]])),
        ("status", *_pair([run["status"] for run in document["runs"]])),
        ("software", *_pair(document["software"])),
    ]
    for key, prefix in (("config", "config."), ("environment", "environment.")):
        rows += [(f"{prefix}{name}", *_pair(pair)) for name, pair in document[key].items()]
    only = document["inputs"]
    if only["only_first"] or only["only_second"]:
        rows.append(("inputs of its own", _some(only["only_first"]), _some(only["only_second"])))
    for name, pair in document["metrics"].items():
        rows.append((name, *_pair([None if value is None else number_text(value, 4) for value in pair])))
    shown = sorted(document["compare"], key=lambda row: row["result"] == "identical")
    for row in shown[:SHOWN]:
        sizes = [size_text(size) for size in row["sizes"]]
        rows.append((f"{row['path']}: {row['result']}", *_pair(sizes)))
        rows += [(f"  {name}", *_pair(pair)) for name, pair in row["quality"].items()]
    if len(shown) > SHOWN:
        rows.append((f"and {len(shown) - SHOWN} more products; --json lists all", "", ""))
    return rows


def _named(run: Mapping[str, Any]) -> str:
    trial = " (trial)" if run["trial"] else ""
    return f"{run['run']}{trial} {run['pipeline']}/{run['step']} {run['sub_group']}"


def _pair(pair: Sequence[object]) -> tuple[object, object]:
    return pair[0], pair[1]


def _some(names: Sequence[str]) -> str:
    return some_text(names, 3) or "-"
