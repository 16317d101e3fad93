"""Tells tar archives by their name or their first bytes. Pure."""

from __future__ import annotations

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
TAR_MAGIC_OFFSET, TAR_MAGIC = 257, b"ustar"  # POSIX.1-2017, pax: ustar interchange format


def is_tar_name(name: str) -> bool:
    return name.lower().endswith(TAR_ENDINGS)


def without_tar_ending(name: str) -> str:
    """The name of what an archive holds: `scan-1` of `scan-1.tar.gz`; any other name as it is."""
    return next((name[: -len(end)] for end in TAR_ENDINGS if name.lower().endswith(end)), name)
