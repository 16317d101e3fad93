"""Steps of different group_by, across pipelines, with references and versions."""

from __future__ import annotations

from tests.crash.campaign import program

SHARED = """
pipelines:
  - name: second
    data_grouping: ngc253
    processing_location: local
    steps:
      - {name: mosaic, software: cal, group_by: [source], depends_on: [otf/calibrate]}
      - {name: cut, software: cal, group_by: [executed_obs_unit], depends_on: [mosaic], role: final}
"""
WITH_REFERENCE = """
references:
  - name: pointing
    versions: [{version: "1", path: REFERENCE}]
"""


def everything(output, manifest):
    """A program for any step."""
    if manifest["step"] in ("calibrate", "grid"):
        return program(output, manifest)
    (output / "science").mkdir(exist_ok=True)
    inputs = sorted(i["upstream_sub_group"] for i in manifest["inputs"])
    (output / "science" / "list.txt").write_text("\n".join([manifest["sub_group"], *inputs]))
    return 0


def lines(observatory, run):
    return (observatory.base / run["output_directory"] / "science" / "list.txt").read_text().split("\n")


def test_a_step_takes_the_products_of_another_pipelines_step(observatory):
    (observatory.folder / "second.yaml").write_text(SHARED)
    observatory.apply("second.yaml")
    observatory.program = everything
    observatory.until_quiet()
    (mosaic,) = observatory.runs("mosaic")
    assert lines(observatory, mosaic) == ["source=NGC253", "executed_obs_unit=1", "executed_obs_unit=2"]


def test_fan_out_gives_each_scan_the_one_product_marked_outside(observatory):
    (observatory.folder / "second.yaml").write_text(SHARED)
    observatory.apply("second.yaml")
    observatory.program = everything
    observatory.until_quiet()
    cuts = observatory.runs("cut")
    assert [lines(observatory, run)[1:] for run in cuts] == [["source=NGC253"], ["source=NGC253"]]
    roles = {i["role"] for i in observatory.rows("run_input") if i["run_id"] == cuts[0]["id"]}
    assert roles == {"outside"}


def use_reference(observatory):
    """Apply the pipeline with a reference for its first step: the reference's file, and the pipeline's text."""
    reference = observatory.folder / "pointing.json"
    reference.write_text("{}")
    text = (observatory.folder / "pipeline.yaml").read_text() + WITH_REFERENCE.replace(
        "REFERENCE", str(reference)
    )
    text = text.replace("config: {mode: hot_cold}", "config: {mode: hot_cold}, references: [pointing]")
    (observatory.folder / "pipeline.yaml").write_text(text)
    observatory.apply()
    return reference, text


def test_a_new_reference_version_is_a_reason(observatory):
    reference, text = use_reference(observatory)
    observatory.until_quiet()
    reference.with_name("two.json").write_text('{"x": 1}')
    second = f'{{version: "2", path: {reference.with_name("two.json")}}}]'
    (observatory.folder / "pipeline.yaml").write_text(
        text.replace(f"path: {reference}}}]", f"path: {reference}}}, {second}")
    )
    observatory.apply()
    observatory.until_quiet()
    assert [r["reason"] for r in observatory.runs("calibrate")][2:] == ["reference-changed"] * 2
    assert {r["status"] for r in observatory.runs()} == {"COMPLETED"}


def test_a_reference_that_was_changed_in_place_is_no_silent_new_recipe(observatory):
    reference, _ = use_reference(observatory)
    reference.write_text('{"changed": 1}')
    observatory.cycle()
    assert {(r["failure_class"], r["attempt"]) for r in observatory.runs()} == {("staging", 0)}
    assert "is not the one that pointing 1 was applied with" in observatory.runs()[0]["message"]


def test_a_new_compatible_version_changes_nothing_and_serves_new_data(observatory):
    observatory.until_quiet()
    command = f"command: [/bin/sh, {observatory.folder / 'program.sh'}]}}"
    observatory.edit(f"{command}]", f"{command}, {{version: 1.1.0, {command}]")
    observatory.until_quiet()
    assert len(observatory.runs()) == 3
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    versions = [observatory.resolved(r)["software"]["version"] for r in observatory.runs("calibrate")]
    assert versions == ["1.0.0", "1.0.0", "1.1.0"]
    newest = observatory.runs("grid")[-1]
    assert "mixed-versions" in str(newest["warnings"])


def test_a_new_major_version_makes_everything_anew(observatory):
    observatory.until_quiet()
    command = f"command: [/bin/sh, {observatory.folder / 'program.sh'}]}}"
    observatory.edit(f"{command}]", f"{command}, {{version: 2.0.0, {command}]")
    observatory.until_quiet()
    assert [r["reason"] for r in observatory.runs("calibrate")] == ["new-sub-group"] * 2 + [
        "software-changed"
    ] * 2


def test_a_cooldown_gathers_late_scans_into_one_map(observatory):
    observatory.edit("depends_on: [calibrate]}", "depends_on: [calibrate], cooldown_seconds: 36000}")
    observatory.until_quiet()
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    assert len(observatory.runs("grid")) == 1
    group = observatory.sub_group("grid")
    assert (group["outcome"], group["stale"]) == ("cooling-down", "upstream-changed")
    observatory.minute += 601
    observatory.until_quiet()
    assert [r["status"] for r in observatory.runs("grid")] == ["COMPLETED"] * 2


def test_a_held_pipeline_makes_no_runs(observatory):
    observatory.execute("UPDATE {schema}pipeline SET held='looking into it'")
    observatory.until_quiet()
    assert observatory.runs() == []
    assert observatory.sub_group("calibrate")["outcome"] == "held"


def test_a_package_that_is_withdrawn_is_a_reason(observatory):
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    late = (observatory.folder / "late.yaml").read_text()
    (observatory.folder / "late.yaml").write_text(late.replace("state: archived", "state: failed"))
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    third = observatory.sub_group("calibrate", "executed_obs_unit=3")
    assert (third["outcome"], third["stale"]) == ("no-inputs", "input-withdrawn")
    newest = observatory.runs("grid")[-1]
    assert newest["id"] == observatory.sub_group("grid")["current_run_id"]
    listed = (observatory.base / newest["output_directory"] / "science" / "map.txt").read_text()
    assert len(listed.splitlines()) == 2


def test_who_waits_for_a_run_that_is_no_longer_wanted_goes_on_when_it_ends(observatory):
    """A to B and back to A: scan 1 is up to date while its run for B is under way; the map waits for its end."""
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: other")
    observatory.cycle()  # the runs for B are handed over
    of_b = [
        path for path in (observatory.folder / "batch").glob("*.json") if '"ended": []' in path.read_text()
    ]
    observatory.edit("mode: other", "mode: hot_cold")
    observatory.arrive("late.yaml")
    observatory.cycle()
    for path in of_b:  # only the late scan's job runs now
        path.rename(path.with_suffix(".later"))
    observatory.jobs()
    for path in of_b:
        path.with_suffix(".later").rename(path)
    for _ in range(3):
        observatory.cycle()
    assert observatory.sub_group("grid")["outcome"] == "waiting-for-upstream"
    observatory.program = lambda output, manifest: (
        3 if manifest["config"].get("mode") == "other" else everything(output, manifest)
    )
    observatory.until_quiet()
    newest = observatory.runs("grid")[-1]
    assert (newest["status"], observatory.sub_group("grid")["outcome"]) == ("COMPLETED", "up-to-date")
    inputs = [i for i in observatory.rows("run_input") if i["run_id"] == newest["id"]]
    assert len({i["name"] + str(i["details"]) for i in inputs}) == 3
