"""Settings of a site: environment, section of its file, default section, built-in. Touches: its files (read).

Dynaconf reads and merges; here values are checked against `Settings`, all mistakes at once, and remembered
with where each came from.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ccatwm.core.flags import flag_problem
from ccatwm.core.objects import SCHEME, object_place
from ccatwm.core.retention import KEEP
from ccatwm.core.rules import parse_since
from ccatwm.errors import Problem, SettingsError
from ccatwm.settings.find import MARK_FILE, PREFIX, SETTINGS_FILE, Site, find_site, user_state_folder
from ccatwm.settings.schema import (
    LocalSettings,
    LocationSettings,
    Settings,
    SlurmSettings,
    SshSettings,
    StageSettings,
)

SECTION_VARIABLE = "ENV_FOR_DYNACONF"
DATABASE_FILE = "opsdb.sqlite"
BUILT_IN = "built-in"
FROM_ENVIRONMENT = "environment variable"

# Keys whose field has another name, and keys that are no field.
FIELD_OF_KEY = {"PROCESSING_LOCATION_ID": "processing_location"}
KEY_OF_FIELD = {field: key for key, field in FIELD_OF_KEY.items()}
NO_FIELD = {"SITE", "OPSDB_URL_FILE"}
COMPUTED = {"site", "site_dir", "origins", "extra"}

CHOICES = {
    "COLLECT_VERIFY": ("none", "size", "full"),
    "OBSERVATIONS": ("managed", "foreign"),
    "CONTAINER_RUNTIME": ("apptainer", "singularity", "none"),
    "STAGE.executor": ("inline", "job"),
    "STAGING_MODE": ("fetch", "request"),
    "TRANSPORT": ("local", "ssh"),
    "WORKFILES": ("local", "ssh"),
}
PLACEHOLDER = re.compile(r"<[^<>]+>")  # in settings to begin with, site-configs/README.md
PATHS_OF_SSH = {"SSH.key_file", "SSH.certificate_file", "SSH.known_hosts"}  # on this host
BUILT_IN_BACKENDS = ("local", "slurm")
MAY_BE_ZERO = {
    "MIN_FREE_GB", "MIN_FREE_INODES", "KEEP_FAILED_INPUTS_HOURS", "RETRY_BASE_SECONDS", "GRACE_SECONDS", "CONFIRM_RUNS",
    "RECORD_WAIT_SECONDS", "CHANGE_OVERLAP_SECONDS", "MAX_SECONDS", "MAX_SECONDS_STAGE", "TRASH_GRACE_HOURS",
    "RETENTION_INTERMEDIATE_DAYS", "RETENTION_SUPERSEDED_DAYS", "RETENTION_SCRATCH_DAYS", "RETENTION_LOG_DAYS",
    "RETENTION_LOG_MAX_GB",
}  # fmt: skip


def load_settings(site: str | None, environ: Mapping[str, str], cwd: Path) -> Settings:
    """The settings of `site` (a name, a folder, or None for the first that is there).

    Errors: SettingsError: no site, or every mistake in its settings at once.
    """
    found = find_site(site, environ, cwd)
    values, origins = _read_layers(found, environ)
    return _Check(found, values, origins, environ, cwd).settings()


# --- layers ------------------------------------------------------------------------------------------------


def _read_layers(site: Site, environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by key in capitals, and where each comes from."""
    with _dynaconf_alone():
        from dynaconf.base import LazySettings
        from dynaconf.utils.parse_conf import parse_conf_data

    section = environ.get(SECTION_VARIABLE) or "default"
    origins = _origins_in_file(site, section)
    layers = LazySettings(
        settings_files=[str(site.file)] if site.file else [],
        root_path=str(site.folder or Path("/")),
        environments=True,
        env=section,
        core_loaders=["TOML"],
        loaders=[],  # the environment is merged below, so that it is an argument
    )
    given = {
        key.removeprefix(PREFIX): parse_conf_data(text, tomlfy=True, box_settings=layers)
        for key, text in environ.items()
        if key.startswith(PREFIX) and len(key) > len(PREFIX)
    }
    layers.update(given)
    for key in given:
        # `LOCAL__SLOTS` is one key of a table: the others keep their own origin.
        parts, value = key.split("__"), given[key]
        inside = _keys_inside(value, tuple(parts)) if isinstance(value, dict) else ()
        origins |= dict.fromkeys((parts[0], _dotted(parts), *inside), f"{FROM_ENVIRONMENT} {PREFIX}{key}")
    merged = {key: value for key, value in layers.as_dict().items() if key in origins}
    return merged, origins


