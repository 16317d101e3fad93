"""Reads files of definitions so that no mistake hides another. Touches: the files read.

What is wrong in itself is told and then replaced by a stand-in, so that everything around it can be checked. What is
told later of a stand-in, or of something inside it, is dropped: it is not what somebody wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ccatwm.core.definitions import (
    DataGroupingDefinition,
    Definitions,
    PipelineDefinition,
    PresetDefinition,
    ReferenceDefinition,
    SoftwareDefinition,
)
from ccatwm.core.wording import short_text
from ccatwm.errors import Problem
from ccatwm.upkeep._yaml import Document, Location, in_file_order, read_yaml
from ccatwm.upkeep.ingest import PLURALS as OBSERVED

STAND_IN = "stand-in-"  # how their names begin
INGEST = "observations are read by `ccatwm ingest FILE`"
MAX_ROUNDS = 20  # a stand-in for a mapping has its own keys filled in one round later
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Mistake:
    """What is wrong with the value at a place."""

    document: Document
    location: Location
    what: str
    next: str = ""

    @property
    def where(self) -> str:
        return self.document.where(self.location)


@dataclass(frozen=True)
class Placed(Generic[T]):
    """A definition, and where it stands."""

    item: T
    document: Document
    location: Location

    def mistake(self, inside: Location, what: str, next: str = "") -> Mistake:
        return Mistake(self.document, (*self.location, *inside), what, next)

    def is_wrong(self, *inside: str | int) -> bool:
        """Whether a stand-in is there, or around it."""
        return _is_within((*self.location, *inside), self.document.wrong)

    def holds_wrong(self, *inside: str | int) -> bool:
        """Whether a stand-in is there, or inside it."""
        return _holds((*self.location, *inside), self.document.wrong)


@dataclass
class Defined:
    """What one or many files define, doubles included, and what is wrong with it in itself."""

    documents: list[Document] = field(default_factory=list)
    software: list[Placed[SoftwareDefinition]] = field(default_factory=list)
    references: list[Placed[ReferenceDefinition]] = field(default_factory=list)
    presets: list[Placed[PresetDefinition]] = field(default_factory=list)
    data_groupings: list[Placed[DataGroupingDefinition]] = field(default_factory=list)
    pipelines: list[Placed[PipelineDefinition]] = field(default_factory=list)
    unreadable: list[Problem] = field(
        default_factory=list
    )  # files that are no YAML, and parts that are no data
    mistakes: list[Mistake] = field(default_factory=list)


def read_definitions(paths: Sequence[Path]) -> Defined:
    """Read files, and check each thing by itself."""
    defined = Defined()
    for path in paths:
        if Path(path).suffix.lower() in (".jsonl", ".ndjson"):
            defined.unreadable.append(Problem(str(path), "is no YAML", INGEST))
            continue
        document, problems = read_yaml(Path(path), too_large=f"split it; {INGEST}")
        defined.unreadable += problems
        if document is not None:
            defined.documents.append(document)
            add_document(defined, document)
    return defined


def add_document(defined: Defined, document: Document) -> None:
    """What a document defines, checked by itself."""
    if document.data is None:
        return
    mending = _Mending(document)
    part = mending.definitions()
    defined.mistakes += mending.mistakes
    for section in Definitions.model_fields:
        items = getattr(part, section)
        getattr(defined, section).extend(Placed(item, document, (section, n)) for n, item in enumerate(items))


def list_problems(defined: Defined, mistakes: Iterable[Mistake]) -> list[Problem]:
    """Everything that is wrong, by file and line, each once, and nothing about stand-ins.

    What was found while reading comes with it.
    """
    found = [Problem(m.where, m.what, m.next) for m in defined.mistakes]
    found += [
        Problem(m.where, m.what, m.next) for m in mistakes if not _is_within(m.location, m.document.wrong)
    ]
    files = {document.file: n for n, document in enumerate(defined.documents)}
    return in_file_order(dict.fromkeys([*defined.unreadable, *found]), files, elsewhere=len(files))


def _is_within(location: Location, places: set[Location]) -> bool:
    return any(location[:n] in places for n in range(len(location) + 1))


def _holds(location: Location, places: set[Location]) -> bool:
    return any(place[: len(location)] == location for place in places)


# --- one file -----------------------------------------------------------------------------------------------------


class _Mending:
    """The data of one file, mended until they are definitions; `mistakes` is what had to be mended.

    The places of all stand-ins go to `document.wrong`.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.mistakes: list[Mistake] = []
        self._data = _copied(document.data)
        self._stand_ins = 0

    def definitions(self) -> Definitions:
        for _ in range(MAX_ROUNDS):
            try:
                return Definitions.model_validate(self._data)
            except ValidationError as error:
                for one in error.errors():
                    self._mend(one)
        return Definitions()

    def _mend(self, error: Any) -> None:
        location = self._place(error["loc"])
        if error["type"] == "mistakes":
            for fields, text in error["ctx"]["mistakes"]:
                self._mend_clash(location, fields, text)
        elif error["type"] == "missing":
            location = (*location, error["loc"][-1])
            self._tell([location], f"{self._shown(location)} is missing")
            self._replace(location)
        else:
            if len(location) < len(error["loc"]) and _holds(location, self.document.wrong):
                self.document.wrong.add(location)  # of what is wrong inside it, told before
            self._tell([location], *self._words(location, error))
            self._replace(location, _first_allowed(error))

    def _mend_clash(self, location: Location, fields: Sequence[Location], text: str) -> None:
        """Stand-ins that clash among themselves, of which nothing is told, go with all that is around them."""
        places = [(*location, *inside) for inside in fields]
        if self.document.wrong.issuperset(places):
            places = [location]
            self.document.wrong.add(location)
        self._tell(places, f"{self._shown(location)}: {text}")
        for place in places:
            self._replace(place)

    def _tell(self, places: Sequence[Location], what: str, next: str = "") -> None:
        """Told where the first one stands, unless one of them is a stand-in; now they all are."""
        if not any(_is_within(place, self.document.wrong) for place in places):
            self.mistakes.append(Mistake(self.document, places[0], what, next))
        self.document.wrong.update(places)

    def _place(self, parts: Sequence[str | int]) -> Location:
        """As far as pydantic's location is one in the data: it also names what was tried there."""
        inside: Any = self._data
        found: list[str | int] = []
        for part in parts:
            if not _has(inside, part):
                break
            inside = inside[part]
            found.append(part)
        return tuple(found)

    def _replace(self, location: Location, allowed: str | None = None) -> None:
        """Take the value out where it may be absent; else put a stand-in there: of a few words that are `allowed` one."""
        if not location:
            self._data = {}
            return
        *around, last = location
        inside: Any = self._data
        for part in around:
            inside = inside[part]
        if isinstance(last, int):
            stand_in = self._stand_in_list(str(around[-1])) if allowed is None else allowed
            inside[last] = {} if _model_at(location) is not None else stand_in
            return
        model = _model_at(tuple(around))
        if model is not None and last in model.model_fields and model.model_fields[last].is_required():
            stands = self._stand_in(str(last))
            inside[last] = allowed if allowed is not None and last != "type" else stands  # MANUAL needs nothing beside it
        else:
            inside.pop(last, None)

    def _stand_in(self, name: str) -> Any:
        self._stand_ins += 1
        unique = f"{STAND_IN}{self._stand_ins}"
        return {
            "command": [unique], "versions": [{}], "steps": [{}], "filter_rules": [], "rules": [],
            "group_by": [], "type": "MANUAL", "version": f"0.{self._stand_ins}",
        }.get(name, unique)  # fmt: skip

    def _stand_in_list(self, name: str) -> Any:
        """An element of a list of plain values."""
        unique = self._stand_in("")
        dimension = {"name": unique, "table": "RawDataPackage", "column": "name"}
        return {"group_by": dimension, "extra": f"--{unique}", "partial_exit_codes": 1}.get(name, unique)

    # Words.

    def _shown(self, location: Location) -> str:
        """`pipelines.otf.steps.grid.version`: names instead of numbers, where there are names."""
        shown = []
        inside: Any = self.document.data
        for part in location:
            inside = _get(inside, part)
            name = inside.get("name") if isinstance(part, int) and isinstance(inside, dict) else part
            shown.append(str(name if isinstance(name, str) else part))
        return ".".join(shown)

    def _words(self, location: Location, error: Any) -> tuple[str, str]:
        """One error of pydantic in the words of this project: what is wrong, what is allowed."""
        kind, context = error["type"], error.get("ctx", {})
        if not location:
            return "is no mapping of sections", f"sections: {', '.join(Definitions.model_fields)}"
        if kind == "extra_forbidden" and location[0] in OBSERVED and len(location) == 1:
            return f"{location[0]} are observations, no definitions", INGEST
        if kind == "extra_forbidden":
            return f"unknown key {location[-1]!r}", _allowed_keys(location)
        name, value = self._shown(location), short_text(_get_at(self._data, location))
        if kind == "value_error":
            return f"{name}: {context.get('error')}", ""
        if kind == "string_pattern_mismatch":
            hint = "use a-z 0-9 . _ -, beginning with a letter or digit, at most 63"
            return f"{name} is {value}", hint
        if kind == "literal_error":
            return f"{name} is {value}", f"allowed: {context.get('expected')}"
        if len(location) < len(error["loc"]) and location[-2:-1] == ("group_by",):
            return f"{name} is {value}", "it takes a dimension's name, or {name, table, column, json_path}"
        wanted = _WANTED.get(kind) or str(error["msg"]).replace("Input should be", "a value")
        return f"{name} is {value}", f"it takes {wanted}"


