"""Observation tables of ours in disguise: views that call, type and spell everything in another way, and the map of them.

What is written into ours is read through the views by passes that know of these alone: so whatever holds on tables of ours
can be shown to hold on those of others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb.observations import MANAGED_TABLES
from ccatwm.edges.opsdb.statements import identifier
from ccatwm.edges.opsdb.types import UtcDateTime
from tests.passes.conftest import Observatory

SCHEMA = "theirs"
# How a key is written there: of a table's name and the expression of our number.
KEYS: Mapping[str, Callable[[str, str], str]] = {
    "uuid": lambda table, key: f"md5('{table}' || {key})::uuid",
    "uuid as text": lambda table, key: f"md5('{table}' || {key})::uuid::text",
    "text": lambda table, key: f"'{table}/' || {key}",
    "numeric": lambda table, key: f"({key})::numeric(14, 2)",
    "bigint": lambda table, key: key,
    "bigint as text": lambda table, key: f"{key}::text",
    "large": lambda table, key: f"{key} + 1000000000000000000",
    "negative": lambda table, key: f"-{key}",
}
WORDS = {
    ("RawDataPackage", "state"): ("waiting", "transferring", "archived", "failed"),
    ("DataLocation", "location_type"): ("source", "buffer", "long_term_archive", "processing"),
    ("DataLocation", "storage_type"): ("disk", "s3", "tape"),
    ("PhysicalCopy", "status"): ("present", "staged", "deleted"),
}
SPELLED: Mapping[str, Callable[[str], str]] = {"upper": str.upper, "title": str.title, "same": str}
TIMES = {"aware": "{}", "naive": "({} AT TIME ZONE 'UTC')"}


@dataclass(frozen=True)
class Disguise:
    """`name`: what a column of ours is called there. `split`: a row of ours is in two tables, as joined-table inheritance
    has it. `bare`: checksums without their beginning."""

    keys: str = "uuid"
    references: str = ""  # how other tables name a key, if otherwise
    spelled: str = "upper"
    times: str = "naive"
    name: Callable[[str], str] = field(default=lambda column: f"Their {column}")
    split: bool = False
    bare: bool = False

    def statements(self) -> list[str]:
        """The views, in a schema of their own."""
        made = [f"CREATE SCHEMA {SCHEMA}"]
        for (logical, column), words in WORDS.items():
            labels = ", ".join(f"'{SPELLED[self.spelled](word)}'" for word in words)
            made.append(f"CREATE TYPE {SCHEMA}.{self._type(logical, column)} AS ENUM ({labels})")
        for logical, table in MANAGED_TABLES.items():
            for name, columns in self._parts(logical).items():
                shown = ", ".join(f"{self._shown(logical, c)} AS {identifier(self.name(c.name))}" for c in columns)
                made.append(f'CREATE VIEW {SCHEMA}."{name}" AS SELECT {shown} FROM public.{table.name}')
        return made

    def _parts(self, logical: str) -> dict[str, list[sa.Column[Any]]]:
        """Tables of theirs that hold one of ours, with the columns of each: a key and the rest."""
        table = MANAGED_TABLES[logical]
        key, rest = table.c.id, [column for column in table.c if column is not table.c.id]
        if not self.split:
            return {f"{logical}s": [key, *rest]}
        return {f"{logical}s": [key, *rest[::2]], f"rest of {logical}": [key, *rest[1::2]]}

    def map(self) -> dict[str, Any]:
        """What opsdb-map.yaml says."""
        return {"schema": SCHEMA, "tables": {logical: self._mapped(logical) for logical in MANAGED_TABLES}}

    def _mapped(self, logical: str) -> dict[str, Any]:
        table = MANAGED_TABLES[logical]
        part: dict[str, Any] = {"table": f"{logical}s", "columns": {c.name: self.name(c.name) for c in table.c}}
        if self.split:
            part["joined"] = [{"table": f"rest of {logical}", "by": {self.name("id"): self.name("id")}}]
        if self.bare and "checksum" in table.c:
            part["columns"]["checksum"] = {"column": self.name("checksum"), "prefix": "sha256:"}
        values = {column: {word: SPELLED[self.spelled](word) for word in words}
                  for (of, column), words in WORDS.items() if of == logical}  # fmt: skip
        if logical == "DataLocation":
            values["active"] = {"true": "yes", "false": "no"}
        if values:
            part["values"] = values
        return part | {"change_time": self.name("updated_at")}

    def _shown(self, logical: str, column: sa.Column[Any]) -> str:
        if (logical, column.name) in WORDS:
            spelled = {"upper": "upper({})", "title": "initcap({})", "same": "{}"}[self.spelled].format(column.name)
            return f"{spelled}::{SCHEMA}.{self._type(logical, column.name)}"
        if self.bare and column.name == "checksum":
            return "substr(checksum, 8)"
        if column.name == "id":
            return KEYS[self.keys](column.table.name, "id")
        if column.foreign_keys:
            target = next(iter(column.foreign_keys)).column.table.name
            return KEYS[self.references or self.keys](target, column.name)
        if isinstance(column.type, UtcDateTime):
            return TIMES[self.times].format(column.name)
        return f"CASE WHEN {column.name} THEN 'yes' ELSE 'no' END" if column.name == "active" else column.name

    def _type(self, logical: str, column: str) -> str:
        return f"{logical.lower()}_{column}"


class DisguisedObservatory(Observatory):
    """What arrives is written by another site, whose tables these are."""

    def arrive(self, name: str) -> None:
        changes, self.settings_changes = self.settings_changes, {}
        super().arrive(name)
        self.settings_changes = changes


def wear(url: str, disguise: Disguise, folder: Path) -> dict[str, Any]:
    """The disguise in a database with tables of ours; the settings of a site that sees no more than that."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in disguise.statements():
            connection.exec_driver_sql(statement)
    engine.dispose()
    file = folder / "opsdb-map.yaml"
    file.write_text(json.dumps(disguise.map()))
    return {"observations": "foreign", "opsdb_map": file}
