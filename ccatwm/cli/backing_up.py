"""`ccatwm db backup` and `db restore`. Touches: nothing itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, Yes, command

if TYPE_CHECKING:
    from ccatwm.settings.schema import Settings

BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="The backup, one file of this host.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the change log.")]


def register(db: typer.Typer) -> None:
    """Add the commands to the group `db`."""
    command(db, "backup")(db_backup)
    command(db, "restore")(db_restore)


def db_backup(common: Common, file: BackupFile, yes: Yes = False) -> int:
    """Write the ops-db as of this moment into a file, while passes run; --yes replaces a file that is there.

    On PostgreSQL by its pg_dump, which must not be older than the server: the schema `ccatwm`, and the observation tables
    where they are ours.
    """
    from ccatwm.edges.clock import SystemClock
    from ccatwm.edges.opsdb.engine import Database
    from ccatwm.upkeep.backup import back_up
    from ccatwm.upkeep.base_dir import check_database_file

    settings = _settings(common)
    check_database_file(settings)
    database, now = Database(settings.opsdb_url), SystemClock().now()
    report = back_up(
        database, file, observations=settings.observations, now=now, overwrite=yes, progress=_frame.open_progress(common)
    )
    _frame.show_report(common, report)
    return 0


def db_restore(common: Common, file: BackupFile, yes: Yes = False, reason: Reason = "") -> int:
    """Bring the ops-db back to a backup of it, all or nothing; needs --yes, and that no pass is at work.

    What people said since the backup is lost with it: it is listed, to be said again. Nothing is submitted afterwards until
    `ccatwm doctor --reconcile` has found what was done since the backup.
    """
    from ccatwm.passes._frame import holder_is_gone
    from ccatwm.upkeep.backup import Said, restore
    from ccatwm.wiring import open_checkup, person

    with open_checkup(_settings(common)) as site:
        said = Said(person(), os.uname().nodename, site.clock.now(), reason)
        report = restore(site.settings, site.database, site.files, file, said, yes=yes, is_gone=holder_is_gone)
    _frame.show_report(common, report)
    return 0


def _settings(common: Common) -> Settings:
    from ccatwm.settings.load import load_settings

    return load_settings(common.site, os.environ, Path.cwd())
