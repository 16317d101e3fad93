"""Command lines as text that can be pasted into a shell. Pure.

Every argument is quoted; a program that is started from such text sees the very argv that it was made of.
"""

from __future__ import annotations

import shlex
import string
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from ccatwm.core.names import encode_name, raw_name

_PLAIN = (string.ascii_letters + string.digits + "/._-").encode()
_CONTINUED = " \\\n    "


def build_shell_command(argv: Sequence[str], *, directory: PurePath | str) -> str:
    """`argv` in `directory`, one argument a line, in a subshell: whoever pastes it stays where he is."""
    quoted = [shlex.quote(argument) for argument in argv]
    return f"(cd {shlex.quote(str(directory))} && exec {_CONTINUED.join(quoted)})"


def quote_path(path: PurePath) -> str:
    """A path for a shell, one line of plain text whatever bytes it has: `$'...'` of bash, where it is no plain text."""
    text = str(path)
    if encode_name(text.replace("%", "")) == text.replace("%", ""):
        return shlex.quote(text)
    raw = raw_name(text)
    return "$'" + "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in raw) + "'"


def build_command_line(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """`argv` with nothing but `environment`, on one line."""
    pairs = [f"{key}={value}" for key, value in sorted(environment.items())]
    return shlex.join(["env", "-i", *pairs, *argv])


def read_environment(argv: Sequence[str]) -> dict[str, str]:
    """The variables that a command line of `core.commands.build_argv` gives to its program, by their names there."""
    found: dict[str, str] = {}
    begin = next((n for n, argument in enumerate(argv) if argument == "-i"), len(argv)) + 1
    for argument in argv[begin:]:
        key, separator, value = argument.partition("=")
        if not separator or not key.isidentifier():
            break
        found[key] = value
    contained = {k: v for k, v in found.items() if k.startswith(("APPTAINERENV_", "SINGULARITYENV_"))}
    return {key.partition("_")[2]: value for key, value in contained.items()} or found
