"""Lays a table out in lines that fit a width: nothing is cut, what is too long is broken where it may be. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import zip_longest

GAP = "  "
INDENT = "    "  # of what stands below its row
MOST_PIECE = 30  # columns; a longer piece without a place to break it is broken anywhere
PIECES = re.compile(r"(?:[^ /=+,;:]|(?<=\d):(?=\d))+[ /=+,;:]*|[ /=+,;:]+")  # a time of day stays whole

WORDS = re.compile(r" *[^ ]+")

Codes = tuple[str, str]  # what a terminal is told before and behind a text
Paint = Callable[[str], Codes]  # by the whole text of a cell
PLAIN: Codes = ("", "")


def text_width(text: str) -> int:
    """Columns that it takes on a terminal: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int) -> str:
    """At most this width; what was cut off is marked. For lines that come and go."""
    return text if text_width(text) <= width else f"{_head(text, width - 3)}..."


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most this width, broken behind spaces and separators where there are any; at least one."""
    lines: list[str] = []
    line = ""
    for piece in _pieces(text, width):
        if line and text_width(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return [*lines, line.rstrip()]


def wrap_words(text: str, width: int) -> list[str]:
    """Lines of at most this width, broken at spaces alone; what goes on is indented further. A longer word stays whole:
    a path is to be copied.
    """
    if text_width(text) <= width:
        return [text]
    hanging = " " * (len(text) - len(text.lstrip(" "))) + INDENT
    lines: list[str] = []
    line = ""
    for piece in WORDS.findall(text):
        if line.strip() and text_width(line + piece) > width:
            lines.append(line)
            line, piece = hanging, piece.lstrip(" ")
        line += piece
    return [*lines, line]


def _pieces(text: str, width: int) -> list[str]:
    found: list[str] = []
    for piece in PIECES.findall(text):
        while text_width(piece.rstrip()) > width:
            head = _head(piece, width)
            found.append(head)
            piece = piece[len(head) :]
        found.append(piece)
    return found


def _head(text: str, width: int) -> str:
    """As many characters as fit, one at least."""
    end = 1
    while end < len(text) and text_width(text[: end + 1]) <= width:
        end += 1
    return text[:end]


def lay_out(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    paint: Paint = lambda _: PLAIN,
    head: Codes = PLAIN,
) -> list[str]:
    """A line of names, then the rows. `width` None: no limit, a row is one line.

    Where it is limited, long cells are wrapped in their columns; columns for which there is no room stand below each row,
    with their names. `head`: codes for the line of names.
    """
    if width is None:
        beside, widths = list(range(len(columns))), _natural(columns, rows)
    else:
        beside, widths = _fit(columns, rows, width)
    lines = _row([columns[i] for i in beside], [widths[i] for i in beside], lambda _: head)
    below = [i for i in range(len(columns)) if i not in beside]
    for row in rows:
        lines += _row([row[i] for i in beside], [widths[i] for i in beside], paint)
        for i in below:
            lines += _below(columns[i], row[i], width or 0)
    return lines


def _natural(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(text_width(line[i]) for line in [columns, *rows]) for i in range(len(columns))]


def _least(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """How narrow each column can be without breaking a piece that may stay whole."""
    return [
        max(min(text_width(p.rstrip()), MOST_PIECE) for line in [columns, *rows] for p in PIECES.findall(line[i]) or [""])
        for i in range(len(columns))
    ]


def _fit(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> tuple[list[int], list[int]]:
    """Numbers of the columns that stand beside each other, and the width of each column."""
    natural, least = _natural(columns, rows), _least(columns, rows)
    beside = list(range(len(columns)))
    while len(beside) > 1 and _sum(least, beside) > width:
        beside.remove(max(beside[1:], key=lambda i: (least[i], natural[i])))
    widths = natural[:]
    while _sum(widths, beside) > width:
        roomy = [i for i in beside if widths[i] > least[i]]
        if not roomy:  # one column alone, on a terminal narrower than a word
            widths[beside[0]] = max(1, width)
            break
        widest = max(roomy, key=lambda i: widths[i])
        widths[widest] -= 1
    return beside, widths


def _sum(widths: Sequence[int], beside: Sequence[int]) -> int:
    return sum(widths[i] for i in beside) + len(GAP) * (len(beside) - 1)


def _row(cells: Sequence[str], widths: Sequence[int], paint: Paint) -> list[str]:
    wrapped = [wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    paints = [paint(cell) for cell in cells]
    return [_line(parts, widths, paints) for parts in zip_longest(*wrapped, fillvalue="")]


def _line(parts: Sequence[str], widths: Sequence[int], paints: Sequence[Codes]) -> str:
    """Nothing stands behind the last word, and no colour runs into the gaps."""
    last = max((i for i, part in enumerate(parts) if part), default=0)
    shown = [
        before + part + after if part else ""
        for part, (before, after) in zip(parts[: last + 1], paints[: last + 1], strict=True)
    ]
    padded = [text + " " * (width - text_width(part)) for text, part, width in zip(shown, parts, widths, strict=False)]
    return GAP.join([*padded[:last], shown[last]])


def _below(name: str, cell: str, width: int) -> list[str]:
    """`name: cell` below a row, what does not fit on a line indented further."""
    text = f"{name}: {cell}"
    fits = text_width(text) <= width - len(INDENT)
    first, *others = [text] if fits else wrap(text, max(1, width - 2 * len(INDENT)))
    return [INDENT + first, *(2 * INDENT + other for other in others)]
