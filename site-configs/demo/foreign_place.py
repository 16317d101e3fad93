"""The demo on somebody else's ops-db: an observatory's PostgreSQL, of which `ccatwm` may read some tables.

Touches: the demo's folder, PostgreSQL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from observatory_database import OWNER, ObservatoryDatabase
from places import LAUNCHER, LocalPlace, Site, closed_part, fill_in, runtime, say
from postgresql import PostgreSql

MAP = "opsdb-map.yaml"
# What a person who knows the observatory corrects in the draft of the map: what is there, what it should be, and why.
CORRECTIONS = (
    (
        "      state: {transferring: IN_TRANSFER, archived: ARCHIVED, failed: LOST}\n"
        "    # state: ANNOUNCED stands for none of our words\n",
        "      state: {waiting: ANNOUNCED, transferring: IN_TRANSFER, archived: ARCHIVED, failed: LOST}\n",
        "a package that is ANNOUNCED is one that we wait for",
    ),
    (
        "      status: {present: PRESENT, deleted: DELETED}\n"
        "    # status: DELETION_POSSIBLE stands for none of our words\n",
        "      status: {present: [PRESENT, DELETION_POSSIBLE], deleted: DELETED}\n",
        "a copy that may be deleted is still there",
    ),
    (
        "      id: target_uuid\n    key_type: uuid\n    change_time: changed\n",
        "      id: target_uuid\n    key_type: uuid\n    change_time: null\n    full_every: 30m\n",
        "`changed` of a target is not set when it is corrected: the table is compared in full",
    ),
)


class ForeignPlace(LocalPlace):
    words = "the observatory's own PostgreSQL, local batch system"
    location = "reduction"
    option = "--foreign "

    def __init__(self) -> None:
        self._theirs: ObservatoryDatabase | None = None
        self._dump: str | None = None  # as their software left it
        self._compared = 0

    # --- before there is a folder ---------------------------------------------------------------------------

    def check_folder(self, folder: Path) -> None:
        why = PostgreSql(folder / "opsdb").why_not()
        if why is None and os.geteuid() == 0 and (closed := closed_part(folder)):
            why = f"{closed} is closed to the account that PostgreSQL runs as; chmod o+rx {closed}"
        if why:
            sys.exit(f"bin/demo: {folder} does not do for --foreign: {why}; or name another folder with --dir")

    def new_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="ccatwm-demo-"))
        folder.chmod(0o755)
        self.check_folder(folder)
        return folder

    # --- the site -------------------------------------------------------------------------------------------

    def make_site(self, folder: Path, image: Path | None) -> Site:
        """`ccatwm init --opsdb URL` drafts the map; what it could not know is corrected in it."""
        site = Site(folder / "site")
        self._theirs = ObservatoryDatabase(PostgreSql(folder / "opsdb", OWNER))
        static = json.loads((folder / "data" / "observatory.yaml").read_text())
        self._theirs.make((self.location, site.folder / "pipelines"), static)
        url = self._theirs.grant()
        print(f"the observatory has a PostgreSQL, and gave the role ccatwm the right to read it (see {folder}/opsdb)")
        self._init(site, url)
        settings = site.folder / "settings.toml"
        settings.write_text(fill_in(settings.read_text(), {"CONTAINER_RUNTIME": runtime(image)}))
        say(f"somebody who knows the observatory corrects the draft {site.folder / MAP}")
        correct(site.folder / MAP)
        site.run("db", "check")
        return site

    def _init(self, site: Site, url: str) -> None:
        print(f"$ bin/ccatwm init --opsdb '{url}' {site.folder}", flush=True)
        command = [LAUNCHER, "init", "--opsdb", url, site.folder]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit("bin/demo: the site could not be made")

    def arrive(self, site: Site, data: Path, phase: int) -> None:
        """Their software writes what was observed; there is nothing to ingest."""
        assert self._theirs is not None, "the site was made"
        self._compare()
        lines = [json.loads(line) for line in (data / f"phase{phase}.jsonl").read_text().splitlines()]
        self._theirs.observe(lines)
        self._dump = self._theirs.dump()
        print(f"the observatory's software wrote {len(lines)} rows of scans and packages into its own tables", flush=True)

    def _compare(self) -> None:
        """What passes did since their software last wrote altered nothing of theirs."""
        if self._theirs is None or self._dump is None:
            return
        if self._theirs.dump() != self._dump:
            sys.exit("bin/demo: something in the observatory's own tables was altered")
        self._compared += 1

    # --- the end --------------------------------------------------------------------------------------------

    def told_at_end(self) -> str | None:
        self._compare()
        return (
            f"nothing of the observatory's was altered: pg_dump of its database said the same before and after the passes, "
            f"{self._compared} times"
        )

    def how_to_look(self, folder: Path) -> list[str]:
        return [f"less {folder}/site/{MAP}", f"bin/ccatwm --site {folder}/site db check"]

    def how_to_end(self, folder: Path) -> list[str]:
        return [
            f"{folder}/opsdb/ctl stop   # the observatory's database; `{folder}/opsdb/ctl start` starts it again",
            f"rm -r {folder}",
        ]


def correct(file: Path) -> None:
    """The corrections, each told with its reason."""
    text = file.read_text()
    for before, after, why in CORRECTIONS:
        assert text.count(before) == 1, f"the draft does not say {before!r}"
        text = text.replace(before, after)
        print(f"  {why}:")
        for sign, lines, others in (("-", before, after), ("+", after, before)):
            print("".join(f"    {sign} {line.strip()}\n" for line in lines.splitlines() if line not in others), end="")
    file.write_text(text)
