"""Tables on terminals of 80 and 200 columns and in pipes: what does not fit is broken or moved, nothing is lost."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.cli._table import lay_out, text_width, wrap, wrap_words
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import Database
from tests.fakes.terminal import STREAMS, Shown, run_on_terminal
from tests.opsdb.looked_at import NOW, World

TOP = Path(__file__).resolve().parents[2]
LONG_NAME = "n" * 30 + "-" + "m" * 32
LONG_KEY = "executed_obs_unit=" + "k" * 182
WIDE_KEY = "source=天鵝座X-1+instrument_module=低周波"
TABLES = [
    ["status"], ["runs"], ["products"], ["compare", "1", "2"], ["groupings", "list"], ["groupings", "show", "ngc253"],
    ["history"], ["history", "1"], ["exclude", "--list"], ["backfill", "--list"],
    ["publish", "--list"],
]  # fmt: skip

# --- laying out -------------------------------------------------------------------------------------------------------

texts = st.text(st.sampled_from("ab /=+,天é\u0301"), max_size=60).map(str.strip)
tables = st.integers(1, 5).flatmap(
    lambda n: st.tuples(
        st.lists(st.text("xyz", min_size=1, max_size=12), min_size=n, max_size=n),
        st.lists(st.lists(texts, min_size=n, max_size=n), max_size=4),
    )
)


def letters(*some: str) -> Counter[str]:
    return Counter("".join(some).replace(" ", ""))


@pytest.mark.quick
@given(tables, st.integers(40, 200))
def test_lines_fit_and_hold_every_letter(table: tuple[list[str], list[list[str]]], width: int) -> None:
    columns, rows = table
    lines = lay_out(columns, rows, width)
    assert all(text_width(line) <= width for line in lines)
    assert letters(*lines) >= letters(*(cell for row in rows for cell in row))


@pytest.mark.quick
@given(tables)
def test_without_a_width_a_row_is_a_line_with_whole_cells(table: tuple[list[str], list[list[str]]]) -> None:
    columns, rows = table
    head, *lines = lay_out(columns, rows)
    assert head.split() == columns and len(lines) == len(rows)
    assert all(cell in line for row, line in zip(rows, lines, strict=True) for cell in row)


@pytest.mark.quick
def test_what_is_too_long_is_broken_behind_separators() -> None:
    assert wrap("source=NGC253+module=LFA at night", 15) == ["source=NGC253+", "module=LFA at", "night"]


@pytest.mark.quick
def test_a_time_of_day_stays_whole() -> None:
    assert wrap("2026-03-01 09:00:00: held", 14) == ["2026-03-01", "09:00:00: held"]


@pytest.mark.quick
def test_a_line_that_is_no_table_is_broken_at_spaces_alone_and_goes_on_indented() -> None:
    assert wrap_words("  next: ccatwm release otf/grid --reason TEXT", 30) == [
        "  next: ccatwm release", "      otf/grid --reason TEXT"
    ]  # fmt: skip


@pytest.mark.quick
def test_a_word_that_is_longer_than_the_line_stays_whole() -> None:
    assert wrap_words("BASE  /a/long/path/to/it  (built-in)", 10) == ["BASE", "    /a/long/path/to/it", "    (built-in)"]


@pytest.mark.quick
@given(texts, st.integers(10, 80))
def test_lines_that_were_broken_have_all_words_in_order(text: str, width: int) -> None:
    assert [word for line in wrap_words(text, width) for word in line.split()] == text.split()


@pytest.mark.quick
def test_columns_are_aligned_by_what_characters_take() -> None:
    lines = lay_out(["a", "b"], [["天鵝", "1"], ["e\u0301", "2"], ["plain", "3"]])
    assert lines == ["a      b", "天鵝   1", "e\u0301      2", "plain  3"]


@pytest.mark.quick
def test_a_column_without_room_stands_below_its_row() -> None:
    columns = ["run", "sub-group", "state", "reason"]
    lines = lay_out(columns, [["7", "executed_obs_unit_of_somebody=1234", "COMPLETED", "new-sub-group"]], 50)
    assert lines == [
        "run  state      reason",
        "7    COMPLETED  new-sub-group",
        "    sub-group: executed_obs_unit_of_somebody=1234",
    ]


# --- on a terminal ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A site with something in every table, its names long, wide and plain."""
    folder = tmp_path_factory.mktemp("tables")
    say(folder, "init")
    database = Database(f"sqlite:///{folder}/ccatwm-data/opsdb.sqlite")
    with database.engine.connect() as connection:
        fill(World(database, connection))
    database.dispose()
    yield folder


