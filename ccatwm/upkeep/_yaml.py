"""YAML and JSON Lines with the line of every value, for messages. Touches: the files read.

Only plain data: no tags, no aliases, no key twice, no NUL (PostgreSQL cannot store it), no infinite numbers, no
file beyond 8 MiB.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ccatwm.errors import Problem

MAX_BYTES = 8 << 20
MAX_DEPTH = 60  # the C composer recurses, and takes the process with it when the stack ends
PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")
)
# A key is always its text: `<<` and `=`, which YAML 1.1 gives a meaning, are keys like others.
KEY_TAGS = PLAIN_TAGS | {"tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"}
Location = tuple[str | int, ...]


class WrittenFloat(float):
    """A number that is also a text: `version: 1.10` means 1.10, not 1.1."""

    written: str

    def __str__(self) -> str:
        return self.written


class WrittenInt(int):
    """The same for whole numbers: `version: 007`."""

    written: str

    def __str__(self) -> str:
        return self.written


@dataclass
class Document:
    """Plain data, and the line of each value by its location (keys and indexes from the top).

    `wrong`: where a value stood that is none; it is None in `data`.
    """

    file: str
    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    text: str = ""
    wrong: set[Location] = field(default_factory=set)

    def where(self, location: Location) -> str:
        """`file:line` of the value at `location`, or of the nearest value around it."""
        while location and location not in self.lines:
            location = location[:-1]
        return f"{self.file}:{self.lines.get(location, 1)}"


READABLE = "name a file that is there, and that this account may read"


def read_text(path: Path) -> tuple[str | None, list[Problem]]:
    """The text of a file, or what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, [Problem(str(path), f"cannot be read: {error.strerror}", READABLE)]
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return None, [
            Problem(f"{path}:{line}", "is not UTF-8", f"byte {error.start} is {content[error.start]:#04x}")
        ]


def in_file_order(problems: Iterable[Problem], files: Mapping[str, int], elsewhere: int) -> list[Problem]:
    """By file and line. `files`: the place of each file; what is in none of them stands at `elsewhere`."""

    def place(problem: Problem) -> tuple[int, int]:
        file, _, line = problem.where.rpartition(":")
        return (files.get(file, elsewhere), int(line)) if line.isdecimal() else (files.get(problem.where, elsewhere), 0)

    return sorted(problems, key=place)


def read_yaml(path: Path, *, too_large: str) -> tuple[Document | None, list[Problem]]:
    """A YAML file as plain data with lines, and all that is wrong with it; no document where it cannot be read.

    `too_large` is the hint for a file that is.
    """
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        what = f"is larger than {MAX_BYTES >> 20} MiB"
        return None, [Problem(str(path), what, too_large)]
    text, problems = read_text(path)
    return parse_yaml(text, str(path)) if text is not None else (None, problems)


class _Loader(yaml.CSafeLoader):
    """Reads numbers such as 1e-3 and 7.2e1 as numbers, as YAML 1.2 has it (10.3.2); YAML 1.1 wants a dot and a sign."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, file: str) -> tuple[Document | None, list[Problem]]:
    """YAML text as plain data with lines, and all that is wrong with it; no document where it cannot be parsed."""
    document = Document(file, text=text)
    problems: list[Problem] = []
    loader = _Loader(text)
    try:
        refused = _find_refused(text, file)
        if refused is not None:
            return None, [refused]
        node = loader.get_single_node()
        if node is not None:
            document.data = _build(node, (), document, problems, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        what = getattr(error, "problem", None) or str(error).split("\n")[0]
        return None, [Problem(f"{file}:{line}", f"is no YAML: {what}")]
    finally:
        loader.dispose()
    return document, problems


def _find_refused(text: str, file: str) -> Problem | None:
    """What must not reach the composer."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        where = f"{file}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if isinstance(event, yaml.AliasEvent):
            return Problem(where, "an alias (*name)", "write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            return Problem(where, f"is nested more than {MAX_DEPTH} deep")
    return None


def _build(node: Any, location: Location, document: Document, problems: list[Problem], loader: Any) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(location, line)

    def refuse(what: str, next: str = "") -> None:
        problems.append(Problem(f"{document.file}:{line}", what, next))
        document.wrong.add(location)

    if not _is_plain(node):
        refuse(f"a tag ({node.tag})", "write plain data")
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_build(n, (*location, i), document, problems, loader) for i, n in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, location, document, problems, loader)
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        is_time = node.tag == "tag:yaml.org,2002:timestamp"
        refuse(f"a value that is none: {node.value!r}", "there is no such date; a text has quotes" if is_time else "")
        return None
    wrong = find_unstorable(value)
    if wrong is not None:
        refuse(wrong)
        return None
    return _as_written(value, node.value)


def _is_plain(node: Any) -> bool:
    if isinstance(node, yaml.ScalarNode):
        return node.tag in PLAIN_TAGS
    kind = "seq" if isinstance(node, yaml.SequenceNode) else "map"
    return bool(node.tag == f"tag:yaml.org,2002:{kind}")


def _as_written(value: Any, text: str) -> Any:
    """A number remembers how it was written; a time or date is data for whoever validates it, and stays a text."""
    kind: Any = {float: WrittenFloat, int: WrittenInt}.get(type(value))
    if kind is None:
        return value if value is None or isinstance(value, str | bool) else text
    if str(value) == text:
        return value
    number = kind(value)
    number.written = text
    return number


def find_unstorable(value: Any) -> str | None:
    """What of plain data no ops-db can store (NUL, half a surrogate pair, NaN, infinity, great depth), or None."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if "\0" in item:
                    return "a NUL character"
                if not item.isascii() and not _encodes(item):
                    return "a text that is no Unicode"
            elif isinstance(item, float) and not math.isfinite(item):
                return "a number that is infinite or none"
            elif isinstance(item, dict):
                inner += item
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not inner:
            return None
        level = inner
    return f"more than {MAX_DEPTH} levels"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _build_mapping(
    node: Any, location: Location, document: Document, problems: list[Problem], loader: Any
) -> Any:
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem(f"{document.file}:{line}", "a key that is no text"))
            continue
        key = str(key_node.value)
        wrong = _wrong_key(key_node, key, found)
        if wrong:
            document.wrong.add((*location, key))
            problems += [Problem(f"{document.file}:{line}", what, next) for what, next in wrong]
        document.lines[(*location, key)] = line
        found[key] = _build(value_node, (*location, key), document, problems, loader)
    return found


def _wrong_key(node: Any, key: str, found: dict[Any, Any]) -> list[tuple[str, str]]:
    wrong = [] if node.tag in KEY_TAGS else [(f"a tag ({node.tag})", "write plain data")]
    if find_unstorable(key) is not None:
        wrong.append((f"a key with {find_unstorable(key)}", ""))
    if key in found:
        wrong.append((f"key {key!r} is there twice", ""))
    return wrong


def read_json_lines(path: Path) -> Iterator[tuple[int, Any, Problem | None]]:
    """(line number, object, what is wrong) of each line that is not empty."""
    try:
        stream = path.open("rb")
    except OSError as error:
        yield 0, None, Problem(str(path), f"cannot be read: {error.strerror}", READABLE)
        return
    with stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                problem = Problem(f"{path}:{number}", "is not UTF-8", f"byte {error.start} of the line")
            except RecursionError:
                problem = Problem(f"{path}:{number}", "is nested too deep")
            except ValueError as error:
                problem = Problem(f"{path}:{number}", f"is no JSON: {error}")
            else:
                yield number, value, None
                continue
            yield number, None, problem
