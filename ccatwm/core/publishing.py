"""Published sets: what may be in one, and what to tell whoever uses one that is affected. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ccatwm.core.wording import count_text
from ccatwm.errors import Problem, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
FORMS = "write 17 or product:17 for a product, run:5 for all products of a run"
FROZEN = ("product", "run", "pipeline", "step", "sub_group", "recipe", "type", "sha256", "size")


@dataclass(frozen=True)
class Named:
    """Numbers of products, and of runs whose products are all meant."""

    products: tuple[int, ...]
    runs: tuple[int, ...]


def check_name(name: str) -> None:
    """Errors: UsageError."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a published set",
            next="letters, digits and . _ + - (a letter or digit first), 100 at most",
        )


def parse_members(texts: Iterable[str]) -> Named:
    """Errors: UsageError with all mistakes at once."""
    products: dict[int, None] = {}
    runs: dict[int, None] = {}
    problems: list[Problem] = []
    for text in texts:
        kind, separator, number = text.rpartition(":")
        if number.isascii() and number.isdigit() and len(number) < 19 and (not separator or kind in ("product", "run")):
            (runs if kind == "run" else products)[int(number)] = None
        else:
            problems.append(Problem(text, "names no product", FORMS))
    if problems:
        raise UsageError("some of it names no product; nothing was published", problems=problems)
    return Named(tuple(products), tuple(runs))


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
