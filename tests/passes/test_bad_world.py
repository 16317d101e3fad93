"""Bad input through whole passes: what becomes of its run, what a person is told, and that nobody else is harmed."""

from __future__ import annotations

import json
import os
import random
import shutil
import string
import subprocess
import tarfile
from pathlib import Path

import pytest

from ccatwm import wiring
from ccatwm.core.names import decode_name
from ccatwm.edges.clock import SystemClock
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.errors import DefinitionsError, FilesUnavailableError
from ccatwm.interfaces import PlainEffects
from ccatwm.passes._frame import PassOptions
from tests.cli.conftest import cli as cli
from tests.disks import small_disk
from tests.passes.bad_world import (
    COPY,
    GRID,
    Scan,
    as_site,
    by_package,
    executions,
    good_tar,
    header,
    nothing_outside_touched,
    observe,
    reduce,
    tar,
    told,
)

GOOD = good_tar()


@pytest.fixture
def night(empty_observatory):
    """An observatory whose files around it can be watched."""
    return empty_observatory


# --- packages -----------------------------------------------------------------------------------------------------


def test_a_package_whose_file_is_gone_fails_its_run_alone_and_goes_on_when_it_is_back(night):
    observe(night, Scan("gone", GOOD, copies={"raw": None}), Scan("good", GOOD))
    reduce(night, COPY)
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    run, other = by_package(night)["gone"], by_package(night)["good"]
    assert (run["status"], run["failure_class"], run["attempt"], run["retries_used"]) == (
        "FAILED",
        "staging",
        0,
        3,
    )
    assert run["message"] == (
        f"package gone-LFA: no good copy: raw: missing (gone.tar at raw ({night.folder}/raw) is not there); "
        "put a good copy there or have another one recorded (by data transfer, or `ccatwm ingest`), or "
        "leave the package out: `ccatwm exclude package:gone-LFA --reason TEXT`"
    )
    assert told(night, reports) == [
        "ccatwm: stage: package gone-LFA: its copy at raw (gone.tar) is missing: "
        f"gone.tar at raw ({night.folder}/raw) is not there",
        f"ccatwm: stage: run {run['id']} (otf/calibrate/{run['sub_group_key']}) failed: staging: {run['message']}; "
        f"see `ccatwm show {run['id']}`, then `ccatwm retry {run['id']} --reason TEXT`"
    ]
    assert other["status"] == "COMPLETED"
    assert executions(night) == [other["output_directory"].removesuffix("/output")]

    (night.folder / "raw" / "gone.tar").write_bytes(GOOD)
    retry(night, run)
    night.until_quiet()
    assert by_package(night)["gone"]["status"] == "COMPLETED"
    assert night.rows("copy_report") == []


def test_a_package_without_a_good_copy_goes_on_when_another_copy_is_recorded(night):
    observe(night, Scan("gone", GOOD, copies={"raw": None}), Scan("good", GOOD))
    reduce(night, COPY)
    night.until_quiet()
    (night.folder / "buffer" / "found.tar").write_bytes(GOOD)
    found = {"name": "gone-LFA", "copies": [{"location": "buffer", "path": "found.tar"}]}
    (night.folder / "found.yaml").write_text(json.dumps({"raw_data_packages": [found]}))
    night.arrive("found.yaml")
    retry(night, by_package(night)["gone"])
    night.until_quiet()
    assert by_package(night)["gone"]["status"] == "COMPLETED"


def retry(night, run) -> None:
    from ccatwm.upkeep.control import Wanted, retry

    context = night.context()
    wanted = Wanted((run["id"],), reason="mended", actor="me", host="h")
    retry(context.database, wanted, now=context.clock.now())


