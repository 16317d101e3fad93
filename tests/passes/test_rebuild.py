"""`ccatwm rebuild PRODUCT --dir DIR`: a chain of two steps made again, and what is said of it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, cli
from tests.crash.campaign import write_campaign
from tests.crash.rig import snapshot
from tests.opsdb.databases import make_upgraded_url
from tests.passes.conftest import Observatory
from tests.passes.in_hand import tree_of, use_site

__all__ = ["cli"]
# A map as FITS and as a store, each with the time of its making, and a file that is a function of its inputs.
PROGRAM = r"""
set -e
cd "$WORKFLOW_OUTPUT_DIR"
card() { printf '%-80s' "$1"; }
if [ "$WORKFLOW_STEP" = calibrate ]; then
    cat "$WORKFLOW_INPUT_DIR"/*/*/log/notes.txt >spectra.txt
    date +%s.%N >noise.txt
    exit
fi
now=$(date -u +%FT%T.%N)
mkdir -p science/cube.zarr/c
cat "$WORKFLOW_WORKSPACE_DIR"/calibrate/*/spectra.txt "$REFERENCE" >science/plain.txt
{
    card 'SIMPLE  =                    T'; card 'BITPIX  =                    8'; card 'NAXIS   =                    1'
    card 'NAXIS1  =                 2000'; card "BUNIT   = '$UNIT'"; card "DATE    = '$now'"; card END
    printf '%*s' 2320 ''
    head -c 2000 science/plain.txt
    printf '%*s' 880 ''
} >science/map.fits
printf '{"node_type": "array", "attributes": {"unit": "K", "made": "%s"}}' "$now" >science/cube.zarr/zarr.json
head -c 100 science/plain.txt >science/cube.zarr/c/0
"""


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Observatory:
    """All runs are done. Nothing of the tests changes what they have made."""
    folder = tmp_path_factory.mktemp("rebuilt") / "world"
    observatory = Observatory(folder, "", scripts=True)
    write_campaign(folder)
    observatory.url = make_upgraded_url("sqlite", request, folder)
    write_program(observatory)
    (folder / "gains.txt").write_text("1.0\n")
    observatory.arrive("night.yaml")
    pipeline = folder / "pipeline.yaml"
    reference = f'references: [{{name: gains, versions: [{{version: "1", path: {folder / "gains.txt"}}}]}}]\n'
    pipeline.write_text(pipeline.read_text().replace("software: cal,", "software: cal, references: [gains],") + reference)
    observatory.apply()
    observatory.until_quiet()
    assert {run["status"] for run in observatory.runs()} == {"COMPLETED"}
    return observatory


def write_program(observatory: Observatory, *, unit: str = "K", more: str = "") -> None:
    text = PROGRAM.replace("$UNIT", unit).replace("$REFERENCE", str(observatory.folder / "gains.txt"))
    (observatory.folder / "program.sh").write_text(text + more)


@pytest.fixture(autouse=True)
def site(made: Observatory, monkeypatch: pytest.MonkeyPatch) -> None:
    use_site(made, monkeypatch)


def number(made: Observatory, name: str) -> str:
    return str(next(p["id"] for p in made.rows("data_product") if p["path"] == name))


def rebuild(cli: Cli, made: Observatory, name: str = "science/plain.txt", *options: str):
    return cli("rebuild", number(made, name), "--dir", "again", "--json", *options)


@contextmanager
def away(path: Path) -> Iterator[None]:
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@contextmanager
def another_program(made: Observatory, **changes: str) -> Iterator[None]:
    write_program(made, **changes)
    try:
        yield
    finally:
        write_program(made)


def test_a_product_is_made_again_from_raw_data_and_is_identical(made, cli):
    answer = rebuild(cli, made)
    assert (answer.code, answer.json["answer"], answer.json["where"]) == (0, "identical", []), answer.err
    assert Path(answer.json["path"]).read_bytes().startswith(b"scan-1")
    assert [(r["step"], r["exit_code"]) for r in answer.json["runs"]] == [("calibrate", 0), ("calibrate", 0), ("grid", 0)]


def test_what_its_runs_read_is_compared_on_the_way(made, cli):
    runs = rebuild(cli, made).json["runs"]
    answers = {(r["run"], p["name"]): p["answer"] for r in runs for p in r["products"]}
    assert answers[runs[0]["run"], "spectra.txt"] == "identical"
    assert answers[runs[0]["run"], "noise.txt"] == "differs"


def test_a_map_whose_header_tells_when_it_was_made_is_the_same_data(made, cli):
    answer = rebuild(cli, made, "science/map.fits")
    assert (answer.code, answer.json["answer"]) == (0, "same data"), answer.out
    assert answer.json["where"][0].startswith("science/map.fits: header of HDU 0: DATE is ")


def test_a_store_whose_attributes_tell_when_it_was_made_is_the_same_data(made, cli):
    answer = rebuild(cli, made, "science/cube.zarr")
    assert (answer.code, answer.json["answer"]) == (0, "same data"), answer.out
    assert answer.json["where"][0].startswith("zarr.json: attributes.made is ")


def test_a_program_that_makes_something_else_by_now_is_found_out(made, cli):
    with another_program(made, unit="Jy"):
        answer = rebuild(cli, made, "science/map.fits")
    assert (answer.code, answer.json["answer"]) == (1, "differs")
    assert answer.json["where"] == ["science/map.fits: header of HDU 0: BUNIT is 'Jy', recorded 'K'"]


def test_a_program_that_fails_by_now_is_told_with_its_last_line(made, cli):
    with another_program(made, more='echo "no beam" >&2; exit 3\n'):
        answer = rebuild(cli, made)
    assert (answer.code, answer.json["answer"]) == (1, "failed")
    assert "ended with exit code 3: no beam" in answer.json["where"][0]


def test_a_folder_below_the_base_directory_is_refused(made, cli):
    product = made.rows("data_product")[0]["id"]
    answer = cli("rebuild", str(product), "--dir", str(made.base / "otf" / "again"))
    assert (answer.code, "lies below the base directory" in answer.err) == (2, True)
    assert not (made.base / "otf" / "again").exists()


def test_nothing_is_written_to_the_ops_db_or_below_the_base_directory(made, cli):
    before = snapshot(made.url), tree_of(made.base), tree_of(made.folder / "state")
    assert rebuild(cli, made).code == 0
    assert (snapshot(made.url), tree_of(made.base), tree_of(made.folder / "state")) == before


def test_an_input_that_was_purged_from_the_cache_comes_from_where_it_is_archived(made, cli):
    with away(made.base / ".cache"):
        answer = rebuild(cli, made)
    assert answer.json["answer"] == "identical"
    assert {(i["name"], i["from"]) for i in answer.json["inputs"]} == {
        ("package scan-1-LFA", "raw"), ("package scan-2-LFA", "raw"),
    }  # fmt: skip


def test_what_cannot_be_had_any_more_is_told_at_once_and_nothing_runs(made, cli):
    folders = [made.base / ".cache", made.folder / "raw", made.folder / "buffer", made.folder / "gains.txt"]
    with ExitStack() as stack:
        for path in folders:
            stack.enter_context(away(path))
        answer = rebuild(cli, made)
    assert answer.code == 2
    told = answer.out + answer.err
    for text in ("reference gains 1", "package scan-1-LFA", "package scan-2-LFA", "not everything is there"):
        assert text in told, told
    assert not Path("again").exists()


def test_a_reference_that_is_another_by_now_is_refused(made, cli):
    (made.folder / "gains.txt").write_text("2.0\n")
    try:
        answer = rebuild(cli, made)
    finally:
        (made.folder / "gains.txt").write_text("1.0\n")
    assert (answer.code, "is another file" in answer.out + answer.err) == (2, True)


def test_programs_may_run_side_by_side(made, cli):
    answer = rebuild(cli, made, "science/plain.txt", "--jobs", "2")
    assert (answer.json["answer"], len(answer.json["runs"])) == ("identical", 3)


def test_of_a_product_that_is_gone_the_checksum_still_answers(made, cli):
    (kept,) = made.base.glob("otf/grid/all/run-*/attempt-1/output/science")
    with away(kept):
        assert rebuild(cli, made).json["answer"] == "identical"
        answer = cli("rebuild", number(made, "science/map.fits"), "--dir", "other", "--json")
    assert (answer.code, answer.json["answer"], "the kept one is gone" in answer.json["where"][0]) == (1, "differs", True)


