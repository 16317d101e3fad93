"""The job script under the real dash: claim, inputs, signals, records, checksums."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccatwm.core.outcomes import parse_exit_record
from ccatwm.core.outputs import parse_listing, size_of
from tests.disks import small_disk

pytestmark = pytest.mark.quick
SCRIPT = Path(__file__).parents[2] / "ccatwm" / "edges" / "scheduler" / "job.sh"
DASH = shutil.which("dash") or "/bin/sh"
TOKEN = "tok3n"


class Attempt:
    """One attempt directory and its submission, and the script run on it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.script = SCRIPT
        self.submission = base / ".submissions" / TOKEN
        self.folder = base / "p" / "s" / "key" / "run-1" / "attempt-1"
        self.submission.mkdir(parents=True)
        for name in ("output", "scratch", "logs", "job/claims", "config"):
            (self.folder / name).mkdir(parents=True)
        (self.submission / "tasks").write_text("other/attempt\np/s/key/run-1/attempt-1\n")
        (self.folder / "config" / "manifest.json").write_text("{}")
        self.limits(15)
        self.inputs()
        self.payload("true")

    def limits(self, kill_after_seconds: float) -> None:
        (self.folder / "job" / "limits").write_text(
            f"time_seconds=60\nkill_after_seconds={kill_after_seconds}\nmemory_mb=100\n"
        )

    def payload(self, text: str) -> None:
        self.argv("/bin/sh", "-c", text)

    def argv(self, *arguments: str, end: str = "#end-of-argv\n") -> None:
        (self.folder / "job" / "argv").write_bytes(os.fsencode("".join(f"{a}\n" for a in arguments) + end))

    def inputs(self, *pairs: tuple[int, str]) -> None:
        text = "".join(f"{size}\t{path}\n" for size, path in pairs)
        (self.folder / "job" / "inputs.list").write_bytes(os.fsencode(text))

    def start(self, *, environment: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # As a batch system starts it, whatever these tests were started from.
            ["/usr/bin/env", "--default-signal=INT,QUIT", DASH, str(self.script), str(self.submission), "1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=options.pop("stderr", subprocess.DEVNULL),
            env={"PATH": os.environ["PATH"], **(environment or {})},
            **options,
        )

    def run(self, **options: Any) -> int:
        return self.start(**options).wait(60)

    def signalled(self, number: int, **options: Any) -> int:
        """Run, and send `number` once the payload has made output/ready."""
        process = self.start(**options)
        wait_for(lambda: (self.folder / "output" / "ready").exists())
        process.send_signal(number)
        return process.wait(60)

    def record(self, name: str = "exit.json") -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.folder / "job" / name).read_bytes())
        return data

    def sums(self) -> dict[bytes, str]:
        content = (self.folder / "job" / "outputs.sha256").read_bytes()
        pairs = [line.split(b"  ", 1) for line in content.split(b"\0") if line]
        return {name.removeprefix(b"./"): digest.decode() for digest, name in pairs}

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text()


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path)


# --- the ordinary end ----------------------------------------------------------------------------------


def test_the_output_is_listed_as_it_was_before_it_is_hashed(attempt: Attempt) -> None:
    attempt.payload("mkdir ../output/d; printf abc >../output/d/a; ln -s d/a ../output/l; mkfifo ../output/p")
    assert attempt.run() == 0
    listing = parse_listing((attempt.folder / "job" / "outputs.list").read_bytes())
    kinds = {path: head[:1] for path, head in listing.entries.items()}
    assert kinds == {b"d": b"d", b"d/a": b"f", b"l": b"l", b"p": b"p"}
    assert size_of(listing.entries[b"d/a"]) == 3 and listing.targets == {b"l": b"d/a"}
    assert list(attempt.sums()) == [b"d/a"]


def test_the_record_tells_the_exit_code_of_the_payload(attempt: Attempt) -> None:
    attempt.payload("exit 42")
    assert attempt.run() == 42
    record = attempt.record()
    assert (record["exit_code"], record["reason"], record["signal"]) == (42, "payload", None)
    assert record["token"] == TOKEN


