"""The original's quick start: one `init`, three exports, then the managers under their own names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PREFIX = "CCAT_WORKFLOW_MANAGER_"
MANAGERS = ("trigger-manager", "workflow-manager", "result-manager")


@pytest.fixture
def exports(tmp_path: Path) -> dict[str, str]:
    """An environment with the three exports, for a site that `ccatwm init` made."""
    environ = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-m", "ccatwm", "init", "-q", str(tmp_path / "made")],
        env=environ,
        check=True,
        cwd=tmp_path,
    )
    return environ | {
        f"{PREFIX}HPC_BACKEND": "local",
        f"{PREFIX}PIPELINE_BASE_DIR": str(tmp_path / "made" / "pipelines"),
        f"{PREFIX}PROCESSING_LOCATION_ID": "1",
    }


def manager(name: str, *options: str, environ: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ccatwm.managers", name, *options]
    return subprocess.Popen(
        command, env=environ, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("name", MANAGERS)
def test_a_manager_does_one_round_with_once(name: str, exports: dict[str, str], tmp_path: Path) -> None:
    process = manager(name, "--once", environ=exports, cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_manager_stops_cleanly_on_a_signal(number: int, exports: dict[str, str], tmp_path: Path) -> None:
    process = manager("trigger-manager", "--interval", "600", environ=exports, cwd=tmp_path)
    lock = tmp_path / "made" / "state" / "locks" / "resolve-local.lock"
    until = time.monotonic() + 30
    while not lock.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (0, False), err
    assert "stopped" in err


def test_signals_that_follow_the_first_do_not_change_how_a_manager_ends(exports: dict[str, str], tmp_path: Path) -> None:
    process = manager("trigger-manager", "--interval", "600", environ=exports, cwd=tmp_path)
    lock = tmp_path / "made" / "state" / "locks" / "resolve-local.lock"
    until = time.monotonic() + 30
    while not lock.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    while process.poll() is None and time.monotonic() < until:
        process.terminate()
        time.sleep(0.002)
    assert process.wait(30) == 0


def test_one_round_with_json_prints_the_reports_of_its_passes(exports: dict[str, str], tmp_path: Path) -> None:
    out, err = manager("result-manager", "--once", "--json", environ=exports, cwd=tmp_path).communicate(timeout=60)
    assert [report["pass"] for report in json.loads(out)["passes"]] == ["poll", "collect"], err


def test_rounds_without_end_have_no_json_document(exports: dict[str, str], tmp_path: Path) -> None:
    process = manager("result-manager", "--json", environ=exports, cwd=tmp_path)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "--once" in json.loads(out)["error"]["next"]


def test_a_manager_without_a_site_exits_3(tmp_path: Path) -> None:
    environ = {**os.environ, "HOME": str(tmp_path)}
    process = manager("result-manager", "--once", environ=environ, cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3 and "ccatwm init" in err


def test_a_manager_goes_on_when_the_ops_db_is_away(exports: dict[str, str], tmp_path: Path) -> None:
    away = exports | {f"{PREFIX}OPSDB_URL": "postgresql://nobody@127.0.0.1:9/nothing"}
    process = manager("result-manager", "--interval", "0.1", environ=away, cwd=tmp_path)
    assert process.stderr is not None
    first = process.stderr.readline()
    second = process.stderr.readline()
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert "did not answer" in first and second
