"""What a log line belongs to: the pass, the run and the pipeline that are worked on. Touches: nothing (context variables).

A pass says so once for all that is logged below it, by whomever.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

FIELDS = ("pass_name", "run", "pipeline")
_now: ContextVar[dict[str, object]] = ContextVar("journal", default={})  # noqa: B039  (never changed in place)


@contextmanager
def belonging(**fields: object) -> Iterator[None]:
    """All that is logged inside belongs to these (`pass_name`, `run`, `pipeline`), beside what was said around it."""
    token = _now.set({**_now.get(), **fields})
    try:
        yield
    finally:
        _now.reset(token)


class Stamp(logging.Filter):
    """Gives every record what it belongs to; what the record says itself counts."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in _now.get().items():
            if getattr(record, name, None) is None:
                setattr(record, name, value)
        return True
