"""Completion at a shell: the command that prints its script, and what answers when the shell asks.

Touches: nothing itself. A shell asks by `_CCATWM_COMPLETE` in the environment; nothing of this is imported otherwise.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import command
from ccatwm.errors import UsageError

ASKED = "_CCATWM_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
# Names of parameters, which are the same in all commands, and what they name.
KINDS = {
    "pipeline": "pipeline", "only_for": "pipeline", "step": "step", "sub_group": "key", "key": "key", "run": "run",
    "runs": "run", "first": "run", "second": "run", "target": "target", "status": "status", "failure_class": "class",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=_frame.SET_UP)(completion)


def completion(shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> int:
    """Print what makes a shell complete commands, pipelines, steps, keys and runs: eval "$(ccatwm completion bash)"."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in SHELLS:
        raise UsageError(f"there is no completion for {shell!r}", next=f"one of {', '.join(SHELLS)}")
    wanted = {"prog_name": "ccatwm", "complete_var": ASKED, "shell": shell}
    print(get_completion_script(**wanted))
    return 0


def answer(app: typer.Typer) -> None:
    """Say what may come next; a shell shows no message, so nothing is told that goes wrong."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()
    _attach(app)
    app(prog_name="ccatwm")


def _attach(app: typer.Typer) -> None:
    for entry in app.registered_commands:
        for name, annotation in getattr(entry.callback, "__annotations__", {}).items():
            for info in getattr(annotation, "__metadata__", ()):
                kind = "grouping" if (name, info.metavar) == ("name", "NAME") else KINDS.get(name)
                if kind is not None:
                    info.autocompletion = _completer(kind)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _attach(group.typer_instance)


def _completer(kind: str) -> Callable[[typer.Context, str], list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(Exception):
            return _names(kind, ctx, incomplete)
        return []

    return complete


def _names(kind: str, ctx: typer.Context, incomplete: str) -> list[str]:
    from ccatwm.views.completions import WORDS, build_completions

    if kind in WORDS:
        return [word.value for word in WORDS[kind] if word.value.startswith(incomplete)]
    above = ctx.parent.params if ctx.parent is not None else {}
    context = _frame.open_context(_frame.Common(site=ctx.params.get("site") or above.get("site")))
    pipeline, step = ctx.params.get("pipeline"), ctx.params.get("step")
    return build_completions(context.database, kind, incomplete, pipeline=pipeline, step=step)
