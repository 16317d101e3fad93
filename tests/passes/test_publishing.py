"""Published sets: frozen as they were, and affected as soon as something that they stand on is excluded."""

from __future__ import annotations

from typing import Any

import pytest

from ccatwm.core.publishing import parse_members
from ccatwm.core.selection import Selection
from ccatwm.edges.opsdb.stores.products import record_back, record_missing
from ccatwm.errors import UsageError
from ccatwm.upkeep.exclude import Act, exclude, include
from ccatwm.upkeep.publish import publish
from ccatwm.upkeep.requests import request_runs
from ccatwm.views.lineage import build_lineage, lineage_lines
from ccatwm.views.published import build_published_set, build_published_sets, missing_lines
from ccatwm.views.status import build_status, other_lines
from tests.passes.conftest import Observatory

SCAN_1 = "package:scan-1-LFA"


def act(observatory: Observatory, reason: str = "the hot load was open", **options: Any) -> Act:
    return Act(reason, "ada", "h", observatory.context().clock.now(), **options)


def freeze(observatory: Observatory, name: str, *texts: str, words: dict[str, str] | None = None, **options: Any) -> dict:
    context = observatory.context()
    return publish(context.database, context.grouping, name, texts, words or {}, act(observatory, **options))


def published(observatory: Observatory, name: str) -> dict:
    context = observatory.context()
    return build_published_set(context.database, context.grouping, name, now=context.clock.now())["publish"]


def status(observatory: Observatory) -> dict:
    context = observatory.context()
    return build_status(context.database, context.grouping, Selection(), now=context.clock.now())


def products(observatory: Observatory, step: str) -> list[int]:
    runs = {run["id"] for run in observatory.runs(step)}
    return [row["id"] for row in observatory.rows("data_product") if row["run_id"] in runs]


def test_a_set_is_frozen_with_what_tells_its_products_from_any_other(observatory: Observatory) -> None:
    observatory.until_quiet()
    run = observatory.runs("grid")[0]
    freeze(observatory, "dr1", f"run:{run['id']}", words={"contact": "maps@example.org", "note": "first"})
    row = published(observatory, "dr1")
    (item,) = row["products"]
    (kept,) = [p for p in observatory.rows("data_product") if p["run_id"] == run["id"]]
    assert (item["product"], item["sha256"], item["path"]) == (kept["id"], kept["sha256"], kept["full_path"])
    assert (item["recipe"], item["sub_group"], item["size"]) == (run["recipe"], "all", kept["size_bytes"])
    assert (row["contact"], row["note"], row["doi"], row["actor"]) == ("maps@example.org", "first", None, "ada")
    assert row["affected"] == [] and row["notice"] == []
    context = observatory.context()
    assert ("publish", "dr1", "first") in {(r["act"], r["target"], r["reason"]) for r in observatory.rows("change_log")}
    document = build_lineage(context.database, context.grouping, str(kept["id"]), places=observatory.places)
    assert lineage_lines(document)[-1] == "published in dr1"


def test_said_again_nothing_changes_and_a_doi_may_come_later(observatory: Observatory) -> None:
    observatory.until_quiet()
    first, second = products(observatory, "grid")[0], products(observatory, "calibrate")[0]
    freeze(observatory, "dr1", str(first))
    log = len(observatory.rows("change_log"))
    freeze(observatory, "dr1", f"product:{first}", str(first))
    assert len(observatory.rows("change_log")) == log
    freeze(observatory, "dr1", words={"doi": "10.12345/dr1"})
    assert published(observatory, "dr1")["doi"] == "10.12345/dr1"
    with pytest.raises(UsageError, match="with other products, and stays as it is"):
        freeze(observatory, "dr1", str(first), str(second))
    with pytest.raises(UsageError, match="no products are named"):
        freeze(observatory, "dr2", words={"note": "n"})
    with pytest.raises(UsageError, match="there is no published set 'dr2'"):
        published(observatory, "dr2")
    with pytest.raises(UsageError, match="17 is no published set; if it is a product") as caught:
        published(observatory, "17")
    assert caught.value.next.startswith("`ccatwm publish NAME 17`")