@pytest.mark.parametrize("code", [0, 75, 127, 128, 143, 255])
def test_every_exit_code_is_recorded_as_it_is(attempt: Attempt, code: int) -> None:
    attempt.payload(f"exit {code}")
    assert attempt.run() == code
    assert attempt.record()["exit_code"] == code


def test_the_record_is_one_that_passes_understand(attempt: Attempt) -> None:
    attempt.run()
    record = parse_exit_record((attempt.folder / "job" / "exit.json").read_bytes())
    assert record is not None and record.started_at is not None and record.ended_at is not None
    assert record.started_at <= record.ended_at
    assert (record.token, record.hash_exit_code) == (TOKEN, 0)


def test_started_and_ended_are_recorded_with_token_and_boot(attempt: Attempt) -> None:
    attempt.run()
    assert attempt.record("started.json")["token"] == TOKEN
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert attempt.record("started.json")["boot_id"] == boot_id
    assert attempt.record("ended.json")["exit_code"] == 0


def test_both_streams_are_appended_to_the_logs(attempt: Attempt) -> None:
    (attempt.folder / "logs" / "stdout.log").write_text("before\n")
    attempt.payload("echo out; echo err >&2")
    attempt.run()
    assert (attempt.log("stdout"), attempt.log("stderr")) == ("before\nout\n", "err\n")


def test_the_payload_runs_in_scratch(attempt: Attempt) -> None:
    attempt.payload("pwd")
    attempt.run()
    assert attempt.log("stdout").strip() == str(attempt.folder / "scratch")


def test_arguments_reach_the_payload_as_they_are(attempt: Attempt) -> None:
    nasty = ["a b", "", "$(touch pwned)", "`id`", "'\"", "-n", "*", "\\n", " lead", "trail "]
    nasty += ["x=1", "café\udcff"]
    attempt.argv(sys.executable, "-c", "import sys,os;print([os.fsencode(a) for a in sys.argv[1:]])", *nasty)
    assert attempt.run() == 0
    assert attempt.log("stdout").strip() == str([os.fsencode(a) for a in nasty])


def test_a_program_with_an_equals_sign_in_its_path_is_started(attempt: Attempt) -> None:
    program = attempt.base / "source=NGC253"
    program.write_text("#!/bin/sh\necho started\n")
    program.chmod(0o755)
    attempt.argv(str(program))
    assert attempt.run() == 0
    assert attempt.log("stdout") == "started\n"


def test_a_program_that_is_not_there_ends_with_127(attempt: Attempt) -> None:
    attempt.argv("/no/such/program")
    assert attempt.run() == 127
    assert attempt.record()["reason"] == "payload"


# --- the claim -----------------------------------------------------------------------------------------


def test_a_claimed_attempt_is_left_alone(attempt: Attempt) -> None:
    (attempt.folder / "job" / "claims" / "0").mkdir()
    attempt.payload("touch ../output/ran")
    assert attempt.run() == 77
    assert not (attempt.folder / "output" / "ran").exists()
    assert not (attempt.folder / "job" / "exit.json").exists()
    assert "claimed by somebody else" in (attempt.folder / "job" / "refused").read_text()


def test_of_two_jobs_at_once_one_runs(attempt: Attempt) -> None:
    attempt.payload("echo ran >>../output/ran; sleep 0.2")
    codes = sorted(process.wait(30) for process in [attempt.start() for _ in range(4)])
    assert codes == [0, 77, 77, 77]
    assert (attempt.folder / "output" / "ran").read_text() == "ran\n"


def test_a_restart_of_a_superseded_attempt_does_nothing(attempt: Attempt) -> None:
    (attempt.folder / "job" / "claims" / "0").mkdir(mode=0o500)
    assert attempt.run(environment={"SLURM_RESTART_COUNT": "1"}) == 77


