"""The page of the ops-db's tables, made from their declarations, comments included. Called by generate.py."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TABLES = Path(__file__).resolve().parent.parent / "ccatwm" / "edges" / "opsdb" / "tables.py"
KINDS = {
    "BIGINT": "integer", "INTEGER": "integer", "FLOAT": "number", "BOOLEAN": "true, false", "TEXT": "text", "JSON": "JSON",
}  # fmt: skip


def tables_page() -> str:
    """All tables: ours, and the observation tables as they are where they are ours, too."""
    from ccatwm.edges.opsdb import tables

    source = TABLES.read_text()
    parts = [
        "# Tables of the ops-db", "",
        "For those who read them with SQL; only ccatwm writes them. A release may change them, and `ccatwm db upgrade`",
        "then changes those that are there. What stays as it is, release after release, is listed in {doc}`../api`.", "",
        "Times are UTC: `timestamptz` on PostgreSQL, text such as `2026-03-01T09:00:00.000000Z` on SQLite. `?` after a",
        "type: it may be empty. `→` leads to the `id` of another table; ids of observation tables are text in ours.", "",
        "## Pipeline tables", "", "On PostgreSQL they lie in the schema `ccatwm`.", "",
    ]  # fmt: skip
    parts += _tables(tables.pipeline_metadata, source)
    parts += [
        "## Observation tables", "",
        "As ccatwm makes them (`OBSERVATIONS = managed`). Those of others are called what the",
        "[map](../opsdb-map.md) says; rules name them as `RawDataPackage`, `ObsUnit` and so on in either case.", "",
    ]  # fmt: skip
    return "\n".join([*parts, *_tables(tables.observation, source)]).rstrip() + "\n"


def _tables(metadata: Any, source: str) -> Iterator[str]:
    comments = _comments(source)
    calls = dict(_table_calls(source))
    for table in metadata.tables.values():
        call = calls[table.name]
        yield from (f"### {table.name}", "")
        # Its own comment stands before its first column.
        told = [comments[n] for n in range(call.lineno, call.args[1].lineno) if n in comments]
        if told:
            yield from (f"{told[0][0].upper()}{told[0][1:]}.", "")
        meanings = dict(_meanings(call, comments))
        yield from ("| column | type | |", "|---|---|---|")
        for column in table.columns:
            yield f"| `{column.name}` | {_kind(column)} | {meanings.get(column.name, '')} |"
        yield ""


def _kind(column: Any) -> str:
    target = next((key.target_fullname.split(".")[-2] for key in column.foreign_keys), None)
    kind = KINDS.get(str(column.type), "time")
    return (f"→ `{target}`" if target else kind) + ("?" if column.nullable else "")


def _table_calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.parse(source).body:
        call = node.value if isinstance(node, ast.Assign) else None
        if (
            isinstance(call, ast.Call)
            and call.args
            and ast.unparse(call.func) in ("_table", "_observation_table")
        ):
            yield ast.literal_eval(call.args[0]), call


def _meanings(call: ast.Call, comments: dict[int, str]) -> Iterator[tuple[str, str]]:
    """What stands behind the declaration of a column: on its last line."""
    for part in call.args[1:]:
        if isinstance(part, ast.Call) and part.args and part.end_lineno in comments:
            yield ast.literal_eval(part.args[0]), comments[part.end_lineno].replace("|", "\\|")


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
