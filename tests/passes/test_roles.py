"""Real PostgreSQL roles with the rights that `ccatwm db roles` prints: who may do what, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb.engine import Database
from tests.cli.conftest import Answer, Cli, cli
from tests.passes.conftest import Observatory
from tests.passes.in_hand import PREFIX, use_site
from tests.passes.test_history import ACTS, REASON, UNDOING

__all__ = ["cli"]
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.parametrize("empty_observatory", ["postgresql"], indirect=True),
]
NAMES = {"passes": "night-passes", "operators": "ops", "readers": "lookers"}
PASSES_ALONE = (
    "change_cursor", "change_seen", "changed_package", "copy_report", "data_product", "pass_lease", "pass_record",
    "run_attempt", "run_input", "staged_package", "sub_group_member", "submission",
)  # fmt: skip


@dataclass
class Site:
    """An observatory with roles; `run` types a command as one of them."""

    observatory: Observatory
    cli: Cli
    monkeypatch: pytest.MonkeyPatch

    def as_role(self, serves: str) -> None:
        url = self.observatory.context().database.url.set(username=NAMES[serves])
        self.monkeypatch.setenv(f"{PREFIX}OPSDB_URL", url.render_as_string(hide_password=False))

    def run(self, serves: str, *words: str) -> Answer:
        self.as_role(serves)
        return self.cli(*words)


@pytest.fixture
def site(observatory: Observatory, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Two scans are calibrated; the roles are made as the command prints them."""
    observatory.scripts = True
    observatory.until_quiet()
    use_site(observatory, monkeypatch)
    options = [word for serves, name in NAMES.items() for word in (f"--{serves}", name)]
    printed = cli("db", "roles", *options).out
    owner = observatory.context().database
    with owner.engine.connect() as connection:
        for name in NAMES.values():
            connection.execute(sa.text(f'DROP ROLE IF EXISTS "{name}"'))
            connection.execute(sa.text(f'CREATE ROLE "{name}" LOGIN'))
        connection.execute(sa.text(printed))  # as it is, comments and all
        connection.commit()
    yield Site(observatory, cli, monkeypatch)
    with owner.engine.connect() as connection:
        for name in NAMES.values():
            connection.execute(sa.text(f'DROP OWNED BY "{name}"'))
            connection.execute(sa.text(f'DROP ROLE "{name}"'))
        connection.commit()
    owner.dispose()


LOOKS = (
    "status", "runs", "products", "show 1", "logs 1", "command 1", "compare 1 2", "history", "history 1 --text",
    "history otf --events", "explain otf", "explain otf grid", "lineage 1", "lineage package:scan-1-LFA",
    "groupings list", "groupings show ngc253", "exclude --list", "backfill --list", "db check", "db roles", "config show",
    "rerun 1 --by-hand DIR",
)  # fmt: skip


def test_a_reading_role_can_look_at_everything(site):
    for number, look in enumerate(LOOKS):
        words = look.replace("DIR", f"by-hand-{number}").split()
        answer = site.run("readers", *words)
        assert (answer.code, answer.err) == (0, "") or (words[0] == "rerun" and answer.code == 0), (look, answer)


def test_a_reading_role_can_look_at_what_an_act_would_do(site):
    pipeline = str(site.observatory.folder / "pipeline.yaml")
    acts = (
        "retry 1", "cancel 1", "exclude unit:scan-1", "accept otf calibrate",
        "backfill otf --since 2026-01-01 --until 2026-02-01", f"apply {pipeline}",
    )  # fmt: skip
    for act in acts:
        reason = () if act.startswith("apply") else REASON
        answer = site.run("readers", *act.split(), *reason, "--dry-run")
        assert "lacks a right" not in answer.err and answer.out, (act, answer)


@pytest.mark.parametrize("name", [*ACTS, "cancel", "ingest"])
def test_an_act_is_done_by_an_operator_and_refused_to_a_reader_with_the_grant(site, name):
    observatory = site.observatory
    if name == "cancel":
        run = ACTS["retry"](observatory)[1]
        assert site.run("operators", "retry", run, *REASON).code == 0
        act: tuple[str, ...] = ("cancel", run, *REASON)
    elif name == "ingest":
        act = ("ingest", str(observatory.folder / "late.yaml"))
    else:
        act = (*ACTS[name](observatory), *REASON)
    refused = site.run("readers", *act)
    assert (refused.code, "role lookers lacks a right" in refused.err) == (3, True), refused
    assert "GRANT " in refused.err and " TO lookers" in refused.err and "ccatwm db roles" in refused.err
    done = site.run("operators", *act)
    assert done.code == 0, done.err


@pytest.mark.parametrize(("first", "then"), UNDOING, ids=lambda act: act[0])
def test_an_operator_undoes_it_too(site, first, then):
    for act in (first, then):
        done = site.run("operators", *act, *REASON)
        assert done.code == 0, done.err


def test_an_operator_promotes_a_trial_that_the_passes_made(site):
    wanted = ("trigger", "--pipeline", "otf", "--step", "grid", "--trial", "config.mode=cold")
    assert site.run("operators", *wanted, *REASON).code == 0
    site.observatory.until_quiet()
    trial = next(str(run["id"]) for run in site.observatory.runs("grid") if run["trial"])
    assert site.run("operators", "promote", trial, *REASON).code == 0


def test_an_operator_applies_something_new_and_takes_it_out_again(site):
    path = site.observatory.folder / "more.yaml"
    text = (site.observatory.folder / "pipeline.yaml").read_text()
    text = text.replace("name: otf", "name: second").replace("version: 1.0.0", "version: 1.1.0")
    path.write_text(text + "references: [{name: flat, versions: [{version: '1', path: " + str(path) + "}]}]\n")
    assert site.run("operators", "apply", str(path), *REASON).code == 0
    path.write_text(text.replace("depends_on: [calibrate]", "depends_on: [], raw_inputs: true"))
    done = site.run("operators", "apply", str(path), "--prune", "--yes", *REASON)
    assert done.code == 0, done.err


def test_an_operator_can_write_nothing_that_passes_alone_write(site):
    site.as_role("operators")
    database = Database(site.observatory.context().database.url.set(username="ops").render_as_string(hide_password=False))
    with database.engine.connect() as connection:
        for table in PASSES_ALONE:
            for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
                query = sa.text("SELECT has_table_privilege('ops', :table, :right)")
                assert connection.execute(query, {"table": f"ccatwm.{table}", "right": right}).scalar() is False
    database.dispose()


def test_passes_do_their_work_with_their_role(site):
    site.observatory.arrive("late.yaml")
    owner = site.observatory.url
    url = site.observatory.context().database.url.set(username=NAMES["passes"])
    kept, site.observatory.kept = site.observatory.kept, None
    site.observatory.url = url.render_as_string(hide_password=False)
    try:
        site.observatory.until_quiet()
    finally:
        site.observatory.url, site.observatory.kept = owner, kept
    assert len(site.observatory.runs("calibrate")) == 3


def test_a_pass_by_an_operator_is_refused_and_says_why(site):
    answer = site.run("operators", "trigger")
    assert (answer.code, "role ops lacks a right" in answer.err) == (3, True), answer

