"""`ccatwm doctor` against a real Slurm, on its own host and through SSH: what is broken is named with its next step."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import Cluster

pytestmark = pytest.mark.slurm

TRANSPORTS = ("local", "ssh")


@dataclass
class Doctor:
    """A site on the cluster, and `ccatwm doctor` of it. `slurm` and `ssh` are its tables of settings."""

    folder: Path
    transport: str
    base: Path
    slurm: dict[str, Any]
    ssh: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)

    def write(self) -> None:
        values = {
            "PIPELINE_BASE_DIR": str(self.base), "PROCESSING_LOCATION_ID": "cluster", "HPC_BACKEND": "slurm",
            "CONTAINER_RUNTIME": "none", "TRANSPORT": self.transport, **self.more,
        }  # fmt: skip
        tables = {"default": values, "default.slurm": self.slurm, "default.ssh": self.ssh}
        lines = [
            line
            for name, table in tables.items()
            for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()))
        ]
        self.folder.mkdir(exist_ok=True)
        (self.folder / "settings.toml").write_text("\n".join(lines) + "\n")

    def ccatwm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ccatwm", "--site", str(self.folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    def __call__(self, *options: str, **slurm: Any) -> tuple[int, dict[str, dict[str, Any]]]:
        """Exit code and findings by name."""
        self.slurm |= slurm
        self.write()
        done = self.ccatwm("doctor", "--json", *options)
        document = json.loads(done.stdout)
        assert document["schema"] == "ccatwm.doctor/1", done.stderr
        return done.returncode, {finding["name"]: finding for finding in document["findings"]}


def bad(found: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Names of what is wrong, and whether it only did not answer."""
    return {name: finding["away"] for name, finding in found.items() if finding["state"] == "wrong"}


@pytest.fixture(params=TRANSPORTS)
def doctor(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Doctor]:
    ssh = cluster.ssh
    made = Doctor(
        tmp_path / "site", request.param, cluster.scratch / f"doctor-{tmp_path.name}",
        # Root's own account on this host; through SSH the user of the cluster.
        {"partition": "main", "account": cluster.account if request.param == "ssh" else "root",
         "conf": str(cluster.slurm_conf)},
        {"host": ssh.host, "port": ssh.port, "user": ssh.user, "key_file": str(ssh.key),
         "known_hosts": str(ssh.known_hosts), "python": "/usr/bin/python3", "agent": False},
    )  # fmt: skip
    made.write()
    done = made.ccatwm("init", str(made.folder))
    assert done.returncode == 0, done.stderr
    yield made
    cluster.run("rm", "-rf", made.base)


def test_a_healthy_site_is_ok_down_to_a_job_and_leaves_nothing(doctor: Doctor, cluster: Cluster) -> None:
    doctor.more["CONTAINER_RUNTIME"] = "apptainer" if cluster.description["apptainer"] else "none"
    code, found = doctor()
    assert (code, bad(found)) == (0, {})
    assert found["job"]["state"] == "ok"
    assert {name for name, f in found.items() if f["state"] == "warning"} <= {"slurm-version"}
    if cluster.description["apptainer"]:
        assert (found["container-runtime"]["state"], found["container-runtime-node"]["state"]) == ("ok", "ok")
    assert [path.name for path in doctor.base.iterdir()] == [".ccatwm.json"]


def test_a_wrong_partition_is_named_with_those_there_are(doctor: Doctor, cluster: Cluster) -> None:
    code, found = doctor(partition="mian")
    assert (code, bad(found)) == (3, {"slurm-partition": False, "job": False})
    for name in cluster.partitions:
        assert name in found["slurm-partition"]["next"]
    assert "invalid partition" in found["job"]["found"]


def test_a_wrong_account_is_named_with_those_of_the_user(doctor: Doctor) -> None:
    right = doctor.slurm["account"]
    code, found = doctor(account="ag-nobody")
    assert (code, bad(found)) == (3, {"slurm-account": False, "job": False})
    assert right in found["slurm-account"]["next"]
    assert "Invalid account" in found["job"]["found"]