def test_hostile_tars_fail_their_runs_alone_and_leave_nothing(night):
    outside = night.folder / "escaped"
    packages = {
        "climbs": ([("../../../escaped", b"x")], "member ../../../escaped leads out of its package"),
        "absolute": ([(str(outside), b"x")], f"member {outside} has an absolute path"),
        "device": ([(header("null", tarfile.CHRTYPE), b"")], "member null is a device"),
        "fifo": ([(header("pipe", tarfile.FIFOTYPE), b"")], "member pipe is a FIFO"),
        "links": ([(header("out", tarfile.SYMTYPE, str(night.folder)), b""), ("out/escaped", b"x")],
                  "member out is a symbolic link"),
        "hard-links": ([(header("night", tarfile.LNKTYPE, "../../../../night.yaml"), b"")],
                       "member ../../../../night.yaml leads out of its package"),
    }  # fmt: skip
    scans = [Scan(name, tar([("a", b"first"), *members])) for name, (members, _) in packages.items()]
    observe(night, *scans, Scan("good", GOOD))
    reduce(night, COPY)
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    found = by_package(night)
    assert found.pop("good")["status"] == "COMPLETED"
    for name, (_, words) in packages.items():
        run = found[name]
        assert (run["status"], run["failure_class"], run["attempt"]) == ("FAILED", "staging", 0)
        assert run["message"].startswith(f"package {name}-LFA: no good copy: raw: corrupt (")
        assert words in run["message"]
    lines = told(night, reports)
    assert len([line for line in lines if "is corrupt: " in line]) == len(packages)
    assert len([line for line in lines if ") failed: staging: " in line]) == len(packages) == len(lines) / 2
    assert [
        p.name for p in (night.base / ".cache" / "packages").iterdir() if not p.name.startswith("good-LFA-")
    ] == []


def spoilt(content: bytes) -> bytes:
    return content[:600] + b"?" * 20 + content[620:]


def test_a_corrupt_first_copy_costs_no_attempt_where_the_second_is_good(night):
    observe(night, Scan("two", GOOD, copies={"buffer": spoilt(GOOD)}), Scan("good", GOOD))
    reduce(night, COPY)
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    run = by_package(night)["two"]
    assert (run["status"], run["attempt"], run["retries_used"], run["failure_class"]) == (
        "COMPLETED",
        1,
        0,
        None,
    )
    assert (night.base / run["output_directory"] / "science" / "a.bin").read_bytes() == b"a" * 99
    (report,) = night.rows("copy_report")
    assert (report["package_name"], report["location"], report["finding"]) == ("two-LFA", "buffer", "corrupt")
    assert "expected" in report["message"]
    (line,) = told(night, reports)
    assert line.startswith("ccatwm: stage: package two-LFA: its copy at buffer (two.tar) is corrupt: sha256 is ")


def test_a_package_whose_copies_are_all_corrupt_names_them_all(night):
    observe(night, Scan("two", GOOD, copies={"raw": GOOD[:700], "buffer": spoilt(GOOD)}), Scan("good", GOOD))
    reduce(night, COPY)
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    run = by_package(night)["two"]
    assert (run["status"], run["failure_class"], run["attempt"]) == ("FAILED", "staging", 0)
    assert run["message"].startswith("package two-LFA: no good copy: buffer: corrupt (sha256 is ")
    assert f"raw: corrupt (700 bytes, {len(GOOD)} expected)" in run["message"]
    lines = told(night, reports)
    assert [line.partition(": its copy at ")[2].split()[0] for line in lines[:2]] == ["buffer", "raw"]
    assert [") failed: staging: " in line for line in lines] == [False, False, True]
    assert by_package(night)["good"]["status"] == "COMPLETED"


# --- names --------------------------------------------------------------------------------------------------------

HOSTILE = "x; rm -rf ~ $(id) \n #SBATCH --uid=0"


