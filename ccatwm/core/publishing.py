"""Published sets: what may be in one, and what to tell whoever uses one that is affected. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ccatwm.core.wording import count_text
from ccatwm.errors import Problem

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
FORMS = "write 17 or product:17 for a product, run:5 for all products of a run"
WORDS = ("doi", "contact", "note")
# ISO 26324 lets a suffix have any printable character; a prefix is 10, a registrant's number and maybe its parts.
_DOI = re.compile(r"10\.[0-9]{4,9}(?:\.[0-9]+)*/\S+")
_DOI_BEFORE = re.compile(r"(?P<url>(?:https?://)?(?:dx\.|www\.)?doi\.org/)|(?:doi|info:doi)[:/]\s*", re.IGNORECASE)
DOI_FORMS = "write 10.12345/suffix, also as doi:10.12345/suffix or https://doi.org/10.12345/suffix"
_ADDRESS = r"[^\s@<>,;:\"()\[\]]+@[^\W_](?:[\w-]*[^\W_])?(?:\.[^\W_](?:[\w-]*[^\W_])?)+"
_CONTACT = re.compile(rf'(?:(?:"[^"<>]*"\s*|[^"<>,@]*)<{_ADDRESS}>|{_ADDRESS})')
CONTACT_FORMS = "write an e-mail address, name@example.org or 'Name <name@example.org>'; several with commas between them"
FROZEN = ("product", "run", "pipeline", "step", "sub_group", "recipe", "type", "sha256", "size")


@dataclass(frozen=True)
class Named:
    """Numbers of products, and of runs whose products are all meant."""

    products: tuple[int, ...]
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """A command line as it is meant: `words` in their one form, None for one that is taken away, and its mistakes."""

    named: Named
    words: Mapping[str, str | None]
    problems: tuple[Problem, ...] = ()


def read_asked(name: str, texts: Iterable[str], words: Mapping[str, str]) -> Asked:
    """All that can be said of a command line by itself."""
    named, problems = parse_members(texts)
    kept: dict[str, str | None] = {}
    for key, text in words.items():
        kept[key] = _word(key, text.strip()) or None
        if kept[key] is None and text.strip():
            problems.append(Problem(f"--{key}", _wrong(key, text), DOI_FORMS if key == "doi" else CONTACT_FORMS))
    return Asked(named, kept, (*_name_problems(name), *problems))


def _word(key: str, text: str) -> str | None:
    """None for one that is not what it should be."""
    return {"doi": doi_of, "contact": contact_of}.get(key, str)(text)


def _wrong(key: str, text: str) -> str:
    return f"{text!r} is no DOI" if key == "doi" else f"{text!r} is no e-mail address, and notices are to be sent there"


def doi_of(text: str) -> str | None:
    """`10.12345/suffix`, in lower case: DOIs that differ in case alone are the same. None for what is none."""
    before = _DOI_BEFORE.match(text)
    name = text[before.end() :] if before else text
    if before and before["url"]:
        name = unquote(name)
    return name.lower() if _DOI.fullmatch(name) and name.isprintable() else None


def contact_of(text: str) -> str | None:
    """Addresses as they stand behind `To:`, with a comma and a blank between them. None where one is none."""
    found, rest = list[str](), text
    while rest:
        one = _CONTACT.match(rest)
        if one is None or not one[0].isprintable():
            return None
        found.append(one[0].strip())
        rest = rest[one.end() :].lstrip()
        if rest and not rest.startswith(","):
            return None
        rest = rest[1:].lstrip()
    return ", ".join(found)


def _name_problems(name: str) -> list[Problem]:
    if NAME.fullmatch(name):
        return []
    allowed = "letters, digits and . _ + - (a letter or digit first), 100 at most"
    return [Problem("NAME", f"{name!r} is no name of a published set", allowed)]


def parse_members(texts: Iterable[str]) -> tuple[Named, list[Problem]]:
    """What is named, and what names nothing."""
    products: dict[int, None] = {}
    runs: dict[int, None] = {}
    problems: list[Problem] = []
    for text in texts:
        kind, separator, number = text.rpartition(":")
        if number.isascii() and number.isdigit() and len(number) < 19 and (not separator or kind in ("product", "run")):
            (runs if kind == "run" else products)[int(number)] = None
        else:
            problems.append(Problem(text, "names no product", FORMS))
    return Named(tuple(products), tuple(runs)), problems


def check_members(
    named: Named, products: Sequence[Mapping[str, Any]], excluded: Mapping[int, str | None], trials: Iterable[int]
) -> tuple[list[Problem], list[Problem]]:
    """(what forbids it, what a person may overrule). `excluded`: why, by run; `trials`: runs that never count."""
    forbidden = [
        Problem(f"product {number}", "there is no such product", "`ccatwm products` lists them")
        for number in named.products
        if number not in {row["product"] for row in products}
    ]
    forbidden += [
        Problem(f"run {number}", "has no products", f"`ccatwm show {number}` says how it stands")
        for number in named.runs
        if number not in {row["run"] for row in products}
    ]
    doubtful: list[Problem] = []
    never = set(trials)
    for row in products:
        where, run = f"product {row['product']}", row["run"]
        if row["status"] != "present":
            forbidden.append(Problem(where, f"its file is gone ({row['status']})", f"`ccatwm show {run}`"))
        elif why := excluded.get(run):
            forbidden.append(Problem(where, f"it is excluded: {why}", "`ccatwm exclude --list`"))
        elif run in never:
            forbidden.append(Problem(where, f"run {run} is a trial", f"`ccatwm promote {run} --reason TEXT` first"))
        elif not row["current"]:
            doubtful.append(Problem(where, "is not current: a newer one replaced it", "leave it out, or say --yes"))
        elif row["stale"]:
            doubtful.append(Problem(where, f"is stale: {row['stale']}", "wait for its run, or say --yes"))
    return forbidden, doubtful


def freeze(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a set keeps of a product, so that it can be told from any other for ever. `path`: below the base directory."""
    return {**{key: row[key] for key in FROZEN}, "path": row["full_path"]}


def notice_lines(published: Mapping[str, Any]) -> list[str]:
    """What to write to the contacts of a set that is affected."""
    affected = [row for row in published["products"] if row["excluded"]]
    doi = f" (DOI {published['doi']})" if published["doi"] else ""
    verb = "stands" if len(affected) == 1 else "stand"
    lines = [
        f"To: {published['contact'] or 'whoever uses it (no contact was given)'}",
        f"Of the data set {published['name']}{doi}, published on {published['published_at'][:10]}, {len(affected)} of "
        f"{count_text(len(published['products']), 'product')} {verb} on data that were found to be bad since. "
        "Please do not use them.",
    ]
    for row in affected:
        lines.append(f"- product {row['product']}, {row['path']}, sha256 {row['sha256']}: {row['excluded']}")
        instead = row["instead"]
        told = f"product {instead['product']}, {instead['path']}, sha256 {instead['sha256']}" if instead else "nothing yet"
        lines.append(f"  instead: {told}")
    return lines
