"""Many rows at once, by the fastest way that each driver has: COPY on PostgreSQL, `executemany` on SQLite.

Touches: the ops-db. Rows are tuples of plain values in the order of `columns`; what SQLAlchemy does for each value of
each row takes longer than the databases take to write it.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb.types import UtcDateTime, utc_text

Row = Sequence[Any]
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})  # PostgreSQL manual, COPY, text format
NULL = r"\N"
ROWS_PER_READ = 500
_ENCODE = json.JSONEncoder().encode  # as SQLAlchemy's JSON does


class JsonText(str):
    """A value of a JSON column that is encoded already: for what many rows share."""


def json_text(value: Any) -> JsonText:
    return JsonText(_ENCODE(value))


def insert_rows(connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Insert them in one statement. PostgreSQL reads the first rows while the next are made, where `rows` makes them
    one by one: so the two processes work side by side. Errors: those of the driver, as SQLAlchemy has them.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    rows = itertools.chain((first,), rows)
    if connection.dialect.name == "sqlite":
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
        connection.exec_driver_sql(statement, _converted(table, columns, list(rows), _PLAIN))
    else:
        _copy(connection, table, columns, rows)


def _copy(connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Iterator[Row]) -> None:
    statement = f"COPY {table.fullname} ({', '.join(columns)}) FROM STDIN"
    dbapi = connection.dialect.loaded_dbapi
    if not connection.in_transaction():  # what goes past SQLAlchemy begins none, and would not be committed
        connection.begin()
    file = _CopyText(rows, [_kind(table.c[name]) for name in columns])
    try:
        cursor: Any = connection.connection.cursor()
        cursor.copy_expert(statement, file)
        cursor.close()
    except dbapi.Error as error:
        if file.error is not None:  # the driver tells no more of it than its text
            raise file.error from None
        raise sa.exc.DBAPIError.instance(statement, None, error, dbapi.Error) from error


class _CopyText:
    """Rows as the driver reads them: some hundreds at a time, column by column (PostgreSQL manual, COPY, text format)."""

    def __init__(self, rows: Iterator[Row], kinds: Sequence[str]) -> None:
        self._rows, self._kinds = rows, kinds
        self.error: Exception | None = None

    def read(self, _size: int) -> str:
        """The next of them; `_size` is what the driver would like, and it takes any."""
        try:
            return self._next()
        except Exception as error:
            self.error = error
            raise

    def _next(self) -> str:
        rows = list(itertools.islice(self._rows, ROWS_PER_READ))
        if not rows:
            return ""
        columns = zip(self._kinds, zip(*rows, strict=True), strict=True)
        lines = map("\t".join, zip(*(_copy_column(kind, values) for kind, values in columns), strict=True))
        return "\n".join([*lines, ""])


def update_rows(connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Set `columns` of the rows with the given ids; each row is its id and then their values."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        settings = ", ".join(f"{name} = ?" for name in columns)
        statement = f"UPDATE {table.name} SET {settings} WHERE id = ?"
        turned = [(*row[1:], row[0]) for row in _converted(table, ("id", *columns), rows, _PLAIN)]
        connection.exec_driver_sql(statement, turned)
        return
    names = ("id", *columns)
    kinds = {name: table.c[name].type.compile(connection.dialect) for name in names}
    settings = ", ".join(f"{name} = v.{name}{'::jsonb' if kinds[name] == 'JSONB' else ''}" for name in columns)
    lists = ", ".join(f"%s::{'text' if kind == 'JSONB' else kind}[]" for kind in kinds.values())
    statement = (
        f"UPDATE {table.fullname} AS t SET {settings} FROM unnest({lists}) AS v ({', '.join(names)}) WHERE t.id = v.id"
    )
    values = zip(*_converted(table, names, rows, _PLAIN), strict=True)
    connection.exec_driver_sql(statement, tuple(map(list, values)))  # the driver makes arrays of lists


def new_ids(connection: sa.Connection, table: sa.Table, count: int) -> list[int]:
    """Ids for rows to be inserted in this transaction; nobody else gets them, whatever becomes of it."""
    if connection.dialect.name == "sqlite":  # this is the only writer, and AUTOINCREMENT remembers explicit ids too
        query = "SELECT seq FROM sqlite_sequence WHERE name = ?"
        last = connection.exec_driver_sql(query, (table.name,)).scalar() or 0
        return list(range(last + 1, last + 1 + count))
    query = f"SELECT nextval('{table.fullname}_id_seq') FROM generate_series(1, %s)"
    return list(connection.exec_driver_sql(query, (count,)).scalars())


def reserve_ids(connection: sa.Connection, table: sa.Table, count: int) -> Sequence[int]:
    """Ids for rows that another transaction will insert: nobody else gets them once this one is committed. There may be
    100,000: they take eight bytes each at most."""
    if not count:
        return ()
    ids = new_ids(connection, table, count)
    if connection.dialect.name != "sqlite":
        return array("q", ids)
    known = "UPDATE sqlite_sequence SET seq = ? WHERE name = ?"
    if not connection.exec_driver_sql(known, (ids[-1], table.name)).rowcount:
        connection.exec_driver_sql("INSERT INTO sqlite_sequence (seq, name) VALUES (?, ?)", (ids[-1], table.name))
    return range(ids[0], ids[-1] + 1)


# --- values ---------------------------------------------------------------------------------------------------

Convert = Callable[[Any], Any]


def _converted(
    table: sa.Table, columns: Sequence[str], rows: Sequence[Row], kinds: dict[str, Convert]
) -> Sequence[Row]:
    """The rows with the values that need it converted; most columns do not."""
    found = [(n, kinds[_kind(table.c[name])]) for n, name in enumerate(columns)]
    converts = [(n, convert) for n, convert in found if convert is not _same]
    if not converts:
        return rows
    made: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for n, convert in converts:
        made[n] = _converted_column(convert, made[n])
    return list(zip(*made, strict=True))


def _converted_column(convert: Convert, values: Sequence[Any]) -> Sequence[Any]:
    """Very often all of them are the same object."""
    if len(set(map(id, values))) == 1:
        return [convert(values[0])] * len(values)
    return list(map(convert, values))


def _kind(column: sa.Column[Any]) -> str:
    kind = column.type
    if isinstance(kind, UtcDateTime):
        return "time"
    if isinstance(kind, sa.JSON):
        return "json"
    if isinstance(kind, sa.Boolean):
        return "boolean"
    return "number" if isinstance(kind, sa.Integer | sa.Float) else "text"


def _same(value: Any) -> Any:
    return value


_utc_text = lru_cache(maxsize=1000)(utc_text)  # most rows of a chunk have one time, that of the pass


def _time(value: datetime | None) -> str | None:
    return None if value is None else _utc_text(value)


def _json(value: Any) -> str:
    """None is JSON's null here, as it is to SQLAlchemy."""
    return value if isinstance(value, JsonText) else _ENCODE(value)


def _copy_column(kind: str, values: Sequence[Any]) -> list[str]:
    """The values of one column as COPY reads them."""
    if values[0] is None and kind != "json" and values.count(None) == len(values):
        return [NULL] * len(values)
    if kind == "json":
        return _escaped([_json(value) for value in values])
    if kind == "text":
        return _escaped(values)
    text = _COPY[kind]
    return [NULL if value is None else text(value) for value in values]


def _escaped(values: Sequence[str | None]) -> list[str]:
    """Columns in which nothing needs an escape, which is nearly all, are looked through at once."""
    whole = "".join([value for value in values if value is not None])
    if whole.isprintable() and "\\" not in whole:
        return [NULL if value is None else value for value in values]
    return [NULL if value is None else value.translate(_ESCAPED) for value in values]


_PLAIN: dict[str, Convert] = {
    "time": _time, "json": _json, "boolean": _same, "number": _same, "text": _same,
}  # fmt: skip
_COPY: dict[str, Convert] = {"time": _utc_text, "boolean": lambda value: "t" if value else "f", "number": str}
