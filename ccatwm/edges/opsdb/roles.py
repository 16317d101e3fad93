"""Which rights whom serves: passes, operators, readers. Touches: nothing; it is said as statements for PostgreSQL.

An operator writes what people say, and nothing that passes alone do: no submission, attempt, product or staged package,
no lease and no cursor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.statements import identifier

ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
# SELECT ... FOR UPDATE takes the right to update (PostgreSQL manual, SELECT).
OPERATORS: Mapping[str, tuple[str, ...]] = {
    "acceptance": ("INSERT",),
    "backfill": ("INSERT", "UPDATE"),
    "change_log": ("INSERT",),
    "data_grouping": ("INSERT", "UPDATE"),
    "exclusion": ("INSERT", "UPDATE"),
    "executed_reduction_step": ("UPDATE",),
    "grouping_scope": ("INSERT", "UPDATE"),
    "ops_db": ("UPDATE",),
    "pipeline": ("INSERT", "UPDATE"),
    "published_set": ("INSERT", "UPDATE"),
    "reduction_software": ("INSERT",),
    "reduction_software_version": ("INSERT", "UPDATE"),
    "reduction_step": ("INSERT", "UPDATE"),
    "reduction_step_config": ("INSERT",),
    "reduction_step_dependency": ("INSERT", "DELETE"),
    "reference_data": ("INSERT",),
    "reference_data_version": ("INSERT", "UPDATE"),
    "run_event": ("INSERT",),
    "step_companion": ("INSERT", "UPDATE", "DELETE"),
    "sub_group": ("UPDATE",),
    "trigger_event": ("INSERT", "UPDATE"),
}
# What passes do to observation tables that are ours: their copies and their requests to bring data.
PASSES_OBSERVE: Mapping[str, tuple[str, ...]] = {
    "physical_copy": ("INSERT", "UPDATE"),
    "staging_job": ("INSERT", "UPDATE"),
}


@dataclass(frozen=True)
class Role:
    """A role, whom it serves, and what its owner of the tables has to say for it."""

    serves: str
    name: str
    statements: tuple[str, ...]


Relation = tuple[str | None, str]  # schema, if it is not that which is looked in first; name


def build_roles(
    passes: str, operators: str, readers: str, *, managed: bool, foreign: Sequence[Relation] = ()
) -> list[Role]:
    """`managed`: observation tables are ours; else `foreign` are those that are read."""
    ours: list[Relation] = [(None, name) for name in sorted(table.name for table in t.observation.tables.values())]
    observed = ours if managed else foreign
    return [
        Role("passes", passes, _passes(identifier(passes), observed, managed)),
        Role("operators", operators, _operators(identifier(operators), observed, managed)),
        Role("readers", readers, _readers(identifier(readers), observed)),
    ]


def _readers(role: str, observed: Sequence[Relation]) -> tuple[str, ...]:
    """Looking. Tables of later releases are included."""
    return (
        f"GRANT USAGE ON SCHEMA {t.SCHEMA} TO {role};",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {t.SCHEMA} TO {role};",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {t.SCHEMA} GRANT SELECT ON TABLES TO {role};",
        *_observing(role, observed),
    )


def _operators(role: str, observed: Sequence[Relation], managed: bool) -> tuple[str, ...]:
    """Looking, and writing what people say; with observation tables of ours also `ingest`."""
    ingested = {name: ("INSERT", "UPDATE") for _, name in observed} if managed else {}
    return (
        *_readers(role, observed),
        *_grants(OPERATORS, role, f"{t.SCHEMA}."),
        *_sequences(OPERATORS, role, f"{t.SCHEMA}."),
        *_grants(ingested, role, ""),
        *_sequences(ingested, role, ""),
    )


def _passes(role: str, observed: Sequence[Relation], managed: bool) -> tuple[str, ...]:
    """All of our tables, those of later releases included."""
    rights, schema = ", ".join(ALL), t.SCHEMA
    own = PASSES_OBSERVE if managed else {}
    return (
        f"GRANT USAGE ON SCHEMA {schema} TO {role};",
        f"GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {role};",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT {rights} ON TABLES TO {role};",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO {role};",
        *_observing(role, observed),
        *_grants(own, role, ""),
        *_sequences(own, role, ""),
    )


def _observing(role: str, observed: Sequence[Relation]) -> list[str]:
    """Reading observation tables, wherever they are."""
    schemas = sorted({schema for schema, _ in observed if schema is not None})
    names = [".".join(identifier(part) for part in relation if part is not None) for relation in observed]
    usage = [f"GRANT USAGE ON SCHEMA {identifier(schema)} TO {role};" for schema in schemas]
    return [*usage, *_grants(dict.fromkeys(names, ("SELECT",)), role, "")]


def _grants(rights: Mapping[str, tuple[str, ...]], role: str, prefix: str) -> list[str]:
    """One statement for all tables with the same rights."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for table, wanted in rights.items():
        alike.setdefault(wanted, []).append(f"{prefix}{table}")
    return [f"GRANT {', '.join(wanted)} ON {', '.join(names)} TO {role};" for wanted, names in alike.items()]


def _sequences(rights: Mapping[str, tuple[str, ...]], role: str, prefix: str) -> list[str]:
    """Whoever inserts takes a number: PostgreSQL calls the sequence of a serial column `table_column_seq`."""
    names = [f"{prefix}{table}_id_seq" for table, wanted in rights.items() if "INSERT" in wanted]
    return [f"GRANT USAGE ON SEQUENCE {', '.join(names)} TO {role};"] if names else []


_DENIED = re.compile(r"permission denied for (table|sequence|schema|relation|view) (\S+)")
_VERBS = {"INSERT": "INSERT", "UPDATE": "UPDATE", "DELETE": "DELETE", "SELECT": "SELECT"}


def lacking_grant(message: str, statement: str | None, role: str) -> str | None:
    """The GRANT that a refused statement lacks, by what PostgreSQL said of it; None if it said something else."""
    found = _DENIED.search(message)
    if found is None:
        return None
    kind, name = found.groups()
    name = name.strip('"')
    if kind == "schema":
        return f"GRANT USAGE ON SCHEMA {identifier(name)} TO {identifier(role)}"
    ours = {table.name for table in t.pipeline_metadata.tables.values()} | {"ccatwm_version"}
    table = name.removesuffix("_id_seq")
    place = f"{t.SCHEMA}.{name}" if table in ours else identifier(name)
    if kind == "sequence":
        return f"GRANT USAGE ON SEQUENCE {place} TO {identifier(role)}"
    words = (statement or "").split()
    right = _VERBS.get(words[0].upper() if words else "", "SELECT")
    if right == "SELECT" and re.search(r"\bFOR (NO KEY )?(UPDATE|SHARE)\b", statement or ""):
        right = "SELECT, UPDATE"
    return f"GRANT {right} ON {place} TO {identifier(role)}"
