"""`--site sandbox`: the settings in the project, on a cluster that may lie elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ccatwm.settings.find import MARK_FILE
from ccatwm.settings.load import load_settings
from tests.integration.cluster import PROJECT, Cluster

SANDBOX = PROJECT / "site-configs" / "sandbox"


@pytest.mark.quick
def test_its_settings_are_those_of_a_cluster_in_the_usual_folder() -> None:
    settings = load_settings("sandbox", {}, Path("/"))
    layout = (SANDBOX / "cluster" / "layout.py").read_text()
    usual = dict(re.findall(r'^(DEFAULT_\w+|ACCOUNT) = "?([^"\n]+)"?$', layout, re.MULTILINE))
    folder = Path(usual["DEFAULT_DIR"])
    assert (settings.ssh.port, settings.ssh.user) == (int(usual["DEFAULT_SSH_PORT"]), usual["DEFAULT_USER"])
    assert Path(settings.ssh.key_file) == folder / "ssh" / "id_ed25519"
    assert Path(settings.slurm.conf) == folder / "etc" / "slurm.conf"
    assert settings.slurm.account == usual["ACCOUNT"]
    assert settings.pipeline_base_dir.parent == folder / "scratch"
    assert settings.state_dir.is_relative_to(folder), "`bin/cluster down` takes it away"


@pytest.mark.quick
def test_its_crontab_calls_every_pass_for_it() -> None:
    lines = (SANDBOX / "crontab").read_text().splitlines()
    called = [line.split("$CCATWM ")[1] for line in lines if line.startswith("* ")]
    assert called == ["trigger", "resolve", "stage", "submit", "poll", "collect"]
    assert "CCAT_WORKFLOW_MANAGER_SITE=sandbox" in lines


@pytest.mark.slurm
def test_init_and_a_cycle_work_with_its_settings(cluster: Cluster, tmp_path: Path) -> None:
    base = cluster.scratch / "sandbox-site"
    prefix = "CCAT_WORKFLOW_MANAGER_"
    places = {
        "OPSDB_URL": f"sqlite:///{tmp_path}/site/opsdb.sqlite",
        "STATE_DIR": tmp_path / "site" / "state",
        "PIPELINE_BASE_DIR": base,
        "SLURM__CONF": cluster.slurm_conf,
        "SSH__PORT": cluster.ssh.port,
        "SSH__USER": cluster.user,
        "SSH__KEY_FILE": cluster.ssh.key,
        "SSH__KNOWN_HOSTS": cluster.ssh.known_hosts,
    }
    environment = {"PATH": os.environ["PATH"], **{prefix + key: str(value) for key, value in places.items()}}

    def ccatwm(*arguments: str) -> str:
        command = [PROJECT / "bin" / "ccatwm", "--site", "sandbox", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        assert f"made in {SANDBOX}" in ccatwm("init")
        assert (base / MARK_FILE).owner() == cluster.user
        ccatwm("cycle")
        assert "nothing was changed" in ccatwm("init")
        assert not (SANDBOX / "state").exists() and not list(SANDBOX.glob("*.sqlite"))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["site"]
    finally:
        shutil.rmtree(base, ignore_errors=True)
