"""A whole site whose processing host is behind SSH: its passes, its `init`, and what is said when the door is shut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ccatwm.passes._context import Context
from ccatwm.settings.find import MARK_FILE
from tests.crash.campaign import write_campaign
from tests.crash.points import make_tables, sqlite_url
from tests.fakes.sshd import Server, Site, open_site, why_not
from tests.passes.conftest import Observatory

pytestmark = pytest.mark.ssh


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with open_site() as site:
        yield site


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Server]:
    with Server(site, authorized=[site.key("me")]) as server:
        yield server


@dataclass
class SshObservatory(Observatory):
    """Every context has a connection of its own, closed when the next one is made, as a process would."""

    latest: Context | None = None
    connections: int = 0

    def context(self, effects: Any = None) -> Context:
        self.close()
        self.latest = super().context(effects)
        return self.latest

    def close(self) -> None:
        if self.latest is not None:
            self.connections = max(self.connections, getattr(self.latest.connection, "opened", 0))
            self.latest.close()


def make_world(site: Site) -> SshObservatory:
    """A small campaign, nothing of it ingested, whose base directory is that account's."""
    folder = site.folder / "world"
    folder.mkdir()
    observatory = SshObservatory(folder, sqlite_url(folder))
    make_tables(observatory.url)
    write_campaign(folder)
    shutil.chown(folder / "base", site.user)
    return observatory


def test_the_whole_chain_runs_with_one_connection_a_cycle(site: Site, server: Server) -> None:
    observatory = make_world(site)
    folder = observatory.folder
    night = (folder / "night.yaml").read_text().replace(f"base_path: {folder}", "base_path: /ours")
    (folder / "night.yaml").write_text(night)
    observatory.settings_changes = {
        "transport": "ssh",
        "ssh": server.settings(site.key("me")),
        "pipeline_base_dir": Path("/ours/base"),
        "path_map": {"/ours": str(folder)},
    }
    mark_base(observatory)
    observatory.arrive("night.yaml")
    observatory.apply()
    try:
        observatory.until_quiet()
    finally:
        observatory.close()
    assert [(r["step_name"], r["status"]) for r in observatory.runs()] == [
        ("calibrate", "COMPLETED"), ("calibrate", "COMPLETED"), ("grid", "COMPLETED"),
    ]  # fmt: skip
    assert [r["location"] for r in observatory.rows("copy_report")] == ["buffer"], "found corrupt over there"
    assert observatory.connections == 1
    cached = next((folder / "base" / ".cache").rglob("spectra.bin"))
    assert (cached.owner(), oct(cached.stat().st_mode & 0o777)) == (site.user, "0o444")
    argv = next((folder / "base").rglob("job/argv")).read_text()
    assert "/ours" not in argv
    assert str(folder / "base") in argv


def mark_base(observatory: SshObservatory) -> None:
    mark = {"ops_db_uid": observatory.context().ops_db_uid}
    (observatory.base / MARK_FILE).write_text(json.dumps(mark))


# --- by the command line ----------------------------------------------------------------------------------------------


@dataclass
class SshSite:
    """A site folder as a person would write it."""

    folder: Path
    site: Site
    server: Server
    base: Path

    def write_settings(self, key: Path) -> None:
        ssh = self.server.settings(key)
        self.folder.mkdir(exist_ok=True)
        (self.folder / "settings.toml").write_text(
            f"""
[default]
PIPELINE_BASE_DIR = "{self.base}"
PROCESSING_LOCATION_ID = "cluster"
HPC_BACKEND = "slurm"
CONTAINER_RUNTIME = "none"
TRANSPORT = "ssh"

[default.ssh]
host = "{ssh.host}"
port = {ssh.port}
user = "{ssh.user}"
key_file = "{key}"
known_hosts = "{ssh.known_hosts}"
python = "{ssh.python}"
agent = false
"""
        )

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ccatwm", "--site", self.folder, *arguments]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True)


@pytest.fixture
def made(tmp_path: Path, site: Site, server: Server) -> Iterator[SshSite]:
    base = site.home / "below" / "pipelines"
    made = SshSite(tmp_path / "site", site, server, base)
    made.write_settings(site.key("me"))
    yield made
    shutil.rmtree(site.home / "below", ignore_errors=True)


