"""The file opsdb-map.yaml as people write it: pydantic models, and what is wrong in a map by itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from ccatwm.core.opsdb_map import ROOT, JoinedTable, MappedEdge, MappedTable, OpsDbMap
from ccatwm.core.rules import parse_since

Location = tuple[str | int, ...]
Told = tuple[Location, str, str]  # where in the file, what is wrong, what to do

Logical = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$")]
Ours = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Theirs = Annotated[str, StringConstraints(min_length=1, max_length=63)]
TheirColumn = Annotated[str, StringConstraints(min_length=1, max_length=127)]
TABLE_COLUMN = r"^[A-Z][A-Za-z0-9]{0,62}\..{1,63}$"
Scalar = str | int | float | bool
# No fields: whatever they store, one word or several that mean the same.
Words = dict[str, Scalar | Annotated[list[Scalar], Field(min_length=1)]]


def _duration(text: str) -> str:
    if parse_since(text) is None or not re.search("[1-9]", text):
        raise ValueError(f"{text[:20]!r} is no duration: write 30m, 6h or 1d")
    return text


Duration = Annotated[str, AfterValidator(_duration)]


def _table_column(text: str) -> str:
    if not re.fullmatch(TABLE_COLUMN, text):
        raise ValueError(f"{text[:80]!r} is no column: write Table.column, with our name of the table")
    return text


TableColumn = Annotated[str, AfterValidator(_table_column), Field(json_schema_extra={"pattern": TABLE_COLUMN})]


class Part(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid")


class ColumnPart(Part):
    """A column of theirs that holds ours but for a beginning: md5sum without its `md5:`."""

    column: TheirColumn
    prefix: Annotated[str, StringConstraints(max_length=40)] = ""


class JoinedPart(Part):
    """A further table that holds a part of the same rows, as joined-table inheritance has it."""

    table: Theirs
    schema_: Theirs | None = Field(None, alias="schema")
    by: Annotated[dict[TheirColumn, TheirColumn], Field(min_length=1)]


class TablePart(Part):
    """One logical table in their database."""

    table: Theirs | None = None
    schema_: Theirs | None = Field(None, alias="schema")
    columns: dict[Ours, TheirColumn | ColumnPart | None] = {}
    key_type: Literal["uuid", "integer", "text"] | None = None
    values: dict[Ours, Words] = {}
    fixed: dict[Ours, Scalar] = {}
    rows: list[dict[Ours, Scalar]] = []
    joined: list[JoinedPart] = []
    change_time: TheirColumn | None = None
    full_every: Duration | None = None

    @model_validator(mode="after")
    def _holds_rows(self) -> TablePart:
        if self.table is None and not self.rows:
            raise ValueError("names no table: write `table`, or the `rows` themselves")
        if self.table is None and (self.joined or self.change_time):
            raise ValueError("`joined` and `change_time` are of a table: write `table` as well")
        return self


class EdgePart(Part):
    """A join: `left` and `right` are Table.column, the table by our name and the column by ours or theirs."""

    left: TableColumn
    right: TableColumn
    many: bool = False


class MapFile(Part):
    """opsdb-map.yaml: what somebody else's observation tables are called."""

    schema_: Theirs = Field("public", alias="schema")
    tables: Annotated[dict[Logical, TablePart], Field(min_length=1)]
    edges: list[EdgePart] = []
    without_edges: list[Annotated[list[Logical], Field(min_length=2, max_length=2)]] = []


def map_schema() -> dict[str, JsonValue]:
    """The JSON Schema of the file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **MapFile.model_json_schema()}


# --- what is wrong in a map by itself -----------------------------------------------------------------------


def find_mistakes(file: MapFile, own_schema: str) -> Iterator[Told]:
    """Everything that can be told without their database."""
    if ROOT not in file.tables:
        close = get_close_matches(ROOT, file.tables, n=1, cutoff=0.7)
        yield ("tables",), f"{ROOT} is missing: packages are what is grouped", f"did you mean {close[0]}?" if close else ""
    for name, table in file.tables.items():
        at: Location = ("tables", name)
        if (table.schema_ or file.schema_) == own_schema and table.table is not None:
            where = (*at, "schema") if table.schema_ else ("schema",) if "schema_" in file.model_fields_set else at
            yield where, f"{name}: the schema {own_schema} holds ccatwm's own tables", "name the schema of theirs"
        yield from _table_mistakes(name, table, at)
    for n, edge in enumerate(file.edges):
        for side in (edge.left, edge.right):
            if side.partition(".")[0] not in file.tables:
                yield ("edges", n), f"the join names {side}, a table that the map has not", _choices(side, file.tables)
    for n, (left, right) in enumerate(file.without_edges):
        for side in (left, right):
            if side not in file.tables:
                yield ("without_edges", n), f"{side} is no table of the map", _choices(side, file.tables)


def _table_mistakes(name: str, table: TablePart, at: Location) -> Iterator[Told]:
    for column in sorted(table.fixed.keys() & table.columns.keys()):
        yield (*at, "fixed", column), f"{name}.{column} is fixed and has a column", "keep one of the two"
    if "id" in table.fixed:
        yield (*at, "fixed", "id"), f"{name}.id tells rows apart and cannot be the same for all", "map it to their key"
    taken: dict[tuple[Any, str], str] = {}
    for column, words in table.values.items():
        for ours, theirs in words.items():
            for word in theirs if isinstance(theirs, list) else [theirs]:
                other = taken.setdefault((column, repr(word)), ours)
                if other != ours:
                    what = f"{name}.{column}: {word!r} stands for {other!r} and for {ours!r}"
                    yield (*at, "values", column, ours), what, "let each of their words stand for one of ours"


def _choices(side: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(side.partition(".")[0], known, n=1)
    return f"did you mean {close[0]}?" if close else f"tables of the map: {', '.join(sorted(known))}"


# --- the map itself -----------------------------------------------------------------------------------------


def build_map(file: MapFile) -> OpsDbMap:
    """The file as plain values."""
    return OpsDbMap(
        tables={name: _mapped_table(table, file.schema_) for name, table in file.tables.items()},
        edges=tuple(_edge(edge) for edge in file.edges),
        without=tuple((left, right) for left, right in file.without_edges),
    )


def _edge(edge: EdgePart) -> MappedEdge:
    left, _, left_column = edge.left.partition(".")
    right, _, right_column = edge.right.partition(".")
    return MappedEdge(left, left_column, right, right_column, edge.many)


def _mapped_table(table: TablePart, schema: str) -> MappedTable:
    columns = {ours: c.column if isinstance(c, ColumnPart) else c or "" for ours, c in table.columns.items()}
    duration = parse_since(table.full_every) if table.full_every else None
    return MappedTable(
        table=table.table or "",
        schema=table.schema_ or schema,
        columns=columns,
        prefixes={ours: c.prefix for ours, c in table.columns.items() if isinstance(c, ColumnPart) and c.prefix},
        values={column: {ours: _all_words(t) for ours, t in words.items()} for column, words in table.values.items()},
        fixed=table.fixed,
        rows=tuple(table.rows),
        joined=tuple(JoinedTable(j.table, j.by, j.schema_ or table.schema_ or schema) for j in table.joined),
        key_type=table.key_type or "",
        change_time=table.change_time,
        full_every_seconds=None if duration is None else duration.total_seconds(),
    )


def _all_words(theirs: Scalar | list[Scalar]) -> tuple[Scalar, ...]:
    return tuple(theirs) if isinstance(theirs, list) else (theirs,)