def _dotted(parts: Sequence[str]) -> str:
    """The name of a setting inside tables, in the spelling in which origins are kept."""
    return ".".join(parts).upper()


@contextmanager
def _dynaconf_alone() -> Iterator[None]:
    """Dynaconf imports these where they are installed; we need none, and Flask takes longer than all the rest of it."""
    hidden = [name for name in ("jinja2", "flask", "django") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails, as if it were not there
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _origins_in_file(site: Site, section: str) -> dict[str, str]:
    """Keys of the file's sections that count, those inside tables too (`LOCAL.SLOTS`).

    Errors: SettingsError for a file that is no TOML, or a section that is named and not there.
    """
    if site.file is None:
        return {}
    sections = _read_toml(site.file)
    stray = [key for key, value in sections.items() if not isinstance(value, dict)]
    if stray:
        raise SettingsError(
            "the settings are wrong",
            problems=[
                Problem(f"{site.file}: {key}", "stands outside a section", "put it below [default]")
                for key in stray
            ],
        )
    by_name = {name.lower(): content for name, content in sections.items()}
    if section.lower() not in {"default", *by_name}:
        raise SettingsError(
            f"{SECTION_VARIABLE} is {section!r}, a section that {site.file} does not have",
            next=f"sections: {', '.join(['default', *(name for name in sections if name.lower() != 'default')])}",
        )
    return {
        key: f"{site.file} [{name}]"
        for name in ("default", section.lower())
        for key in _keys_inside(by_name.get(name, {}))
    }


def _keys_inside(table: Mapping[str, Any], parents: tuple[str, ...] = ()) -> Iterator[str]:
    for name, value in table.items():
        yield _dotted((*parents, name))
        if isinstance(value, dict):
            yield from _keys_inside(value, (*parents, name))


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"not TOML: {error}", where=str(file), next="correct it with an editor"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError("not UTF-8 text", where=str(file), next="save it as UTF-8") from error
    except OSError as error:
        raise SettingsError(
            f"cannot be read: {error.strerror}", where=str(file), next=f"`ls -l {file}` says who may; let this account"
        ) from error


# --- checks ------------------------------------------------------------------------------------------------


class _Check:
    """Turns merged values into `Settings`, collecting every mistake."""

    def __init__(
        self,
        site: Site,
        values: dict[str, Any],
        origins: dict[str, str],
        environ: Mapping[str, str],
        cwd: Path,
    ) -> None:
        self.site = site
        self.values = values
        self.origins = origins
        self.environ = environ
        self.cwd = cwd
        self.problems: list[Problem] = []

    def settings(self) -> Settings:
        self._refuse_unknown_keys()
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(Settings):
            key = KEY_OF_FIELD.get(field.name, field.name.upper())
            if field.name not in COMPUTED and key in self.values:
                value = self._parse(key, str(field.type), self.values[key])
                if value is not None:
                    fields[field.name] = value
        self._fill_in(fields)
        if self.problems:
            raise SettingsError("the settings are wrong", where=self._wrong_one(), problems=self.problems)
        return Settings(site=self.site.name, site_dir=self.site.folder, origins=self._all_origins(), **fields)

    def _subject(self) -> str:
        return str(self.site.file or "environment variables")

    def _wrong_one(self) -> str:
        """The settings file where any mistake is in it."""
        in_file = any(problem.where.startswith(str(self.site.file)) for problem in self.problems)
        return str(self.site.file) if in_file else "environment variables"

    def _wrong(self, key: str, what: str, allowed: str) -> None:
        self.problems.append(Problem(f"{self._origin(key)}: {key}", what, f"allowed: {allowed}"))

    def _origin(self, key: str) -> str:
        """Where the value of a key comes from, or the table around it."""
        parts = key.split(".")
        names = [_dotted(parts[:n]) for n in range(len(parts), 0, -1)]
        return next((self.origins[name] for name in names if name in self.origins), self._subject())

    def _refuse_unknown_keys(self) -> None:
        known = known_keys()
        for key in sorted(set(self.values) - known):
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "see docs/reference/settings.md for all keys"
            self.problems.append(Problem(f"{self.origins[key]}: {key}", "no such setting", hint))

    # Values.

    def _parse(self, key: str, kind: str, value: Any) -> Any:
        parsers: dict[str, Callable[[str, Any], Any]] = {
            "str": self._text,
            "str | None": self._text,
            "int": self._whole_number,
            "float": self._number,
            "float | None": self._number,
            "float | str": self._limit,
            "Path": self._path,
            "Path | None": self._path,
            "bool": self._truth,
            "int | None": self._whole_number,
            "tuple[str, ...]": self._texts,
            "LocalSettings": lambda k, v: self._nested(k, v, LocalSettings),
            "SlurmSettings": lambda k, v: self._nested(k, v, SlurmSettings),
            "StageSettings": lambda k, v: self._nested(k, v, StageSettings),
            "SshSettings": lambda k, v: self._nested(k, v, SshSettings),
            "Mapping[str, str]": self._text_map,
            "Mapping[str, Any]": lambda k, v: self._table(k, v, None),
            "Mapping[str, LocationSettings]": self._locations,
        }
        return parsers[kind](key, value)

    def _text(self, key: str, value: Any) -> str | None:
        if isinstance(value, dict | list | bool) or value is None:
            self._wrong(key, f"{value!r} is no text", "text")
            return None
        text = str(value)
        if left := PLACEHOLDER.findall(text):
            self.problems.append(Problem(f"{self._origin(key)}: {key}", "is to be filled in", ", ".join(left)))
            return None
        if key in CHOICES and text not in CHOICES[key]:
            self._wrong(key, f"{text!r} is not known", ", ".join(CHOICES[key]))
            return None
        if key == "HPC_BACKEND" and text not in BUILT_IN_BACKENDS:
            backends = sorted({*BUILT_IN_BACKENDS, *_installed_backends()})
            if text not in backends:
                self._wrong(key, f"{text!r} is no batch system that is installed", ", ".join(backends))
                return None
        if key in PATHS_OF_SSH and text:
            return str(self._folder_of(key) / Path(text).expanduser())
        if key == "FULL_EVERY" and not parse_since(text):
            self._wrong(key, f"{text!r} is no duration", "a duration such as 30m, 6h or 1d")
            return None
        if key == "OBS_TIMEZONE" and not _is_timezone(text):
            self._wrong(key, f"{text!r} is no time zone", "an IANA name such as America/Santiago")
            return None
        return text

    def _whole_number(self, key: str, value: Any) -> int | None:
        number = self._number(key, value, "a whole number")
        if number is not None and number != int(number):
            self._wrong(key, f"{value!r} is no whole number", "a whole number")
            return None
        return None if number is None else int(number)

    def _number(self, key: str, value: Any, allowed: str = "a number") -> float | None:
        lowest = "0 or more" if key in MAY_BE_ZERO else "more than 0"
        try:
            number = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError):
            number = None
        if number is None or number != number or number in (float("inf"), float("-inf")):
            self._wrong(key, f"{value!r} is no number", f"{allowed}, {lowest}")
            return None
        if number < 0 or (number == 0 and key not in MAY_BE_ZERO):
            self._wrong(key, f"{value!r} is too small", f"{allowed}, {lowest}")
            return None
        return number

    def _limit(self, key: str, value: Any) -> float | str | None:
        """A number, or that nothing goes."""
        return KEEP if value == KEEP else self._number(key, value, f"{KEEP}, or a number")

    def _path(self, key: str, value: Any) -> Path | None:
        """Relative paths are relative to the folder of the site; in the environment, to where we are."""
        said_here = self._origin(key).startswith(FROM_ENVIRONMENT)  # where a number is a text like any other
        if isinstance(value, int | float) and not isinstance(value, bool) and not said_here:
            self._wrong(key, f"{value!r} is no text", "a path in quotes")
            return None
        text = self._text(key, value)
        if not text:
            if text == "":
                self._wrong(key, "is empty", "a path")
            return None
        return self._folder_of(key) / Path(text).expanduser()

    def _folder_of(self, key: str) -> Path:
        """What a relative path in the value of `key` is relative to."""
        said_here = self._origin(key).startswith(FROM_ENVIRONMENT)
        return self.cwd if said_here or self.site.folder is None else self.site.folder

    def _truth(self, key: str, value: Any) -> bool | None:
        if isinstance(value, bool):
            return value
        self._wrong(key, f"{value!r} is neither true nor false", "true, false")
        return None

    def _texts(self, key: str, value: Any) -> tuple[str, ...] | None:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            for item in value if key in ("SLURM.extra", "STAGE.extra") else ():
                if (problem := flag_problem(item)) is not None:
                    self._wrong(key, f"{item!r} {problem}", "options of sbatch, one per item")
            return tuple(str(item) for item in value)
        self._wrong(key, f"{value!r} is no list of texts", 'a list of texts, ["--mail-type=NONE"]')
        return None

    def _text_map(self, key: str, value: Any) -> dict[str, str]:
        table = self._table(key, value, None)
        return {name: text for name, item in table.items() if (text := self._text(f"{key}.{name}", item))}

    def _nested(self, key: str, value: Any, kind: type[Any]) -> Any:
        """A table whose keys are the fields of `kind`."""
        types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
        given = {
            name: self._parse(f"{key}.{name}", types[name], content)
            for name, content in self._table(key, value, list(types)).items()
            if name in types
        }
        return kind(**{name: content for name, content in given.items() if content is not None})

    def _locations(self, key: str, value: Any) -> dict[str, LocationSettings] | None:
        names = [field.name for field in dataclasses.fields(LocationSettings)]
        found = {}
        for name, content in self._table(key, value, None).items():
            place = self._table(f"{key}.{name}", content, names)
            given = {
                part: self._location_part(f"{key}.{name}.{part}", part, value)
                for part, value in place.items()
                if part in names and value is not None
            }
            found[str(name)] = LocationSettings(**{part: text for part, text in given.items() if text})
        return found

    def _location_part(self, key: str, part: str, value: Any) -> str | None:
        if part == "credentials_file" or (part == "root" and not str(value).startswith(SCHEME)):
            path = self._path(key, value)
            return str(path) if path else None
        text = self._text(key, value)
        if text and part == "root":
            try:
                object_place(text, "any")
            except ValueError as error:
                self._wrong(key, str(error), "a folder, or s3://BUCKET/PREFIX")
        if text and part == "endpoint_url" and not text.startswith(("https://", "http://")):
            self._wrong(key, f"{text!r} is no address", "https://HOST[:PORT]")
        return text

    def _table(self, key: str, value: Any, names: list[str] | None) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._wrong(key, f"{value!r} is no table", f"a table, [default.{key.lower()}]")
            return {}
        table = {str(name).lower() if names else str(name): content for name, content in value.items()}
        for name in table:
            if names is not None and name not in names:
                self._wrong(f"{key}.{name}", "no such setting", ", ".join(names))
        return table

    # What follows from other settings.

    def _fill_in(self, fields: dict[str, Any]) -> None:
        base = fields.get("pipeline_base_dir")
        if base is None and "PIPELINE_BASE_DIR" not in self.values:
            self._missing("PIPELINE_BASE_DIR", "the folder of run directories")
        if "processing_location" not in fields and "PROCESSING_LOCATION_ID" not in self.values:
            self._missing("PROCESSING_LOCATION_ID", "name or id of the data location that is served")
        if base is not None:
            self._use_made_site(fields, base)
        self._find_database(fields)
        self._check_connection(fields)
        if "state_dir" not in fields:
            fields["state_dir"] = (self.site.folder or user_state_folder(self.environ)) / "state"

    def _check_connection(self, fields: dict[str, Any]) -> None:
        over_ssh = "ssh" in (fields.get("transport"), fields.get("workfiles"))
        told = any(problem.where.endswith("SSH.host") for problem in self.problems)
        if over_ssh and not told and not fields.get("ssh", SshSettings()).host:
            self._missing("SSH.host", 'the host to connect to: [default.ssh] host = "..."')
        if fields.get("workfiles") == "ssh" and fields.get("transport") != "ssh":
            self._wrong(
                "WORKFILES", "is 'ssh', but TRANSPORT is not", "TRANSPORT = ssh as well, or WORKFILES = local"
            )

    def _missing(self, key: str, what: str) -> None:
        self.problems.append(Problem(f"{self._subject()}: {key}", "is missing", what))

    def _use_made_site(self, fields: dict[str, Any], base: Path) -> None:
        """What `ccatwm init` left in the base directory, where environment variables alone are the site."""
        if self.site.folder is not None:
            return
        if not (base / MARK_FILE).exists() and (base / SETTINGS_FILE).is_file():
            # The folder that `init` made was named: its own base directory is meant.
            inner = base / "pipelines"
            if (inner / MARK_FILE).is_file():
                base = fields["pipeline_base_dir"] = inner
                self.origins["PIPELINE_BASE_DIR"] += f" (a folder made by `ccatwm init`: its {inner.name}/)"
        mark = read_mark(base)
        for key, name in (
            ("OPSDB_URL", "opsdb_url"),
            ("STATE_DIR", "state_dir"),
            ("CONTAINER_RUNTIME", "container_runtime"),
        ):
            if mark.get(name) and key not in self.values and key + "_FILE" not in self.values:
                text = str(mark[name])
                fields[name] = base / text if name == "state_dir" else text
                self.origins[key] = str(base / MARK_FILE)

    def _find_database(self, fields: dict[str, Any]) -> None:
        if "OPSDB_URL_FILE" in self.values and (
            "opsdb_url" not in fields or self._layer("OPSDB_URL_FILE") > self._layer("OPSDB_URL")
        ):
            fields["opsdb_url"] = self._url_from_file()
        if "opsdb_url" not in fields and self.site.folder is not None and "OPSDB_URL" not in self.values:
            fields["opsdb_url"] = f"sqlite:///{DATABASE_FILE}"
        url = fields.get("opsdb_url")
        if url is None:
            if not {"OPSDB_URL", "OPSDB_URL_FILE"} & set(self.values):  # else told already
                self._missing(
                    "OPSDB_URL", "no database was found in the base directory either; run `ccatwm init`"
                )
            return
        if not url.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg2://")):
            self._wrong(
                "OPSDB_URL",
                "names no database that is known",
                "sqlite:///PATH or postgresql://USER@HOST/NAME",
            )
            return
        fields["opsdb_url"] = self._absolute_url(url)
        if fields.get("observations") == "foreign" and url.startswith("sqlite:"):
            self._wrong(
                "OBSERVATIONS", "is 'foreign', but the ops-db is SQLite", "foreign on postgresql://, managed on both"
            )

    def _layer(self, key: str) -> int:
        """Which layer says a setting; the higher one wins."""
        origin = self.origins[key]
        return 2 if origin.startswith(FROM_ENVIRONMENT) else 0 if origin.endswith("[default]") else 1

    def _absolute_url(self, url: str) -> str:
        if not url.startswith("sqlite:///"):
            return url
        path = (self._folder_of("OPSDB_URL") / url.removeprefix("sqlite:///")).resolve()
        self._refuse_network_file_system(path)
        return f"sqlite:///{path}"

    def _refuse_network_file_system(self, path: Path) -> None:
        kind = network_file_system(path)
        if kind:
            self._wrong(
                "OPSDB_URL",
                f"{path} lies on {kind}: SQLite cannot be trusted on a network file system",
                "a local disk (sqlite:///LOCAL/PATH), or PostgreSQL (postgresql://USER@HOST/NAME)",
            )

    def _url_from_file(self) -> str | None:
        key = "OPSDB_URL_FILE"
        path = self._path(key, self.values[key])
        if path is None:
            return None
        try:
            self.origins["OPSDB_URL"] = str(path)
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            self._wrong(
                key,
                f"{path} cannot be read: {getattr(error, 'strerror', error)}",
                "a file with the URL in it",
            )
            return None

    def _all_origins(self) -> dict[str, str]:
        keys = {
            KEY_OF_FIELD.get(f.name, f.name.upper())
            for f in dataclasses.fields(Settings)
            if f.name not in COMPUTED
        }
        inside = {name: origin for name, origin in self.origins.items() if "." in name}
        return {key: self.origins.get(key, BUILT_IN) for key in sorted(keys)} | inside


