"""What a site on somebody else's ops-db lacks, and what to ask its owner for. Touches: the ops-db, reading only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ccatwm.edges.opsdb.catalogue import missing_indexes
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.foreign import OWN_SCHEMA, find_tables, unreachable
from ccatwm.edges.opsdb.statements import identifier
from ccatwm.errors import Problem
from ccatwm.settings.schema import Settings
from ccatwm.upkeep.opsdb_map import grant, read_map, role_of

# What people cannot do where their tables do not tell this.
TOLD = (
    ("ExecutedObsUnit", "start_time", "no companions nearest in time, no obs_date, no backfill, no module:... to exclude"),
    ("ExecutedObsUnit", "name", "nothing to exclude as unit:NAME"),
    ("Instrument", "name", "nothing to exclude as module:INSTRUMENT/MODULE@FROM..TO"),
)


@dataclass(frozen=True)
class ForeignReport:
    """`missing` keeps the passes from working; `slow` are indexes without which they read whole tables; `notes` are
    parts of the map that nothing can use. `asks`: statements for the owner of the tables."""

    map_path: str
    missing: tuple[Problem, ...]
    slow: tuple[Problem, ...]
    notes: tuple[str, ...]
    asks: tuple[str, ...]

    @property
    def fine(self) -> bool:
        return not self.missing

    def to_json(self) -> dict[str, Any]:
        def rows(problems: tuple[Problem, ...]) -> list[dict[str, str]]:
            return [{"where": p.where, "what": p.what, "next": p.next} for p in problems]

        return {
            "map": self.map_path,
            "fine": self.fine,
            "missing": rows(self.missing),
            "slow": rows(self.slow),
            "notes": list(self.notes),
            "ask_for": list(self.asks),
        }


def check_observations(settings: Settings, database: Database) -> ForeignReport:
    """Tables, columns, rights and indexes. Errors: SettingsError for a map that is wrong in itself."""
    read = read_map(settings)
    with database.read() as connection:
        foreign = find_tables(connection, read.mapped)
        lacking = missing_indexes(connection, read.mapped, foreign.tables, foreign.found)
    missing = [
        Problem(read.where(lack.place), lack.what, lack.next or f"ask for: {grant(lack, database)}")
        for lack in foreign.lacks
    ]
    statements = [
        f"CREATE INDEX CONCURRENTLY ON {identifier(i.schema)}.{identifier(i.table)} ({identifier(i.column)});"
        for i in lacking
    ]
    slow = [
        Problem(f"{i.schema}.{i.table}.{i.column}", f"has no index, {i.why}", f"ask for: {statement}")
        for i, statement in zip(lacking, statements, strict=True)
    ]
    notes = [f"{name}: no join leads there, so no rule can name it" for name in unreachable(foreign.tables)]
    if "PhysicalCopy" not in foreign.tables.tables:
        notes.append("PhysicalCopy is not mapped: `stage` knows no copy of any package")
    notes += [f"{name}.{column} is not told: {so}" for name, column, so in TOLD if not foreign.tables.has(name, column)]
    grants = [grant(lack, database) for lack in foreign.lacks if lack.denied is not None]
    asks = [*own_schema_statements(database), *dict.fromkeys(grants), *dict.fromkeys(statements)]
    return ForeignReport(str(read.path), tuple(missing), tuple(slow), tuple(notes), tuple(asks))


def own_schema_statements(database: Database) -> list[str]:
    """What gives us a schema of our own, where there is none and this role may not make it."""
    with database.read() as connection:
        there, may_create = connection.exec_driver_sql(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s), "
            "has_database_privilege(current_database(), 'CREATE')",
            (OWN_SCHEMA,),
        ).one()
    if there or may_create:
        return []
    return [f"CREATE SCHEMA {OWN_SCHEMA} AUTHORIZATION {identifier(role_of(database))};"]


def check_lines(report: ForeignReport) -> list[str]:
    """The report in words."""
    lines = [f"  missing: {problem}" for problem in report.missing]
    lines += [f"  slow: {problem.where}: {problem.what}" for problem in report.slow]
    lines += [f"  note: {note}" for note in report.notes]
    if report.asks:
        lines += ["  ask the owner of the tables for:", *(f"    {statement}" for statement in report.asks)]
    return lines
