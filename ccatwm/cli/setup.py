"""Commands that set up: `init apply ingest config schema db`. Touches: nothing itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccatwm.cli import _frame, backing_up
from ccatwm.cli._frame import Common, DryRun, Reason, Yes, command
from ccatwm.errors import SettingsError

if TYPE_CHECKING:
    from ccatwm.edges.opsdb.engine import Database
    from ccatwm.settings.schema import Settings

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files to read.")]


def register(app: typer.Typer) -> None:
    """Add the commands that make a site and tell it what to do."""
    for function in (init, apply, ingest):
        command(app, panel=_frame.SET_UP)(function)


def register_groups(app: typer.Typer) -> None:
    """Add the groups `config`, `schema` and `db`."""
    command(app, panel=_frame.SET_UP)(schema)
    config = _frame.build_app("Show the settings that hold.")
    command(config, "show")(config_show)
    app.add_typer(config, name="config", rich_help_panel=_frame.CARE)
    db = _frame.build_app("Take care of the ops-db.")
    command(db, "upgrade")(db_upgrade)
    command(db, "check")(db_check)
    command(db, "roles")(db_roles)
    backing_up.register(db)
    app.add_typer(db, name="db", rich_help_panel=_frame.CARE)


# --- a site ------------------------------------------------------------------------------------------------


def init(
    common: Common,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where; default ./ccatwm-data.")
    ] = None,
    opsdb: Annotated[
        str | None,
        typer.Option("--opsdb", metavar="URL", help="PostgreSQL to use instead of SQLite in the folder."),
    ] = None,
) -> int:
    """Make a site that works: settings, ops-db and folders.

    Where the database of --opsdb holds tables of others, nothing of them is changed: a map of what they are called is
    drafted, and our own tables get the schema `ccatwm`.
    """
    from ccatwm.edges.clock import SystemClock
    from ccatwm.settings.find import DEFAULT_FOLDER
    from ccatwm.upkeep.initialise import initialise
    from ccatwm.wiring import open_base_there

    target = folder or (_folder_of(common.site) if common.site else Path(DEFAULT_FOLDER))
    report = initialise(
        target, now=SystemClock().now(), environ=os.environ, opsdb_url=opsdb, open_base_there=open_base_there
    )
    if common.json:
        _frame.emit_json(report.to_json())
    elif not common.quiet:
        _show_init(report)
    return 0 if report.complete else SettingsError.exit_code


def _folder_of(site: str) -> Path:
    """The folder of a site that is there already under this name, else the folder to make."""
    from ccatwm.settings.find import find_site

    try:
        return find_site(site, os.environ, Path.cwd()).folder or Path(site)
    except SettingsError:
        return Path(site)


def _show_init(report: Any) -> None:
    from ccatwm.upkeep.site_parts import part_purpose

    if not report.made:
        _frame.print_lines([f"{report.folder} is a complete site; nothing was changed"])
    else:
        _frame.print_lines([f"made in {report.folder}:"])
        for line in report.made:
            _frame.print_lines([f"  {line}"])
            purpose = part_purpose(line, report.folder, report.settings)
            if purpose:
                _frame.print_lines([f"      {purpose}"])
    if report.guessed:
        print("guessed of their tables (the map says all of it):")
        for line in report.guessed:
            _frame.print_lines([f"  {line}"])
    if report.asks:
        print("our own tables need a schema; ask the owner of the database for:")
        for line in report.asks:
            _frame.print_lines([f"  {line}"])
    if report.settings.container_runtime == "none":
        _frame.print_lines([_uncontained(report)])
    print("next:")
    for line in report.next:
        _frame.print_lines([f"  {line}"])


def _uncontained(report: Any) -> str:
    """Why programs run without containers: nothing to contain them was found, or somebody said so."""
    origin = report.settings.origins.get("CONTAINER_RUNTIME", "")
    found_out = str(report.folder / "settings.toml") in report.made and not origin.startswith("environment")
    why = "Apptainer was not found" if found_out else f"CONTAINER_RUNTIME is none ({origin})"
    where = "on this host" if report.settings.hpc_backend == "local" else "on the nodes of the batch system"
    return f"programs run {where}, uncontained: {why}"


# --- what to process ---------------------------------------------------------------------------------------


def apply(
    common: Common,
    files: Files,
    dry_run: DryRun = False,
    prune: Annotated[bool, typer.Option("--prune", help="Disable what the files do not name.")] = False,
    yes: Yes = False,
    reason: Reason = None,
) -> int:
    """Apply pipeline definitions, and show what they change."""
    from ccatwm.upkeep.apply import apply_definitions

    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    report = apply_definitions(
        context.database,
        context.grouping,
        files,
        now=context.clock.now(),
        actor=context.actor,
        host=os.uname().nodename,
        dry_run=dry_run,
        prune=prune,
        yes=yes,
        confirm_runs=context.settings.confirm_runs,
        checksum_of=lambda path: context.host_files.digest(path),
        reason=reason,
    )
    _frame.show_report(common, report)
    return 0


def ingest(
    common: Common,
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE...]", help="YAML or JSON Lines.")] = None,
    scan: Annotated[Path | None, typer.Option("--scan", metavar="DIR", help="Find packages below a folder.")] = None,
    pattern: Annotated[
        str | None, typer.Option("--pattern", metavar="TEXT", help="What their paths below DIR say; see above.")
    ] = None,
    fits_header: Annotated[
        list[str] | None,
        typer.Option("--fits-header", metavar="KEY,...", help="FITS keywords to read, such as OBJECT,DATE-OBS."),
    ] = None,
    constants: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="What holds for all of them; repeatable.")
    ] = None,
    location: Annotated[
        str | None, typer.Option("--location", metavar="NAME", help="Data location; made if it is not there.")
    ] = None,
    checksum: Annotated[bool, typer.Option("--checksum", help="Compute SHA-256 of what is new or changed.")] = False,
    dry_run: DryRun = False,
) -> int:
    """Read observations (YAML, JSON Lines) into the ops-db, or find them: --scan.

    With --scan, each file or folder below DIR that matches the pattern is a raw data package:

    \b
      ccatwm ingest --scan DIR --pattern '{source}/{obs_date}/{scan}.fits' \\
                    --fits-header OBJECT,DATE-OBS --checksum --dry-run

    Fields with a meaning: source, obs_date, scan, instrument, instrument_module, observing_program, line_id,
    obs_unit. Others become metadata of the package; * stands for what nobody needs. The same scan again changes
    nothing, and nothing is ever deleted.
    """
    from ccatwm.cli._scanning import check_choice, scan_folder
    from ccatwm.upkeep.ingest import ingest_files

    check_choice(files, scan, {"--pattern": pattern, "--fits-header": fits_header, "--set": constants,
                               "--location": location, "--checksum": checksum})  # fmt: skip
    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    if context.settings.observations != "managed":
        raise SettingsError(
            "the observation tables of this site belong to others",
            where=context.settings.origins.get("OBSERVATIONS", ""),
            next="`ingest` is for sites with OBSERVATIONS = managed",
        )
    if scan is not None:
        return scan_folder(
            common, context, scan, pattern or "", fits_header=fits_header or (), constants=constants or (),
            location=location, checksum=checksum, dry_run=dry_run,
        )  # fmt: skip
    report = ingest_files(
        context.database,
        files or (),
        now=context.clock.now(),
        actor=context.actor,
        host=os.uname().nodename,
        dry_run=dry_run,
    )
    _frame.show_report(common, report)
    return 0


# --- config, schema, db ------------------------------------------------------------------------------------


def config_show(common: Common) -> int:
    """Print every setting with its value and where it comes from; secrets are masked."""
    from ccatwm.settings.load import flat_settings, show_settings

    settings = _settings(common)
    if common.json:
        rows = show_settings(settings)
        entries = [{"key": key, "value": value, "origin": origin} for key, value, origin in rows]
        site_dir = str(settings.site_dir) if settings.site_dir else None
        _frame.emit_json(
            {"schema": "ccatwm.config/1", "site": settings.site, "site_dir": site_dir, "settings": entries}
        )
    else:
        title = f"settings of {settings.site_dir or settings.site}"
        rows = flat_settings(settings)
        _frame.print_lines([title, *_setting_lines(rows, f"{settings.site_dir}/")])
    return 0


def _setting_lines(rows: Sequence[tuple[str, Any, str]], site_dir: str) -> list[str]:
    """No table: one long value would move all others out of sight, and a path is to be copied as a whole.

    Files of the site are named below `site_dir`, which the title tells.
    """
    width = max(len(key) for key, _, _ in rows)
    return [
        f"{key:<{width}}  {'-' if value is None else value}  ({origin.removeprefix(site_dir)})"
        for key, value, origin in rows
    ]


def schema(
    name: Annotated[str, typer.Argument(metavar="NAME", help="pipeline, observations, manifest or opsdb-map.")],
) -> int:
    """Print a JSON Schema, for editors and validators."""
    from ccatwm.upkeep.schemas import json_schema

    _frame.emit_json(json_schema(name))
    return 0


def db_upgrade(common: Common) -> int:
    """Bring the tables of the ops-db to this release."""
    from ccatwm.upkeep.schema_versions import upgrade_schema

    settings = _settings(common)
    report = upgrade_schema(_database(settings), observations=settings.observations)
    if common.json:
        _frame.emit_json(report.to_json())
    elif not common.quiet:
        for branch, (before, after) in report.changes.items():
            print(
                f"{branch}: {after} (nothing to do)"
                if before == after
                else f"{branch}: {before or 'nothing'} -> {after}"
            )
    return 0


def db_check(common: Common) -> int:
    """Compare the tables of the ops-db with what this release needs; exit 3 where they differ.

    Where the observation tables belong to others it lists what is missing there, and the statements to ask for.
    """
    from ccatwm.upkeep.opsdb_check import check_lines, check_observations
    from ccatwm.upkeep.schema_versions import check_schema

    settings = _settings(common)
    database = _database(settings)
    report = check_schema(database, observations=settings.observations)
    theirs = check_observations(settings, database) if settings.observations == "foreign" else None
    fine = report.fine and (theirs is None or theirs.fine)
    if common.json:
        about_theirs = {} if theirs is None else {"observations": theirs.to_json()}
        _frame.emit_json({**report.to_json(), "fine": fine, **about_theirs})
    elif not common.quiet or not fine:
        _show_check(report)
        if theirs is not None:
            print(f"observation tables, by {theirs.map_path}")
            for line in check_lines(theirs) or ["  fine"]:
                _frame.print_lines([line])
    return 0 if fine else SettingsError.exit_code


def db_roles(
    common: Common,
    passes: Annotated[str, typer.Option("--passes", metavar="NAME", help="Role of the passes.")] = "ccatwm_passes",
    operators: Annotated[
        str, typer.Option("--operators", metavar="NAME", help="Role of people who act.")
    ] = "ccatwm_operators",
    readers: Annotated[
        str, typer.Option("--readers", metavar="NAME", help="Role of people who look.")
    ] = "ccatwm_readers",
) -> int:
    """Print the GRANTs of a role for passes, one for operators and one for readers."""
    from ccatwm.upkeep.roles import describe_roles
    from ccatwm.wiring import build_grouping

    settings = _settings(common)
    database = _database(settings)
    report = describe_roles(
        passes,
        operators,
        readers,
        observations=settings.observations,
        postgresql=database.dialect == "postgresql",
        list_foreign=lambda: build_grouping(settings, database).relations(),
    )
    if common.json:
        _frame.emit_json(report.to_json())
    else:
        for line in report.lines():
            print(line)
    return 0


def _show_check(report: Any) -> None:
    lines = [report.url]
    lines += [f"  {version.branch}: {version.found or 'no tables'} ({version.state})" for version in report.versions]
    lines += [f"  {line}" for line in report.differences]
    lines.append("  fine" if report.fine else f"  next: {report.next}")
    for line in lines:
        _frame.print_lines([line])


def _settings(common: Common) -> Settings:
    from ccatwm.settings.load import load_settings

    return load_settings(common.site, os.environ, Path.cwd())


def _database(settings: Settings) -> Database:
    from ccatwm.edges.opsdb.engine import Database
    from ccatwm.upkeep.base_dir import check_database_file

    check_database_file(settings)
    return Database(settings.opsdb_url)
