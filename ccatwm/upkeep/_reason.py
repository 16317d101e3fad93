"""The reason that every act of a person needs. Touches: nothing."""

from __future__ import annotations

from ccatwm.errors import UsageError


def require_reason(reason: str, use: str) -> None:
    """Errors: UsageError without a reason; `use` says what it is for."""
    if not reason.strip():
        raise UsageError("say why: --reason TEXT", next=use)
