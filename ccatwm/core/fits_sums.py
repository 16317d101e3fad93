"""Reads of a FITS file where its data lie and sums them up as DATASUM does. Pure.

FITS Standard 4.0: blocks of 2880 bytes, cards of 80 characters (3.3), sizes by equations 1 and 2 (4.4.1, 7.1.1);
DATASUM is the ones' complement sum of all 32-bit words of the data (4.4.2.7, appendix J).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BLOCK_BYTES = 2880
CARD_BYTES = 80
MAGIC = b"SIMPLE  ="
CHECKSUMS = ("CHECKSUM", "DATASUM")  # they follow from the rest, and their comments tell when (4.4.2.7)
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class FitsPart:
    """An HDU as it is compared: DATASUM and SHA-256 (hex) of its data, the values of its cards as text by keyword.

    DATASUM does not see words that have changed places; SHA-256 does.
    """

    data_sum: int
    sha256: str
    cards: Mapping[str, str]


def parse_cards(block: bytes) -> tuple[list[tuple[str, str]], bool]:
    """(keyword, value as text) of the cards of a header block that have a value, and whether its END is in it.

    What continues a long string (4.2.1.2) has the keyword of the card before and a `+`. HIERARCH is a convention beside
    the standard: its keyword is what stands before the equals sign.
    """
    found: list[tuple[str, str]] = []
    for start in range(0, len(block), CARD_BYTES):
        card = block[start : start + CARD_BYTES].decode("latin-1")
        keyword = card[:8].rstrip()
        if keyword == "END":
            return found, True
        if card[8:10] == "= ":
            found.append((keyword, _value(card[10:])))
        elif keyword == "CONTINUE":
            found.append((f"{found[-1][0]}+" if found else keyword, _value(card[8:])))
        elif keyword == "HIERARCH" and "=" in card:
            name, _, value = card[8:].partition("=")
            found.append((name.strip(), _value(value)))
    return found, False


def _value(text: str) -> str:
    """Without its comment; a string keeps its quotes."""
    text = text.strip()
    if not text.startswith("'"):
        return text.partition("/")[0].strip()
    end = 1
    while (end := text.find("'", end)) >= 0 and text[end : end + 2] == "''":
        end += 2
    return text if end < 0 else text[: end + 1]


def data_bytes(cards: Sequence[tuple[str, str]]) -> int:
    """How many bytes of data follow this header, in whole blocks. Errors: ValueError for no header."""
    values = dict(reversed(cards))  # the first of a keyword counts
    axes = [int(values.get(f"NAXIS{n}", "0")) for n in range(1, int(values.get("NAXIS", "0")) + 1)]
    if not axes:
        return 0
    grouped = values.get("GROUPS") == "T" and axes[0] == 0
    count = 1
    for length in axes[1:] if grouped else axes:
        count *= length
    words = int(values.get("GCOUNT", "1")) * (int(values.get("PCOUNT", "0")) + count)
    size = abs(int(values["BITPIX"])) // 8 * words if "BITPIX" in values else -1
    if size < 0:
        raise ValueError("no size of its data")
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def add_words(total: int, content: bytes) -> int:
    """The sum so far with the 32-bit big-endian words of `content`, whose length is a multiple of four."""
    words = array("I")
    if words.itemsize != 4:  # pragma: no cover  (no platform of ours)
        words = array("L")
    words.frombytes(content)
    if sys.byteorder == "little":
        words.byteswap()
    total += sum(words)
    while total > _WORD:
        total = (total & _WORD) + (total >> 32)
    return total


def changed_keywords(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Keywords of two headers (`2.DATE`: of the third part) whose values differ, checksums left out."""
    names = [*first, *(name for name in second if name not in first)]
    return [n for n in names if n.rpartition(".")[2] not in CHECKSUMS and first.get(n) != second.get(n)]


def without_checksums(block: bytes) -> bytes:
    """A header block without the cards of its checksums."""
    cards = (block[start : start + CARD_BYTES] for start in range(0, len(block), CARD_BYTES))
    return b"".join(card for card in cards if not card.startswith(tuple(name.encode() for name in CHECKSUMS)))
