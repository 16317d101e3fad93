"""`inputs.list`: what a run's job compares before it starts, a line for each file of its inputs. Pure."""

from __future__ import annotations

from ccatwm.core.names import raw_name
from ccatwm.core.outputs import parse_listing, size_of


def input_line(path: bytes, size: int) -> bytes:
    """One file, `size TAB path` from the base directory; nothing for a path with a line break, which a list cannot have."""
    return b"" if b"\n" in path else b"%d\t%s\n" % (size, path)


def lines_of(folder: str, record: bytes) -> bytes:
    """The files of a folder, of its listing as `core.outputs` has it. Errors: ValueError for one that was cut."""
    above = raw_name(folder)
    files = sorted((path, head) for path, head in parse_listing(record).entries.items() if head.startswith(b"f"))
    return b"".join([input_line(b"%s/%s" % (above, path), size_of(head)) for path, head in files])