def test_a_restart_after_the_end_does_nothing(attempt: Attempt) -> None:
    attempt.run()
    before = (attempt.folder / "job" / "exit.json").read_bytes()
    assert attempt.run(environment={"SLURM_RESTART_COUNT": "1"}) == 77
    assert (attempt.folder / "job" / "exit.json").read_bytes() == before


def test_the_array_index_comes_from_the_batch_system_too(attempt: Attempt) -> None:
    command = [DASH, str(SCRIPT), str(attempt.submission)]
    environment = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "1"}
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert attempt.record()["token"] == TOKEN


@pytest.mark.parametrize("index", ["7", "x", "-1"])
def test_an_index_without_a_task_is_refused(attempt: Attempt, index: str) -> None:
    command = [DASH, str(SCRIPT), str(attempt.submission), index]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 78 and done.stderr.startswith(b"job.sh: ")


# --- the programs that it needs --------------------------------------------------------------------------


NEEDED = re.findall(r"^programs='(.*)'$", SCRIPT.read_text(), re.MULTILINE)[0].split()


def on_a_host_without(attempt: Attempt, *missing: str) -> dict[str, str]:
    """As on a host whose usual places have what the script says that it needs, but for these; the environment."""
    folder = attempt.base / "programs"
    folder.mkdir()
    for name in set(NEEDED) - set(missing):
        program = shutil.which(name)
        assert program is not None, name
        (folder / name).symlink_to(program)
    script = SCRIPT.read_text()
    assert script.count("\nusual_path=") == 1
    attempt.script = attempt.base / "job.sh"
    attempt.script.write_text(re.sub("(?m)^usual_path=.*$", f"usual_path={folder}", script))
    return {"PATH": "/nonexistent"}


