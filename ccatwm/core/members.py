"""How the membership of sub-groups changes when packages are grouped again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# What of a member row is compared: a change of any of them is a change of its sub-group.
FACTS = (
    "key",
    "package_name",
    "checksum",
    "size_bytes",
    "state",
    "executed_obs_unit_id",
    "instrument_module_id",
    "ended",
    "observed_at",  # what is nearest to it may be another
)


@dataclass(frozen=True)
class MembershipChange:
    """Member rows to remove (ids) and insert, and the keys of the sub-groups that changed, with their dims.

    `left`: ids of packages that are no longer in the sub-group where they were. `changed` and `gone` are names: of those
    that are members now, and of those that are members no more.
    """

    remove: tuple[int, ...]
    insert: tuple[Mapping[str, Any], ...]
    keys: Mapping[str, Any]
    left: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.remove or self.insert)


def membership_change(
    package_ids: Iterable[str], old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]
) -> MembershipChange:
    """The difference for `package_ids` between member rows as they are (`old`, with `id`) and as grouped now (`new`)."""
    remove: list[int] = []
    insert: list[Mapping[str, Any]] = []
    keys: dict[str, Any] = {}
    changed: list[str] = []
    gone: list[str] = []
    left: list[str] = []
    for package_id in package_ids:
        before, after = old.get(package_id), new.get(package_id)
        if before is not None and after is not None and all(before[f] == after[f] for f in FACTS):
            continue
        if before is not None:
            remove.append(before["id"])
            left += [package_id] if after is None or after["key"] != before["key"] else []
            keys[before["key"]] = before["dims"]
            gone += [before["package_name"]] if after is None else []
        if after is not None:
            insert.append(after)
            changed.append(after["package_name"])
            keys[after["key"]] = after["dims"]
    return MembershipChange(tuple(remove), tuple(insert), keys, tuple(left), tuple(changed), tuple(gone))
