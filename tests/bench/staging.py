"""Figures of `stage`, part of the group `data`: packages from disk and from an object store.

Touches: /var/tmp (some gigabytes, written durably by both sides: what is done by hand ends with `sync -f`), an object
store of its own on 127.0.0.1.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.figures import Figure, measure
from tests.bench.slurm_site import PIPELINE, BenchSite, line
from tests.fakes.object_store import BUCKET, KEY_ID, SECRET

GIB = 1 << 30
FILE_BYTES = 1 << 20
SETTINGS = """
[default]
PIPELINE_BASE_DIR = "pipelines"
PROCESSING_LOCATION_ID = "local"
OPSDB_URL = "sqlite:///opsdb.sqlite"
CONTAINER_RUNTIME = "apptainer"
MIN_FREE_GB = 0
CONFIRM_RUNS = 100000
MAX_SECONDS_STAGE = 600
LEASE_SECONDS = 600
"""


def run_staging() -> Iterator[Figure]:
    with TemporaryDirectory(prefix="ccatwm-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        yield from stage_2gb(folder)
        yield restage_20000(folder)
        yield stage_1000_small(folder)
        yield s3(folder)


# --- one large package, and once more ----------------------------------------------------------------------------------


def stage_2gb(folder: Path) -> Iterator[Figure]:
    """A tar of 2,048 files of 1 MiB beside `tee` into `sha256sum` and `tar x`; then a second run on it beside `cp -al`."""
    raw = folder / "large"
    raw.mkdir()
    package = write_package(raw / "s0.tar", 2048, FILE_BYTES)
    site = Site.make(folder / "site", raw, [package])
    hand = folder / "by-hand"
    yield measure("stage-2gb", site.staging(), lambda: by_hand(hand, [package.path]), "<=1.3", pairs=5)
    yield measure("restage", site.restaging(), lambda: link_by_hand(hand), "<=1.5", pairs=9)
    for done in (raw, hand, site.folder):
        shutil.rmtree(done)


def restage_20000(folder: Path) -> Figure:
    """A second run on a package of very many files beside `cp -al`: what any pass takes counts for little there."""
    raw = folder / "many"
    raw.mkdir()
    package = write_package(raw / "s0.tar", 20_000, 1 << 12)
    site = Site.make(folder / "many-site", raw, [package])
    hand = folder / "many-by-hand"
    by_hand(hand, [package.path])
    site.staging()()
    figure = measure("restage-20000", site.restaging(), lambda: link_by_hand(hand), "<=1.5", pairs=9)
    for done in (raw, hand, hand.with_name(f"{hand.name}-linked"), site.folder):
        shutil.rmtree(done)
    return figure


def stage_1000_small(folder: Path) -> Figure:
    """1,000 runs of a package of one file of 64 KiB each, beside a shell loop that unpacks and sums them."""
    raw = folder / "small"
    raw.mkdir()
    packages = [write_package(raw / f"s{n}.tar", 1, 1 << 16) for n in range(1000)]
    site = Site.make(folder / "small-site", raw, packages)
    hand = folder / "small-by-hand"
    paths = [package.path for package in packages]
    figure = measure("stage-1000-small", site.staging(), lambda: by_hand(hand, paths), "<=1.0", pairs=5)
    for done in (raw, hand, site.folder):
        shutil.rmtree(done)
    return figure


def by_hand(target: Path, packages: list[Path]) -> float:
    """What a careful person types: one read for the sum and the files, and all of it on disk at the end."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    script = """
    for package in "$@"; do
        into=$0/${package##*/}
        mkdir "$into" && tee >(sha256sum >"$into.sum") <"$package" | tar x -C "$into" || exit
    done
    sync -f "$0"
    """
    return _timed(lambda: subprocess.run(["bash", "-c", script, str(target), *map(str, packages)], check=True))


def link_by_hand(target: Path) -> float:
    copy = target.with_name(f"{target.name}-linked")
    shutil.rmtree(copy, ignore_errors=True)
    return _timed(lambda: subprocess.run(["cp", "-al", str(target), str(copy)], check=True))


# --- an object store ---------------------------------------------------------------------------------------------------


def s3(folder: Path) -> Figure:
    """A file of 1 GiB beside boto3's own `download_file` and `sha256sum`, both flushed to disk."""
    raw = folder / "objects"
    raw.mkdir()
    package = write_file(raw / "s0.fits", GIB)
    with _store(raw) as url:
        site = Site.make(folder / "s3-site", raw, [package], endpoint_url=url)
        hand = folder / "s3-by-hand"
        hand.mkdir()
        figure = measure("s3", site.staging(), lambda: _download(url, package.path.name, hand / "file"), "<=1.25", pairs=5)
    for done in (raw, hand, site.folder):
        shutil.rmtree(done)
    return figure


def _download(url: str, key: str, target: Path) -> float:
    import boto3

    target.unlink(missing_ok=True)
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET, region_name="us-east-1"
    )

    def get() -> None:
        client.download_file(BUCKET, key, str(target))
        subprocess.run(["sha256sum", str(target)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["sync", str(target)], check=True)

    return _timed(get)


@contextmanager
def _store(raw: Path) -> Iterator[str]:
    """A store in a process of its own whose objects are the files of a folder."""
    program = (
        "import sys, pathlib\n"
        "from tests.fakes.object_store import object_store\n"
        "with object_store(pathlib.Path(sys.argv[1])) as store:\n"
        "    print(store.url, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(raw)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None and server.stdin is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()
            server.wait(30)


# --- packages and sites -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    path: Path
    size_bytes: int
    checksum: str


def write_package(path: Path, files: int, size: int) -> Package:
    """A tar of files that no disk can compress."""
    with tarfile.open(path, "w") as archive:
        for n in range(files):
            member = tarfile.TarInfo(f"part-{n % 16}/scan-{n}.fits")
            member.size = size
            archive.addfile(member, io.BytesIO(os.urandom(size)))
    return _summed(path)


def write_file(path: Path, size: int) -> Package:
    with path.open("wb") as stream:
        for _ in range(size // FILE_BYTES):
            stream.write(os.urandom(FILE_BYTES))
    return _summed(path)


def _summed(path: Path) -> Package:
    with path.open("rb") as stream:
        return Package(path, path.stat().st_size, f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}")


@dataclass
class Site(BenchSite):
    """A site whose runs wait to be staged. What a pass changes is put back before each measurement."""

    @staticmethod
    def make(folder: Path, raw: Path, packages: list[Package], endpoint_url: str = "") -> Site:
        subprocess.run([sys.executable, "-m", "ccatwm", "init", folder], check=True, stdout=subprocess.DEVNULL)
        place = {"root": f"s3://{BUCKET}", "endpoint_url": endpoint_url} if endpoint_url else {"root": str(raw)}
        table = "\n[default.locations.raw]\n" + "".join(f'{key} = "{value}"\n' for key, value in place.items())
        (folder / "settings.toml").write_text(SETTINGS + table)
        os.environ |= {"S3_RAW_ACCESS_KEY_ID": KEY_ID, "S3_RAW_SECRET_ACCESS_KEY": SECRET}
        (folder / "observations.jsonl").write_text("".join(_observations(packages, "s3" if endpoint_url else "disk")))
        # With an image: what runs without a container gets copies of its inputs, since nothing keeps it from writing there.
        (folder / "image.sif").write_text("no program of it is run here")
        pipeline = PIPELINE.format(program="/bin/true", hours=1)
        with_image = pipeline.replace("version: 1.0.0,", f"version: 1.0.0, image: {folder / 'image.sif'},")
        (folder / "pipelines.yaml").write_text(with_image)
        site = Site(folder)
        site.command("ingest", folder / "observations.jsonl")
        site.command("apply", "--yes", folder / "pipelines.yaml")
        site.command("trigger", "--pipeline", "p", "--reason", "bench", "--yes")
        for name in ("trigger", "resolve"):
            site.command(name)
        _copy_database(folder / "opsdb.sqlite", folder / "waiting.sqlite")
        return site

    def command(self, *words: object) -> None:
        argv = [sys.executable, "-m", "ccatwm", "--site", self.folder, *words]
        subprocess.run(list(map(str, argv)), check=True, stdout=subprocess.DEVNULL)

    def staging(self) -> Callable[[], float]:
        """Seconds of a `stage` that finds nothing in the cache."""

        def run() -> float:
            shutil.rmtree(self.folder / "pipelines/.cache", ignore_errors=True)
            return self._stage()

        return run

    def restaging(self) -> Callable[[], float]:
        """Seconds of a `stage` that finds all in the cache; the last one brought it."""
        kept = self.folder / "cached.sqlite"

        def run() -> float:
            if not kept.exists():
                self._stage()
                _copy_database(self.folder / "opsdb.sqlite", kept)
            return self._stage(cached=True)

        return run

    def _stage(self, *, cached: bool = False) -> float:
        shutil.rmtree(self.folder / "pipelines/p", ignore_errors=True)
        for left in self.folder.glob("opsdb.sqlite*"):
            left.unlink()
        shutil.copy(self.folder / "waiting.sqlite", self.folder / "opsdb.sqlite")
        context = self.context()
        if cached:
            self._take_cache(context)
        seconds = _timed(lambda: self.run_pass(context, "stage"))
        context.database.dispose()
        assert list((self.folder / "pipelines/p/one").glob("*/run-*/input/*/*"))
        return seconds

    def _take_cache(self, context: object) -> None:
        """What the ops-db knew of the cache after the last staging."""
        with sqlite3.connect(self.folder / "opsdb.sqlite") as connection:
            connection.execute("ATTACH ? AS kept", (str(self.folder / "cached.sqlite"),))
            connection.execute("INSERT INTO staged_package SELECT * FROM kept.staged_package")


def _observations(packages: list[Package], storage: str) -> Iterator[str]:
    yield line("data_location", name="raw", location_type="long_term_archive", storage_type=storage)
    yield line("source", name="X", source_kind="fixed", ra_deg=1, dec_deg=2)
    yield line("obs_unit", name="u", source="X", observing_program="p")
    for n, package in enumerate(packages):
        yield line(
            "executed_obs_unit", name=f"e{n}", obs_unit="u", start_time="2026-03-01T02:00:00Z",
            end_time="2026-03-01T02:10:00Z", status="completed",
        )  # fmt: skip
        yield line(
            "raw_data_package", name=f"s{n}", executed_obs_unit=f"e{n}", instrument_module="CHAI/LFA", state="archived",
            location="raw", path=package.path.name, size_bytes=package.size_bytes, checksum=package.checksum,
        )  # fmt: skip


def _copy_database(source: Path, target: Path) -> None:
    """With what still stands in its write-ahead log."""
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