@pytest.mark.parametrize("path", [["PATH=/nonexistent"], ["PATH="], []])
def test_it_runs_whatever_path_it_is_given(attempt: Attempt, path: list[str]) -> None:
    (attempt.base / "raw").write_bytes(b"12345")
    attempt.inputs((5, "raw"))
    attempt.payload("echo abc >../output/map")
    command = ["/usr/bin/env", "-i", *path, DASH, str(SCRIPT), str(attempt.submission), "1"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (attempt.record()["reason"], list(attempt.sums())) == ("payload", [b"map"])


def test_the_path_that_it_is_given_comes_first(attempt: Attempt) -> None:
    (attempt.base / "own").mkdir()
    own = attempt.base / "own" / "uname"
    own.write_text("#!/bin/sh\necho own-name\n")
    own.chmod(0o755)
    assert attempt.run(environment={"PATH": str(own.parent)}) == 0
    assert attempt.record()["host"] == "own-name"


@pytest.mark.parametrize("restart", ["0", "1"])
def test_what_it_says_that_it_needs_is_all_that_it_needs(attempt: Attempt, restart: str) -> None:
    (attempt.base / "raw").write_bytes(b"12345")
    attempt.inputs((5, "raw"))
    attempt.payload("exec >../output/map; trap 'exit 3' TERM; : >../output/ready; while :; do :; done")
    environment = on_a_host_without(attempt) | {"SLURM_RESTART_COUNT": restart}
    folder = attempt.folder.with_name("attempt-1.r1") if restart == "1" else attempt.folder
    with (attempt.base / "said").open("wb") as said:
        process = attempt.start(environment=environment, stderr=said)
        wait_for(lambda: (folder / "output" / "ready").exists())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 3
    assert (attempt.base / "said").read_bytes() == b""
    assert json.loads((folder / "job" / "exit.json").read_bytes())["reason"] == "signalled"


def test_all_programs_that_are_missing_are_named_at_once(attempt: Attempt) -> None:
    environment = on_a_host_without(attempt, "stat", "xargs", "sha256sum")
    attempt.payload("touch ../output/ran")
    assert attempt.run(environment=environment) == 78
    assert "missing on this host: sha256sum stat xargs (PATH is /nonexistent:" in attempt.log("stderr")
    record = attempt.record()
    assert (record["reason"], record["missing"], record["exit_code"]) == ("programs-missing", "sha256sum stat xargs", 78)
    assert list((attempt.folder / "output").iterdir()) == []


def test_a_host_with_none_of_them_is_told_by_a_record_that_passes_understand(attempt: Attempt) -> None:
    environment = on_a_host_without(attempt, *NEEDED)
    assert attempt.run(environment=environment) == 78
    record = parse_exit_record((attempt.folder / "job" / "exit.json").read_bytes())
    assert record is not None
    assert (record.token, record.exit_code, record.missing) == (TOKEN, 78, " ".join(NEEDED))
    assert record.host == os.uname().nodename
    assert attempt.run() == 77, "the attempt has ended"


@pytest.mark.parametrize("missing", [("stat",), tuple(NEEDED)])
def test_a_host_without_them_leaves_an_attempt_of_another_alone(attempt: Attempt, missing: tuple[str, ...]) -> None:
    (attempt.folder / "job" / "claims" / "0").mkdir()
    assert attempt.run(environment=on_a_host_without(attempt, *missing)) == 77
    assert "claimed by somebody else" in (attempt.folder / "job" / "refused").read_text(), "so that it is waited for"
    assert not (attempt.folder / "job" / "exit.json").exists()


def test_one_that_it_told_of_is_no_attempt_for_another_job(attempt: Attempt) -> None:
    assert attempt.run(environment=on_a_host_without(attempt, "stat")) == 78
    (attempt.folder / "job" / "exit.json").unlink()
    attempt.script = SCRIPT
    assert attempt.run() == 77, "its claim is a file, and a claim"


def test_a_start_after_the_first_tells_of_them_in_a_folder_of_its_own(attempt: Attempt) -> None:
    environment = on_a_host_without(attempt, "stat") | {"SLURM_RESTART_COUNT": "1"}
    (attempt.folder / "job" / "claims" / "0").mkdir()
    assert attempt.run(environment=environment) == 78
    own = attempt.folder.with_name("attempt-1.r1")
    assert json.loads((own / "job" / "exit.json").read_bytes())["missing"] == "stat"
    assert "stat" in (own / "logs" / "stderr.log").read_text()
    assert (attempt.folder / "job" / "claims" / "1").exists(), "passes look there for the last start"


# --- inputs --------------------------------------------------------------------------------------------


def test_inputs_that_are_as_listed_let_it_run(attempt: Attempt) -> None:
    for name in ("plain", "-n", "two words", "ü\udcff"):
        (attempt.base / os.fsencode(name).decode("utf-8", "surrogateescape")).write_bytes(b"12345")
    attempt.inputs((5, "plain"), (5, "-n"), (5, "two words"), (5, "ü\udcff"))
    assert attempt.run() == 0


@pytest.mark.parametrize("size", [4, 6])
def test_an_input_of_another_size_stops_it(attempt: Attempt, size: int) -> None:
    (attempt.base / "raw").write_bytes(b"12345")
    attempt.inputs((size, "raw"))
    attempt.payload("touch ../output/ran")
    assert attempt.run() == 76
    assert (attempt.record()["reason"], attempt.record()["exit_code"]) == ("input-missing", 76)
    assert not (attempt.folder / "output" / "ran").exists()


def test_a_missing_input_is_named(attempt: Attempt) -> None:
    (attempt.base / "here").write_bytes(b"1")
    attempt.inputs((1, "here"), (9, "gone.fits"))
    assert attempt.run() == 76
    assert "gone.fits" in attempt.log("stderr")


def test_an_argv_that_was_cut_runs_nothing(attempt: Attempt) -> None:
    attempt.argv("/bin/sh", "-c", "touch ../output/ran", end="")
    assert attempt.run() == 76
    assert not (attempt.folder / "output" / "ran").exists()


# --- signals -------------------------------------------------------------------------------------------


def test_a_payload_that_traps_term_and_exits_0_is_recorded_as_signalled(attempt: Attempt) -> None:
    attempt.payload("trap 'exit 0' TERM; touch ../output/ready; while :; do sleep 0.05; done")
    assert attempt.signalled(signal.SIGTERM) == 0
    assert (attempt.record()["signal"], attempt.record()["reason"]) == ("TERM", "signalled")


def test_a_payload_that_ignores_term_is_killed_and_recorded(attempt: Attempt) -> None:
    attempt.limits(0.3)
    attempt.payload("trap '' TERM; touch ../output/ready; while :; do sleep 0.05; done")
    assert attempt.signalled(signal.SIGTERM) == 137
    assert (attempt.record()["signal"], attempt.record()["exit_code"]) == ("TERM", 137)


def test_a_payload_is_given_its_time_after_term(attempt: Attempt) -> None:
    attempt.payload("trap 'sleep 0.6; exit 7' TERM; touch ../output/ready; while :; do sleep 0.05; done")
    assert attempt.signalled(signal.SIGTERM) == 7


def test_a_payload_that_ends_at_once_at_term_is_not_waited_for_longer(tmp_path: Path) -> None:
    for number in range(12):  # without care each of them takes its three seconds with one chance in two
        attempt = Attempt(tmp_path / str(number))
        attempt.limits(3)
        attempt.payload("touch ../output/ready; exec sleep 30")
        process = attempt.start()
        wait_for((attempt.folder / "output" / "ready").exists)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert time.monotonic() - told < 2


def test_a_term_that_comes_before_the_payload_begins_lets_none_begin(attempt: Attempt, tmp_path: Path) -> None:
    slow = tmp_path / "bin" / "env"  # the last program that is called before
    slow.parent.mkdir()
    slow.write_text('#!/bin/sh\ntouch ../asked; sleep 0.3\nexec /usr/bin/env "$@"\n')
    slow.chmod(0o755)
    attempt.payload("trap '' TERM; sleep 1; touch ../output/done")
    process = attempt.start(environment={"PATH": f"{slow.parent}:{os.environ['PATH']}"})
    wait_for((attempt.folder.parent / "asked").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert (attempt.record()["reason"], (attempt.folder / "output" / "done").exists()) == ("signalled", False)


@pytest.mark.parametrize("program", ["find", "sha256sum"])
def test_a_term_amid_listing_or_hashing_leaves_nothing_running(attempt: Attempt, tmp_path: Path, program: str) -> None:
    """What would kill after a while would kill whatever has the process number by then."""
    slow = tmp_path / "bin" / program
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\n[ "$1" != . ] && [ "$1" != -z ] || {{ touch {tmp_path}/asked; exec sleep 20; }}\n'
                    f'exec {shutil.which(program)} "$@"\n')  # fmt: skip
    slow.chmod(0o755)
    attempt.payload("echo x >../output/file")
    process = attempt.start(environment={"PATH": f"{slow.parent}:{os.environ['PATH']}"}, start_new_session=True)
    wait_for((tmp_path / "asked").exists)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert (attempt.record()["reason"], attempt.record()["signal"]) == ("signalled", "TERM")
    wait_for(lambda: session_of(process.pid) == [], seconds=2)


def session_of(leader: int) -> list[str]:
    """Processes of a session that still run."""
    listed = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(leader)], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if not line.startswith("Z")]


