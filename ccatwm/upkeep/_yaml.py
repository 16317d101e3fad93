"""YAML and JSON Lines with the line of every value, for messages. Touches: the files read.

Only plain data: no tags, no aliases, no key twice, no file beyond 8 MiB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ccatwm.errors import Problem

MAX_BYTES = 8 << 20
PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp"))
Location = tuple[str | int, ...]


@dataclass
class Document:
    """Plain data, and the line of each value by its location (keys and indexes from the top)."""

    file: str
    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    text: str = ""

    def where(self, location: Location) -> str:
        """`file:line` of the value at `location`, or of the nearest value around it."""
        while location and location not in self.lines:
            location = location[:-1]
        return f"{self.file}:{self.lines.get(location, 1)}"


def read_text(path: Path) -> tuple[str | None, list[Problem]]:
    """The text of a file, or what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, [Problem(str(path), f"cannot be read: {error.strerror}")]
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return None, [
            Problem(f"{path}:{line}", "is not UTF-8", f"byte {error.start} is {content[error.start]:#04x}")
        ]


def read_yaml(path: Path) -> tuple[Document | None, list[Problem]]:
    """A YAML file as plain data with lines, or all that is wrong with it."""
    text, problems = read_text(path)
    if text is None:
        return None, problems
    if len(text) > MAX_BYTES:
        return None, [
            Problem(str(path), f"is larger than {MAX_BYTES >> 20} MiB", "use JSON Lines for many objects")
        ]
    return parse_yaml(text, str(path))


def parse_yaml(text: str, file: str) -> tuple[Document | None, list[Problem]]:
    """YAML text as plain data with lines, or all that is wrong with it."""
    document = Document(file, text=text)
    problems: list[Problem] = []
    loader = yaml.CSafeLoader(text)
    try:
        aliases = [e for e in yaml.parse(text, Loader=yaml.CSafeLoader) if isinstance(e, yaml.AliasEvent)]
        if aliases:
            line = _line(aliases[0])
            return None, [Problem(f"{file}:{line}", "an alias (*name)", "write the value out")]
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
    return (None if problems else document), problems


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _build(node: Any, location: Location, document: Document, problems: list[Problem], loader: Any) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(location, line)
    if isinstance(node, yaml.SequenceNode):
        return [_build(n, (*location, i), document, problems, loader) for i, n in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, location, document, problems, loader)
    if node.tag not in PLAIN_TAGS:
        problems.append(Problem(f"{document.file}:{line}", f"a tag ({node.tag})", "write plain data"))
        return None
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        problems.append(Problem(f"{document.file}:{line}", f"a value that is none: {node.value!r}"))
        return None
    # A time or date is data for whoever validates it: it stays as it was written.
    return value if value is None or isinstance(value, str | int | float | bool) else node.value


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
        if key in found:
            problems.append(Problem(f"{document.file}:{line}", f"key {key!r} is there twice"))
        document.lines[(*location, key)] = line
        found[key] = _build(value_node, (*location, key), document, problems, loader)
    return found


def read_json_lines(path: Path) -> Iterator[tuple[int, Any, Problem | None]]:
    """(line number, object, what is wrong) of each line that is not empty."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line), None
            except UnicodeDecodeError:
                yield number, None, Problem(f"{path}:{number}", "is not UTF-8")
            except ValueError as error:
                yield number, None, Problem(f"{path}:{number}", f"is no JSON: {error}")