def test_a_job_that_cannot_start_yet_is_a_warning_and_is_gone_afterwards(
    doctor: Doctor, cluster: Cluster
) -> None:
    code, found = doctor("--wait", "2", extra=["--begin=now+1hour"])
    assert (code, found["job"]["state"]) == (0, "warning")
    assert "BeginTime" in found["job"]["found"]
    assert [row for row in cluster.squeue() if row[1] not in ("CANCELLED", "COMPLETED", "FAILED")] == []


def test_without_a_job_none_is_submitted(doctor: Doctor) -> None:
    code, found = doctor("--no-job")
    assert (code, found["job"]["state"], found["slurm-partition"]["state"]) == (0, "skipped", "ok")


def test_a_stopped_slurmdbd_is_away_and_the_rest_goes_on(doctor: Doctor, cluster: Cluster) -> None:
    cluster.stop("slurmdbd")
    code, found = doctor()
    assert (code, bad(found)) == (4, {"slurm-accounting": True})
    assert "slurmdbd" in found["slurm-accounting"]["found"] + found["slurm-accounting"]["next"]
    assert found["slurm-account"]["state"] == "skipped"


def test_a_stopped_slurmctld_is_away_and_no_job_is_tried(doctor: Doctor, cluster: Cluster) -> None:
    cluster.stop("slurmctld")
    code, found = doctor()
    assert (code, bad(found)) == (4, {"slurm-controller": True})
    assert "scontrol ping" in found["slurm-controller"]["next"]
    assert found["job"]["state"] == "skipped"


# --- the door ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("doctor", ["ssh"], indirect=True)
def test_an_unknown_host_key_says_what_to_compare_and_to_add(doctor: Doctor, tmp_path: Path) -> None:
    doctor.ssh["known_hosts"] = str(tmp_path / "known_hosts")
    code, found = doctor()
    assert (code, bad(found)) == (3, {"ssh": False})
    assert "the host key is not known" in found["ssh"]["found"]
    assert f">> {tmp_path / 'known_hosts'}" in found["ssh"]["next"]
    assert found["batch-system"]["state"] == "skipped"


@pytest.mark.parametrize("doctor", ["ssh"], indirect=True)
def test_a_wrong_key_is_told_and_keeps_no_pass_from_trying(doctor: Doctor, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    doctor.ssh["key_file"] = str(stranger)
    code, found = doctor()
    assert (code, bad(found)) == (3, {"ssh": False})
    assert "refused the login" in found["ssh"]["found"]
    assert "authorized_keys" in found["ssh"]["next"]
    assert not list(doctor.folder.rglob("ssh-breaker.json"))


@pytest.mark.parametrize("doctor", ["ssh"], indirect=True)
def test_a_key_file_that_is_not_there_is_named(doctor: Doctor, tmp_path: Path) -> None:
    doctor.ssh["key_file"] = str(tmp_path / "no-key")
    code, found = doctor()
    assert (code, bad(found)) == (3, {"ssh": False})
    assert "no-key cannot be read" in found["ssh"]["found"]


@pytest.mark.parametrize("doctor", ["ssh"], indirect=True)
def test_a_silent_host_is_exit_4(doctor: Doctor, cluster: Cluster) -> None:
    cluster.stop("sshd")
    code, found = doctor()
    assert (code, bad(found)) == (4, {"ssh": True})
    assert "ssh.port" in found["ssh"]["next"]


@pytest.mark.parametrize("doctor", ["ssh"], indirect=True)
def test_a_shared_folder_is_looked_at_from_both_sides(doctor: Doctor, cluster: Cluster) -> None:
    cluster.run("chmod", "2775", doctor.base)
    doctor.more |= {"WORKFILES": "local"}
    code, found = doctor("--no-job")
    assert (code, bad(found)) == (3, {"base-dir-shared": False})
    assert "umask 0002" in found["base-dir-shared"]["next"]
    assert found["base-dir-group"]["state"] == "warning"