def test_term_twice_is_survived(attempt: Attempt) -> None:
    body = "n=0; while [ $n -lt 20 ]; do sleep 0.05; n=$((n+1)); done; exit 9"
    attempt.payload(f"trap 'echo term' TERM; touch ../output/ready; {body}")
    process = attempt.start()
    wait_for(lambda: (attempt.folder / "output" / "ready").exists())
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 9
    assert attempt.log("stdout").count("term") == 2


def test_int_reaches_the_payload(attempt: Attempt) -> None:
    program = "import signal,time,pathlib\npathlib.Path('../output/ready').touch()\ntime.sleep(30)"
    attempt.argv(sys.executable, "-c", "exec(" + repr(program) + ")")
    assert attempt.signalled(signal.SIGINT) == 130
    assert attempt.record()["signal"] == "INT"


def test_a_warning_that_the_payload_handles_is_no_end(attempt: Attempt) -> None:
    attempt.payload("trap 'exit 0' USR1; touch ../output/ready; while :; do sleep 0.05; done")
    assert attempt.signalled(signal.SIGUSR1) == 0
    assert (attempt.record()["signal"], attempt.record()["reason"]) == (None, "payload")


def test_a_payload_killed_from_outside_is_told_by_its_code(attempt: Attempt) -> None:
    attempt.payload("kill -KILL $$")
    assert attempt.run() == 137
    assert attempt.record()["exit_code"] == 137


