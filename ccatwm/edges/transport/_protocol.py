"""What this program and its other half on the processing host say to each other. Pure.

A call is `{"id", "part", "method", "arguments"}`. Its answer is `{"id", "value"}` or `{"id", "error"}`; while a call
takes long, `{"id", "alive"}` comes now and then.
"""

from __future__ import annotations

from typing import Any

from ccatwm import errors
from ccatwm.core.wire import Codec
from ccatwm.interfaces import (
    CommandResult,
    EntryKind,
    FileWrite,
    PackageCopy,
    PackageOrder,
    Received,
    Space,
    TreeEntry,
    TreeSize,
)

CODEC = Codec(
    (
        CommandResult, EntryKind, FileWrite, PackageCopy, PackageOrder, Received, Space, TreeEntry, TreeSize,
        errors.Problem,
    )
)  # fmt: skip

GREETING = "CCATWM-AGENT"  # then a nonce and the version of Python, on a line of their own
OLDEST_PYTHON = (3, 11)
ALIVE_SECONDS = 10.0  # how often a busy agent says that it lives
LONGEST_TRACE = 1 << 16

# What may be raised there and here alike. Anything else is a defect.
_KINDS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.CcatwmError)
} | {"ValueError": ValueError}


def error_to_value(error: BaseException, trace: str) -> dict[str, Any]:
    """An error as it travels; `trace` is for the log of whoever looks for a defect."""
    value: dict[str, Any] = {
        "class": type(error).__name__,
        "message": str(error),
        "trace": trace[-LONGEST_TRACE:],
    }
    if isinstance(error, errors.CcatwmError):
        value |= {"message": error.message, "where": error.where, "next": error.next}
        value["problems"] = list(error.problems)
    return value


def error_from_value(value: dict[str, Any], call: str) -> Exception:
    """The same error here; one of an unknown class is a defect of this program, said without its traceback."""
    kind, message = _KINDS.get(str(value["class"])), str(value["message"])
    if kind is None:
        return errors.DefectError(
            f"{call} failed on the processing host: {value['class']}: {message[:500]}",
            next="this is a defect of ccatwm: please report it with what `-vv` logs",
        )
    if not issubclass(kind, errors.CcatwmError):
        return kind(message)
    return kind(
        message, where=value.get("where", ""), next=value.get("next", ""), problems=value.get("problems", ())
    )
