"""The page of the Python interfaces, made from their sources without importing them. Called by generate.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "ccatwm"
SECTION = re.compile(r"^# -{3} (.+?) -{3,}$")
Definition = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign


def api_page() -> str:
    """What others may import, as it stands in the code, comments included."""
    parts = ["# Python interfaces", "", _docstring(PACKAGE / "interfaces.py"), ""]
    parts += [
        "What may be built on them, and what else others may rely on, is told in {doc}`../api`.",
        "",
        "## Version",
        "",
    ]
    parts += [*_interfaces(), *_failure_classes(), *_errors(), *_promises()]
    return "\n".join(parts).rstrip() + "\n"


def _interfaces() -> Iterator[str]:
    path = PACKAGE / "interfaces.py"
    lines = path.read_text().splitlines()
    sections = {number: match[1] for number, line in enumerate(lines, 1) if (match := SECTION.match(line))}
    for node, words in _with_docstrings(ast.parse(path.read_text())):
        for number in [number for number in sections if number < node.lineno]:
            section = sections.pop(number)
            yield from (f"## {section[0].upper()}{section[1:]}", "")
            if section.startswith("files"):
                yield from _borrowed("core/model.py", ("EntryKind", "TreeEntry"))
        yield from _entry(node, words, lines)


def _borrowed(module: str, names: tuple[str, ...]) -> Iterator[str]:
    """What `ccatwm.interfaces` passes on from another module."""
    source = (PACKAGE / module).read_text()
    for node, words in _with_docstrings(ast.parse(source)):
        if _name(node) in names:
            yield from _entry(node, words, source.splitlines())


def _failure_classes() -> Iterator[str]:
    yield from ("## Causes", "", "What `JobReport.cause` may say:", "")
    tree = ast.parse((PACKAGE / "core" / "model.py").read_text())
    (node,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "FailureClass"]
    values = [ast.literal_eval(line.value) for line in node.body if isinstance(line, ast.Assign)]
    yield from (" ".join(f"`{value}`" for value in values), "")
    yield from ("What each of them is followed by is in {doc}`../../explanation/execution-flow`.", "")


def _errors() -> Iterator[str]:
    path = PACKAGE / "errors.py"
    yield from ("## Errors", "", _docstring(path), "", "| error | is a | what |", "|---|---|---|")
    for node, words in _with_docstrings(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
            kind = ast.unparse(node.bases[0]).replace("Exception", "")
            yield f"| `{node.name}` | {f'`{kind}`' if kind else ''} | {' '.join(words.split())} |"
    yield ""


def _promises() -> Iterator[str]:
    path = PACKAGE / "testing" / "scheduler.py"
    yield from ("## ccatwm.testing.scheduler", "", _docstring(path), "", "Its tests:", "")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"- {node.name.removeprefix('test_').replace('_', ' ')}"
    yield ""


def _with_docstrings(tree: ast.Module) -> Iterator[tuple[Definition, str]]:
    """Public definitions of a module in their order, each with what is said of it."""
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(node, Definition) or _name(node).startswith("_"):
            continue
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            yield node, str(following.value.value)
        else:
            yield node, ""


def _entry(node: Definition, words: str, lines: list[str]) -> Iterator[str]:
    yield from (f"### {_name(node)}", "")
    if words:
        yield from (words, "")
    yield from ("```python", *_source(node, lines), "```", "")


def _source(node: Definition, lines: list[str]) -> list[str]:
    """Its lines without its own docstring, and without functions of its own that begin with an underscore."""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    left_out: set[int] = set()
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        for part in node.body:
            told = part is node.body[0] and ast.get_docstring(node) is not None
            if told or (isinstance(part, ast.FunctionDef) and re.match("_[^_]", part.name)):
                left_out |= set(range(part.lineno, (part.end_lineno or part.lineno) + 1))
    kept = [
        line
        for number, line in enumerate(lines, 1)
        if first <= number <= (node.end_lineno or first) and number not in left_out
    ]
    text = re.sub(r"\n\n+", "\n\n", "\n".join(kept))
    return re.sub(r":\n\n", ":\n", text).rstrip().splitlines()


def _name(node: Definition) -> str:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.name
    return ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def _docstring(path: Path) -> str:
    """What a module says of itself, less what it touches, which is for those who change it."""
    return re.sub(
        r" (Pure|Touches: .*)\.$",
        "",
        ast.get_docstring(ast.parse(path.read_text())) or "",
        flags=re.MULTILINE,
    )
