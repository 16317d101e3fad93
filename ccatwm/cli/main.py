"""The command `ccatwm`: all subcommands, passes first. Touches: nothing itself."""

from __future__ import annotations

import os
import sys

from ccatwm.cli import (
    _frame,
    acting,
    caring,
    comparing,
    completing,
    contracting,
    garbage,
    health,
    in_hand,
    looking,
    passes,
    setup,
)

app = _frame.build_app(
    "Runs the science pipelines of the CCAT Data Center, one pass at a time.", name="ccatwm"
)
app.callback()(_frame.remember_common)

passes.register(app)
setup.register(app)
completing.register(app)
looking.register(app)
in_hand.register(app)
acting.register(app)
caring.register(app)
garbage.register(app)
comparing.register(app)
health.register(app)
setup.register_groups(app)
looking.register_groups(app)
contracting.register_groups(app)


def main() -> None:
    """Entry point. Leaves without the interpreter's tidying up, which would cost a fifth of an idle pass."""
    if completing.ASKED in os.environ:
        completing.answer(app)
    _frame.keep_named(app, sys.argv[1:])
    name = "ccatwm" if sys.argv[0].endswith("__main__.py") else None
    _frame.leave(_frame.run_app(app, name))
