"""Says which GRANTs the roles of an ops-db need. Touches: nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ccatwm.edges.opsdb.roles import Relation, Role, build_roles
from ccatwm.edges.opsdb.statements import identifier

FOR = {
    "passes": "cron on the processing host: the passes",
    "operators": "people who act: retry, cancel, hold, release, exclude, apply, ...",
    "readers": "people who look: status, show, explain, history, lineage, rerun --by-hand, ...",
}


@dataclass(frozen=True)
class RolesReport:
    """Statements for the owner of the tables, by role."""

    roles: tuple[Role, ...]
    postgresql: bool

    def to_json(self) -> dict[str, Any]:
        rows = [{"serves": r.serves, "role": r.name, "statements": list(r.statements)} for r in self.roles]
        return {"schema": "ccatwm.roles/1", "postgresql": self.postgresql, "roles": rows}

    def lines(self) -> list[str]:
        """Text for psql: the owner of the tables runs it, again after each `ccatwm db upgrade`."""
        lines = ["-- to be run by the owner of the tables, again after each `ccatwm db upgrade`"]
        if not self.postgresql:
            lines.append("-- (the ops-db of this site is SQLite, which has no roles: there the file's own modes decide)")
        for role in self.roles:
            lines += ["", f"-- {FOR[role.serves]}", f"-- CREATE ROLE {identifier(role.name)} NOLOGIN;", *role.statements]
        return lines


def describe_roles(
    passes: str,
    operators: str,
    readers: str,
    *,
    observations: str,
    postgresql: bool,
    list_foreign: Callable[[], Sequence[Relation]],
) -> RolesReport:
    """`list_foreign`: observation tables of others, asked for where they are not ours."""
    managed = observations == "managed"
    foreign = () if managed else list_foreign()
    return RolesReport(tuple(build_roles(passes, operators, readers, managed=managed, foreign=foreign)), postgresql)
