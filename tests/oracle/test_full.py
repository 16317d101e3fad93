"""Change-driven passes, then `trigger --full`: as `trigger --full` alone; after quiet passes it finds nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.edges.opsdb import tables as t
from ccatwm.passes._frame import PassItem
from tests.oracle.conftest import EXAMPLES, KINDS, MakeSites, made_profile
from tests.oracle.defining import POLICIES, first_definitions
from tests.oracle.history import MINUTE
from tests.oracle.observing import CONTENTS, OBSERVING, START, Observing
from tests.oracle.site import Clock, Row, Site, pipeline_document
from tests.oracle.sky import Sky

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

INSERTING = ("observe", "arrive")  # acts beside which other transactions can go on
# Nothing is known of what is wanted now; what was wanted before depends on when one looked.
UNDECIDED = ("no-inputs", "waiting-for-data", "waiting-for-upstream", "waiting-for-image", "held")
NUMBER = st.integers(0, 11)
NUMBERS = st.tuples(NUMBER, NUMBER, NUMBER)
# What comes late comes with the round here: two delays together would be more than the overlap.
ACT = st.tuples(st.sampled_from(sorted(OBSERVING.keys() - {"come late"})), NUMBERS)
INSERT = st.tuples(st.sampled_from(INSERTING), NUMBERS)
# What is written before the passes look; how many minutes ago that was; and what commits only after they have looked.
ROUND = st.tuples(st.lists(ACT, min_size=1, max_size=4), st.integers(0, 55), st.lists(INSERT, max_size=2))
ROUNDS = st.lists(ROUND, min_size=2, max_size=8 if EXAMPLES else 3)
POLICY = st.integers(0, len(POLICIES) - 1)
DEFINITIONS = st.builds(
    first_definitions, NUMBER, NUMBER, st.tuples(POLICY, POLICY), st.sampled_from([0, 0, 1, 2, 3, 4, 5]), st.booleans(),
    st.tuples(st.integers(0, 4), st.just(0), st.just(0), st.sampled_from([0, 0, 3])),
)  # fmt: skip
Act = tuple[str, tuple[int, int, int]]
Change = tuple[str, str, int, Row]


class Late:
    """A transaction of other software that is open while the passes work (SQLite: is not begun before they have)."""

    def __init__(self, site: Site, sky: Sky, changes: list[Change]) -> None:
        self._site, self._sky, self._changes = site, sky, changes
        self._connection = site.connect() if site.kind == "postgresql" else None
        if self._connection is not None:
            site.write_on(self._connection, changes)

    def commit(self) -> None:
        if self._connection is None:
            self._site.write(self._sky, self._changes)
        else:
            self._connection.commit()
            self._connection.close()


@dataclass
class Twins(Observing):
    """Two sites with the same observations: one sees changes by itself, the other compares everything each time."""

    sky: Sky
    clock: Clock
    driven: Site
    full: Site

    def begin(self, definitions: dict[str, Any]) -> None:
        self._observe(0, 0, 3)
        self.write()
        for site in self.sites:
            site.apply(pipeline_document(definitions, site.folder))
        self.look()

    @property
    def sites(self) -> tuple[Site, Site]:
        return self.driven, self.full

    def take(self) -> list[Change]:
        changes, self.sky.pending = self.sky.pending, []
        return changes

    def write(self) -> None:
        changes = self.take()
        for site in self.sites:
            site.write(self.sky, changes)

    def bring_everything(self) -> None:
        """All packages come, and all observations end."""
        for row_id, row in self.sky.tables["raw_data_package"].items():
            if row["state"] in ("waiting", "transferring"):
                size = len(f"{row_id} {CONTENTS[0]}\n")
                self.sky.change("raw_data_package", row_id, self.now, state="archived", size_bytes=size)
        for row_id in self.sky.ids("executed_obs_unit"):
            self.sky.change("executed_obs_unit", row_id, self.now, end_time=self.now, status="Completed")
        self.write()

    def act(self, acts: Iterable[Act], minutes_ago: int) -> list[Change]:
        """Changes with the time of some minutes ago; in what order they are committed says nothing."""
        now = self.clock.at
        self.clock.at = now - timedelta(minutes=minutes_ago)
        for name, numbers in acts:
            OBSERVING[name](self, *numbers)
        self.clock.at = now
        return self.take()

    def act_now(self, name: str, numbers: tuple[int, int, int]) -> None:
        OBSERVING[name](self, *numbers)
        self.write()

    def look(self) -> None:
        passes(self.driven)
        passes(self.full, full=True)

    def live(self, rounds: Iterable[tuple[list[Act], int, list[Act]]]) -> None:
        for acts, minutes_ago, late in rounds:
            self.clock.at += 7 * MINUTE
            for change in self.act(acts, minutes_ago):
                for site in self.sites:
                    site.write(self.sky, [change])
            kept = self.act(late, 3)
            open_ones = [Late(site, self.sky, kept) for site in self.sites]
            if kept:  # what is newer is there before, and moves every cursor on
                self.act_now("observe", (minutes_ago, minutes_ago, 3))
            self.look()
            for one in open_ones:
                one.commit()
            self.clock.at += MINUTE
            self.look()


def passes(site: Site, *, full: bool = False) -> list[PassItem]:
    """`trigger` and `resolve` until nothing is due; what `resolve` told of."""
    told: list[PassItem] = []
    for n in range(9):
        site.clock.at += timedelta(seconds=1)
        selected = site.run_pass("trigger", full=full and n == 0).selected
        told += site.run_pass("resolve").items
        if not selected:
            return told
    raise AssertionError("not quiet")


def work(site: Site) -> None:
    """Everything that is wanted is made."""
    for _ in range(9):
        for name in ("stage", "submit"):
            site.run_pass(name)
        if not site.run_jobs():
            return
        for name in ("poll", "collect"):
            site.run_pass(name)
        passes(site)


def state(site: Site) -> dict[str, Any]:
    """What must be the same whichever way it came to be: not how many runs were begun and superseded on the way, nor
    which one is under way from a time when more was there than now.
    """
    runs = {run["id"]: run for run in site.rows(t.executed_reduction_step)}
    opened = {run["sub_group_id"]: (run["recipe"], run["status"]) for run in runs.values() if run["is_open"]}
    groups = {}
    for place, row in site.groups().items():
        current = runs.get(row["current_run_id"], {}).get("recipe")
        outcome = {"run": "busy", "restored": "up-to-date"}.get(row["outcome"], row["outcome"])
        wanted = row["wanted_recipe"] if outcome not in UNDECIDED else None
        kept = (row[name] for name in ("dims", "requested", "held"))
        under_way = opened.get(row["id"]) if outcome not in UNDECIDED else None
        groups[place] = (outcome, wanted, under_way, current, row["stale"] is None, *kept)
    members = {
        (row["scope_id"], row["package_id"]): {k: v for k, v in row.items() if k not in ("id", "since")}
        for row in site.rows(t.sub_group_member)
    }
    return {"groups": groups, "members": members}


def untouched(site: Site) -> dict[str, Any]:
    """What a full comparison that finds nothing leaves as it is, to the row."""
    runs = site.rows(t.executed_reduction_step)
    return {"state": state(site), "members": site.rows(t.sub_group_member), "runs": runs}


@made_profile(EXAMPLES or 3)
@given(DEFINITIONS, ROUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_change_driven_passes_and_full_ones_end_in_the_same_state(
    sites: MakeSites, kind: str, definitions: dict[str, Any], rounds: list[tuple[list[Act], int, list[Act]]]
) -> None:
    clock = Clock(START)
    with sites(clock, [kind, kind]) as (driven, full):
        twins = Twins(Sky.with_first_rows(START), clock, driven, full)
        twins.begin(definitions)
        twins.live(rounds)
        for site in (driven, full):
            passes(site, full=True)
        assert state(driven) == state(full)
        twins.bring_everything()  # else what is under way from before it was missing makes a product in one of them
        for site in (driven, full):
            passes(site, full=True)
            work(site)
            passes(site, full=True)
        assert state(driven) == state(full)
        for site in (driven, full):
            before = untouched(site)
            told = passes(site, full=True)
            assert untouched(site) == before
            assert [item for item in told if item.outcome in ("run", "repaired")] == []


@made_profile(EXAMPLES or 3)
@given(DEFINITIONS, ROUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_without_rows_that_were_deleted_a_full_comparison_finds_nothing(
    sites: MakeSites, kind: str, definitions: dict[str, Any], rounds: list[tuple[list[Act], int, list[Act]]]
) -> None:
    clock = Clock(START)
    kept = [([act for act in acts if act[0] != "withdraw"], ago, late) for acts, ago, late in rounds]
    with sites(clock, [kind, kind]) as (driven, full):
        twins = Twins(Sky.with_first_rows(START), clock, driven, full)
        twins.begin(definitions)
        twins.live(kept)
        work(driven)
        before = untouched(driven)
        told = passes(driven, full=True)
        assert untouched(driven) == before
        assert [item for item in told if item.outcome in ("run", "repaired")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_comparison_says_what_it_repaired(sites: MakeSites, kind: str) -> None:
    clock = Clock(START)
    with sites(clock, [kind, kind]) as (driven, full):
        twins = Twins(Sky.with_first_rows(START), clock, driven, full)
        twins.begin(first_definitions(0, 0, (0, 0), 0, False))
        gone = twins.sky.pick("raw_data_package", 0)
        name = twins.sky.tables["raw_data_package"][gone]["name"]
        twins.sky.withdraw(gone)
        twins.write()
        assert passes(driven) == [], "nothing says when a row went"
        repaired = [item for item in passes(driven, full=True) if item.outcome == "repaired"]
        assert [(item.count, item.reason) for item in repaired] == [
            (1, f"1 package of data grouping otf by [executed_obs_unit] (otf/calibrate) had changed unnoticed: {name}"),
            (1, f"1 package of data grouping otf by [] (otf/grid) had changed unnoticed: {name}"),
        ]
        with driven.context.database.write() as connection:
            connection.execute(sa.update(t.sub_group_member).values(observed_at=START - timedelta(days=1)))
        assert sum(item.count for item in passes(driven, full=True) if item.outcome == "repaired") == 2
        assert not [item for item in passes(driven, full=True) if item.outcome in ("repaired", "run")]