_WANTED = {
    "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping", "string_type": "a text",
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "bool_type": "true or false",
    "bool_parsing": "true or false", "too_short": "at least one",
}  # fmt: skip


def _first_allowed(error: Any) -> str | None:
    """Where only a few words are allowed, and pydantic says which: the first one."""
    if error["type"] != "literal_error":
        return None
    found = re.match(r"'([^']*)'", str(error.get("ctx", {}).get("expected")))
    return found[1] if found else None


def _copied(data: Any) -> Any:
    """The same with containers of its own."""
    if isinstance(data, dict):
        return {key: _copied(value) for key, value in data.items()}
    return [_copied(value) for value in data] if isinstance(data, list) else data


def _has(inside: Any, part: str | int) -> bool:
    if isinstance(inside, dict):
        return part in inside
    return isinstance(inside, list) and isinstance(part, int) and part < len(inside)


def _get(inside: Any, part: str | int) -> Any:
    return inside[part] if _has(inside, part) else None


def _get_at(inside: Any, location: Location) -> Any:
    for part in location:
        inside = _get(inside, part)
    return inside


def _allowed_keys(location: Location) -> str:
    model = _model_at(location[:-1])
    keys = list(model.model_fields) if model is not None else []
    close = get_close_matches(str(location[-1]), keys, n=2)
    return f"did you mean {' or '.join(close)}?" if close else f"allowed: {', '.join(keys)}"


def _model_at(location: Location) -> type[BaseModel] | None:
    """The model of the mapping at a location; None where it has none."""
    kind: Any = Definitions
    for part in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found = kind.model_fields.get(str(part))
            kind = _bare(found.annotation) if found is not None else None
        elif get_origin(kind) in (list, dict):
            kind = _bare(get_args(kind)[-1])
        else:
            return None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """Without what is annotated, and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _bare(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def by_name(placed: Sequence[Placed[Any]]) -> Mapping[str, Any]:
    """The definitions by their names."""
    return {one.item.name: one.item for one in placed}
