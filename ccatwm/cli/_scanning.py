"""`ingest --scan`: options in, one call, report out. Touches: nothing itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common
from ccatwm.errors import UsageError

if TYPE_CHECKING:
    from ccatwm.passes._context import Context

EXAMPLE = "ccatwm ingest --scan DIR --pattern '{source}/{obs_date}/{scan}.fits'"


def check_choice(files: Sequence[Path] | None, scan: Path | None, options: Mapping[str, object]) -> None:
    """Either files or a scan. Errors: UsageError."""
    if scan is not None and files:
        raise UsageError("both files and --scan", where=str(files[0]), next="one after the other: two commands")
    if scan is not None and not options["--pattern"]:
        raise UsageError("--scan needs --pattern: what the paths of the packages say", next=EXAMPLE)
    given = [name for name, value in options.items() if value]
    if scan is None and given:
        raise UsageError(f"{', '.join(given)} without --scan", next=EXAMPLE)


def scan_folder(
    common: Common,
    context: Context,
    folder: Path,
    pattern: str,
    *,
    fits_header: Sequence[str],
    constants: Sequence[str],
    location: str | None,
    checksum: bool,
    dry_run: bool,
) -> int:
    """The exit code of `ingest --scan`: 1 where something could not be read."""
    from ccatwm.upkeep.scan import ScanRequest, scan_packages

    settings = context.settings
    request = ScanRequest(
        folder, pattern, fits_header, constants, location, checksum, settings.obs_timezone,
        {name: one.root for name, one in settings.locations.items() if one.root is not None},
    )  # fmt: skip
    report = scan_packages(
        context.database, request, now=context.clock.now(), actor=context.actor, host=os.uname().nodename,
        dry_run=dry_run, progress=context.progress,
    )  # fmt: skip
    _frame.show_report(common, report)
    return 1 if report.unread else 0
