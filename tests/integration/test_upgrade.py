"""An upgrade as docs/how-to/upgrade.md says it: two releases side by side, passes by cron, a job that runs on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster
from tests.integration.releases import Installed, change_schema, install

pytestmark = pytest.mark.slow

OBSERVATIONS = """
data_locations:
  - {{name: raw, location_type: long_term_archive, storage_type: disk, site: here, base_path: {raw}}}
sites: [{{name: here}}]
sources: [{{name: NGC253, kind: fixed, ra_deg: 11.9, dec_deg: -25.3}}]
obs_units: [{{name: ou-1, source: NGC253}}]
executed_obs_units:
  - {{name: scan-1, obs_unit: ou-1, status: completed,
     start_time: "2026-03-01T01:00:00Z", end_time: "2026-03-01T01:10:00Z"}}
raw_data_packages:
  - {{name: scan-1, executed_obs_unit: scan-1, instrument_module: CHAI/LFA, state: archived, location: raw,
     path: scan-1.fits, size_bytes: 3, checksum: "sha256:{checksum}"}}
"""
PIPELINE = """
software:
  - name: patient
    versions: [{{version: 1.0.0, command: [/bin/sh, {program}]}}]
data_groupings:
  - name: all
    filter_rules: [{{table: Source, column: name, operator: eq, value: NGC253}}]
pipelines:
  - name: slow
    data_grouping: all
    processing_location: cluster
    trigger: {{type: CONTINUOUS}}
    steps: [{{name: wait, software: patient, group_by: [], resources: {{cpu: 1, memory_gb: 0.2, time_hours: 0.2}}}}]
"""
PROGRAM = """
echo begun >>{folder}/executions
until [ -e {folder}/go ]; do sleep 0.1; done
mkdir -p "$WORKFLOW_OUTPUT_DIR/science"
echo done >"$WORKFLOW_OUTPUT_DIR/science/map.txt"
"""


@pytest.fixture(params=["local", pytest.param("slurm", marks=pytest.mark.slurm)])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Installed:
    """Release 0.1.0 with a site of one pipeline, whose program waits for the file `go` in `world`."""
    made = Installed(tmp_path)
    install(tmp_path / "releases", "0.1.0")
    made.switch("0.1.0")
    world, slurm = tmp_path / "world", ""
    if request.param == "slurm":
        cluster: Cluster = request.getfixturevalue("cluster")
        world = cluster.scratch / f"upgrade-{os.getpid()}"  # goes with the cluster
        slurm = f'[default.slurm]\naccount = "root"\nconf = "{cluster.slurm_conf}"\n'
    request.addfinalizer((world / "go").touch)  # whatever happens, the program ends
    for folder in (world / "raw", made.site):
        folder.mkdir(parents=True)
    (tmp_path / "world-is").write_text(str(world))
    (made.site / "settings.toml").write_text(
        f'[default]\nPIPELINE_BASE_DIR = "{world}/base"\nPROCESSING_LOCATION_ID = "cluster"\n'
        f'HPC_BACKEND = "{request.param}"\nCONTAINER_RUNTIME = "none"\n{slurm}'
    )
    (world / "raw" / "scan-1.fits").write_bytes(b"raw")
    (world / "program").write_text(PROGRAM.format(folder=world))
    checksum = hashlib.sha256(b"raw").hexdigest()
    (world / "obs.yaml").write_text(OBSERVATIONS.format(raw=world / "raw", checksum=checksum))
    (world / "pipe.yaml").write_text(PIPELINE.format(program=world / "program"))
    made.run("init", made.site)
    made.run("ingest", world / "obs.yaml")
    made.run("apply", world / "pipe.yaml")
    return made


def status_of(installed: Installed) -> str | None:
    runs = installed.ask("runs")["runs"]
    return runs[0]["status"] if runs else None


def test_a_job_runs_all_the_while_and_cron_says_nothing(installed: Installed, tmp_path: Path) -> None:
    world = Path((tmp_path / "world-is").read_text())
    with installed.cron():
        installed.wait_for("the job did not begin", (world / "executions").exists)
        installed.wait_for("its run is not RUNNING", lambda: status_of(installed) == "RUNNING")

        change_schema(install(tmp_path / "releases", "0.2.0"))
        told = installed.run("pause", "--wait", "--reason", "release 0.2.0").out
        assert told.splitlines()[-1] == "no pass is at work"
        assert installed.ask("status")["leases"] == []
        assert "ALL PASSES ARE PAUSED: release 0.2.0" in installed.run("status").out

        paused_from = len(installed.passes)
        upgraded = installed.ask("db", "upgrade", release="0.2.0")
        assert {b["branch"]: b["after"] for b in upgraded["branches"]}["pipeline"] == "pipeline_9001"
        installed.wait_for("cron stands still", lambda: len(installed.passes) > paused_from + 2)
        installed.switch("0.2.0")
        assert installed.ask("db", "check")["fine"]
        assert "passes go on" in installed.run("resume").out

        (world / "go").touch()
        installed.wait_for("the run was not completed", lambda: status_of(installed) == "COMPLETED")
    assert (world / "executions").read_text() == "begun\n"
    assert [p["path"].rpartition("/")[2] for p in installed.ask("products")["products"]] == ["map.txt"]
    assert {(told.code, told.out, told.err) for told in installed.passes} == {(0, "", "")}

    old = installed.run("cycle", release="0.1.0", check=False)
    assert (old.code, "install the newer release" in old.err) == (4, True)
