"""Files that our account may not read, through whole passes: their runs wait, or take another copy; nothing is lost."""

from __future__ import annotations

import pytest

from ccatwm.errors import FilesUnavailableError
from ccatwm.views.explain import build_explain
from tests.passes.bad_world import COPY, Scan, by_package, executions, good_tar, observe, reduce, told
from tests.rights import close, open_again, ordinary_rights

GOOD = good_tar(a=b"1", sub__b=b"22")
# The socket of a PostgreSQL of the tests belongs to another account, who would not be let in.
pytestmark = pytest.mark.parametrize("empty_observatory", ["sqlite"], indirect=True)
RIGHT = "let the account that ccatwm works by there read and change all that lies below (chown, chmod)"


@pytest.fixture
def night(empty_observatory):
    """Two scans, whose runs are made."""
    observe(empty_observatory, Scan("bad", GOOD, copies={"buffer": GOOD}), Scan("good", GOOD))
    reduce(empty_observatory, COPY)
    for name in ("trigger", "resolve"):
        empty_observatory.run_pass(name)
    return empty_observatory


def explained(night, run):
    context = night.context()
    found = build_explain(context.database, "otf", "calibrate", now=context.clock.now())["explain"]
    context.database.dispose()
    return next(one for one in found if one["sub_group"] == run["sub_group_key"])


def charged(night):
    return {(run["retries_used"], run["free_retries_used"]) for run in night.runs()} != {(0, 0)}


@pytest.mark.parametrize(
    ("what", "verify"),
    [("output", "size"), ("output/science", "size"), ("job", "size"), ("job/outputs.sha256", "size"),
     ("output/science/a", "full")],
)  # fmt: skip
def test_an_output_that_we_may_not_read_is_the_programs_fault_in_no_way(night, what, verify):
    """Its job has read all of it."""
    night.settings_changes["collect_verify"] = verify
    for name in ("stage", "submit"):
        night.run_pass(name)
    night.jobs()
    night.run_pass("poll")
    bad = by_package(night)["bad"]
    (attempt,) = night.base.glob(f"otf/*/*/run-{bad['id']}/attempt-1")
    close(attempt / what)
    with ordinary_rights():
        report = night.run_pass("collect")
    runs = by_package(night)
    assert (runs["good"]["status"], runs["bad"]["status"]) == ("COMPLETED", "COLLECTING_RESULTS")
    assert {product["run_id"] for product in night.rows("data_product")} == {runs["good"]["id"]}
    assert isinstance(report.error, FilesUnavailableError) and report.error.next == RIGHT
    (item,) = [item for item in report.items if item.outcome == "not read"]
    assert item.reason == runs["bad"]["message"]
    assert item.reason.endswith(f": Permission denied; {RIGHT}") and f"run-{bad['id']}/attempt-1/{what[:3]}" in item.reason
    assert runs["bad"]["message"] in str(explained(night, bad))
    open_again(attempt / what)
    night.until_quiet()
    assert [(run["status"], run["message"]) for run in night.runs()] == [("COMPLETED", None)] * 2
    assert not charged(night) and len(executions(night)) == 2


@pytest.mark.parametrize("what", ["a", "sub"])
def test_a_package_in_the_cache_that_we_may_not_read_keeps_its_runs_waiting_and_no_others(night, what):
    night.until_quiet()
    text = (night.folder / "pipeline.yaml").read_text()
    (night.folder / "pipeline.yaml").write_text(text.replace("name: otf", "name: again"))
    night.apply()
    for name in ("trigger", "resolve"):
        night.run_pass(name)
    (package,) = (night.base / ".cache" / "packages").glob("bad-*")
    close(package / what)
    with ordinary_rights():
        reports = [night.run_pass("stage") for _ in range(3)]
    assert all(report.error is None for report in reports)
    runs = by_package(night)
    assert (runs["good"]["status"], runs["bad"]["status"]) == ("STAGED", "STAGING_DATA")
    assert runs["bad"]["message"].endswith(f": Permission denied; {RIGHT}")
    assert [item.outcome for item in reports[-1].items] == ["not permitted"]
    (line,) = told(night, reports[-1:])
    assert line.startswith("ccatwm: stage: 1 run held back, the account may not read, or not change, their files: ")
    assert not charged(night)
    open_again(package / what)
    night.until_quiet()
    assert {run["status"] for run in night.runs()} == {"COMPLETED"}
    assert not charged(night)


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_of_a_raw_package_that_we_may_not_read_another_copy_is_taken(night, form):
    raw = night.folder / "buffer" / "bad.tar"  # which is asked first
    if form == "folder":
        raw.unlink()
        raw.mkdir()
        (raw / "a").write_bytes(b"1")
    close(raw)
    with ordinary_rights():
        report = night.run_pass("stage")
    assert sorted(item.outcome for item in report.items) == ["bad-copy", "staged", "staged"]
    warnings = str(by_package(night)["bad"]["warnings"])
    assert f"bad.tar at buffer ({raw.parent}) may not be read: Permission denied" in warnings
    assert raw.exists() and not charged(night)
    open_again(raw)