def test_init_prepares_a_base_directory_over_there_and_changes_nothing_again(made: SshSite) -> None:
    done = made("init", made.folder)
    assert done.returncode == 0, done.stderr
    mark = json.loads((made.base / MARK_FILE).read_text())
    assert sorted(mark) == ["format", "ops_db_uid"], "nothing of our folders, which that host does not have"
    assert (made.base / MARK_FILE).owner() == made.site.user
    assert f"127.0.0.1:{made.base}/" in done.stdout
    assert "nothing was changed" in made("init", made.folder).stdout
    (made.base / MARK_FILE).write_text('{"ops_db_uid": "another"}')
    done = made("init", made.folder)
    assert (done.returncode, "belongs to another ops-db" in done.stderr) == (3, True)


def test_an_idle_pass_opens_no_connection_and_a_busy_one_checks_the_base_directory_first(
    made: SshSite,
) -> None:
    assert made("init", made.folder).returncode == 0
    logins = made.server.logins()
    for command in (["cycle"], ["status"], ["products"]):
        done = made(*command)
        assert (done.returncode, done.stderr) == (0, ""), command
    assert made.server.logins() == logins

    write_campaign(made.site.folder / "campaign")
    try:
        for name in ("night.yaml", "pipeline.yaml"):
            file = made.site.folder / "campaign" / name
            text = file.read_text().replace("processing_location: local", "processing_location: cluster")
            file.write_text(
                text.replace("name: local, location_type: processing", "name: other, location_type: buffer")
            )
        assert made("ingest", made.site.folder / "campaign" / "night.yaml").returncode == 0
        assert made("apply", made.site.folder / "campaign" / "pipeline.yaml").returncode == 0
        for name in ("trigger", "resolve"):
            assert made(name).returncode == 0
        assert made.server.logins() == logins
        right = (made.base / MARK_FILE).read_text()
        (made.base / MARK_FILE).write_text('{"ops_db_uid": "another"}')
        done = made("stage")
        assert (done.returncode, "belongs to the ops-db 'another'" in done.stderr) == (3, True), done.stderr
        assert not (made.base / "otf").exists()
        (made.base / MARK_FILE).write_text(right)
        made.write_settings(made.site.key("stranger"))
        told = [made("stage") for _ in range(3)]
        assert [done.returncode for done in told] == [4, 4, 4]
        assert "no new attempt before" in told[0].stderr
        assert [done.stderr for done in told[1:]] == ["", ""], "told once"
        made.write_settings(made.site.key("me"))
        report = json.loads(made("stage", "--json").stdout)
        assert sorted(item["outcome"] for item in report["items"]) == ["bad-copy", "staged", "staged"]
        assert made.server.logins() == logins + 2, "one connection each time"
    finally:
        shutil.rmtree(made.site.folder / "campaign")


def test_a_refused_login_is_told_once_and_tried_once(made: SshSite) -> None:
    assert made("init", made.folder).returncode == 0
    made.write_settings(made.site.key("stranger"))
    refused = made.server.refusals()
    done = made("init", made.folder)
    assert done.returncode == 4
    assert "no new attempt before" in done.stderr
    assert f"rm {made.folder}/state/ssh-breaker.json" in done.stderr
    again = made("init", made.folder)
    assert (again.returncode, again.stderr) == (4, done.stderr)
    assert made.server.refusals() == refused + 1
    made.write_settings(made.site.key("me"))
    assert made("init", made.folder).returncode == 0


def test_a_batch_system_of_this_host_does_not_go_with_ssh(made: SshSite) -> None:
    from ccatwm import wiring
    from ccatwm.edges.clock import SystemClock
    from ccatwm.errors import SettingsError
    from ccatwm.interfaces import PlainEffects
    from ccatwm.settings.load import load_settings

    file = made.folder / "settings.toml"
    file.write_text(file.read_text().replace('"slurm"', '"local"'))
    settings = load_settings(str(made.folder), {}, made.folder)
    remote = wiring.build_connection(settings, PlainEffects(), SystemClock())
    with pytest.raises(SettingsError, match="HPC_BACKEND is 'local'"):
        wiring.build_scheduler(settings, PlainEffects(), SystemClock(), remote)
