"""What a reduction step says about when and how it runs, as plain values. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ccatwm.core.model import Resources


@dataclass(frozen=True)
class StepPolicy:
    """A step as defined, with its defaults filled in; what `reduction_step.definition` holds."""

    name: str
    software: str
    depends_on: tuple[str, ...] = ()
    version_policy: str = "compatible"  # exact | compatible | latest
    version: str | None = None  # a pin (exact) or a lower bound
    references: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    group_by: tuple[Any, ...] = ()
    cooldown_seconds: float = 0
    settle_seconds: float = 0
    requires: str | float = "all"
    deadline_hours: float | None = None
    complete: str = "none"  # executed_obs_unit | none
    on_upstream_failure: str = "wait"  # wait | skip
    resources: Resources = field(default_factory=Resources)
    max_retries: int = 3
    retry: Mapping[str, Any] = field(default_factory=dict)
    partial_exit_codes: tuple[int, ...] = ()
    role: str | None = None
    raw_inputs: bool = True
    max_concurrent: int | None = None
    order: str = "newest"
    retention: Mapping[str, Any] = field(default_factory=dict)  # core.retention; what is absent goes by the site's settings
    companions: tuple[Mapping[str, Any], ...] = ()
    collect: Mapping[str, Any] | None = None  # verify
    staleness: Mapping[str, Any] = field(default_factory=dict)  # ignore, ignore_config
    scratch: str = "run"
    trigger: Mapping[str, Any] | None = None
    enabled: bool = True

    @property
    def ignored_changes(self) -> frozenset[str]:
        """Reasons to run that do not count."""
        return frozenset(self.staleness.get("ignore") or ())

    @property
    def ignored_config(self) -> tuple[str, ...]:
        """Dotted keys of the configuration that do not matter, with all below them."""
        return tuple(self.staleness.get("ignore_config") or ())

    @staticmethod
    def from_json(definition: Mapping[str, Any]) -> StepPolicy:
        """The policy written in a definition; keys that are absent take their defaults."""
        known = {key: value for key, value in definition.items() if key in StepPolicy.__dataclass_fields__}
        for key in ("depends_on", "references", "group_by", "partial_exit_codes", "companions"):
            if known.get(key) is not None:
                known[key] = tuple(known[key])
            else:
                known.pop(key, None)
        if isinstance(known.get("resources"), Mapping):
            known["resources"] = Resources.from_json(known["resources"])
        return StepPolicy(**known)


_NUMBER = re.compile(r"(\d+)")
_BEFORE_RELEASE = frozenset({"a", "alpha", "b", "beta", "c", "dev", "pre", "preview", "rc"})
_PRE, _END, _WORD, _DIGITS = range(4)  # how parts sort: 1.2rc1 < 1.2 < 1.2.post1 < 1.2.1


@cache
def version_key(text: str) -> tuple[Any, ...]:
    """Sort key of a version: numbers compare as numbers, a pre-release (`1.2.0-rc1`, `1.2.0rc1`) before its release."""
    release, _, pre = _bare(text).partition("-")
    return (_parts(release), 0 if pre else 1, _parts(pre))


def _parts(text: str) -> tuple[tuple[int, int, str], ...]:
    pieces = (part for piece in re.split(r"[.+_-]", text) for part in _NUMBER.split(piece) if part)
    return (*(_part(piece) for piece in pieces), (_END, 0, ""))


def _part(text: str) -> tuple[int, int, str]:
    if text.isdecimal():
        return (_DIGITS, int(text), "")
    return (_PRE if text.lower() in _BEFORE_RELEASE else _WORD, 0, text)


_AFTER_RELEASE = frozenset({"final", "ga", "p", "patch", "post", "r", "rev"})
_CHARACTERS = re.compile(r"[A-Za-z0-9._+-]+")
MAX_VERSION = 63


def version_problem(text: str) -> str | None:
    """Why a text is no version that compares with others, and what to write; None if it is one.

    It begins with a number, a `v` before it or not. Up to the first `-` or `+` every part has a number, or is a word
    that says where it stands by a release (`rc`, `post`). So `1.x` is a pattern of versions, and none itself.
    """
    if len(text) > MAX_VERSION:
        return f"is no version: at most {MAX_VERSION} characters, this has {len(text)}"
    if not _CHARACTERS.fullmatch(text):
        return "is no version: use letters, digits, . _ + -"
    bare = _bare(text)
    if not bare[0].isdecimal():
        return "is no version that compares with others: begin with a number, as in 1.2.0"
    for part in re.split(r"[._]", re.split(r"[+-]", bare, maxsplit=1)[0]):
        if not (_NUMBER.search(part) or part.lower() in _BEFORE_RELEASE | _AFTER_RELEASE):
            what = f"{part!r} is no number" if part else "a number is missing beside a dot"
            return f"is no version that compares with others: {what}; write one such as 1.2.0"
    return None if bare[-1].isalnum() else f"is no version: it ends in {bare[-1]!r}"


def major(text: str) -> str:
    """The major version: what stands before the first dot."""
    return _bare(text).split(".")[0].split("-")[0]


def _bare(text: str) -> str:
    return re.sub(r"^[vV](?=\d)", "", text.strip())