def fill(world: World) -> None:
    world.define()
    world.update(t.pipeline, world.pipeline, name=LONG_NAME)
    for key, package in ((LONG_KEY, "p" * 150), (WIDE_KEY, "天鵝座-0001"), ("executed_obs_unit=7", "chai-7")):
        group, run, _ = world.calibrated(key, package)
        world.attempt(run, job_id="1234567")
        values = {"pipeline_name": LONG_NAME, "status": "FAILED", "blocking": True, "message": "no", "is_open": False}
        world.update(t.executed_reduction_step, run, failure_class="non-zero-exit", **values)
        world.update(t.sub_group, group, outcome="failed")
    for path in ("y" * 200 + "/map.fits", "図/天鵝座.fits"):
        world.product(3, path)
    target = f"{LONG_NAME}/calibrate/{LONG_KEY}"
    said = {"actor": "observer", "host": "data-center", "reason": "the reason is a sentence of its own, " * 4}
    world.insert(t.change_log, at=NOW, act="hold", target=target, details={}, **said)
    world.insert(
        t.pass_record, pass_name="stage", location="local", started_at=NOW, ended_at=NOW, host="h", pid=1, selected=1,
        done=1, waiting=0, failed=0, latest=True, message="the disk is full, " * 9,
    )  # fmt: skip


def say(
    work: Path, *arguments: str, columns: int = 80, streams: Sequence[str] = STREAMS, **more: str
) -> Shown:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(work), "PYTHONPATH": str(TOP), "LC_ALL": "C.UTF-8", **more}
    argv = [sys.executable, "-m", "ccatwm", *arguments]
    return run_on_terminal(argv, cwd=work, environment=environment, columns=columns, streams=streams)


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("command", TABLES, ids=" ".join)
def test_no_line_of_a_table_is_longer_than_the_terminal(work: Path, command: list[str], columns: int) -> None:
    shown = say(work, *command, columns=columns)
    assert shown.code == 0, shown.lines
    assert len(shown.lines) > 1 or shown.lines == ["nobody did anything"]
    assert not shown.screen.wrapped, shown.lines


@pytest.mark.parametrize("columns", [80, 200])
def test_what_is_broken_on_a_terminal_is_all_there(work: Path, columns: int) -> None:
    shown = say(work, "runs", columns=columns).lines
    assert letters(*shown) >= letters(LONG_KEY, WIDE_KEY, LONG_NAME, LONG_NAME, LONG_NAME)


def test_a_pipe_gets_whole_cells_and_no_colours(work: Path) -> None:
    shown = say(work, "runs", streams=("stderr",))
    told = shown.piped["stdout"]
    assert shown.lines == [] and "\x1b" not in told
    assert len(told.splitlines()) == 4
    assert all(whole in told for whole in (f"{LONG_NAME}/calibrate", LONG_KEY, WIDE_KEY))


def test_json_is_never_cut_nor_coloured(work: Path) -> None:
    shown = say(work, "runs", "--json")
    assert "\x1b" not in shown.sent and LONG_KEY in shown.sent


@pytest.mark.parametrize("more", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_colours_are_for_terminals_that_take_them_and_people_who_want_them(work: Path, more: dict[str, str]) -> None:
    assert "\x1b[31mFAILED" in say(work, "runs").sent
    assert "\x1b" not in say(work, "runs", **more).sent


@pytest.mark.parametrize("columns", [80, 200])
def test_findings_of_checks_are_not_broken_amid_words(work: Path, columns: int) -> None:
    for command in (["doctor", "--no-job"], ["health"]):
        shown = say(work, *command, columns=columns)
        found = [line for line in shown.lines if "next: " not in line]
        assert all(len(line) <= columns for line in found)
