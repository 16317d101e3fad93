"""What `explain` says while something is excluded: no two things that contradict each other, and the way back."""

from __future__ import annotations

from ccatwm.upkeep.exclude import Act, exclude
from ccatwm.views.explain import build_explain, explain_lines
from tests.passes.conftest import Observatory


def explained(observatory: Observatory) -> tuple[str, str]:
    context = observatory.context()
    document = build_explain(context.database, "otf", "calibrate", "executed_obs_unit=1", now=context.clock.now())
    (row,) = document["explain"]
    return "\n".join(row["why"]), "\n".join(row["what_would_change_it"])


def out(observatory: Observatory, *things: str) -> None:
    context = observatory.context()
    exclude(context.database, context.grouping, things, Act("the load was open", "ada", "h", context.clock.now()))


def test_what_was_excluded_is_not_said_to_be_wanted_before_the_next_decision(observatory: Observatory) -> None:
    observatory.until_quiet()
    why, then = explained(observatory)
    assert "was made from exactly what is wanted now" in why
    assert "another input, companion, upstream product" in then
    out(observatory, "package:scan-1-LFA")
    why, _ = explained(observatory)
    assert "was made from exactly what was wanted when this was decided" in why
    assert "is stale: excluded: the load was open" in why


def test_the_packages_that_are_no_inputs_are_named(observatory: Observatory) -> None:
    observatory.until_quiet()
    out(observatory, "package:scan-1-LFA")
    observatory.run_pass("trigger")
    observatory.run_pass("resolve")
    context = observatory.context()
    document = build_explain(context.database, "otf", "calibrate", "executed_obs_unit=1", now=context.clock.now())
    (line,) = [line for line in explain_lines(document) if line.startswith("  packages:")]
    assert line.endswith(" archived; excluded: scan-1-LFA")


def test_an_excluded_version_that_is_waited_for_names_the_command_that_brings_it_back(observatory: Observatory) -> None:
    observatory.until_quiet()
    (version,) = {str(row["version"]) for row in observatory.rows("reduction_software_version")}
    software = observatory.rows("reduction_software")[0]["name"]
    out(observatory, f"software:{software}@{version}")
    observatory.run_pass("trigger")
    observatory.run_pass("resolve")
    why, then = explained(observatory)
    assert f"(excluded: {version})" in why
    assert f"`ccatwm include software:{software}@{version} --reason TEXT`" in then
