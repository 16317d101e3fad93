"""What has to be made again, and from what, to make one product again: by frozen inputs alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ccatwm.core.model import ReferenceVersion, Run, RunInput, SoftwareVersion
from ccatwm.core.staging import packages_of, products_of


@dataclass(frozen=True)
class Chain:
    """Runs that a product stands on, its own included: `needs` are runs that come before each, `kept` the ids of the
    products of each that are of use here. `packages`: every raw data package once, with the first run that reads it."""

    needs: Mapping[int, frozenset[int]]
    kept: Mapping[int, frozenset[int]]
    packages: tuple[tuple[int, RunInput], ...]


def build_chain(product_id: int, run_id: int, inputs: Mapping[int, Sequence[RunInput]]) -> Chain:
    """The chain of product `product_id` of run `run_id`; `inputs` are those of all its ancestors and its own."""
    needs: dict[int, frozenset[int]] = {}
    kept: dict[int, set[int]] = {run_id: {product_id}}
    packages: dict[tuple[str, str, str | None], tuple[int, RunInput]] = {}
    ahead = [run_id]
    while ahead:
        run = ahead.pop()
        if run in needs:
            continue
        upstream = products_of(inputs.get(run, ()))
        needs[run] = frozenset(item.upstream_run_id for item in upstream if item.upstream_run_id is not None)
        for item in upstream:
            if item.upstream_run_id is not None:
                kept.setdefault(item.upstream_run_id, set()).add(int(item.identity))
        ahead += sorted(needs[run])
    for run in sorted(needs):
        for item in packages_of(inputs.get(run, ())):
            packages.setdefault(package_key(item), (run, item))
    return Chain(needs, {run: frozenset(found) for run, found in kept.items()}, tuple(packages.values()))


def package_key(item: RunInput) -> tuple[str, str, str | None]:
    """What tells a package from others: another checksum is another content."""
    return item.identity, item.name, item.checksum


def software_of(runs: Iterable[Run]) -> list[SoftwareVersion]:
    """Every version of software that made one of them, once."""
    return list(dict.fromkeys(run.resolved_step.software for run in runs))


def references_of(runs: Iterable[Run]) -> list[ReferenceVersion]:
    return list(dict.fromkeys(reference for run in runs for reference in run.resolved_step.references))