def test_a_source_named_like_a_command_goes_from_ingest_to_a_product(night, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("all of it")
    monkeypatch.setenv("HOME", str(home))
    observe(night, Scan("evil", GOOD, source=HOSTILE), Scan("good", GOOD))
    reduce(night, COPY + 'cp "$WORKFLOW_MANIFEST" science/manifest.json\n', group_by="source")
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    run = by_package(night)["evil"]
    assert run["status"] == by_package(night)["good"]["status"] == "COMPLETED"
    assert run["sub_group_key"] == (
        "source=x~3B~20rm~20-rf~20~7E~20~24~28id~29~20~0A~20~23SBATCH~20--uid~3D0"
    )
    assert (night.base / run["output_directory"] / "science" / "a.bin").is_file()
    assert told(night, reports) == []
    (script,) = {path.read_bytes() for path in night.base.glob(".submissions/*/job.sh")}
    assert b"SBATCH" not in script
    assert not [
        p for p in night.base.rglob("*.log") if b"uid=" in p.read_bytes() and p.name != "executions.log"
    ]


def test_a_source_named_like_a_command_is_a_real_job_on_the_local_batch_system(night, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("all of it")
    monkeypatch.setenv("HOME", str(home))
    observe(night, Scan("evil", GOOD, source=HOSTILE))
    reduce(night, COPY, group_by="source")
    with nothing_outside_touched(night):
        run_locally(night)
    (run,) = night.runs()
    assert (run["status"], run["attempt"]) == ("COMPLETED", 1)
    assert (night.base / run["output_directory"] / "science" / "a.bin").read_bytes() == b"a" * 99


def run_locally(night) -> None:
    """Cycles with the real local backend until its one job has been collected."""
    night.backend = "local"
    clock = SystemClock()
    for _ in range(600):
        reports = night.cycle()
        assert [r.error for r in reports if r.error] == []
        runs = night.runs()
        if runs and {r["status"] for r in runs} <= {"COMPLETED", "FAILED"}:
            return
        clock.sleep(0.02)
    raise AssertionError("the job did not end")


LONG = "".join(
    random.Random(5).choices(string.ascii_letters + string.digits, k=5000)
)  # nothing compresses it
LABEL = "{name: label, table: RawDataPackage, column: metadata, json_path: label}"


def test_keys_of_5000_characters_are_bounded_and_told_apart(night):
    scans = [Scan(name, GOOD, metadata={"label": LONG + name}) for name in ("one", "two")]
    observe(night, *scans, Scan("good", GOOD, metadata={"label": "short"}))
    reduce(night, COPY, group_by=LABEL, more=GRID)
    reports = night.until_quiet()
    keys = {r["sub_group_key"] for r in night.runs("calibrate")}
    assert [r["status"] for r in night.runs()] == ["COMPLETED"] * 4
    assert (len(keys), max(len(key) for key in keys)) == (3, 120)
    assert "label=short" in keys
    assert told(night, reports) == []


def test_a_name_of_5000_characters_is_refused_at_the_door(night):
    observe(night, Scan("good", GOOD))
    reduce(night, COPY)
    with pytest.raises(DefinitionsError) as refused:
        observe(night, Scan("good", GOOD), Scan("long", GOOD, source=LONG))
    assert "night.yaml:" in str(refused.value)
    assert "a text of at most 1000 bytes (it has 5000)" in str(refused.value)
    night.until_quiet()
    assert [r["status"] for r in night.runs()] == ["COMPLETED"]


NAMES = (
    b"caf\xe9 \xff.bin",
    "Ω/データ 50%.txt".encode(),
    b"new\nline\t.txt",
    b"-rf",
    b"$(id).fits",
    b"e\xcc\x81",
)


def test_names_of_any_bytes_go_from_a_tar_to_products_and_json(night, cli):
    members = [(os.fsdecode(name), name) for name in NAMES]
    observe(night, Scan("names", tar(members), source="Sgr A✱ – ‮Zentrum"), Scan("good", GOOD, source="é"))
    reduce(night, COPY, group_by="source", more=GRID)
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    assert {r["status"] for r in night.runs()} == {"COMPLETED"}
    assert told(night, reports) == []
    site = as_site(night)
    for command in ("products", "runs", "status"):
        assert cli("--site", site, command, "--json").code == 0
    made = cli("--site", site, "products", "--step", "calibrate", "--json").json["products"]
    paths = [os.fsencode(decode_name(product["path"])) for product in made]  # what is no text is percent-encoded
    assert {path.rpartition(b"/science/")[2] for path in paths} == {*NAMES, b"a.bin"}
    for path in paths:  # the content of a file is its name
        assert path.endswith((Path(os.fsdecode(path)).read_bytes(), b"a.bin"))
    (grid,) = night.runs("grid")
    copied = night.base / grid["output_directory"] / "science"
    assert len([p for p in copied.rglob("*") if p.is_file()]) == len(NAMES) + 1
    shown = cli("--site", site, "products")
    assert shown.code == 0
    assert shown.out.replace("\n", "").isprintable()
    lineage = cli("--site", site, "lineage", str(made[0]["product"]), "--json")
    assert (lineage.code, lineage.out.isascii()) == (0, True)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'sources: [{name: "caf\xe9", kind: fixed, ra_deg: 1, dec_deg: 1}]\n', "bad.yaml"),
        (b'{"kind": "source", "name": "\\ud800", "ra_deg": 1, "dec_deg": 1}\n', "bad.jsonl:1"),
    ],
    ids=["bytes that are no text", "half a character"],
)
def test_a_source_whose_name_is_no_text_is_refused_at_the_door(night, content, where):
    observe(night, Scan("good", GOOD))
    reduce(night, COPY)
    (night.folder / where.partition(":")[0]).write_bytes(content)
    with pytest.raises(DefinitionsError) as refused:
        night.arrive(where.partition(":")[0])
    assert where in str(refused.value)
    night.until_quiet()
    assert [r["status"] for r in night.runs()] == ["COMPLETED"]


