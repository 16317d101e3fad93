"""Lists in pieces that a statement can take. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def chunks(values: Sequence[Any], size: int = 500) -> Iterable[Sequence[Any]]:
    """SQLite and PostgreSQL bound the number of parameters of a statement."""
    return (values[start : start + size] for start in range(0, len(values), size))
