"""Decides which site a command works on. Touches: the file system (whether folders are there)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ccatwm.errors import SettingsError

PREFIX = "CCAT_WORKFLOW_MANAGER_"
SETTINGS_FILE = "settings.toml"
DEFAULT_FOLDER = "ccatwm-data"
SYSTEM_SITES = Path("/etc/ccatwm")
MARK_FILE = ".ccatwm.json"  # in the base directory: which ops-db it belongs to
# With these in the environment no folder is needed.
ENOUGH = (f"{PREFIX}PIPELINE_BASE_DIR", f"{PREFIX}PROCESSING_LOCATION_ID")


@dataclass(frozen=True)
class Site:
    """A site: `folder` None means that environment variables alone say everything."""

    name: str
    folder: Path | None

    @property
    def file(self) -> Path | None:
        return self.folder / SETTINGS_FILE if self.folder else None


def find_site(asked: str | None, environ: Mapping[str, str], cwd: Path) -> Site:
    """The site that is asked for, else the first that is there. Errors: SettingsError."""
    named = asked or environ.get(f"{PREFIX}SITE")
    if named:
        return _named_site(named, "--site" if asked else f"{PREFIX}SITE", cwd)
    for folder in (cwd / DEFAULT_FOLDER, user_folder(environ)):
        if (folder / SETTINGS_FILE).is_file():
            return Site(folder.name, folder.resolve())
    if all(environ.get(key) for key in ENOUGH):
        return Site("environment", None)
    raise SettingsError(
        "no site was found",
        next=f"`ccatwm init` makes one in ./{DEFAULT_FOLDER}; "
        f"`--site NAME|DIR` or {PREFIX}SITE names another; "
        f"or set {' and '.join(ENOUGH)}",
    )


def user_folder(environ: Mapping[str, str]) -> Path:
    """The user's data folder (XDG base directory specification)."""
    base = environ.get("XDG_DATA_HOME") or str(
        Path(environ.get("HOME", "~")).expanduser() / ".local" / "share"
    )
    return Path(base) / "ccatwm"


def user_state_folder(environ: Mapping[str, str]) -> Path:
    """Where locks and local job records lie when nothing else says so."""
    base = environ.get("XDG_STATE_HOME") or str(
        Path(environ.get("HOME", "~")).expanduser() / ".local" / "state"
    )
    return Path(base) / "ccatwm"


def _named_site(named: str, origin: str, cwd: Path) -> Site:
    as_folder = cwd / Path(named).expanduser()
    if (as_folder / SETTINGS_FILE).is_file():
        folder = as_folder.resolve()
        return Site(folder.name, folder)
    shelves = [project_sites(), SYSTEM_SITES]
    if "/" not in named:
        for shelf in shelves:
            if (shelf / named / SETTINGS_FILE).is_file():
                return Site(named, (shelf / named).resolve())
    raise SettingsError(
        f"{named!r} is neither a folder with a {SETTINGS_FILE} nor the name of a site",
        where=origin,
        next=f"known sites: {', '.join(_names(shelves)) or 'none'} (in {' and '.join(map(str, shelves))}); "
        f"`ccatwm init {named}` makes one",
    )


def project_sites() -> Path:
    """`site-configs/` beside the package."""
    return Path(__file__).resolve().parents[2] / "site-configs"


def _names(shelves: Iterable[Path]) -> list[str]:
    return sorted({file.parent.name for shelf in shelves for file in shelf.glob(f"*/{SETTINGS_FILE}")})