# --- outputs ------------------------------------------------------------------------------------------------------


def assert_bad_output(night, reports, words: str, by_pass: str = "collect") -> None:
    """The run of scan `bad` failed, once, with these words; the run of scan `good` has its products."""
    runs = by_package(night)
    bad, good = runs["bad"], runs["good"]
    assert (bad["status"], bad["failure_class"], bad["attempt"]) == ("FAILED", "bad-output", 1)
    assert words in bad["message"]
    assert told(night, reports) == [
        f"ccatwm: {by_pass}: run {bad['id']} (otf/calibrate/{bad['sub_group_key']}) failed: bad-output: "
        f"{bad['message']}; see `ccatwm show {bad['id']}`, then `ccatwm retry {bad['id']} --reason TEXT`"
    ]
    assert good["status"] == "COMPLETED"
    assert {p["run_id"] for p in night.rows("data_product")} == {good["id"]}
    assert len(executions(night)) == 2


def bad_output(night, script: str) -> None:
    """The job of scan `bad` does something more than that of scan `good`."""
    observe(night, Scan("bad", GOOD), Scan("good", GOOD))
    reduce(night, COPY + f'[ ! -d "$WORKFLOW_INPUT_DIR/bad-LFA" ] || {{\n{script}\n}}\n')


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../../../../../night.yaml", "product 0: path ../../../../../night.yaml leads out of the output"),
        ("/etc/passwd", "product 0: path /etc/passwd leads out of the output"),
        ("inner/passwd", "declares inner/passwd, which is or passes a link"),
    ],
)
def test_a_products_json_that_points_outside_is_bad_output(night, path, words):
    declaration = json.dumps({"schema": "ccatwm.products/1", "products": [{"path": path, "type": "SCIENCE"}]})
    bad_output(night, f"ln -s science inner\necho '{declaration}' >products.json")
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    assert_bad_output(night, reports, words)


@pytest.mark.parametrize("target", ["/etc", "../../../../../../raw", "science/../../output/../../.."])
def test_a_link_in_the_output_that_leads_outside_is_bad_output(night, target):
    bad_output(night, f"ln -s {target} science/out")
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    assert_bad_output(night, reports, "science/out is a symbolic link that leads out of the output")


def test_an_output_whose_path_no_ops_db_can_take_is_bad_output(night):
    parts = [LONG[n : n + 250] for n in range(0, 2750, 250)]
    deeper = "; ".join(f"mkdir {part}; cd {part}" for part in parts)
    bad_output(night, f"cd science; {deeper}; echo x >x")
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    assert_bad_output(night, reports, "... is longer than 2500 bytes")


def test_an_output_that_vanishes_while_the_job_hashes_it_is_bad_output(night, monkeypatch, tmp_path):
    """`find` has listed it, `sha256sum` does not find it: between the two stands an executable that removes it."""
    hasher = tmp_path / "bin" / "sha256sum"
    hasher.parent.mkdir()
    hasher.write_text(f'#!/bin/sh\nrm -f science/fleeting\nexec {shutil.which("sha256sum")} "$@"\n')
    hasher.chmod(0o755)
    bad_output(night, "echo x >science/fleeting")
    monkeypatch.setenv("PATH", f"{hasher.parent}:{os.environ['PATH']}")
    with nothing_outside_touched(night):
        reports = night.until_quiet()
    assert_bad_output(night, reports, "an output vanished or could not be read while it was hashed", "poll")


def test_an_output_that_vanishes_between_hashing_and_collecting_is_bad_output(night):
    bad_output(night, "echo x >science/fleeting")
    reports = night.cycle()
    night.jobs()
    (fleeting,) = night.base.glob("otf/*/*/run-*/attempt-1/output/science/fleeting")
    fleeting.unlink()
    reports += night.until_quiet()
    assert_bad_output(night, reports, "science/fleeting was hashed by the job, but is gone")


def test_an_output_that_vanishes_while_it_is_collected_is_bad_output(night):
    """Changed after the job had hashed it, it is hashed again; listed by then, it goes just before."""

    class Vanishing(LocalWorkFiles):
        def hash_files(self, paths):
            for path in (listed := list(paths)):
                (night.base / path).unlink()
            return super().hash_files(listed)

    bad_output(night, "echo x >science/fleeting")
    reports = night.cycle()
    night.jobs()
    (fleeting,) = night.base.glob("otf/*/*/run-*/attempt-1/output/science/fleeting")
    later = fleeting.stat().st_mtime_ns + 10**12
    os.utime(fleeting, ns=(later, later))
    reports.append(night.run_pass("poll"))
    context = night.context()
    context.make_workfiles = lambda: Vanishing(night.base, PlainEffects())
    reports.append(wiring.run_pass("collect", context, PassOptions()))
    reports += night.until_quiet()
    assert_bad_output(night, reports, "science/fleeting was changed after the job had hashed it")