def test_the_script_does_not_wait_for_grandchildren(attempt: Attempt) -> None:
    attempt.payload("sleep 30 & echo $! >../output/pid")
    began = time.monotonic()
    assert attempt.run() == 0
    assert time.monotonic() - began < 25
    os.kill(int((attempt.folder / "output" / "pid").read_text()), signal.SIGKILL)


# --- checksums -----------------------------------------------------------------------------------------


def test_every_output_has_its_checksum(attempt: Attempt) -> None:
    attempt.payload("mkdir -p ../output/a/b; printf abc >../output/a/b/c; : >../output/empty")
    attempt.run()
    expected = {b"a/b/c": hashlib.sha256(b"abc").hexdigest(), b"empty": hashlib.sha256(b"").hexdigest()}
    assert attempt.sums() == expected


def test_awkward_names_are_hashed_as_they_are(attempt: Attempt) -> None:
    names = [b"new\nline", b"-rf", b"\xff\xfe", b" space ", b"back\\slash", b"*"]
    for name in names:
        Path(os.fsdecode(os.fsencode(attempt.folder / "output") + b"/" + name)).write_bytes(name)
    attempt.run()
    assert attempt.sums() == {name: hashlib.sha256(name).hexdigest() for name in names}


def test_no_output_gives_an_empty_list(attempt: Attempt) -> None:
    attempt.run()
    assert attempt.sums() == {}
    assert attempt.record()["hash_exit_code"] == 0


def test_links_and_special_files_are_not_hashed(attempt: Attempt) -> None:
    attempt.payload("ln -s /etc/passwd ../output/link; mkfifo ../output/fifo")
    assert attempt.run() == 0
    assert attempt.sums() == {}


def test_ten_thousand_outputs_are_hashed(attempt: Attempt) -> None:
    for number in range(10_000):
        (attempt.folder / "output" / f"{number:05d}").touch()
    attempt.run()
    assert len(attempt.sums()) == 10_000


def test_an_output_that_vanishes_while_it_is_hashed_is_told(attempt: Attempt, tmp_path: Path) -> None:
    """Between the look at the folder and the sum of its files."""
    real = shutil.which("sha256sum")
    (tmp_path / "sha256sum").write_text(f'#!/bin/sh\nrm -f c d e\nexec {real} "$@"\n')
    (tmp_path / "sha256sum").chmod(0o755)
    attempt.payload("for f in a b c d e; do echo $f >../output/$f; done")
    assert attempt.run(environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"}) == 0
    assert attempt.record()["hash_exit_code"] != 0


@pytest.fixture
def foreign_attempt() -> Iterator[Attempt]:
    """An attempt of an ordinary user: root reads everything."""
    folder = Path(tempfile.mkdtemp(prefix="ccatwm-job-"))
    folder.chmod(0o755)
    attempt = Attempt(folder)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 65534, 65534)
    yield attempt
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an ordinary user")
def test_an_output_that_cannot_be_read_is_told(foreign_attempt: Attempt) -> None:
    foreign_attempt.payload("echo x >../output/secret; chmod 0 ../output/secret")
    assert foreign_attempt.run(user=65534, group=65534, extra_groups=[]) == 0
    assert foreign_attempt.record()["hash_exit_code"] != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an ordinary user")
