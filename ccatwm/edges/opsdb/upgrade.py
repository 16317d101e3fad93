"""Brings the tables of an ops-db to this release, and tells where they differ from it. Touches: the ops-db.

Alembic is imported by the commands that need it, never by a pass.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables
from ccatwm.edges.opsdb.engine import (
    OBSERVATION_REVISIONS,
    PIPELINE_REVISIONS,
    VERSION_TABLE,
    Database,
)
from ccatwm.edges.opsdb.tables import SCHEMA
from ccatwm.errors import OpsDbUnavailableError, SchemaVersionError

SCRIPTS = Path(__file__).parent / "migrations"
VERSIONS = SCRIPTS / "versions"
UPGRADE_LOCK = 0x63636174  # pg_advisory_xact_lock key, "ccat"
OBSERVATION, PIPELINE = "observation", "pipeline"
KNOWN = {OBSERVATION: OBSERVATION_REVISIONS, PIPELINE: PIPELINE_REVISIONS}


def branches(observations: str) -> tuple[str, ...]:
    """The alembic branches that are ours: `observations` is `managed` or `foreign`."""
    return (OBSERVATION, PIPELINE) if observations == "managed" else (PIPELINE,)


def upgrade_tables(database: Database, *, observations: str = "managed") -> dict[str, tuple[str, str]]:
    """Upgrade every branch to its head, all in one transaction; (before, after) by branch, `` for none.

    Two upgrades at once wait for each other (PostgreSQL: advisory lock; SQLite: its write lock).
    """
    try:
        with database.write() as connection:
            _prepare(connection)
            before = read_revisions(connection)
            _run_upgrades(connection, branches(observations))
            after = read_revisions(connection)
    except (sa.exc.ProgrammingError, OpsDbUnavailableError) as error:
        raise _refusal(database, error) from error
    return {branch: (before.get(branch, ""), after.get(branch, "")) for branch in branches(observations)}


def _run_upgrades(connection: sa.Connection, wanted: Sequence[str]) -> None:
    from alembic import command

    for branch in wanted:
        command.upgrade(_config(connection), f"{branch}@head")


def _refusal(database: Database, error: Exception) -> Exception:
    """What stands in the way, for a person to clear; or the error itself where the ops-db only went away."""
    text = str(getattr(error, "orig", None) or error).strip()
    if "permission denied" in text:
        next_step = (
            f"ask for a schema to make tables in: CREATE SCHEMA {SCHEMA} AUTHORIZATION {database.url.username or '...'}"
        )
    elif "already exists" in text:
        next_step = (
            "another application has such a table: use a database of our own, or OBSERVATIONS = foreign"
        )
    elif isinstance(error, OpsDbUnavailableError):
        return error
    else:
        next_step = "nothing was changed; show this to whoever runs the database"
    message = next((line.strip() for line in text.splitlines() if "denied" in line or "exists" in line), text)
    return SchemaVersionError(f"the upgrade was refused: {message}", where=database.safe_url, next=next_step)


def read_revisions(connection: sa.Connection) -> dict[str, str]:
    """Revision by branch, as the version table says; empty where there is none."""
    schema = _schema(connection)
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return {}
    version = sa.table(VERSION_TABLE, sa.column("version_num"), schema=schema)
    found = connection.execute(sa.select(version.c.version_num)).scalars()
    return {text.rpartition("_")[0]: text for text in found}


def is_migration(revision: str) -> bool:
    """Whether a migration of this release is called so: an upgrade can begin there."""
    return re.fullmatch(r"[a-z]+_\d+", revision) is not None and (VERSIONS / f"{revision}.py").is_file()


def list_differences(database: Database, *, observations: str = "managed") -> list[str]:
    """Where the tables differ from what this release declares (as `alembic check` does), in words."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    # Where the observation tables are others', nothing of theirs is looked at: much of it may not be ours to see.
    foreign = observations == "foreign" and database.dialect == "postgresql"
    looked_at = (SCHEMA,) if foreign else (None, SCHEMA)
    with database.read() as connection, warnings.catch_warnings():
        # SQLAlchemy reflects indexes on expressions only in part; ours are partial, which it does know.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        options = alembic_options(connection) | {
            "target_metadata": declared_metadata(connection, observations),
            "compare_type": True,
            "include_schemas": True,
            "include_name": lambda name, kind, _: kind != "schema" or name in looked_at,
            "include_object": _is_ours,
        }
        context = MigrationContext.configure(connection, opts=options)
        found = compare_metadata(context, options["target_metadata"])
    return [
        _words(entry)
        for difference in found
        for entry in (difference if isinstance(difference, list) else [difference])
    ]


def declared_metadata(connection: sa.Connection, observations: str) -> sa.MetaData:
    """The declared tables as this database holds them: SQLite knows no schema."""
    tables.complete_for_postgresql()
    merged = sa.MetaData(naming_convention=tables.observation.naming_convention)
    schema, blank = _schema(connection), sa.schema.BLANK_SCHEMA
    sources = [tables.pipeline_metadata]
    if observations == "managed":
        sources.append(tables.observation)
    for source in sources:
        for table in source.sorted_tables:
            table.to_metadata(
                merged,
                schema=schema if table.schema else None,  # type: ignore[arg-type]
                referred_schema_fn=lambda _table, to, *_: schema if schema and to else blank,  # type: ignore[arg-type]
            )
    return merged


def alembic_options(connection: sa.Connection) -> dict[str, Any]:
    """Options of a migration context on this connection."""
    return {"version_table": VERSION_TABLE, "version_table_schema": _schema(connection)}


def _schema(connection: sa.Connection) -> str | None:
    return SCHEMA if connection.dialect.name == "postgresql" else None


def _prepare(connection: sa.Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
    connection.execute(sa.text("SET LOCAL lock_timeout = '60s'"))
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
    if SCHEMA not in sa.inspect(connection).get_schema_names():
        connection.execute(sa.schema.CreateSchema(SCHEMA))


def _config(connection: sa.Connection) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    return config


def _is_ours(_item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Tables that are not declared are somebody else's."""
    return not (kind == "table" and reflected and compare_to is None)


def _words(entry: Any) -> str:
    """A difference of alembic's (`("add_index", Index(...))`) in words."""
    what, *rest = entry
    names = [n for n in (_name(part) for part in rest) if n]
    verb = str(what).replace("add_", "missing ").replace("remove_", "unexpected ").replace("_", " ")
    return f"{verb}: {' '.join(names)}"


def _name(part: Any) -> str:
    table = getattr(part, "table", None)
    name = getattr(part, "name", None) or (part if isinstance(part, str) else "")
    return f"{table.name}.{name}" if table is not None else str(name)
