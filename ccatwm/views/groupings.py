"""Says what a data grouping selects now, before any pipeline uses it. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import yaml

from ccatwm.core.model import PackageState
from ccatwm.core.selection import suggest
from ccatwm.core.subgroups import in_order
from ccatwm.core.wording import clock_text, count_text, size_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupedPackage, GroupingEngine
from ccatwm.edges.opsdb.stores import definitions
from ccatwm.errors import UsageError

DEFAULT_LIMIT = 100
COLUMNS = ("sub-group", "packages", "archived", "size", "first", "last")


@dataclass
class Counted:
    """What a sub-group would have."""

    packages: int = 0
    archived: int = 0
    size_bytes: int = 0  # of archived ones, as far as it is known
    size_unknown: int = 0  # archived ones of which it is not
    first: datetime | None = None
    last: datetime | None = None
    states: dict[str, int] = field(default_factory=dict)

    def add(self, package: GroupedPackage) -> None:
        self.packages += 1
        self.states[package.state] = self.states.get(package.state, 0) + 1
        if package.state == PackageState.ARCHIVED:
            self.archived += 1
            self.size_bytes += package.size_bytes or 0
            self.size_unknown += package.size_bytes is None
        if package.observed_at is not None:
            self.first = min(self.first or package.observed_at, package.observed_at)
            self.last = max(self.last or package.observed_at, package.observed_at)


def list_groupings(database: Database) -> dict[str, Any]:
    """The document `ccatwm.groupings/1`: names, rules and how many steps use each."""
    with database.read() as connection:
        rows = definitions.list_groupings(connection)
    return {"schema": "ccatwm.groupings/1", "groupings": rows}


def build_grouping(
    database: Database,
    grouping: GroupingEngine,
    name: str,
    group_by: Sequence[Any],
    *,
    now: datetime,
    limit: int | None = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """The document `ccatwm.grouping/1`: the sub-groups that the rules and `group_by` make now.

    Errors: UsageError for a grouping that is not there; DefinitionsError for a `group_by` that is wrong.
    """
    with database.read() as connection:
        known = definitions.read_known(connection).groupings
        if name not in known:
            hint = suggest(name, known, none="`ccatwm apply FILE` defines data groupings")
            raise UsageError(f"there is no data grouping {name!r}", next=hint)
        counted: dict[str, Counted] = {}
        for page in grouping.pages(connection, known[name], group_by, now=now):
            for package in page:
                counted.setdefault(package.key, Counted()).add(package)
    rows = [_row(key, counted[key]) for key in in_order(counted)]
    return {
        "schema": "ccatwm.grouping/1",
        "grouping": rows if limit is None else rows[:limit],
        "name": name,
        "group_by": list(group_by),
        "total": {
            "sub_groups": len(rows),
            "packages": sum(row["packages"] for row in rows),
            "archived": sum(row["archived"] for row in rows),
            **_sizes(counted.values()),
        },
    }


def _row(key: str, counted: Counted) -> dict[str, Any]:
    return {
        "sub_group": key,
        "packages": counted.packages,
        "archived": counted.archived,
        "states": counted.states,
        **_sizes([counted]),
        "first": utc_text(counted.first),
        "last": utc_text(counted.last),
    }


def _sizes(counted: Collection[Counted]) -> dict[str, Any]:
    """`size` is null where archived packages are there and the size of none is known."""
    archived, unknown = (sum(getattr(one, name) for one in counted) for name in ("archived", "size_unknown"))
    size = sum(one.size_bytes for one in counted)
    return {"size": None if archived and unknown == archived else size, "size_unknown": unknown}


def read_dimensions(texts: Sequence[str]) -> list[Any]:
    """Dimensions as they are typed: names, split by commas, and `{name: n, table: T, column: c}` as in a pipeline file.

    Errors: UsageError for what is no YAML.
    """
    found: list[Any] = []
    for text in (word.strip() for given in texts for word in _split(given)):
        if not text.startswith("{"):
            found += [text] if text else []
            continue
        try:
            found.append(yaml.safe_load(text))
        except yaml.YAMLError as error:
            what = f"--group-by {text!r} cannot be read"
            raise UsageError(what, next="as in a step: '{name: mode, table: RawDataPackage, column: metadata}'") from error
    return found


def _split(text: str) -> list[str]:
    """At the commas outside braces."""
    words, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            words.append("")
        else:
            words[-1] += character
    return words


# --- for people ---------------------------------------------------------------------------------------------


def cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    times = [clock_text(datetime.fromisoformat(row[key])) if row[key] else None for key in ("first", "last")]
    return (row["sub_group"], row["packages"], row["archived"], size_text(row["size"]), *times)


def total_line(document: Mapping[str, Any]) -> str:
    total = document["total"]
    shown = len(document["grouping"])
    more = f" (the first {shown} are shown; --limit N)" if shown < total["sub_groups"] else ""
    return (
        f"{count_text(total['sub_groups'], 'sub-group')}{more}, {count_text(total['packages'], 'package')}, "
        f"{total['archived']} of them archived, {_size_text(total)}"
    )


def _size_text(row: Mapping[str, Any]) -> str:
    if not row["size_unknown"]:
        return size_text(row["size"])
    unknown = f"{row['size_unknown']} of unknown size"
    return unknown if row["size"] is None else f"{size_text(row['size'])} and {unknown}"