# --- full disks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tar", "tar.gz"])
def test_a_full_disk_makes_a_run_wait_without_an_attempt_until_there_is_room(night, form):
    """A tar, and the copy of it that the run gets, is known to be too large before; of a tar.gz the full disk tells."""
    (night.folder / "base").mkdir()
    with small_disk(night.folder / "base", megabytes=4):
        large = tar([("a.bin", bytes(1 << 20))], "w:gz" if form == "tar.gz" else "w")
        observe(night, Scan("bad", large, ending=form), Scan("good", GOOD))
        reduce(night, "mkdir science; echo x >science/x\n")
        night.settings_changes["stage_parallel"] = 1  # else the good one may meet the disk that the other fills just then
        filler = night.base / "filler"
        filler.write_bytes(bytes(3 << 20) + bytes(1 << 19))
        with nothing_outside_touched(night):
            reports = night.until_quiet()
        runs = by_package(night)
        assert runs["good"]["status"] == "COMPLETED"
        bad = runs["bad"]
        known = form == "tar"
        assert (bad["status"], bad["failure_class"]) == ("STAGING_DATA", None if known else "no-space")
        assert (bad["attempt"], bad["retries_used"], bad["free_retries_used"]) == (0, 0, 0)
        words = {"tar": "needs 2.1 MB and 0 B are to stay free (MIN_FREE_GB), but ", "tar.gz": "No space left on device: "}
        reason = bad["room_reason"] if known else bad["message"]
        assert words[form] in reason
        assert str(night.base) in reason
        assert "; free space" in reason
        (line,) = told(night, reports)
        assert line == f"ccatwm: stage: 1 run held back, {'no room' if known else 'no space'}: {reason}"
        assert sorted(p.name[:8] for p in (night.base / ".cache" / "packages").iterdir()) == ["good-LFA"]

        filler.unlink()
        night.until_quiet()
        bad = by_package(night)["bad"]
        assert (bad["status"], bad["attempt"], bad["failure_class"]) == ("COMPLETED", 1, None)
        assert len(executions(night)) == 2


@pytest.mark.parametrize("name", ["run.json", "output"])
def test_what_lies_in_the_way_of_one_run_is_not_in_that_of_others(night, name):
    observe(night, *(Scan(f"scan-{n}", GOOD) for n in range(4)))
    reduce(night, "mkdir science; echo x >science/x\n")
    for _ in range(2):
        night.cycle()
    night.jobs()
    night.run_pass("poll")
    stuck = night.runs()[0]
    (run,) = night.base.glob(f"otf/*/*/run-{stuck['id']}")
    (run / name / "mine").mkdir(parents=True)
    report = night.run_pass("collect")
    assert isinstance(report.error, FilesUnavailableError) and str(run.relative_to(night.base)) in str(report.error.where)
    assert "nothing else lies there" in str(report.error.next)
    assert sorted(r["status"] for r in night.runs()) == ["COLLECTING_RESULTS"] + ["COMPLETED"] * 3
    assert (run / name / "mine").is_dir()
    shutil.rmtree(run / name)
    night.until_quiet()
    assert {(r["status"], r["attempt"]) for r in night.runs()} == {("COMPLETED", 1)}


def test_a_base_directory_that_turned_read_only_costs_no_finished_run(night):
    """File systems with an error are mounted read-only: the output is good, only the writing of records has to wait."""
    night.base.mkdir()
    with small_disk(night.base, megabytes=8):
        observe(night, Scan("scan-1", GOOD))
        reduce(night, "mkdir science; echo x >science/x\n")
        for _ in range(2):
            night.cycle()
        night.jobs()
        remount = ["mount", "-o", "remount,ro", str(night.base)]
        subprocess.run(remount, check=True)
        night.run_pass("poll")
        report = night.run_pass("collect")
        assert isinstance(report.error, FilesUnavailableError)
        assert [r["status"] for r in night.runs()] == ["COLLECTING_RESULTS"]
        subprocess.run([*remount[:2], "remount,rw", str(night.base)], check=True)
        night.until_quiet()
        assert [(r["status"], r["attempt"]) for r in night.runs()] == [("COMPLETED", 1)]