def test_a_published_product_of_excluded_data_and_an_older_version_is_made_again_all_the_same(made, cli):
    """What is defined now does not matter: its steps, inputs and versions were frozen."""
    plain = number(made, "science/plain.txt")
    assert cli("publish", "first", plain).code == 0
    before = (made.folder / "pipeline.yaml").read_text()
    newer = before.replace("{version: 1.0.0, command: [/bin/sh,", "{version: 2.0.0, command: [/bin/false,")
    assert newer != before
    (made.folder / "newer.yaml").write_text(newer.replace("mode: hot_cold", "mode: cold"))
    assert cli("apply", made.folder / "newer.yaml", "--yes").code == 0
    assert cli("exclude", "package:scan-1-LFA", "--reason", "cloud", "--yes").code == 0
    answer = rebuild(cli, made)
    assert (answer.code, answer.json["answer"]) == (0, "identical"), answer.err


def test_a_folder_that_is_not_empty_is_left_as_it_is(made, cli):
    Path("again").mkdir()
    Path("again/notes").write_text("keep")
    assert rebuild(cli, made).code == 2
    assert os.listdir("again") == ["notes"]


def test_a_product_that_is_not_there_is_told_with_those_that_are(made, cli):
    answer = cli("rebuild", "99", "--dir", "again")
    assert (answer.code, "there is no product 99" in answer.err) == (2, True)


def test_without_a_folder_it_says_how_it_is_called(made, cli):
    answer = cli("rebuild", "1")
    assert (answer.code, "ccatwm rebuild 1 --dir DIR" in answer.err) == (2, True)


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "rebuild.md"
TYPED = re.findall(r"^ccatwm .*?(?= +#|$)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_what_the_page_on_rebuilding_says_can_be_typed(made, cli):
    for count, line in enumerate(TYPED):
        words = {"PRODUCT": number(made, "science/plain.txt"), "DIR": f"again-{count}"}
        answer = cli(*(words.get(word, word) for word in shlex.split(line)[1:]))
        assert answer.code == 0, (line, answer.err)
    assert len(TYPED) >= 2