def test_an_output_folder_that_cannot_be_entered_is_told(foreign_attempt: Attempt) -> None:
    foreign_attempt.payload("mkdir ../output/d; echo x >../output/d/f; chmod 0 ../output/d")
    assert foreign_attempt.run(user=65534, group=65534, extra_groups=[]) == 0
    assert foreign_attempt.record()["hash_exit_code"] != 0


# --- memory ------------------------------------------------------------------------------------------------

GREEDY = f"{sys.executable} -c 'held = bytearray(300 << 20)'"


def make_control_group(parent: Path, name: str) -> Path:
    """A control group of 60 MiB, below the memory hierarchy (v1) or the only one (v2). Skips where none can be made."""
    version_1 = (parent / "memory").is_dir()
    group = (parent / "memory" if version_1 else parent) / name
    limit, swap = (
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if version_1
        else ("memory.max", "memory.swap.max")
    )
    try:
        group.mkdir(parents=True)
        (group / limit).write_text(str(60 << 20))
        if (group / swap).exists():
            (group / swap).write_text(str(60 << 20) if version_1 else "0")
    except OSError as error:
        remove_control_group(group)
        pytest.skip(f"control groups cannot be written here: {error}")
    return group


def remove_control_group(group: Path) -> None:
    until = time.monotonic() + 5
    while group.is_dir():
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > until:
                return
            time.sleep(0.05)


@pytest.fixture
def control_group() -> Iterator[Path]:
    """That of job 77, as Slurm names it."""
    top = f"ccatwm-test-{os.getpid()}"
    group = make_control_group(Path("/sys/fs/cgroup"), f"{top}/job_77")
    yield group
    remove_control_group(group)
    remove_control_group(group.parent)


def run_in(group: Path, attempt: Attempt, job: str = "77") -> int:
    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    return attempt.run(preexec_fn=enter, environment={"SLURM_JOB_ID": job})


def test_a_program_that_the_kernel_ends_for_want_of_memory_is_told_from_one_that_fails(
    attempt: Attempt, control_group: Path
) -> None:
    attempt.payload(f"exec {GREEDY}")
    assert run_in(control_group, attempt) == 137
    assert (attempt.record()["exit_code"], attempt.record()["reason"]) == (137, "out-of-memory")


def test_a_program_that_lost_a_child_for_want_of_memory_and_failed_ran_out_of_it(
    attempt: Attempt, control_group: Path
) -> None:
    attempt.payload(f"{GREEDY}; exit 3")
    assert run_in(control_group, attempt) == 3
    assert attempt.record()["reason"] == "out-of-memory"


def test_in_a_control_group_of_many_a_program_that_failed_by_itself_is_not_blamed_for_another(
    attempt: Attempt, control_group: Path
) -> None:
    attempt.payload(f"{GREEDY}; exit 3")
    assert run_in(control_group, attempt, job="78") == 3
    assert attempt.record()["reason"] == "payload"


def test_a_program_that_lost_a_child_for_want_of_memory_and_went_on_has_succeeded(
    attempt: Attempt, control_group: Path
) -> None:
    attempt.payload(f"{GREEDY}; exit 0")
    assert run_in(control_group, attempt) == 0
    assert attempt.record()["reason"] == "payload"


def test_memory_that_ran_out_before_the_program_began_is_not_its_own(
    attempt: Attempt, control_group: Path
) -> None:
    attempt.payload(f"{GREEDY}; exit 0")
    run_in(control_group, attempt)
    shutil.rmtree(attempt.folder / "job" / "claims" / "0")
    (attempt.folder / "job" / "exit.json").unlink()
    attempt.payload("exit 3")
    assert run_in(control_group, attempt) == 3
    assert attempt.record()["reason"] == "payload"


