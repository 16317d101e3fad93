"""What a published set leaves on disk: a record from which its row can be made again, should the ops-db lose it. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.publishing import FROZEN, NAME, WORDS

FOLDER = PurePosixPath(".published")  # below the base directory
SUFFIX = ".json"
SCHEMA = "ccatwm.published-record/1"
_NUMBERS = ("product", "run", "size")
Identity = tuple[int, str, str]


@dataclass(frozen=True)
class SetRecord:
    """A set as it was published. `words`: doi, contact, note. `products`: frozen, with the numbers that they had then."""

    name: str
    words: Mapping[str, str | None]
    actor: str
    created_at: datetime
    products: Sequence[Mapping[str, Any]]

    @property
    def run_ids(self) -> set[int]:
        return {item["run"] for item in self.products}


def record_path(name: str) -> PurePosixPath:
    """Below the base directory."""
    return FOLDER / f"{name}{SUFFIX}"


def recorded_name(file_name: str) -> str | None:
    """The set that a file in the folder is of; None for what is no record, such as one that is being written."""
    name = file_name.removesuffix(SUFFIX)
    return name if name != file_name and NAME.fullmatch(name) else None


def build_record(row: Mapping[str, Any], uid: str) -> bytes:
    """JSON of a set as the ops-db `uid` keeps it."""
    head = {"schema": SCHEMA, "ops_db": uid, "name": row["name"], **{key: row[key] for key in WORDS}}
    said = {"actor": row["actor"], "created_at": row["created_at"].isoformat(), "products": row["products"]}
    return json.dumps({**head, **said}, indent=1, sort_keys=True).encode() + b"\n"


def parse_record(content: bytes, name: str, uid: str) -> tuple[SetRecord | None, str]:
    """The record of the set `name` of the ops-db `uid`; or None, and what is wrong with it."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        return None, f"it is no JSON: {error}"
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        return None, f"its schema is not {SCHEMA}"
    for key, wanted in (("name", name), ("ops_db", uid)):
        if data.get(key) != wanted:
            return None, f"its {key} is {data.get(key)!r}, not {wanted!r}"
    wrong = [key for key in WORDS if not isinstance(data.get(key), str | None)]
    wrong += [] if isinstance(data.get("actor"), str) else ["actor"]
    created_at = _time(data.get("created_at"))
    wrong += [] if created_at else ["created_at"]
    products = data.get("products")
    wrong += [] if isinstance(products, list) and products and all(map(_is_frozen, products)) else ["products"]
    if wrong or created_at is None or not isinstance(products, list):
        return None, f"what it has as {', '.join(wrong)} cannot be read"
    return SetRecord(name, {key: data.get(key) for key in WORDS}, data["actor"], created_at, products), ""


def _time(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None


def _is_frozen(item: object) -> bool:
    if not isinstance(item, dict) or not {*FROZEN, "path"} <= item.keys():
        return False
    texts = (key for key in (*FROZEN, "path") if key not in _NUMBERS)
    return all(type(item[key]) is int for key in _NUMBERS) and all(isinstance(item[key], str) for key in texts)


def identity(item: Mapping[str, Any]) -> Identity:
    """What tells a frozen product from any other: its number may be another one after an import."""
    return item["run"], item["path"], item["sha256"]


def has_same_products(record: SetRecord, products: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a set and its record are of the same products."""
    return set(map(identity, record.products)) == set(map(identity, products))


def differing_words(record: SetRecord, row: Mapping[str, Any]) -> list[str]:
    """Which of doi, contact and note the record has otherwise than the ops-db."""
    return [key for key in WORDS if record.words[key] != row[key]]


def words_command(record: SetRecord, keys: Sequence[str]) -> str:
    """What says these words of the record."""
    options = (f" --{key} {shlex.quote(record.words[key] or '')}" for key in keys)
    return f"`ccatwm publish {record.name}{''.join(options)}`"
