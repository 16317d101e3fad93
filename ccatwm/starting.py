"""Where processes begin. Touches: the signal SIGINT; stderr when it comes.

Loading a command takes some tenths of a second, in which Ctrl-C would end in a traceback out of whatever was being
imported. So it ends the process at once here; a command itself is interrupted as usual (`cli._frame`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

EXIT_INTERRUPTED = 130
AGAIN_SECONDS = 0.02


def _end_at_once(_number: int, _where: FrameType | None) -> None:
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(EXIT_INTERRUPTED)


def _press_again(unraised: UnraisableHookArgs) -> None:
    """Python tells of an interrupt amid a callback (of imports, say) and forgets it; a moment later it gets through."""
    if unraised.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraised)
        return
    again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it: so it stays
    signal.signal(signal.SIGINT, _end_at_once)
    sys.unraisablehook = _press_again
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # bin/ccatwm lets it wait until here


def main() -> None:
    """`ccatwm`."""
    from ccatwm.cli.main import main

    main()


def manage() -> None:
    """`ccat_workflow_manager`."""
    from ccatwm.cli.managers import main

    main()