# --- warnings and restarts --------------------------------------------------------------------------------


def test_a_warning_does_not_kill_a_payload_that_does_not_know_it(attempt: Attempt) -> None:
    attempt.payload("touch ../output/ready; sleep 1; exit 5")
    assert attempt.signalled(signal.SIGUSR1) == 5
    assert attempt.record()["reason"] == "payload"


def test_a_warning_reaches_a_descendant_that_catches_it(attempt: Attempt) -> None:
    inner = "trap 'touch ../output/saved; exit 0' USR1; touch ../output/ready; while :; do sleep 0.05; done"
    attempt.payload(f'sh -c "{inner}"; exit 3')
    assert attempt.signalled(signal.SIGUSR1) == 3
    assert (attempt.folder / "output" / "saved").exists()


def restarted(attempt: Attempt, number: int) -> Path:
    return attempt.folder.with_name(f"{attempt.folder.name}.r{number}")


def test_a_restart_writes_into_a_folder_of_its_own(attempt: Attempt) -> None:
    """What was started before may still write: a node that was given up is not always dead."""
    attempt.argv("/bin/sh", "-c", f'echo "$1" >{attempt.folder}/output/out', "sh", "argument")
    (attempt.folder / "config" / "manifest.json").write_text(f'{{"output": "{attempt.folder}/output"}}')
    (attempt.folder / "job" / "claims" / "0").mkdir()
    before = sorted(attempt.folder.rglob("*"))
    assert attempt.run(environment={"SLURM_RESTART_COUNT": "1"}) == 0
    again = restarted(attempt, 1)
    assert (again / "output" / "out").read_text() == "argument\n"
    assert (again / "config" / "manifest.json").read_text() == f'{{"output": "{again}/output"}}\n'
    record = json.loads((again / "job" / "exit.json").read_bytes())
    assert (record["exit_code"], record["token"]) == (0, TOKEN)
    assert [p for p in sorted(attempt.folder.rglob("*")) if p not in before] == [
        attempt.folder / "job" / "claims" / "1"
    ]


def test_a_start_that_was_ended_from_outside_may_be_started_again(attempt: Attempt) -> None:
    attempt.payload("touch ../output/ready; exec sleep 20")
    assert attempt.signalled(signal.SIGTERM) == 143
    attempt.payload("exit 0")
    assert attempt.run(environment={"SLURM_RESTART_COUNT": "1"}) == 0
    assert attempt.run(environment={"SLURM_RESTART_COUNT": "2"}) == 77  # the second start came to an end


# --- a full disk --------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Attempt]:
    """An attempt on a disk of 4 MB, all of whose blocks can be taken."""
    base = tmp_path / "small"
    base.mkdir()
    with small_disk(base, megabytes=4):
        yield Attempt(base)


def fill(folder: Path) -> str:
    return f"head -c 64M /dev/zero >{folder}/filler 2>/dev/null;"


def test_a_disk_that_is_full_before_the_inputs_are_compared_is_no_missing_input(small: Attempt) -> None:
    names = [f"an-input-with-a-long-name-{n}" for n in range(400)]
    (small.base / "data").mkdir()
    for name in names:
        (small.base / "data" / name).touch()
    small.inputs(*((0, f"data/{name}") for name in names))
    # Room for the reserved record, and for a page or two.
    subprocess.run(["sh", "-c", f"{fill(small.base)} truncate -s -8192 {small.base}/filler"], check=True)
    small.run()
    assert small.record()["reason"] == "no-space"


def test_a_disk_that_is_full_when_the_outputs_are_hashed_is_no_bad_output(small: Attempt) -> None:
    small.payload(f"for n in $(seq 300); do echo $n >output-$n; mv output-$n ../output/; done; {fill(small.base)} exit 0")
    small.run()
    record = small.record()
    assert (record["exit_code"], record["reason"]) == (0, "no-space")