def test_all_mistakes_of_a_command_line_are_told_at_once(observatory: Observatory) -> None:
    observatory.until_quiet()
    words = {"doi": "chai-dr1", "contact": "Ada Lovelace", "note": "n"}
    with pytest.raises(UsageError) as caught:
        freeze(observatory, "dr 1", "9999", "x", words=words)
    assert [problem.where for problem in caught.value.problems] == ["NAME", "x", "--doi", "--contact", "product 9999"]
    (grid,) = products(observatory, "grid")
    freeze(observatory, "dr1", str(grid))
    with pytest.raises(UsageError, match="dr1 stays as it is") as caught:
        freeze(observatory, "dr1", words=words)
    assert [problem.where for problem in caught.value.problems] == ["--doi", "--contact"]
    assert published(observatory, "dr1")["note"] is None


def test_a_doi_is_kept_in_one_form_whichever_was_given_and_can_be_taken_away(observatory: Observatory) -> None:
    observatory.until_quiet()
    (grid,) = products(observatory, "grid")
    freeze(observatory, "dr1", str(grid), words={"doi": "https://doi.org/10.12345/CHAI-dr1"})
    log = len(observatory.rows("change_log"))
    freeze(observatory, "dr1", words={"doi": "doi:10.12345/chai-DR1"})
    assert published(observatory, "dr1")["doi"] == "10.12345/chai-dr1" and len(observatory.rows("change_log")) == log
    freeze(observatory, "dr1", words={"doi": ""})
    assert published(observatory, "dr1")["doi"] is None


def test_a_doi_is_of_one_set(observatory: Observatory) -> None:
    observatory.until_quiet()
    first, second = products(observatory, "calibrate")[:2]
    freeze(observatory, "dr1", str(first), words={"doi": "10.12345/dr1"})
    freeze(observatory, "dr1", str(first), words={"doi": "10.12345/dr1"})  # said again
    with pytest.raises(UsageError, match="nothing was published") as caught:
        freeze(observatory, "dr2", str(second), words={"doi": "https://doi.org/10.12345/DR1"})
    [problem] = caught.value.problems
    assert (problem.where, problem.what) == ("--doi", "10.12345/dr1 is that of dr1")
    freeze(observatory, "dr2", str(second))
    with pytest.raises(UsageError, match="dr2 stays as it is"):
        freeze(observatory, "dr2", words={"doi": "10.12345/dr1"})
    freeze(observatory, "dr1", words={"doi": ""})
    freeze(observatory, "dr2", words={"doi": "10.12345/dr1"})
    assert published(observatory, "dr2")["doi"] == "10.12345/dr1"


def test_a_dry_run_publishes_nothing(observatory: Observatory) -> None:
    observatory.until_quiet()
    kept = freeze(observatory, "dr1", str(products(observatory, "grid")[0]), dry_run=True)
    assert len(kept["products"]) == 1 and observatory.rows("published_set") == []


def test_what_may_not_be_published_is_told_all_at_once(observatory: Observatory) -> None:
    observatory.until_quiet()
    by_key = {run["id"]: run["sub_group_key"] for run in observatory.runs("calibrate")}
    rows = [row for row in observatory.rows("data_product") if row["run_id"] in by_key]
    of_scan_1 = next(row["id"] for row in rows if by_key[row["run_id"]].endswith("=1"))
    gone = next(row["id"] for row in rows if by_key[row["run_id"]].endswith("=2"))
    context = observatory.context()
    exclude(context.database, context.grouping, [SCAN_1], act(observatory))
    observatory.execute(f"UPDATE {{schema}}data_product SET status = 'missing' WHERE id = {gone}")
    with pytest.raises(UsageError) as caught:
        freeze(observatory, "dr1", str(of_scan_1), str(gone), "9999", "run:77", yes=True)
    told = {problem.where: problem.what for problem in caught.value.problems}
    assert told[f"product {of_scan_1}"] == "it is excluded: the hot load was open"
    assert told[f"product {gone}"] == "its file is gone (missing)"
    assert told["product 9999"] == "there is no such product" and told["run 77"] == "has no products"
    assert observatory.rows("published_set") == []
    assert len(parse_members(["17x", "run:", "cat:3", "\u0661", "9" * 30, "5"])[1]) == 5
    for name in ("", "a b", "-x", "x" * 101, "ü"):
        with pytest.raises(UsageError, match="no name of a published set"):
            freeze(observatory, name, "1")


