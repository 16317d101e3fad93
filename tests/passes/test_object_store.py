"""Raw data packages in an object store: real requests to a server of this machine, and what may go wrong on the way."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ccatwm import wiring
from ccatwm.core import objects
from ccatwm.edges.storage import s3
from ccatwm.edges.storage.s3 import S3Storage
from ccatwm.errors import CopyUnavailableError, CorruptCopyError, MissingCopyError, SettingsError
from ccatwm.interfaces import PackageCopy, PlainEffects
from ccatwm.settings.schema import LocationSettings, StageSettings
from ccatwm.upkeep._readable import Readable
from ccatwm.upkeep.control import Wanted, retry
from ccatwm.views.health import read_facts
from tests.fakes.object_store import BUCKET, KEY_ID, SECRET, ObjectStore, object_store
from tests.passes.bad_world import COPY, Scan, by_package, good_tar, observe, reduce, told

ENVIRON = {"S3_ARCHIVE_ACCESS_KEY_ID": KEY_ID, "S3_ARCHIVE_SECRET_ACCESS_KEY": SECRET}
GOOD = good_tar()


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture
def store(server: ObjectStore) -> ObjectStore:
    server.faults.clear()
    server.asked.clear()
    server.on_get = None
    return server


@pytest.fixture
def storage(store: ObjectStore) -> S3Storage:
    return reader_of(store)


def reader_of(
    store: ObjectStore, environ: dict[str, str] = ENVIRON, part_bytes: int = objects.PART_BYTES, **place: str
) -> S3Storage:
    location = LocationSettings(f"s3://{BUCKET}", endpoint_url=store.url, **place)
    return S3Storage(
        {"archive": location}, environ, PlainEffects(), pause=lambda seconds: None, part_bytes=part_bytes
    )


def copy(path: str, root: str | None = f"s3://{BUCKET}") -> PackageCopy:
    return PackageCopy("1", "archive", "s3", root, path)


def read(storage: S3Storage, what: PackageCopy) -> bytes:
    with storage.open(what) as stream:
        return b"".join(iter(lambda: stream.read(1 << 20), b""))


# --- what is there -------------------------------------------------------------------------------------------------


def test_a_package_is_a_tar_by_name_or_content_a_file_or_a_folder_of_objects(store, storage):
    for key, content in (("a.tar", b"x"), ("b", GOOD), ("c.fits", b"SIMPLE"), ("d/e.fits", b"e"), ("d/f/g.fits", b"g")):
        store.put(key, content)
    assert [storage.form(copy(path)) for path in ("a.tar", "b", "c.fits", "d")] == ["tar", "tar", "file", "directory"]


def test_objects_below_a_prefix_of_the_bucket_are_found_by_their_relative_path(store, storage):
    store.put("night/one/a.fits", b"a")
    assert read(storage, copy("one/a.fits", root=f"s3://{BUCKET}/night/")) == b"a"


def test_a_folder_is_its_objects_in_order_by_relative_name_without_marks_of_folders(store, storage):
    for key in ("t/b.fits", "t/a/z.fits", "t/", "t/a/", "tt/other.fits"):
        store.put(key, key.encode() if not key.endswith("/") else b"")
    found = {name: stream.read(100) for name, stream in storage.open_tree(copy("t"))}
    assert found == {"a/z.fits": b"t/a/z.fits", "b.fits": b"t/b.fits"}
    assert list(found) == ["a/z.fits", "b.fits"]


def test_more_objects_than_one_page_holds_are_all_found(store, storage, monkeypatch):
    for number in range(5):
        store.put(f"many/{number}", b"x")
    page = s3._Store._page
    monkeypatch.setattr(s3._Store, "_page", lambda self, folder, more: page(self, folder, {**more, "MaxKeys": 2}))
    assert [name for name, _ in storage.open_tree(copy("many"))] == ["0", "1", "2", "3", "4"]


def test_what_is_not_there_is_missing(store, storage):
    for ask in (storage.form, lambda what: read(storage, what)):
        with pytest.raises(MissingCopyError, match=r"nothing.tar at archive \(s3://raw\) is not there"):
            ask(copy("nothing.tar"))
    with pytest.raises(MissingCopyError):
        read(storage, copy("a.tar", root="s3://no-such-bucket"))


# --- pieces --------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(store) -> bytes:
    """An object of seven pieces and a bit, as `in_pieces` reads it."""
    content = os.urandom(700_123)
    store.put("large", content)
    store.asked.clear()
    return content


@pytest.fixture
def in_pieces(store) -> S3Storage:
    return reader_of(store, part_bytes=100_000)


def test_a_large_object_is_read_in_pieces(store, in_pieces, large):
    assert hashlib.sha256(read(in_pieces, copy("large"))).digest() == hashlib.sha256(large).digest()
    assert sorted(store.ranges())[:2] == ["bytes=0-99999", "bytes=100000-199999"]
    assert len(store.ranges()) == 8


@pytest.mark.parametrize("fault", ["503", "drop", "cut"])
def test_a_busy_or_broken_line_costs_time_and_no_bytes(store, in_pieces, large, fault):
    store.faults.extend([fault] * 6)
    assert read(in_pieces, copy("large")) == large


def test_a_piece_that_broke_off_goes_on_where_it_broke_off(store, storage, monkeypatch):
    content = os.urandom(400_000)
    store.put("one-piece", content)
    store.asked.clear()
    store.faults.append("cut")
    assert read(storage, copy("one-piece")) == content
    assert store.ranges() == ["bytes=0-399999", "bytes=200000-399999"]


def test_a_store_that_stays_busy_is_unavailable_and_no_copy_is_blamed(store, storage):
    store.put("busy", b"x" * 1000)
    store.faults.extend(["503"] * s3.TRIES)
    with pytest.raises(CopyUnavailableError) as met:
        read(storage, copy("busy"))
    assert met.value.message == f"data location archive: the store at {store.url} does not answer: SlowDown (503)"


def test_a_store_that_is_not_there_says_where_it_was_looked_for_and_why_and_no_object():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = ObjectStore(url=f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(CopyUnavailableError) as met:
            reader_of(away).form(copy("a.tar"))
    assert met.value.message == (
        f"data location archive: the store at {away.url} does not answer: "
        "Could not connect to the endpoint URL (Connection refused)"
    )
    assert met.value.next.endswith("set locations.archive.endpoint_url in settings.toml")


def test_an_object_that_is_replaced_while_it_is_read_is_corrupt(store, in_pieces, large):
    seen: list[str] = []

    def replace_after_three(path: str) -> None:
        seen.append(path)
        if len(seen) == 3:
            store.put("large", os.urandom(700_123))

    store.on_get = replace_after_three
    with pytest.raises(CorruptCopyError, match=r"large at archive .* was replaced while it was read"):
        read(in_pieces, copy("large"))


# --- who one is ----------------------------------------------------------------------------------------------------


def key_file(path: Path, mode: int = 0o600, section: str = "default") -> Path:
    path.write_text(f"[{section}]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
    path.chmod(mode)
    return path


def test_the_access_key_comes_from_the_file_of_the_location(store, tmp_path):
    store.put("a", b"a")
    file = key_file(tmp_path / "keys", section="archive")
    assert read(reader_of(store, {}, credentials_file=str(file), profile="archive"), copy("a")) == b"a"


def test_a_key_file_that_others_may_read_is_refused_with_what_to_do(store, tmp_path):
    file = key_file(tmp_path / "keys", 0o644)
    with pytest.raises(SettingsError) as refused:
        read(reader_of(store, {}, credentials_file=str(file)), copy("a"))
    assert refused.value.next == f"chmod 600 {file}"
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "content", ["", "[default]\naws_access_key_id = x\n", f"{SECRET}\n", f"[default]\n{SECRET}", f"\xff{SECRET}"]
)
def test_a_key_file_without_a_key_is_told_without_what_stands_in_it(store, tmp_path, content):
    file = tmp_path / "keys"
    file.write_text(content, encoding="latin-1")
    file.chmod(0o600)
    with pytest.raises(SettingsError, match=r"has no aws_access_key_id and aws_secret_access_key") as refused:
        read(reader_of(store, {}, credentials_file=str(file)), copy("a"))
    assert SECRET not in str(refused.value) and refused.value.__cause__ is None


def test_no_access_key_at_all_is_a_matter_of_settings(store, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="there is no access key for it") as refused:
        read(reader_of(store, {}), copy("a"))
    assert "S3_ARCHIVE_ACCESS_KEY_ID" in str(refused.value)


# --- through whole passes ------------------------------------------------------------------------------------------


@pytest.fixture
def night(empty_observatory, store):
    """Scans whose location `raw` is an object store, with a second one on disk where a test has one."""
    for name, value in ENVIRON.items():
        os.environ[name.replace("ARCHIVE", "RAW")] = value
    empty_observatory.settings_changes["locations"] = {"raw": LocationSettings(f"s3://{BUCKET}", endpoint_url=store.url)}
    yield empty_observatory
    for name in ENVIRON:
        del os.environ[name.replace("ARCHIVE", "RAW")]


def in_the_store(night, store: ObjectStore, *scans: Scan) -> None:
    observe(night, *scans)
    night.execute("UPDATE data_location SET storage_type = 's3' WHERE name = 'raw'")
    for scan in scans:
        key = f"{scan.name}.{scan.ending}"
        if scan.copies.get("raw", scan.content) is not None:
            store.put(key, scan.copies.get("raw") or scan.content)
        (night.folder / "raw" / key).unlink(missing_ok=True)


def test_a_run_reads_its_package_from_the_object_store(night, store):
    in_the_store(night, store, Scan("one", GOOD))
    reduce(night, COPY)
    night.until_quiet()
    run = by_package(night)["one"]
    assert run["status"] == "COMPLETED"
    assert (night.base / run["output_directory"] / "science" / "a.bin").read_bytes() == b"a" * 99


def test_a_damaged_object_is_reported_and_the_copy_on_disk_is_taken(night, store):
    in_the_store(night, store, Scan("one", GOOD, copies={"raw": GOOD[:-1] + b"?", "buffer": GOOD}))
    night.execute("UPDATE data_location SET priority = 20 WHERE name = 'raw'")
    reduce(night, COPY)
    night.until_quiet()
    assert by_package(night)["one"]["status"] == "COMPLETED"
    (report,) = night.rows("copy_report")
    assert (report["location"], report["finding"]) == ("raw", "corrupt")


def test_runs_wait_for_a_store_that_is_away_without_losing_an_attempt_and_go_on(night, store, monkeypatch):
    in_the_store(night, store, Scan("one", GOOD), Scan("two", GOOD))
    reduce(night, COPY)
    places = night.settings_changes["locations"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = replace(places["raw"], endpoint_url=f"http://127.0.0.1:{closed.getsockname()[1]}")
        night.settings_changes["locations"] = {"raw": away}
        night.run_pass("trigger")
        night.run_pass("resolve")
        monkeypatch.setattr(s3, "FIRST_PAUSE_SECONDS", 0.0)  # of pauses that double
        report = night.run_pass("stage")
    assert [(item.outcome, item.run is not None) for item in report.items] == [("unavailable", True)] * 2
    (line,) = told(night, [report])
    assert line.startswith("ccatwm: stage: 2 runs held back, their data cannot be reached: package ")
    for name, run in by_package(night).items():
        assert run["message"].startswith(f"package {name}-LFA: data location raw: the store at {away.endpoint_url} ")
        assert ".tar" not in run["message"] and "it is asked again by itself" in run["message"]
    (trouble,) = unreached(night)
    assert (trouble.runs, trouble.why.startswith(f"data location raw: the store at {away.endpoint_url} ")) == (2, True)
    assert {run["attempt"] for run in night.runs()} == {0} and night.rows("copy_report") == []
    night.settings_changes["locations"] = places
    night.until_quiet()
    assert {run["status"] for run in night.runs()} == {"COMPLETED"} and unreached(night) == ()


def unreached(night):
    """What `health` reads."""
    context = night.context()
    try:
        return read_facts(context.settings, context.database, context.grouping, now=context.clock.now()).unreached
    finally:
        context.database.dispose()


def test_until_idle_does_not_wait_for_a_store_that_is_away_however_soon_it_is_asked_again(night, store, monkeypatch):
    in_the_store(night, store, Scan("one", GOOD))
    reduce(night, COPY)
    places = night.settings_changes["locations"]
    night.settings_changes["locations"] = {"raw": replace(places["raw"], endpoint_url="http://127.0.0.1:1")}
    monkeypatch.setattr(s3, "FIRST_PAUSE_SECONDS", 0.0)
    for name in ("trigger", "resolve"):
        night.run_pass(name)
    began = night.run_pass("stage").started_at - timedelta(seconds=1)
    night.minute += 1  # the pass took so long that the run is to be looked at again
    context = night.context()
    try:
        assert [run["status"] for run in night.runs()] == ["STAGING_DATA"]
        assert not wiring.work_is_left(context, since=began)
        assert wiring.work_is_left(context, since=began + timedelta(minutes=3))  # it was due, and was not looked at
    finally:
        context.database.dispose()


def _none(keys: Path) -> None:
    pass


def _open_to_others(keys: Path) -> None:
    key_file(keys, 0o644)


def _cut(keys: Path) -> None:
    keys.write_text("[default]\naws_access_key_id")
    keys.chmod(0o600)


def _empty(keys: Path) -> None:
    keys.write_text("[default]\naws_access_key_id =\naws_secret_access_key = x\n")
    keys.chmod(0o600)


@pytest.mark.parametrize("executor", ["pass", "job"])
@pytest.mark.parametrize(
    ("mistake", "to_do"),
    [
        (_none, "see its path and rights"),
        (_open_to_others, "chmod 600 "),
        (_cut, "write them there, or name another"),
        (_empty, "write them there, or name another"),
    ],
)
def test_runs_wait_uncharged_until_the_key_file_of_their_location_is_mended(
    night, store, tmp_path, executor, mistake, to_do
):
    keys = tmp_path / "keys"
    mistake(keys)
    places = night.settings_changes["locations"]
    night.settings_changes["locations"] = {"raw": replace(places["raw"], credentials_file=str(keys))}
    night.settings_changes["stage"] = StageSettings(executor=executor)
    in_the_store(night, store, Scan("one", GOOD))
    reduce(night, COPY)
    for name in ("trigger", "resolve", "stage"):
        report = night.run_pass(name)
    if executor == "job":
        assert night.jobs() == 1
        report = night.run_pass("stage")
    assert [item.outcome for item in report.items] == ["unavailable"]
    run = by_package(night)["one"]
    assert (run["status"], run["retries_used"], run["failure_class"]) == ("STAGING_DATA", 0, None)
    assert run["message"].startswith(f"package one-LFA: data location raw: the key file {keys} ")
    assert to_do in run["message"]
    assert night.rows("copy_report") == []
    key_file(keys)
    if executor == "job":
        night.minute += 1
        assert night.run_pass("stage").items == []  # no job a minute for as long as it lasts
        night.minute += 4
    night.until_quiet()
    assert by_package(night)["one"]["status"] == "COMPLETED"


def test_an_outage_under_staging_jobs_is_told_when_it_begins_and_when_it_is_over(night, store, tmp_path):
    """Passes between two jobs, and those while one reads, do not know."""
    keys = tmp_path / "keys"
    places = night.settings_changes["locations"]
    night.settings_changes["locations"] = {"raw": replace(places["raw"], credentials_file=str(keys))}
    night.settings_changes["stage"] = StageSettings(executor="job")
    in_the_store(night, store, Scan("one", GOOD), Scan("two", GOOD))
    reduce(night, COPY, group_by="source")
    said = told(night, night.cycle())
    for _ in range(14):
        night.minute += 1
        said += told(night, night.cycle())
        night.jobs()
    assert [line.partition(":")[2].partition(",")[0] for line in said] == [" stage: 1 run held back"]
    key_file(keys)
    night.minute += 5
    assert [line[:17] for line in told(night, night.until_quiet())] == ["ccatwm: over sinc"]
    assert by_package(night)["one"]["status"] == "COMPLETED"


def test_a_location_without_a_usable_root_keeps_no_run_from_another_copy_and_costs_none_a_retry(night, store):
    observe(night, Scan("one", GOOD, copies={"raw": GOOD, "buffer": GOOD}), Scan("two", GOOD))
    night.settings_changes["locations"] = {"raw": LocationSettings("raw")}
    night.execute("UPDATE data_location SET priority = 20 WHERE name = 'raw'")
    reduce(night, COPY)
    night.until_quiet()
    one, two = by_package(night)["one"], by_package(night)["two"]
    assert (one["status"], two["status"], two["retries_used"]) == ("COMPLETED", "STAGING_DATA", 0)
    assert two["message"] == (
        "package two-LFA: data location raw has no absolute root to read from (root is 'raw'); "
        "set locations.raw.root in settings.toml"
    )


def test_a_copy_on_tape_is_answered_by_who_brings_it(night, store):
    in_the_store(night, store, Scan("one", GOOD))
    night.execute("UPDATE data_location SET storage_type = 'tape' WHERE name = 'raw'")
    reduce(night, COPY)
    night.until_quiet()
    assert 'raw: it lies on tape, which is not read here; let data transfer bring it: STAGING_MODE = "request"' in (
        by_package(night)["one"]["message"]
    )
    assert night.rows("copy_report") == []  # it is not lost


def test_a_retry_of_a_run_whose_copies_cannot_be_read_here_says_that_it_fails_again_and_until_when(night, store):
    in_the_store(night, store, Scan("one", GOOD))
    night.execute("UPDATE data_location SET storage_type = 'tape' WHERE name = 'raw'")
    reduce(night, COPY)
    for _ in range(5):  # until its retries are used up
        night.until_quiet()
        night.minute += 300
    run = by_package(night)["one"]
    assert (run["status"], run["is_open"]) == ("FAILED", False)

    def retried(**changes):
        context = night.context()
        try:
            readable = Readable("local", context.grouping, frozenset(context.storages))
            wanted = Wanted((run["id"],), reason="r", actor="a", host="h", dry_run=True, **changes)
            (item,) = retry(context.database, wanted, now=context.clock.now(), readable=readable).runs
            return item.outcome, item.reason
        finally:
            context.database.dispose()

    outcome, reason = retried()
    assert outcome == "done" and reason.startswith(
        "it fails again until a copy of package one-LFA can be read here (raw: it lies on tape"
    )
    assert reason.endswith("`ccatwm lineage package:one-LFA` lists its copies")
    night.execute("UPDATE data_location SET storage_type = 's3' WHERE name = 'raw'")
    assert retried() == ("done", "")
    night.execute("UPDATE data_location SET active = false")
    assert "the ops-db knows no copy of it at an active location" in retried()[1]


def test_the_access_key_is_nowhere_in_files_rows_or_messages(night, store):
    in_the_store(night, store, Scan("one", GOOD), Scan("gone", GOOD, copies={"raw": None}))
    reduce(night, COPY)
    reports = night.until_quiet()
    written = b"".join(p.read_bytes() for p in night.folder.rglob("*") if p.is_file())
    assert SECRET.encode() not in written
    assert SECRET not in "".join(told(night, reports))


def test_a_job_at_the_processing_site_reads_it_with_keys_from_a_file_that_it_is_told_of(night, store, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
    keys.chmod(0o600)
    places = night.settings_changes["locations"]
    night.settings_changes["locations"] = {"raw": replace(places["raw"], credentials_file=str(keys))}
    night.settings_changes["stage"] = StageSettings(executor="job")
    in_the_store(night, store, Scan("one", GOOD))
    reduce(night, COPY)
    for name in ("trigger", "resolve", "stage"):
        night.run_pass(name)
    written = b"".join(p.read_bytes() for p in night.base.rglob("*") if p.is_file())
    assert str(keys).encode() in written and SECRET.encode() not in written
    night.until_quiet()
    assert by_package(night)["one"]["status"] == "COMPLETED"
    assert len(night.rows("transfer_job")) == 1
