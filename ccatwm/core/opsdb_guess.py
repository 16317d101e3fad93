"""Guesses which of somebody else's tables and columns are which: the draft of a map, for a person to correct. Pure.

By names that are alike, and by keys: a foreign key between two tables that were found is the join between them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from ccatwm.core.opsdb_map import NEEDED, ROOT

ALIKE = 0.84  # names less alike than this are no guess
TABLES: Mapping[str, tuple[str, ...]] = {
    "RawDataPackage": ("raw_data_package", "data_package", "raw_package", "package", "raw_frame", "frame", "dataset",
                       "recording"),
    "ExecutedObsUnit": ("executed_obs_unit", "observation", "exposure", "scan", "executed_observation", "visit",
                        "session"),
    "ObsUnit": ("obs_unit", "observing_unit", "observing_block", "observation_block", "scheduling_block"),
    "Source": ("source", "target", "field", "sky_object"),
    "ObservingProgram": ("observing_program", "program", "programme", "proposal", "project", "campaign"),
    "InstrumentModule": ("instrument_module", "module", "detector", "receiver", "station", "antenna"),
    "Instrument": ("instrument",),
    "Telescope": ("telescope",),
    "Observatory": ("observatory",),
    "RawDataPackageMetadata": ("raw_data_package_metadata", "package_metadata", "frame_header"),
    "RawDataFile": ("raw_data_file", "data_file", "raw_file"),
    "PhysicalCopy": ("physical_copy", "package_copy", "file_copy", "replica"),
    "DataLocation": ("data_location", "storage_location", "location"),
    "Site": ("site",),
}
COLUMNS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "RawDataPackage": {
        "name": ("name", "label", "package_name", "file_name", "title", "file"),
        "state": ("state", "lifecycle", "package_state", "archive_state", "status"),
        "checksum": ("checksum", "sha256", "md5", "md5sum", "sha1"),
        "size_bytes": ("size_bytes", "n_bytes", "bytes", "size", "file_size"),
        "metadata": ("metadata", "header", "settings"),
    },
    "ExecutedObsUnit": {
        "name": ("name", "label", "scan_name", "title"),
        "start_time": ("start_time", "began", "started_at", "start", "opened_at", "date_obs", "begin_time", "t_start",
                       "start_utc"),
        "end_time": ("end_time", "ended", "finished_at", "ended_at", "closed_at", "stop_time", "t_end", "end_utc",
                     "stop_utc"),
        "status": ("status", "outcome", "result"),
    },
    "ObsUnit": {
        "name": ("name", "label", "title"), "line_id": ("line_id", "spectral_line", "line"),
        "obs_mode": ("obs_mode", "mode"),
    },
    "Source": {"name": ("name", "target_name", "source_name", "label"), "kind": ("kind", "type", "class", "target_class")},
    "ObservingProgram": {"short_name": ("short_name", "code", "label"), "name": ("name", "title")},
    "InstrumentModule": {"name": ("name", "module", "module_name", "serial_name", "label", "code")},
    "Instrument": {"name": ("name", "label", "instrument_name", "code")},
    "Telescope": {"name": ("name", "label")},
    "Observatory": {"name": ("name", "label")},
    "RawDataPackageMetadata": {"data": ("data", "document", "metadata", "header")},
    "RawDataFile": {
        "name": ("name", "path", "file_name"), "size_bytes": ("size_bytes", "n_bytes", "bytes", "size"),
        "checksum": ("checksum", "sha256", "md5", "md5sum"),
    },
    "PhysicalCopy": {"path": ("path", "rel_path", "relative_path", "file_path"), "status": ("status", "state")},
    "DataLocation": {
        "name": ("name", "label"), "location_type": ("location_type", "kind", "type", "place_type"),
        "storage_type": ("storage_type", "storage"), "base_path": ("base_path", "path", "folder", "root", "root_path"),
        "priority": ("priority", "rank"), "active": ("active", "enabled"),
    },
    "Site": {"name": ("name", "short_name", "label")},
}  # fmt: skip
WORDS: Mapping[tuple[str, str], Mapping[str, tuple[str, ...]]] = {
    ("RawDataPackage", "state"): {
        "waiting": ("waiting", "new", "pending"), "transferring": ("transferring", "in_transfer"),
        "archived": ("archived", "complete", "completed", "verified", "ingested"), "failed": ("failed", "lost", "bad"),
    },
    ("DataLocation", "location_type"): {
        "source": ("source",), "buffer": ("buffer",), "long_term_archive": ("long_term_archive", "archive", "lta"),
        "processing": ("processing", "hpc", "compute"),
    },
    ("DataLocation", "storage_type"): {
        "disk": ("disk", "posix", "filesystem", "nas"), "s3": ("s3", "object_store", "coscine"), "tape": ("tape",),
    },
    ("PhysicalCopy", "status"): {
        "present": ("present", "available"), "staged": ("staged",), "deleted": ("deleted", "gone"),
    },
}  # fmt: skip
CHANGE_TIMES = (
    "updated_at", "modified_at", "changed_at", "updated", "modified", "changed", "last_modified", "last_updated",
    "last_change", "modification_time", "mtime",
)  # fmt: skip
MOST_LEFT = 100  # tables that the draft lists beside those of the map
NO_TEXTS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")  # what YAML makes other things of
# left table, its column, right table, its column: as the built-in joins have it.
JOINS = (
    ("RawDataPackage", "executed_obs_unit_id", "ExecutedObsUnit", "id"),
    ("RawDataPackage", "instrument_module_id", "InstrumentModule", "id"),
    ("RawDataPackageMetadata", "raw_data_package_id", "RawDataPackage", "id"),
    ("ExecutedObsUnit", "obs_unit_id", "ObsUnit", "id"),
    ("ObsUnit", "source_id", "Source", "id"),
    ("ObsUnit", "observing_program_id", "ObservingProgram", "id"),
    ("InstrumentModule", "instrument_id", "Instrument", "id"),
    ("Instrument", "telescope_id", "Telescope", "id"),
    ("Telescope", "observatory_id", "Observatory", "id"),
    ("RawDataFile", "raw_data_package_id", "RawDataPackage", "id"),
    ("PhysicalCopy", "raw_data_package_id", "RawDataPackage", "id"),
    ("PhysicalCopy", "data_location_id", "DataLocation", "id"),
    ("DataLocation", "site_id", "Site", "id"),
)


@dataclass(frozen=True)
class SeenColumn:
    """`kind`: integer, uuid, text, time or another word. `words`: its values, where they are few."""

    kind: str
    not_null: bool
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeenTable:
    """A table of theirs. `foreign_keys`: column -> (schema, table, column)."""

    schema: str
    name: str
    columns: Mapping[str, SeenColumn]
    primary_key: tuple[str, ...] = ()
    foreign_keys: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)


@dataclass
class Guess:
    """What one logical table was taken for, and how sure that is."""

    table: SeenTable
    likeness: float
    columns: dict[str, str] = field(default_factory=dict)
    joined: list[tuple[SeenTable, str, str]] = field(default_factory=list)  # with column of the first, of this one
    values: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    strange: dict[str, list[str]] = field(default_factory=dict)  # words of theirs that stand for none of ours
    change_time: str | None = None
    doubts: list[str] = field(default_factory=list)


def guess_tables(seen: Sequence[SeenTable]) -> dict[str, Guess]:
    """The most likely table for each logical one; what is like none is left out."""
    scored = [
        (_likeness(table.name, names) + 0.01 * len(_own_columns(logical, table)), logical, n)
        for logical, names in TABLES.items()
        for n, table in enumerate(seen)
        if table.columns and _likeness(table.name, names) >= ALIKE
    ]
    found: dict[str, Guess] = {}
    taken: set[int] = set()
    for likeness, logical, n in sorted(scored, key=lambda s: (-s[0], s[1], s[2])):
        if logical not in found and n not in taken:
            taken.add(n)
            found[logical] = Guess(seen[n], likeness)
    for logical, guess in found.items():
        _guess_columns(logical, guess, seen)
    for join in JOINS:
        _guess_join(found, *join)
    return {logical: found[logical] for logical in TABLES if logical in found}


def _plain(name: str) -> str:
    text = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().replace("_", "")
    return text[:-1] if text.endswith("s") and not text.endswith("ss") else text


def _likeness(name: str, words: Iterable[str]) -> float:
    """1 for the first of the words, a little less for the others, less where the name is only like them."""
    plain = _plain(name)
    return max(SequenceMatcher(None, plain, _plain(word)).ratio() - 0.005 * n for n, word in enumerate(words))


def _own_columns(logical: str, table: SeenTable) -> dict[str, str]:
    """Columns of a table that are called as ours are, or nearly."""
    found: dict[str, str] = {}
    for ours, words in COLUMNS[logical].items():
        near = [(_likeness(name, words), name) for name in table.columns if name not in found.values()]
        best = max(near, default=(0.0, ""))
        if best[0] >= ALIKE:
            found[ours] = best[1]
    return found


def _guess_columns(logical: str, guess: Guess, seen: Sequence[SeenTable]) -> None:
    table = guess.table
    guess.columns = _own_columns(logical, table)
    if len(table.primary_key) == 1:
        guess.columns["id"] = table.primary_key[0]
    else:
        guess.doubts.append("it has no primary key of one column: say by `id` what tells its rows apart")
    for other in seen:
        key = other.primary_key[0] if len(other.primary_key) == 1 else ""
        if table.primary_key and other.foreign_keys.get(key) == (table.schema, table.name, table.primary_key[0]):
            more = {
                ours: _named(guess, other, name)
                for ours, name in _own_columns(logical, other).items()
                if ours not in guess.columns
            }
            points_on = any(column != key for column in other.foreign_keys)
            if more or (logical == "PhysicalCopy" and points_on):
                guess.joined.append((other, table.primary_key[0], key))
                guess.columns |= more
    _guess_words(logical, guess)
    _guess_change_time(guess)


def _guess_words(logical: str, guess: Guess) -> None:
    for (table, column), known in WORDS.items():
        there = _column(guess, guess.columns.get(column, "")) if table == logical else None
        if there is None or not there.words:
            continue
        words: dict[str, list[str]] = {}
        for theirs in there.words:
            ours = next((o for o, alike in known.items() if _plain(theirs) in map(_plain, alike)), None)
            if ours is None:
                guess.strange.setdefault(column, []).append(theirs)
            else:
                words.setdefault(ours, []).append(theirs)
        guess.values[column] = words


def _named(guess: Guess, table: SeenTable, name: str) -> str:
    """A column of a joined table: with the table where the first has one of the same name."""
    return f"{table.name}.{name}" if table is not guess.table and name in guess.table.columns else name


def _column(guess: Guess, name: str) -> SeenColumn | None:
    name = name.rpartition(".")[2]
    tables = [guess.table, *(joined for joined, _, _ in guess.joined)]
    return next((table.columns[name] for table in tables if name in table.columns), None)


def _guess_change_time(guess: Guess) -> None:
    times = {_plain(name): name for name, column in guess.table.columns.items() if column.kind == "time"}
    name = next((times[_plain(word)] for word in CHANGE_TIMES if _plain(word) in times), None)
    if name is not None and guess.table.columns[name].not_null:
        guess.change_time = name
    elif name is not None:
        guess.doubts.append(f"{name} may be empty: a row without it would never be seen to change")


def _guess_join(found: Mapping[str, Guess], left: str, column: str, right: str, _: str) -> None:
    if left not in found or right not in found:
        return
    guess, target = found[left], found[right].table
    for table in (guess.table, *(joined for joined, _, _ in guess.joined)):
        for name, (schema, other, _) in table.foreign_keys.items():
            if (schema, other) == (target.schema, target.name):
                guess.columns[column] = _named(guess, table, name)
                return
    names = [column, *(f"{word}_id" for word in TABLES[right])]
    near = max(((_likeness(name, names), name) for name in guess.table.columns), default=(0.0, ""))
    if near[0] >= 0.9:
        guess.columns[column] = near[1]


# --- the draft ---------------------------------------------------------------------------------------------


def draft_text(found: Mapping[str, Guess], seen: Sequence[SeenTable], *, location: str) -> str:
    """The draft as a commented file. `location`: of processing, where the database is not seen to have one."""
    lines = [
        "# What the observation tables of this ops-db are called: drafted by `ccatwm init` from names and keys.",
        "# Read it, correct it, and let `ccatwm db check` say what is missing still. Nothing of theirs is ever changed.",
        "tables:",
    ]
    for logical, guess in found.items():
        lines += _table_lines(logical, guess, location)
    if "DataLocation" not in found:
        lines += ["  DataLocation:                        # no table was like it: the places stand here", "    rows:"]
        lines += [f"      - {_location_row(location)}"]
    lines += [f"  # {logical}: no table was like it" for logical in TABLES if logical not in (*found, "DataLocation")]
    return "\n".join([*lines, *_own_copy_lines(found), *_left_lines(found, seen)]) + "\n"


def _own_copy_lines(found: Mapping[str, Guess]) -> Iterator[str]:
    """What to write where no table says where packages lie: passes need to know."""
    package = found.get(ROOT)
    if package is None or "PhysicalCopy" in found or not {"id", "name"} <= package.columns.keys():
        return
    key, name = (_text(package.columns[column]) for column in ("id", "name"))
    yield "  # Where packages lie must be said. If each says it itself, it is its own copy:"
    yield "  # PhysicalCopy:"
    yield f"  #   table: {_text(package.table.name)}"
    yield f"  #   schema: {_text(package.table.schema)}"
    yield f"  #   columns: {{id: {key}, raw_data_package_id: {key}, path: {name}}}"
    yield "  #   fixed: {status: present, data_location_id: 1}"
    yield "  # and `rows` of DataLocation has the place that paths start at:"
    yield "  #   - {id: 1, name: archive, location_type: long_term_archive, storage_type: disk, base_path: /FOLDER}"


def _left_lines(found: Mapping[str, Guess], seen: Sequence[SeenTable]) -> Iterator[str]:
    """What else there is, for whoever completes the map."""
    taken = {(table.schema, table.name) for g in found.values() for table in (g.table, *(t for t, _, _ in g.joined))}
    left = [table for table in seen if (table.schema, table.name) not in taken]
    if left:
        yield "  # Tables of theirs that were taken for none of these; rules may name them under any name in capitals:"
    for table in left[:MOST_LEFT]:
        yield f"  #   {_text(table.schema)}, {_text(table.name)}: {', '.join(map(_text, table.columns))}"
    if len(left) > MOST_LEFT:
        yield f"  #   and {len(left) - MOST_LEFT} more"


def has_processing(found: Mapping[str, Guess]) -> bool:
    """Whether their locations seem to have one for processing."""
    return "DataLocation" in found and "processing" in found["DataLocation"].values.get("location_type", {})


def missing_columns(logical: str, guess: Guess) -> list[str]:
    """What passes need of a table and no column was like."""
    return [c for c in NEEDED.get(logical, ()) if c not in guess.columns and c not in _fixed(logical, guess)]


def _fixed(logical: str, guess: Guess) -> dict[str, str]:
    """What is said of all rows, where no column says it."""
    usual = {"RawDataPackage": ("state", "archived"), "PhysicalCopy": ("status", "present")}
    column, value = usual.get(logical, ("", ""))
    return {column: value} if column and column not in guess.columns else {}


def _table_lines(logical: str, guess: Guess, location: str) -> Iterator[str]:
    table = guess.table
    yield f"  {logical}:" + ("" if guess.likeness >= 1 else "    # a guess: is it this table?")
    yield f"    table: {_text(table.name)}"
    yield f"    schema: {_text(table.schema)}"
    yield "    columns:"
    for ours, name in guess.columns.items():
        algorithm = next((a for a in ("sha256", "md5", "sha1") if a in name.lower()), None)
        if ours == "checksum" and algorithm:
            yield f"      checksum: {{column: {_text(name)}, prefix: {json.dumps(algorithm + ':')}}}"
        else:
            yield f"      {ours}: {_text(name)}"
    for column in missing_columns(logical, guess):
        yield f"      # {column}: ?                     # none was like it, and it is needed"
    key = table.columns.get(guess.columns.get("id", ""))
    if key is not None and key.kind in ("uuid", "integer", "text"):
        yield f"    key_type: {key.kind}"
    if guess.joined:
        yield "    joined:"
    for joined, mine, its in guess.joined:
        named = f"table: {_text(joined.name)}, schema: {_text(joined.schema)}"
        yield f"      - {{{named}, by: {{{_text(mine)}: {_text(its)}}}}}"
    yield from _word_lines(guess)
    for column, value in _fixed(logical, guess).items():
        yield f"    fixed: {{{column}: {value}}}              # no column says it: every row counts as {value}"
    if logical == "DataLocation" and not _tells_processing(guess):
        yield "    rows:                              # none of theirs is for processing"
        yield f"      - {_location_row(location)}"
    for doubt in guess.doubts:
        yield f"    # {doubt}"
    if guess.change_time:
        yield f"    change_time: {_text(guess.change_time)}"
    else:
        yield "    change_time: null                  # none can be trusted: compared in full every FULL_EVERY"


def _word_lines(guess: Guess) -> Iterator[str]:
    known = {column: words for column, words in guess.values.items() if words}
    if known:
        yield "    values:"
    for column, words in known.items():
        shown = ", ".join(f"{ours}: {_words(theirs)}" for ours, theirs in words.items())
        yield f"      {column}: {{{shown}}}"
    for column, theirs in guess.strange.items():
        yield f"    # {column}: {_strange([_text(word) for word in theirs])}"


def _strange(words: Sequence[str]) -> str:
    return f"{', '.join(words)} {'stands' if len(words) == 1 else 'stand'} for none of our words"


def _words(theirs: Sequence[str]) -> str:
    texts = [_text(word) for word in theirs]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _tells_processing(guess: Guess) -> bool:
    return "processing" in guess.values.get("location_type", {})


def _location_row(location: str) -> str:
    return f"{{name: {_text(location)}, location_type: processing, storage_type: disk}}"


def _text(text: str) -> str:
    """A text as YAML takes it for one."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text) and text.lower() not in NO_TEXTS
    return text if plain else json.dumps(text, ensure_ascii=False)


def summary(found: Mapping[str, Guess]) -> list[str]:
    """What was guessed, and what could not be, in words."""
    lines = [f"{logical} is {g.table.schema}.{g.table.name}{_sure(g)}" for logical, g in found.items()]
    lines += [f"{logical}: no table was like it" for logical in TABLES if logical not in found]
    for logical, guess in found.items():
        lines += [f"{logical}.{column}: no column was like it" for column in missing_columns(logical, guess)]
        lines += [f"{logical}.{c} {v}: taken for all rows" for c, v in _fixed(logical, guess).items()]
        lines += [f"{logical}.{c}: {_strange(words)}" for c, words in guess.strange.items()]
        lines += [f"{logical}: {doubt}" for doubt in guess.doubts]
        if not guess.change_time:
            lines.append(f"{logical}: compared in full now and then, for no column tells its changes")
    return lines


def _sure(guess: Guess) -> str:
    return "" if guess.likeness >= 1 else ", perhaps"


def has_packages(found: Mapping[str, Guess]) -> bool:
    """Whether anything was taken for raw data packages: without them there is nothing to group."""
    return ROOT in found