def test_a_product_that_a_newer_one_replaced_wants_yes_and_a_trial_is_refused(observatory: Observatory) -> None:
    observatory.until_quiet()
    (old,) = products(observatory, "grid")
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    with pytest.raises(UsageError) as caught:
        freeze(observatory, "dr1", str(old))
    assert "is not current" in caught.value.problems[0].what
    freeze(observatory, "dr1", str(old), yes=True)
    context = observatory.context()
    request_runs(context.database, context.grouping, "otf", step="grid", sub_group="all", reason="try", actor="ada",
                 now=context.clock.now(), trial=["config.order=7"])  # fmt: skip
    observatory.until_quiet()
    trial = observatory.runs("grid")[-1]
    assert trial["trial"] and trial["status"] == "COMPLETED"
    with pytest.raises(UsageError) as caught:
        freeze(observatory, "dr2", f"run:{trial['id']}", yes=True)
    assert f"run {trial['id']} is a trial" in caught.value.problems[0].what


def test_a_set_is_affected_as_long_as_something_it_stands_on_is_excluded(observatory: Observatory) -> None:
    observatory.until_quiet()
    (grid,) = products(observatory, "grid")
    freeze(observatory, "dr1", str(grid), words={"contact": "maps@example.org", "doi": "10.12345/dr1"})
    freeze(observatory, "spectra", *map(str, products(observatory, "calibrate")))
    assert status(observatory)["affected_sets"] == []
    context = observatory.context()
    exclude(context.database, context.grouping, [SCAN_1], act(observatory))
    row = published(observatory, "dr1")
    assert row["affected"] == [grid] and row["products"][0]["instead"] is None
    assert row["notice"][0] == "To: maps@example.org" and "DOI 10.12345/dr1" in row["notice"][1]
    assert "1 of 1 product stands on data" in row["notice"][1] and row["notice"][-1] == "  instead: nothing yet"
    spectra = published(observatory, "spectra")
    scan_1 = {run["id"] for run in observatory.runs("calibrate") if run["sub_group_key"] == "executed_obs_unit=1"}
    made = {p["id"] for p in observatory.rows("data_product") if p["run_id"] in scan_1}
    assert set(spectra["affected"]) == made and len(made) < len(spectra["products"])
    now = status(observatory)
    assert [(s["name"], s["affected"]) for s in now["affected_sets"]] == [("dr1", [grid]), ("spectra", sorted(made))]
    lines = other_lines(now)
    assert "published set dr1 is affected: 1 of 1 product on what is excluded now" in lines
    assert "next: ccatwm publish dr1" in lines

    observatory.until_quiet()
    (_, again) = products(observatory, "grid")
    row = published(observatory, "dr1")
    assert row["products"][0]["instead"]["product"] == again, "the set stays as it was; what to use instead is told"
    assert row["products"][0]["product"] == grid
    assert f"  instead: product {again}" in row["notice"][-1]

    include(context.database, context.grouping, [SCAN_1], act(observatory, "was fine"))
    assert status(observatory)["affected_sets"] == []
    context = observatory.context()
    sets = build_published_sets(context.database, context.grouping, now=context.clock.now())["published_sets"]
    assert [(row["name"], row["affected"]) for row in sets] == [("dr1", []), ("spectra", [])]


def test_an_excluded_version_and_an_exclusion_for_another_pipeline(observatory: Observatory) -> None:
    observatory.until_quiet()
    (grid,) = products(observatory, "grid")
    freeze(observatory, "dr1", str(grid))
    context = observatory.context()
    software = observatory.resolved(observatory.runs("calibrate")[0])["software"]
    name = f"software:{software['software']}@{software['version']}"
    exclude(context.database, context.grouping, [name], act(observatory))
    assert published(observatory, "dr1")["affected"] == [grid], "what it stands on was made with it"


def test_a_set_that_has_lost_files_is_told_until_they_are_back(observatory: Observatory) -> None:
    observatory.until_quiet()
    made = products(observatory, "grid") + products(observatory, "calibrate")
    freeze(observatory, "dr1", *map(str, made))
    assert published(observatory, "dr1")["missing"] == status(observatory)["incomplete_sets"] == []
    with observatory.context().database.write() as connection:
        record_missing(connection, made[:1])
    assert status(observatory)["incomplete_sets"] == [{"name": "dr1", "products": len(made), "missing": made[:1]}]
    assert "are gone" in other_lines(status(observatory))[0] and "ccatwm publish dr1" in status(observatory)["next"]
    told = missing_lines(published(observatory, "dr1"))
    assert told[0].startswith(f"the files of product {made[0]} are gone") and f"rebuild {made[0]}" in told[-1]
    with observatory.context().database.write() as connection:
        assert record_back(connection, made) == set(made[:1])
    assert published(observatory, "dr1")["missing"] == status(observatory)["incomplete_sets"] == []
