"""The demo on the private one-node cluster: by SSH as its throw-away user, by sbatch, with a PostgreSQL as ops-db.

Touches: bin/cluster, the demo's folder (whose base directory is given to the cluster's user), PostgreSQL.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from places import HERE, LAUNCHER, PROGRAMS, PROJECT, LocalPlace, Site, closed_part, fill_in, runtime, say
from postgresql import PostgreSql

CLUSTER = PROJECT / "bin" / "cluster"
SANDBOX = PROJECT / "site-configs" / "sandbox" / "settings.toml"
BASE = "pipelines"
NEEDS_ROOT = "only root starts the cluster, reads its key and gives its user a folder; run it as root"
MODULES = "numpy, astropy, matplotlib"  # what the demo's programs import


class ClusterSite(Site):
    """Its cycles are counted: commands to Slurm, connections by SSH."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cycles = self.commands = self.connections = 0

    def cycle(self) -> None:
        self.show("cycle", "--until-idle")
        command = [LAUNCHER, "--site", self.folder, "cycle", "--until-idle", "--json"]
        answer = subprocess.run(command, check=False, stdout=subprocess.PIPE)
        document = json.loads(answer.stdout or b'{"passes": []}')
        if answer.returncode != 0:
            for error in (report["error"] for report in document["passes"] if "error" in report):
                print(f"{error['where'] or ''}: {error['message']}; next: {error['next']}", file=sys.stderr)
            sys.exit(f"bin/demo: this command ended with exit code {answer.returncode}")
        done: dict[str, int] = {}
        for report in document["passes"]:
            done[report["pass"]] = done.get(report["pass"], 0) + report["done"]
        self.cycles += 1
        self.commands += document["scheduler_calls"]
        self.connections += document["connections"]
        print(", ".join(f"{name} {count}" for name, count in done.items() if count) + f"; {_counted(document)}")


def _counted(document: Mapping[str, Any]) -> str:
    return f"commands to Slurm {document['scheduler_calls']}, SSH connections {document['connections']}"