def known_keys() -> set[str]:
    """All keys that may be set."""
    fields = {f.name for f in dataclasses.fields(Settings)} - COMPUTED
    return {KEY_OF_FIELD.get(name, name.upper()) for name in fields} | NO_FIELD


def read_mark(base: Path) -> dict[str, Any]:
    """What `.ccatwm.json` in the base directory says; empty where there is none."""
    try:
        return parse_mark((base / MARK_FILE).read_bytes())
    except OSError:
        return {}


def parse_mark(content: bytes | None) -> dict[str, Any]:
    """What a `.ccatwm.json` with this content says; empty for none, and for one that cannot be read."""
    try:
        mark = json.loads(content or b"")
    except ValueError:
        return {}
    return mark if isinstance(mark, dict) else {}


def network_file_system(path: Path) -> str | None:
    """The kind of network file system that `path` lies on, or None. Linux: /proc/self/mountinfo, proc(5)."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split()[4].replace("\\040", " ")
        if f"{path}/".startswith(f"{mount.rstrip('/')}/") and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind if kind.startswith(NETWORK_FILE_SYSTEMS) else None


NETWORK_FILE_SYSTEMS = (
    "nfs", "lustre", "gpfs", "cifs", "smb", "beegfs", "ceph", "fuse.sshfs", "glusterfs", "afs",
)  # fmt: skip


def _installed_backends() -> set[str]:
    """Names of the batch systems that installed packages bring (entry points); nothing of them is loaded."""
    from importlib.metadata import entry_points

    return {point.name for point in entry_points(group="ccatwm.schedulers")}


def _is_timezone(name: str) -> bool:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return False
    return True


# --- showing -----------------------------------------------------------------------------------------------

SECRET_WORDS = ("PASSWORD", "SECRET", "TOKEN", "KEY")


def show_settings(settings: Settings) -> list[tuple[str, Any, str]]:
    """(key, value, origin) of every setting, secrets masked."""
    shown = []
    for field in dataclasses.fields(Settings):
        if field.name in COMPUTED:
            continue
        key = KEY_OF_FIELD.get(field.name, field.name.upper())
        shown.append((key, _masked(key, getattr(settings, field.name)), settings.origins.get(key, BUILT_IN)))
    return sorted(shown, key=lambda row: row[0])


def flat_settings(settings: Settings) -> list[tuple[str, Any, str]]:
    """(key, value, origin) as people read them: each key of a table is a row, `SLURM.partition`."""

    def flat(key: str, value: Any) -> Iterator[tuple[str, Any, str]]:
        origin = settings.origins.get(_dotted(key.split(".")), BUILT_IN)
        if isinstance(value, Mapping) and value:
            for name, content in value.items():
                yield from flat(f"{key}.{name}", content)
        else:
            yield key, None if value in ("", {}, (), []) else value, origin

    return [row for key, value, _ in show_settings(settings) for row in flat(key, value)]


def _masked(key: str, value: Any) -> Any:
    if _is_secret(key):
        return None if value in (None, "") else "***"
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {name: _masked(str(name), content) for name, content in value.items()}
    return mask_url(value) if isinstance(value, str) else value


def _is_secret(key: str) -> bool:
    name = key.upper()
    return not name.endswith("_FILE") and any(word in name for word in SECRET_WORDS)


def mask_url(text: str) -> str:
    """A URL without its password, in the user part and in the query."""
    from urllib.parse import parse_qsl, urlsplit, urlunsplit

    if "://" not in text or text.startswith("sqlite:"):
        return text
    parts = urlsplit(text)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = "&".join(f"{k}={'***' if _is_secret(k) else v}" for k, v in parse_qsl(parts.query))
    return urlunsplit(parts._replace(netloc=f"{name}{':***' if colon else ''}{at}{host}", query=query))
