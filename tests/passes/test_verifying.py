"""What became of an output between its job and collecting: real files, the records of real `find` and `sha256sum`."""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest

from ccatwm.core.lineage import write_run_record
from ccatwm.core.model import ProductType, StepRole
from ccatwm.core.outputs import MAX_RECORD, Verify, parse_listing
from ccatwm.core.products import ProductPlan, plan_output
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.interfaces import PlainEffects
from ccatwm.passes.collect import (
    Asked,
    BadOutputError,
    Collected,
    RecordsNotThereError,
    _checked_output,
    _read_each,
)

pytestmark = pytest.mark.quick
LIST = ["find", ".", "-mindepth", "1", "-printf", r"%y %s %T@\0%P\0%l\0"]
SUMS = ["find", ".", "-type", "f", "-exec", "sha256sum", "-z", "--", "{}", "+"]
ATTEMPT = PurePosixPath("p/s/all/run-1/attempt-1")


@dataclass
class Ended:
    """An attempt whose job has ended; `look` is what `collect` makes of it."""

    base: Path
    hashed: list[int] = field(default_factory=list)  # files that were read, call by call

    @property
    def output(self) -> Path:
        return self.base / ATTEMPT / "output"

    def put(self, name: str | bytes, content: bytes = b"x") -> Path:
        path = Path(os.fsdecode(os.fsencode(self.output) + b"/" + os.fsencode(name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def end(self, *, listed: bool = True) -> None:
        """As the job script does it."""
        job = self.base / ATTEMPT / "job"
        job.mkdir(parents=True)
        if listed:
            record = subprocess.run(LIST, cwd=self.output, capture_output=True, check=True).stdout
            (job / "outputs.list").write_bytes(record)
        sums = subprocess.run(SUMS, cwd=self.output, capture_output=True, check=False).stdout
        (job / "outputs.sha256").write_bytes(sums)

    def frame(self) -> Any:
        files = LocalWorkFiles(self.base, PlainEffects())

        def hash_files(paths: Any) -> Any:
            paths = list(paths)
            self.hashed.append(len(paths))
            return files.hash_files(paths)

        names = ("list_trees", "list_records", "read_files")
        seen = SimpleNamespace(hash_files=hash_files, **{name: getattr(files, name) for name in names})
        return SimpleNamespace(context=SimpleNamespace(workfiles=seen), checkpoint=lambda: None)

    def look(self, verify: Verify = Verify.SIZE, role: StepRole = StepRole.FINAL) -> ProductPlan:
        frame, asked = self.frame(), Asked(ATTEMPT, verify)
        output = _read_each(frame, {1: asked})[1]
        if isinstance(output, Exception):
            raise output
        listing, hashes = _checked_output(frame, asked, output)
        return plan_output(listing, hashes, output.declared, role=role)


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    made = Ended(tmp_path)
    for name in ("science/map.fits", "science/cube.zarr/zarr.json", "science/cube.zarr/c/0/0", "qa/rms.json"):
        made.put(name, name.encode())
    return made


def paths(plan: ProductPlan) -> list[str]:
    assert plan.problem is None, plan.problem
    return [product.name for product in plan.products]


def refused(ended: Ended, verify: Verify = Verify.SIZE) -> str:
    with pytest.raises(BadOutputError) as caught:
        ended.look(verify)
    return caught.value.message


@pytest.mark.parametrize("verify", Verify)
def test_an_output_that_is_as_the_job_saw_it_is_good(ended: Ended, verify: Verify) -> None:
    ended.end()
    assert paths(ended.look(verify)) == ["qa/rms.json", "science/cube.zarr", "science/map.fits"]


@pytest.mark.parametrize(("verify", "read"), [(Verify.NONE, 0), (Verify.SIZE, 0), (Verify.FULL, 4)])
def test_only_a_full_verification_reads_files_again(ended: Ended, verify: Verify, read: int) -> None:
    ended.end()
    ended.look(verify)
    assert sum(ended.hashed) == read


CHANGES: dict[str, tuple[Callable[[Ended], Any], str]] = {
    "gone": (lambda e: (e.output / "science/map.fits").unlink(), "science/map.fits was hashed by the job, but is gone"),
    "extra": (lambda e: e.put("science/late"), "science/late came after the job had hashed its output"),
    "longer": (
        lambda e: e.put("science/map.fits", b"x" * 99),
        "science/map.fits was changed after the job had hashed it: 99 bytes instead of 16",
    ),
    "other content": (
        lambda e: e.put("science/cube.zarr/c/0/0", b"y" * len("science/cube.zarr/c/0/0")),
        "output science/cube.zarr/c/0/0 was changed after the job had hashed it",
    ),
    "a link instead": (
        lambda e: ((e.output / "qa/rms.json").unlink(), os.symlink("../science/map.fits", e.output / "qa/rms.json")),
        "qa/rms.json was hashed by the job, but is gone",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("verify", [Verify.SIZE, Verify.FULL])
def test_what_became_of_a_file_is_named(ended: Ended, what: str, verify: Verify) -> None:
    ended.end()
    change, words = CHANGES[what]
    change(ended)
    assert words in refused(ended, verify)


@pytest.mark.parametrize("what", CHANGES)
def test_without_verification_the_record_of_the_job_holds(ended: Ended, what: str) -> None:
    ended.end()
    CHANGES[what][0](ended)
    assert paths(ended.look(Verify.NONE)) == ["qa/rms.json", "science/cube.zarr", "science/map.fits"]


def test_a_file_that_was_only_touched_is_hashed_again_and_good(ended: Ended) -> None:
    ended.end()
    os.utime(ended.output / "science/map.fits", ns=(1, 1))
    assert "science/map.fits" in paths(ended.look())
    assert ended.hashed == [1]


def test_other_bytes_of_the_same_size_and_time_are_found_by_a_full_verification_alone(ended: Ended) -> None:
    ended.end()
    path = ended.output / "science/map.fits"
    times = path.stat()
    path.write_bytes(b"y" * times.st_size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "science/map.fits" in paths(ended.look())
    assert "science/map.fits was changed" in refused(ended, Verify.FULL)


def test_what_is_written_while_the_job_hashes_is_seen(ended: Ended) -> None:
    """The list was there before; the checksum is of what came later."""
    ended.end()
    ended.put("science/map.fits", b"z" * 16)
    sums = subprocess.run(SUMS, cwd=ended.output, capture_output=True, check=True).stdout
    (ended.base / ATTEMPT / "job/outputs.sha256").write_bytes(sums)
    assert "science/map.fits" in paths(ended.look()), "it is what the checksum says"
    ended.put("science/map.fits", b"w" * 16)
    assert "was changed" in refused(ended)


@pytest.mark.parametrize("verify", Verify)
def test_a_job_that_kept_no_list_is_collected_by_what_is_there(ended: Ended, verify: Verify) -> None:
    ended.end(listed=False)
    assert len(paths(ended.look(verify))) == 3
    ended.put("science/map.fits", b"z" * 16)
    os.utime(ended.output / "science/map.fits", ns=(1 << 61, 1 << 61))
    assert "was changed" in refused(ended, verify)


NAMES = [b"caf\xe9.fits", b"two\nlines", b"tab\there", b"100%", "\u00fc\u202e.txt".encode(), b"-rf", b" "]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verify", Verify)
def test_a_file_of_any_name_is_a_product(ended: Ended, name: bytes, verify: Verify) -> None:
    ended.put(b"science/" + name)
    ended.put(b"science/cube.zarr/" + name)
    ended.end()
    plan = ended.look(verify)
    assert plan.problem is None
    (product,) = [p for p in plan.products if p.raw == b"science/" + name]
    assert product.type is ProductType.SCIENCE and product.name.isprintable()


def test_links_and_special_files_are_refused_and_named(ended: Ended) -> None:
    os.symlink("map.fits", ended.output / "science/alias")
    os.mkfifo(ended.output / "qa/pipe")
    ended.end()
    plan = ended.look(Verify.FULL)
    assert len(paths(plan)) == 3
    assert plan.warnings == ("refused (links and special files are no products): qa/pipe, science/alias",)


def test_a_link_that_leads_out_is_bad_output(ended: Ended) -> None:
    os.symlink("../../job", ended.output / "science/out")
    ended.end()
    assert ended.look().problem == "science/out is a symbolic link that leads out of the output"


def test_empty_folders_are_no_products(ended: Ended) -> None:
    (ended.output / "plots").mkdir()
    ended.end()
    (ended.output / "statistics").mkdir()  # nobody cares for one that comes later
    assert len(paths(ended.look())) == 3


def test_a_folder_that_cannot_be_read_is_an_error_of_this_run(ended: Ended) -> None:
    ended.end()
    if os.geteuid() == 0:
        deep = ended.output
        for _ in range(210):  # root reads all there is; deeper folders than are walked it does not
            deep = deep / "d"
        deep.mkdir(parents=True)
        words = "nested more than"
    else:
        (ended.output / "science").chmod(0)
        words = "Permission denied"
    found = _read_each(ended.frame(), {1: Asked(ATTEMPT, Verify.SIZE), 2: Asked(ATTEMPT, Verify.NONE)})
    assert words in str(found[1])
    assert not isinstance(found[2], Exception), "the output of another is read all the same"


def test_an_output_that_does_not_show_yet_is_waited_for(ended: Ended) -> None:
    with pytest.raises(RecordsNotThereError):
        ended.look()


@pytest.mark.parametrize("name", ["outputs.list", "outputs.sha256"])
def test_a_record_that_was_cut_is_no_record(ended: Ended, name: str) -> None:
    ended.end()
    record = ended.base / ATTEMPT / "job" / name
    record.write_bytes(record.read_bytes()[:-3])
    assert "was cut" in refused(ended)


def test_a_record_longer_than_is_read_says_what_to_do(ended: Ended) -> None:
    ended.end()
    os.truncate(ended.base / ATTEMPT / "job/outputs.sha256", MAX_RECORD + 10)
    assert "write fewer and larger files" in refused(ended)


FILES = 20_000
BYTES_PER_FILE = 1100  # of 100,000 files 110 MB, beside the 70 MB of the program


@pytest.mark.parametrize("store", [False, True])
def test_the_memory_of_collecting_is_bounded_by_the_number_of_files(ended: Ended, store: bool) -> None:
    folder = ended.output / "science" / ("big.zarr" if store else "many")
    for n in range(FILES):
        if n % 1000 == 0:
            (folder / f"c{n // 1000:03}").mkdir(parents=True)
        os.close(os.open(folder / f"c{n // 1000:03}" / f"chunk-of-the-map-{n:06}.fits", os.O_CREAT | os.O_WRONLY))
    ended.end()
    tracemalloc.start()
    try:
        plan = ended.look()
        run = SimpleNamespace(directory=str(ATTEMPT))
        numbers = range(1_000_000, 1_000_000 + len(plan.products))
        rows = Collected(run, run, (), plan, (), 0, numbers).rows()  # type: ignore[arg-type]
        size = len(write_run_record({"run": 1}, rows))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(plan.products) == (4 if store else FILES + 3)
    assert size > (100 if store else 100 * FILES)
    assert peak < BYTES_PER_FILE * FILES, f"{peak / FILES:.0f} bytes per file"


def test_what_is_listed_is_what_find_lists(ended: Ended) -> None:
    ended.put(b"science/caf\xe9\n")
    os.symlink("map.fits", ended.output / "science/alias")
    os.mkfifo(ended.output / "qa/pipe")
    ours = LocalWorkFiles(ended.base, PlainEffects()).list_records([ATTEMPT / "output"])[ATTEMPT / "output"]
    theirs = subprocess.run(LIST, cwd=ended.output, capture_output=True, check=True).stdout
    assert ours is not None and parse_listing(ours) == parse_listing(theirs)