class ClusterPlace(LocalPlace):
    words = "PostgreSQL, Slurm on a cluster that is reached by SSH"
    location = "sandbox"
    option = "--slurm "

    def __init__(self, apptainer: bool) -> None:
        os.umask(0o022)  # what is made here is read by the cluster's user
        self._apptainer = apptainer
        self._cluster: dict[str, Any] = {}
        self._site: ClusterSite | None = None

    # --- before there is a folder ---------------------------------------------------------------------------

    def check_folder(self, folder: Path) -> None:
        if os.geteuid() != 0:
            stop(NEEDS_ROOT)
        if why := PostgreSql(folder / "opsdb").why_not():
            stop(f"{folder} does not do for --slurm: {why}; name another with --dir")
        if closed := closed_part(folder):
            stop(
                f"{folder} does not do for --slurm: {closed} is closed to the cluster's user (mode "
                f"{closed.stat().st_mode & 0o777:03o}); name another folder with --dir, or: chmod o+rx {closed}"
            )

    def bring_up(self) -> None:
        if os.geteuid() != 0:
            stop(NEEDS_ROOT)
        self._cluster = self._described()
        if not self._cluster["up"]:
            say("bringing up the cluster: Slurm with accounting, SSH, Apptainer")
            command = [CLUSTER, "up", *([] if self._apptainer else ["--no-apptainer"])]
            code = subprocess.run(command, check=False).returncode
            if code != 0:
                print("bin/demo: without a cluster the demo can do without --slurm only", file=sys.stderr)
                sys.exit(code)
            self._cluster = self._described()
        say(f"the cluster in {self._cluster['dir']} is up")

    def _described(self) -> dict[str, Any]:
        done = subprocess.run([CLUSTER, "status", "--json"], check=False, stdout=subprocess.PIPE)
        document: dict[str, Any] = json.loads(done.stdout or b'{"up": false}')
        return document

    def new_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="demo-", dir=self._cluster["scratch"]))
        folder.chmod(0o755)
        self.check_folder(folder)
        return folder

    # --- the site -------------------------------------------------------------------------------------------

    def why_no_containers(self, image: Path) -> str | None:
        done = self._as_user("apptainer", "-q", "exec", str(image), "true")
        return None if done.returncode == 0 else f"the cluster's user cannot run it: {done.stderr.strip()[-200:]}"

    def make_site(self, folder: Path, image: Path | None) -> Site:
        self._site = ClusterSite(folder / "site")
        self._site.folder.mkdir()
        base = folder / BASE
        base.mkdir()
        owner = pwd.getpwnam(self._cluster["ssh"]["user"])
        os.chown(base, owner.pw_uid, owner.pw_gid)
        database = PostgreSql(folder / "opsdb")
        database.make()
        (self._site.folder / "settings.toml").write_text(self._settings(base, database, image))
        self._site.make()
        return self._site

    def _settings(self, base: Path, database: PostgreSql, image: Path | None) -> str:
        """Those of site-configs/sandbox, with places of its own."""
        ssh = self._cluster["ssh"]
        values: dict[str, Any] = {
            "OPSDB_URL": str(database.url_file),
            "STATE_DIR": "state",
            "PIPELINE_BASE_DIR": str(base),
            "PROCESSING_LOCATION_ID": self.location,
            "CONTAINER_RUNTIME": runtime(image),
            "slurm.conf": self._cluster["slurm_conf"],
            "slurm.account": self._cluster["account"],
            "ssh.host": ssh["host"],
            "ssh.port": ssh["port"],
            "ssh.user": ssh["user"],
            "ssh.key_file": ssh["key"],
            "ssh.known_hosts": ssh["known_hosts"],
        }
        text = fill_in(SANDBOX.read_text(), values)
        text = re.sub(r"(?s)\A.*?(?=^OPSDB_URL)", "", text, count=1, flags=re.MULTILINE)
        head = "# The demo's site: site-configs/sandbox/settings.toml with places of its own.\n\n[default]\n"
        return head + text.replace("OPSDB_URL = ", "OPSDB_URL_FILE = ", 1)

    @cache  # noqa: B019 (there is one place only)
    def interpreter(self) -> list[str]:
        """This one or the machine's with our modules, whichever the cluster's user can run; tried out as that user."""
        modules = next(path for path in sys.path if path.endswith("site-packages"))
        machine = ["/usr/bin/env", f"PYTHONPATH={modules}", "/usr/bin/python3"]
        for words in ([sys.executable], machine):
            if self._as_user(*words, "-c", f"import {MODULES}").returncode == 0:
                for closed in filter(None, (closed_part(HERE / "programs" / name) for name in PROGRAMS)):
                    stop(f"the cluster's user cannot read the demo's programs: {closed} is closed (chmod o+rX {closed})")
                return list(words)
        stop(
            f"no Python that the cluster's user can run has {MODULES}; let it reach {Path(sys.executable).resolve()} "
            f"and {modules}, make the environment with PYTHON=/usr/bin/python3 bin/setup-env, or use Apptainer"
        )

    def _as_user(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """As a job would: its user, nothing of our environment. No shell: words are as they are."""
        owner = pwd.getpwnam(self._cluster["ssh"]["user"])
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": owner.pw_dir}
        return subprocess.run(
            ["/usr/bin/env", *argv], check=False, capture_output=True, text=True, cwd="/", env=environment,
            user=owner.pw_uid, group=owner.pw_gid, extra_groups=[],
        )  # fmt: skip

    # --- the end --------------------------------------------------------------------------------------------

    def told_at_end(self) -> str | None:
        site = self._site
        if site is None:
            return None
        base = site.folder.parent / BASE
        return (
            f"{site.cycles} cycles gave Slurm {site.commands} commands over {site.connections} SSH connections; "
            f"all below {base} belongs to {', '.join(sorted(owners_below(base)))}"
        )

    def how_to_look(self, folder: Path) -> list[str]:
        return [
            f"SLURM_CONF={self._cluster['slurm_conf']} sacct -X --format=jobid,jobname%40,state,elapsed,ncpus",
            f"ssh -F {self._cluster['dir']}/ssh/config sandbox   # as the cluster's user",
        ]

    def how_to_end(self, folder: Path) -> list[str]:
        return [
            f"{folder}/opsdb/ctl stop   # the ops-db; `{folder}/opsdb/ctl start` starts it again",
            f"rm -r {folder}",
            f"bin/cluster down --dir {self._cluster['dir']}",
        ]


def stop(why: str) -> NoReturn:
    sys.exit(f"bin/demo: {why}")


def owners_below(folder: Path) -> set[str]:
    """Accounts that something in `folder` belongs to."""
    return {
        pwd.getpwuid(os.lstat(os.path.join(parent, name)).st_uid).pw_name
        for parent, folders, files in os.walk(folder)
        for name in (*folders, *files)
    }
