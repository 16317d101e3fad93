"""Published sets leave records on disk, and have rows again from these after a restore of an older backup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccatwm.core.integrity import Kind
from ccatwm.errors import UsageError
from ccatwm.upkeep.publish import publish
from ccatwm.upkeep.set_records import SetRecords
from tests.cli.conftest import cli
from tests.passes.conftest import Observatory
from tests.passes.in_hand import use_site
from tests.passes.test_fsck import check, kinds
from tests.passes.test_importing import ON_SQLITE, import_all, lose_rows, plain
from tests.passes.test_publishing import act, products

__all__ = ["cli"]
WORDS = {"doi": "10.12345/dr1", "contact": "maps@example.org", "note": "first"}


def freeze(done: Observatory, name: str, *texts: str, words: dict[str, str] | None = None, **how: Any) -> dict[str, Any]:
    context = done.context()
    records = SetRecords(lambda: context.workfiles, context.ops_db_uid)
    return publish(context.database, context.grouping, name, texts, words or {}, act(done, **how), records)


def record_of(done: Observatory, name: str) -> Path:
    return done.base / ".published" / f"{name}.json"


def change(done: Observatory, name: str, **changes: Any) -> None:
    path = record_of(done, name)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def released(observatory: Observatory) -> Observatory:
    """All runs are completed, and the products of one are published."""
    observatory.until_quiet()
    freeze(observatory, "dr1", f"run:{observatory.runs('grid')[0]['id']}", words=WORDS)
    return observatory


def test_a_published_set_leaves_a_record_with_all_that_its_row_has(released):
    record, (row,) = json.loads(record_of(released, "dr1").read_text()), released.rows("published_set")
    assert {key: record[key] for key in ("name", "actor", *WORDS)} == {"name": "dr1", "actor": "ada", **WORDS}
    assert record["products"] == plain(row["products"]) and len(record["products"]) == 1
    assert check(released).exit_code == 0


def test_a_dry_run_leaves_no_record_and_said_again_it_is_written_again(released):
    before = record_of(released, "dr1").read_text()
    freeze(released, "dr2", "1", dry_run=True)
    assert not record_of(released, "dr2").exists()
    record_of(released, "dr1").unlink()
    freeze(released, "dr1", words={"note": "first"})
    assert record_of(released, "dr1").read_text() == before
    freeze(released, "dr1", words={"note": "second"})
    assert json.loads(record_of(released, "dr1").read_text())["note"] == "second"


def test_a_set_is_published_also_where_no_record_can_be_written_and_that_is_told(released, caplog):
    (released.base / ".published").rename(released.base / ".aside")
    (released.base / ".published").write_text("in the way")
    freeze(released, "dr2", "1")
    assert {row["name"] for row in released.rows("published_set")} == {"dr1", "dr2"}
    assert "dr2 is published, and its record .published/dr2.json is not written" in caplog.text
    assert "fsck --yes --reason TEXT" in caplog.text


@pytest.mark.parametrize(("content", "kind"), [
    (None, Kind.SET_RECORD_MISSING), (b"", Kind.SET_RECORD_DAMAGED), (b"{}", Kind.SET_RECORD_DAMAGED),
])  # fmt: skip
def test_fsck_names_a_record_that_is_gone_or_damaged_and_makes_it_again(released, content, kind):
    path = record_of(released, "dr1")
    before = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    assert kinds(check(released)) == [kind]
    assert not path.exists() or path.read_bytes() == content
    assert check(released, yes=True).exit_code == 0
    assert path.read_bytes() == before and check(released).exit_code == 0


def test_words_that_only_the_record_has_are_told_and_stay_in_it(released, caplog):
    change(released, "dr1", doi="10.12345/later")
    (difference,) = check(released, yes=True).differences
    assert difference.kind is Kind.SET_RECORD_DIFFERS and "another doi" in difference.what
    assert "`ccatwm publish dr1 --doi 10.12345/later`" in difference.next
    freeze(released, "dr1", words={"note": "second"})
    assert "has another doi" in caplog.text and "`ccatwm publish dr1 --doi 10.12345/later`" in caplog.text
    freeze(released, "dr1", words={"doi": "10.12345/later", "note": "second"})
    assert check(released).exit_code == 0


def test_a_record_of_other_products_is_told_and_never_replaced(released, caplog):
    change(released, "dr1", products=[json.loads(record_of(released, "dr1").read_text())["products"][0] | {"run": 1}])
    before = record_of(released, "dr1").read_text()
    (difference,) = check(released, yes=True).differences
    assert difference.kind is Kind.SET_RECORD_DIFFERS and "other products" in difference.what
    freeze(released, "dr1", words={"note": "second"})
    assert record_of(released, "dr1").read_text() == before and "is of other products" in caplog.text


def test_under_the_name_of_a_set_that_only_its_record_knows_nothing_is_published(released):
    released.execute("DELETE FROM {schema}published_set")
    with pytest.raises(UsageError, match=r"dr1 was published by ada on .* does not know it any more"):
        freeze(released, "dr1", "1")
    assert kinds(check(released)) == [Kind.SET_UNKNOWN]
    record_of(released, "dr1").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        freeze(released, "dr1", "1")


def lose_sets(done: Observatory) -> None:
    done.execute("DELETE FROM {schema}published_set")


def rows(done: Observatory) -> list[dict[str, Any]]:
    return [{key: plain(value) for key, value in row.items() if key != "id"} for row in done.rows("published_set")]


def test_after_its_runs_a_set_has_its_row_again_as_it_was(released):
    before = rows(released)
    lose_sets(released)
    lose_rows(released)
    report = import_all(released)
    assert (len(report.imported), report.sets.imported, report.exit_code) == (3, ["dr1"], 0)
    assert rows(released) == before and check(released).exit_code == 0
    said = [row for row in released.rows("change_log") if row["act"] == "import"][-1]
    assert (said["actor"], said["target"]) == ("ada", "published set dr1")
    again = import_all(released)
    assert (again.sets.imported, again.exit_code, rows(released)) == ([], 0, before)


def test_a_product_that_has_another_number_by_now_is_in_the_set_under_that(released):
    lose_sets(released)
    lose_rows(released)
    number = json.loads(record_of(released, "dr1").read_text())["products"][0]["product"]
    import_all(released, *(str(p.parent.relative_to(released.base)) for p in released.base.glob("otf/*/*/run-*/run.json")))
    assert released.rows("published_set") == []  # only runs that were named
    released.execute(f"UPDATE {{schema}}data_product SET id = id + 1000 WHERE id = {number}")
    import_all(released)
    assert [item["product"] for item in rows(released)[0]["products"]] == [number + 1000]
    assert check(released).exit_code == 0


@ON_SQLITE
def test_a_set_of_products_that_have_no_rows_is_refused_with_what_to_type(released):
    lose_sets(released)
    run = released.runs("grid")[0]["id"]
    lose_rows(released)
    next(released.base.glob(f"otf/*/*/run-{run}/run.json")).unlink()
    report = import_all(released)
    (refused,) = report.sets.refused
    assert (report.exit_code, released.rows("published_set")) == (1, [])
    assert f"of run {run})" in refused.why and f"from the directory of run {run}" in refused.next
    assert f"REFUSED   published set dr1: {refused.why}" in report.lines()


@ON_SQLITE
def test_a_set_whose_doi_another_one_has_or_whose_record_is_damaged_is_refused(released):
    lose_sets(released)
    freeze(released, "dr2", str(products(released, "calibrate")[0]), words={"doi": WORDS["doi"]})
    (refused,) = import_all(released).sets.refused
    assert refused.why == "its DOI 10.12345/dr1 is that of dr2" and "`ccatwm publish dr2 --doi ''`" in refused.next
    record_of(released, "dr1").write_text("{}")
    record_of(released, "dr2").write_text("{}")  # of a set that the ops-db has: `fsck` mends it
    assert [item.name for item in import_all(released).sets.refused] == ["dr1"]


@ON_SQLITE
@pytest.mark.parametrize(("changes", "told"), [
    ({"doi": "10.12345/later"}, "the ops-db has it with another doi"), ({}, "the ops-db has it with other products"),
])  # fmt: skip
def test_a_set_that_the_ops_db_has_otherwise_is_told_and_left(released, changes, told):
    before = rows(released)
    item = json.loads(record_of(released, "dr1").read_text())["products"][0]
    change(released, "dr1", **(changes or {"products": [item | {"sha256": "0" * 64}]}))
    report = import_all(released)
    assert ([item.why for item in report.sets.differ], report.exit_code) == ([told], 1)
    assert rows(released) == before


@ON_SQLITE
def test_both_commands_that_import_tell_of_sets(released, cli, monkeypatch):
    use_site(released, monkeypatch)
    path = record_of(released, "dr1")
    uid = released.context().ops_db_uid
    change(released, "dr1", ops_db=uid)
    lose_sets(released)
    assert cli("fsck", "--import").out.endswith("imported  published set dr1\n0 runs, 1 published set imported\n")
    lose_sets(released)
    assert cli("doctor", "--reconcile", "--import", "--json").json["import"]["sets"]["imported"] == ["dr1"]
    assert cli("publish", "dr1", "--note", "another").code == 0
    assert json.loads(path.read_text())["note"] == "another"
