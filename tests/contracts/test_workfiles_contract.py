"""What every `WorkFiles` does, whatever is behind it. One suite; a backend is one more fixture parameter."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ccatwm.core.digests import tree_digest
from ccatwm.core.input_lists import lines_of
from ccatwm.core.outputs import entry_record, parse_listing
from ccatwm.edges.storage.ssh import SshDiskStorage
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.edges.workfiles.ssh import SshWorkFiles
from ccatwm.errors import (
    CcatwmError,
    CorruptCopyError,
    FilesUnavailableError,
    IncompleteTreeError,
    MissingCopyError,
)
from ccatwm.interfaces import EntryKind, FileWrite, PackageCopy, PlainEffects, Received, TreeSize, WorkFiles
from tests.fakes.pipe import PipeCalls

pytestmark = pytest.mark.quick

P = PurePosixPath


def local(base: Path) -> WorkFiles:
    return LocalWorkFiles(base, PlainEffects())


class DeliveredWorkFiles(SshWorkFiles):
    """Puts what it is to receive on a disk of the processing host first, as data transfer would."""

    def __init__(self, remote: PipeCalls, base: Path) -> None:
        super().__init__(remote, P(base))
        self._storage = SshDiskStorage(remote, {})
        self._disk = base.with_name("disk")

    def receive_tar(self, stream: Any, target: P, **expected: Any) -> Received:
        with self._storage.open(self._deliver("raw", stream)) as there:
            return super().receive_tar(there, target, **expected)

    def receive_file(self, stream: Any, target: P, **expected: Any) -> Received:
        with self._storage.open(self._deliver("raw", stream)) as there:
            return super().receive_file(there, target, **expected)

    def receive_tree(self, files: Any, target: P, **expected: Any) -> Received:
        for name, stream in files:
            self._deliver(f"tree/{name}", stream)
        return super().receive_tree(self._storage.open_tree(self._copy("tree")), target, **expected)

    def _deliver(self, name: str, stream: Any) -> PackageCopy:
        put(self._disk, name, stream.read())
        return self._copy(name)

    def _copy(self, name: str) -> PackageCopy:
        return PackageCopy("1", "disk", "disk", str(self._disk), name)


@contextmanager
def here(base: Path) -> Iterator[WorkFiles]:
    yield local(base)


@contextmanager
def behind_an_agent(base: Path) -> Iterator[WorkFiles]:
    calls = PipeCalls(base)
    try:
        yield DeliveredWorkFiles(calls, base)
    finally:
        calls.close()


BACKENDS = {"local": here, "ssh": behind_an_agent}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


@pytest.fixture(params=sorted(BACKENDS))
def work(request: pytest.FixtureRequest, base: Path) -> Iterator[WorkFiles]:
    with BACKENDS[request.param](base) as work:
        yield work


def visible(folder: Path) -> list[str]:
    """Everything below, relative, hidden files included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def put(base: Path, name: str, content: bytes = b"x", mode: int = 0o644) -> Path:
    path = base / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(name), 0o777, 0
            archive.addfile(info, io.BytesIO(name.encode()))
    return stream.getvalue()


def test_whether_blocks_are_shared_is_tried_and_leaves_nothing(work: WorkFiles, base: Path) -> None:
    before = visible(base)
    assert work.shares_blocks() is clones(base)
    assert visible(base) == before


def clones(base: Path) -> bool:
    """What cp(1) says, whose FICLONE is the same."""
    with tempfile.TemporaryDirectory(dir=base.parent) as there:
        Path(there, "a").write_bytes(bytes(1 << 16))
        command = ["cp", "--reflink=always", f"{there}/a", f"{there}/b"]
        return subprocess.run(command, capture_output=True).returncode == 0


# --- paths --------------------------------------------------------------------------------------------------------

ACTS: dict[str, Callable[[WorkFiles, PurePosixPath], object]] = {
    "make_trees": lambda work, path: work.make_trees([path]),
    "make_exclusive": lambda work, path: work.make_exclusive(path),
    "write_files": lambda work, path: work.write_files([FileWrite(path, b"")]),
    "read_files": lambda work, path: work.read_files([path]),
    "exists": lambda work, path: work.exists([path]),
    "read_links": lambda work, path: work.read_links([path]),
    "list_tree": lambda work, path: work.list_tree(path),
    "hash_files": lambda work, path: work.hash_files([path]),
    "link_trees_from": lambda work, path: work.link_trees([(path, P("new"))]),
    "link_trees_to": lambda work, path: work.link_trees([(P("old"), path)]),
    "switch_link": lambda work, path: work.switch_link(path, "x"),
    "switch_links": lambda work, path: work.switch_links([(path, "x")]),
    "rename": lambda work, path: work.rename(P("old"), path),
    "remove_trees": lambda work, path: work.remove_trees([path]),
    "receive_tar": lambda work, path: work.receive_tar(
        io.BytesIO(tar_of("a")), path, size_bytes=None, checksum=None
    ),
}


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "a/../../outside"])
@pytest.mark.parametrize("act", sorted(ACTS))
def test_a_path_out_of_the_base_directory_is_refused(
    work: WorkFiles, base: Path, act: str, path: str
) -> None:
    put(base, "old")
    with pytest.raises(ValueError, match="not a path below the base directory"):
        ACTS[act](work, P(path))


CHANGES = sorted(set(ACTS) - {"read_files", "exists", "read_links", "list_tree", "hash_files", "rename"})


@pytest.mark.parametrize("act", [*CHANGES, "rename"])
def test_nothing_is_changed_through_a_link_below_the_base(
    work: WorkFiles, base: Path, tmp_path: Path, act: str
) -> None:
    put(base, "old")
    put(tmp_path, "outside/inner", b"precious")
    (base / "link").symlink_to(tmp_path / "outside")
    before = visible(tmp_path / "outside")
    try:
        ACTS[act](work, P("link/inner"))
    except CcatwmError as error:
        assert "link" in str(error)
    assert visible(tmp_path / "outside") == before
    assert (tmp_path / "outside/inner").read_bytes() == b"precious"


def test_nothing_is_read_through_a_link_below_the_base(work: WorkFiles, base: Path, tmp_path: Path) -> None:
    put(tmp_path, "outside/secret", b"secret")
    (base / "link").symlink_to(tmp_path / "outside")
    path = P("link/secret")
    assert work.read_files([path]) == {path: None}
    assert work.read_tails([path], max_bytes=9) == {path: None}
    assert work.hash_files([path]) == {path: None}
    assert work.exists([path]) == {path: False}
    assert work.list_tree(P("link")) is None


def test_the_base_directory_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "base").symlink_to(tmp_path / "real")
    local(tmp_path / "base").write_files([FileWrite(P("a/b"), b"x")])
    assert (tmp_path / "real/a/b").read_bytes() == b"x"


def test_a_base_directory_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    work = local(tmp_path / "unmounted")
    with pytest.raises(FilesUnavailableError, match="is not there"):
        work.exists([P("a")])
    with pytest.raises(FilesUnavailableError, match="is not there"):
        work.make_trees([P("a")])
    assert not (tmp_path / "unmounted").exists()


def test_the_root_is_absolute(work: WorkFiles, base: Path) -> None:
    assert work.root() == P(base)


# --- making and writing --------------------------------------------------------------------------------------------


def test_trees_are_made_and_may_be_there(work: WorkFiles, base: Path) -> None:
    for _ in range(2):
        work.make_trees([P("a/b/c"), P("a/b"), P("d")])
    assert visible(base) == ["a", "a/b", "a/b/c", "d"]


def test_a_tree_is_not_made_where_a_file_is(work: WorkFiles, base: Path) -> None:
    put(base, "a")
    with pytest.raises(CcatwmError, match="a is not a folder"):
        work.make_trees([P("a/b")])


def test_one_of_two_makes_a_folder_exclusively(work: WorkFiles) -> None:
    assert work.make_exclusive(P("claims/0")) is True
    assert work.make_exclusive(P("claims/0")) is False


def test_an_exclusive_folder_has_its_mode_at_once(work: WorkFiles) -> None:
    work.make_exclusive(P("c/0"), mode=0o500)
    assert work.modes([P("c/0"), P("c/1"), P("x/y")]) == {P("c/0"): 0o500, P("c/1"): None, P("x/y"): None}


def test_a_written_file_replaces_the_older_one(work: WorkFiles, base: Path) -> None:
    work.write_files([FileWrite(P("a/b"), b"old")])
    work.write_files([FileWrite(P("a/b"), b"new", mode=0o600), FileWrite(P("a/c"), b"")])
    assert visible(base) == ["a", "a/b", "a/c"]
    assert (base / "a/b").read_bytes() == b"new"
    assert work.modes([P("a/b")]) == {P("a/b"): 0o600}


def test_a_written_file_replaces_a_link_instead_of_following_it(
    work: WorkFiles, base: Path, tmp_path: Path
) -> None:
    outside = put(tmp_path, "outside", b"precious")
    (base / "a").symlink_to(outside)
    work.write_files([FileWrite(P("a"), b"new")])
    assert outside.read_bytes() == b"precious"
    assert not (base / "a").is_symlink()


def test_names_of_255_bytes_and_of_other_encodings_are_written_and_read(work: WorkFiles) -> None:
    names = [P("n" * 255), P(os.fsdecode(b"caf\xe9")), P("-rf"), P("a\nb"), P("é" * 120)]
    work.write_files([FileWrite(name, b"x") for name in names])
    assert work.read_files(names) == dict.fromkeys(names, b"x")


def test_a_link_is_switched(work: WorkFiles, base: Path) -> None:
    for attempt in ("attempt-1/output", "attempt-1/output", "attempt-2/output"):
        work.switch_link(P("run-1/output"), attempt)
        assert os.readlink(base / "run-1/output") == attempt
    assert visible(base / "run-1") == ["output"]


@pytest.mark.parametrize("target", ["/etc", "../../x"])
def test_a_link_does_not_lead_out(work: WorkFiles, target: str) -> None:
    with pytest.raises(ValueError, match="not a path below"):
        work.switch_link(P("output"), target)


def test_links_are_switched_and_taken_away_together(work: WorkFiles, base: Path) -> None:
    put(base, "old/run-1/output/x")
    work.switch_links([(P("old/latest"), "run-1/output"), (P("new/latest"), "run-2/output"), (P("none/latest"), None)])
    assert os.readlink(base / "old/latest") == "run-1/output"
    assert work.switch_links([(P("old/latest"), None), (P("new/latest"), "run-3/output")]) == []
    assert visible(base) == ["new", "new/latest", "old", "old/run-1", "old/run-1/output", "old/run-1/output/x"]
    assert os.readlink(base / "new/latest") == "run-3/output"


def test_links_are_read_as_they_are_written(work: WorkFiles, base: Path) -> None:
    put(base, "run-1/output/x")
    (base / "latest").symlink_to("run-9/output")
    (base / "out").symlink_to("/etc")
    paths = [P("latest"), P("out"), P("run-1/output"), P("run-1/output/x"), P("no/such"), P("latest/x")]
    assert work.read_links(paths) == dict.fromkeys(paths) | {P("latest"): "run-9/output", P("out"): "/etc"}


def test_nothing_but_a_link_gives_way_to_a_link(work: WorkFiles, base: Path) -> None:
    put(base, "a/latest/mine")
    put(base, "b/latest")
    links = [(P("a/latest"), "x"), (P("b/latest"), None), (P("c/latest"), "x")]
    assert work.switch_links(links) == [P("a/latest"), P("b/latest")]
    assert visible(base) == ["a", "a/latest", "a/latest/mine", "b", "b/latest", "c", "c/latest"]


@pytest.mark.parametrize("target", ["/etc", "../../x"])
def test_one_of_many_links_does_not_lead_out(work: WorkFiles, target: str) -> None:
    with pytest.raises(ValueError, match="below the base"):
        work.switch_links([(P("output"), target)])


def test_renaming_never_replaces(work: WorkFiles, base: Path) -> None:
    put(base, "a/old", b"1")
    put(base, "b/new", b"2")
    assert work.rename(P("a/old"), P("b/new")) is False
    assert [(base / "a/old").read_bytes(), (base / "b/new").read_bytes()] == [b"1", b"2"]
    assert work.rename(P("a/old"), P("c/d/new")) is True
    assert (base / "c/d/new").read_bytes() == b"1"


def test_renaming_again_after_it_was_done_changes_nothing(work: WorkFiles, base: Path) -> None:
    put(base, "old")
    assert work.rename(P("old"), P("new")) is True
    assert work.rename(P("old"), P("new")) is False


# --- reading -------------------------------------------------------------------------------------------------------


def test_files_are_read_up_to_a_limit(work: WorkFiles, base: Path) -> None:
    put(base, "a", b"0123456789")
    assert work.read_files([P("a"), P("none"), P("a/b")], max_bytes=4) == {
        P("a"): b"0123", P("none"): None, P("a/b"): None
    }  # fmt: skip
    assert work.read_tails([P("a")], max_bytes=4) == {P("a"): b"6789"}
    assert work.read_tails([P("a")], max_bytes=40) == {P("a"): b"0123456789"}


def test_only_regular_files_are_read_and_a_fifo_does_not_hang(work: WorkFiles, base: Path) -> None:
    put(base, "file")
    os.mkfifo(base / "fifo")
    (base / "folder").mkdir()
    (base / "link").symlink_to("file")
    paths = [P("fifo"), P("folder"), P("link")]
    assert work.read_files(paths) == dict.fromkeys(paths)
    assert work.hash_files(paths) == dict.fromkeys(paths)
    assert work.exists(paths) == dict.fromkeys(paths, True)


def test_a_dangling_link_is_there(work: WorkFiles, base: Path) -> None:
    (base / "link").symlink_to("nowhere")
    assert work.exists([P("link")]) == {P("link"): True}


def test_hashes_are_sha256_and_none_for_a_vanished_file(work: WorkFiles, base: Path) -> None:
    put(base, "a", b"abc")
    assert work.hash_files([P("a"), P("gone")]) == {P("a"): (3, sha256(b"abc")), P("gone"): None}


def test_a_tree_is_listed_whole_and_sorted_without_following_links(
    work: WorkFiles, base: Path, tmp_path: Path
) -> None:
    put(tmp_path, "outside/x")
    put(base, "t/b/c", b"123")
    put(base, "t/.hidden")
    put(base, os.fsdecode(b"t/\xff"))
    (base / "t/link").symlink_to(tmp_path / "outside")
    os.mkfifo(base / "t/fifo")
    listed = work.list_tree(P("t"))
    assert listed is not None
    assert [(str(entry.path), entry.kind) for entry in listed] == [
        (".hidden", EntryKind.FILE),
        ("b", EntryKind.DIRECTORY),
        ("b/c", EntryKind.FILE),
        ("fifo", EntryKind.OTHER),
        ("link", EntryKind.SYMLINK),
        (os.fsdecode(b"\xff"), EntryKind.FILE),
    ]
    assert listed[2].size_bytes == 3
    assert listed[2].mtime_ns == (base / "t/b/c").stat().st_mtime_ns
    assert listed[4].link_target == str(tmp_path / "outside")


def test_what_is_no_folder_has_no_tree(work: WorkFiles, base: Path) -> None:
    put(base, "file")
    assert work.list_tree(P("file")) is None
    assert work.list_trees([P("t"), P("none")]) == {P("t"): work.list_tree(P("t")), P("none"): None}
    assert work.list_tree(P("none")) is None


def test_a_record_of_a_tree_holds_what_its_list_holds(work: WorkFiles, base: Path) -> None:
    put(base, "t/d/a", b"12345")
    os.symlink("a", base / "t/d/l")
    os.mkfifo(base / "t/p")
    (base / "t" / os.fsdecode(b"\xff\n")).touch()
    records = work.list_records([P("t"), P("t/d/a"), P("absent")])
    assert records[P("t/d/a")] is records[P("absent")] is None
    listing = parse_listing(records[P("t")] or b"")
    entries = {os.fsencode(str(entry.path)): entry for entry in work.list_tree(P("t")) or ()}
    assert listing.entries.keys() == entries.keys() and listing.targets == {b"d/l": b"a"}
    assert listing.entries[b"d/a"] == entry_record(entries[b"d/a"]).partition(b"\0")[0]


def test_folders_are_listed_without_what_is_in_them(work: WorkFiles, base: Path) -> None:
    for name in ("t/b/deep/file", "t/a/file", "t/file"):
        put(base, name)
    (base / "t" / "link").symlink_to("a")
    assert work.list_folders([P("t"), P("t/file"), P("none")]) == {P("t"): ["a", "b"], P("t/file"): [], P("none"): []}
    assert "t" in work.list_folders([P()])[P()]
    os.mkfifo(base / "t" / "pipe")
    others = work.list_others([P("t"), P("t/file"), P("none")])
    assert others == {P("t"): ["file", "link", "pipe"], P("t/file"): [], P("none"): []}


def test_an_endless_tree_is_an_error_and_can_be_removed(work: WorkFiles, base: Path) -> None:
    here = os.open(base, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    with pytest.raises(CcatwmError, match="nested more than"):
        work.list_tree(P("d"))
    work.remove_trees([P("d")])
    assert visible(base) == []


def test_space_is_told(work: WorkFiles) -> None:
    assert work.space().free_bytes > 0
    assert work.space().free_inodes > 0


# --- linking -------------------------------------------------------------------------------------------------------


def test_a_tree_is_linked_hard(work: WorkFiles, base: Path) -> None:
    put(base, "s/a", b"1", mode=0o444)
    put(base, "s/b/c", b"2")
    work.link_trees([(P("s"), P("run/input/s")), (P("s/a"), P("run/input/file"))])
    assert visible(base / "run") == [
        "input",
        "input/file",
        "input/s",
        "input/s/a",
        "input/s/b",
        "input/s/b/c",
    ]
    assert (base / "run/input/s/b/c").samefile(base / "s/b/c")
    assert (base / "run/input/file").samefile(base / "s/a")


def test_copies_are_independent_and_read_only_where_hard_links_are_forbidden(
    work: WorkFiles, base: Path
) -> None:
    put(base, "s/a", b"1", mode=0o755)
    os.utime(base / "s/a", (0, 0))
    work.link_trees([(P("s"), P("t"))], hard=False)
    assert not (base / "t/a").samefile(base / "s/a")
    assert (base / "t/a").read_bytes() == b"1"
    assert work.modes([P("t/a")]) == {P("t/a"): 0o555}
    assert (base / "t/a").stat().st_mtime > 1e9, "a purge by age would take it at once"


def test_a_target_that_is_there_stays_as_it_is(work: WorkFiles, base: Path) -> None:
    put(base, "s/a")
    put(base, "t/other")
    work.link_trees([(P("s"), P("t"))])
    assert visible(base / "t") == ["other"]


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_a_source_with_a_special_file_is_refused_and_nothing_is_left(
    work: WorkFiles, base: Path, kind: str
) -> None:
    put(base, "s/a")
    if kind == "fifo":
        os.mkfifo(base / "s/z")
    else:
        (base / "s/z").symlink_to("a")
    with pytest.raises(CcatwmError, match="z is neither a file nor a folder"):
        work.link_trees([(P("s"), P("t/s"))])
    assert visible(base / "t") == []


def test_a_source_that_is_not_there_is_named(work: WorkFiles) -> None:
    with pytest.raises(CcatwmError, match="gone/file"):
        work.link_trees([(P("gone/file"), P("t"))])


# --- removing ------------------------------------------------------------------------------------------------------


def test_trees_are_removed_and_absent_ones_are_fine(work: WorkFiles, base: Path) -> None:
    put(base, "a/b/c")
    put(base, "file")
    put(base, "stays")
    work.remove_trees([P("a"), P("file"), P("none"), P("none/below")])
    assert visible(base) == ["stays"]


def test_removing_takes_the_link_and_leaves_where_it_leads(
    work: WorkFiles, base: Path, tmp_path: Path
) -> None:
    outside = put(tmp_path, "outside/precious")
    put(base, "t/a")
    (base / "t/link").symlink_to(outside.parent)
    (base / "link").symlink_to(outside.parent)
    work.remove_trees([P("t"), P("link")])
    assert visible(base) == []
    assert outside.exists()


def test_the_base_directory_is_never_removed(work: WorkFiles, base: Path) -> None:
    for path in (P(), P(".")):
        with pytest.raises(ValueError, match="base directory"):
            work.remove_trees([path])
    assert base.is_dir()


# --- receiving -----------------------------------------------------------------------------------------------------


def test_a_received_tar_is_unpacked_read_only_and_touched_now(work: WorkFiles, base: Path) -> None:
    raw = tar_of("a", "d/b")
    received = work.receive_tar(
        io.BytesIO(raw), P("cache/p"), size_bytes=len(raw), checksum=f"sha256:{sha256(raw)}"
    )
    assert visible(base) == ["cache", "cache/p", "cache/p/a", "cache/p/d", "cache/p/d/b"]
    found = (base / "cache/p/d/b").stat()
    assert stat.S_IMODE(found.st_mode) == 0o444
    assert found.st_mtime > 1e9
    assert stat.S_IMODE((base / "cache/p/d").stat().st_mode) == 0o755
    assert (received.size_bytes, received.file_count, received.unpacked_bytes) == (len(raw), 2, 4)
    digest = tree_digest([(b"a", 1, sha256(b"a")), (b"d/b", 3, sha256(b"d/b"))])
    assert received.tree_digest == f"sha256:{digest}"


def test_a_received_file_lies_in_its_folder(work: WorkFiles, base: Path) -> None:
    received = work.receive_file(io.BytesIO(b"abc"), P("p"), name="x.fits", size_bytes=3, checksum=None)
    assert (base / "p/x.fits").read_bytes() == b"abc"
    assert received.tree_digest == f"sha256:{tree_digest([(b'x.fits', 3, sha256(b'abc'))])}"


def test_a_received_tree_is_checked_by_its_tree_digest(work: WorkFiles, base: Path) -> None:
    def files() -> list[tuple[str, io.BytesIO]]:
        return [("a", io.BytesIO(b"1")), ("d/b", io.BytesIO(b"22"))]

    digest = tree_digest([(b"a", 1, sha256(b"1")), (b"d/b", 2, sha256(b"22"))])
    received = work.receive_tree(files(), P("p"), size_bytes=3, checksum=f"sha256:{digest}")
    assert (received.size_bytes, received.file_count) == (3, 2)
    with pytest.raises(CorruptCopyError, match="tree digest"):
        work.receive_tree(files(), P("q"), size_bytes=3, checksum="sha256:" + "0" * 64)
    with pytest.raises(CorruptCopyError, match="3 bytes, 4 expected"):
        work.receive_tree(files(), P("q"), size_bytes=4, checksum=None)
    assert visible(base) == ["p", "p/a", "p/d", "p/d/b"]


def test_what_was_not_verified_gives_way_to_what_is_received(work: WorkFiles, base: Path) -> None:
    put(base, "p/stray")
    raw = tar_of("a")
    work.receive_tar(io.BytesIO(raw), P("p"), size_bytes=None, checksum=None)
    assert visible(base) == ["p", "p/a"]


def test_packages_that_are_received_together_are_all_there_in_the_end(work: WorkFiles, base: Path) -> None:
    put(base, "cache/p3/stray")
    with work.receiving_together() as together:
        for number in range(20):
            together.receive_tar(io.BytesIO(tar_of("a", "d/b")), P(f"cache/p{number}"), size_bytes=None, checksum=None)
        with pytest.raises(CorruptCopyError):
            together.receive_tar(io.BytesIO(b"no tar"), P("cache/bad"), size_bytes=None, checksum=None)
        together.receive_file(io.BytesIO(b"abc"), P("cache/file"), name="x", size_bytes=3, checksum=None)
    assert sorted(p.name for p in (base / "cache").iterdir()) == sorted(["file", *(f"p{n}" for n in range(20))])
    assert visible(base / "cache/p3") == ["a", "d", "d/b"]
    assert stat.S_IMODE((base / "cache/p7/d/b").stat().st_mode) == 0o444


def test_many_trees_are_linked_as_one_is(work: WorkFiles, base: Path) -> None:
    for number in range(40):
        put(base, f"s/{number}/d/a", b"%d" % number)
        put(base, f"s/{number}/b")
    put(base, "t/3/stays")
    links = [(P(f"s/{number}"), P(f"t/{number}")) for number in range(40)] + [(P("s/1/b"), P("t/file"))]
    work.link_trees(links, whole={P(f"s/{n}"): (2, 1 + len(str(n))) for n in range(40) if n != 3})
    assert visible(base / "t/3") == ["stays"]
    assert sorted(p.name for p in (base / "t").iterdir()) == sorted([*map(str, range(40)), "file"])
    assert all(os.path.samefile(base / f"s/{n}/d/a", base / f"t/{n}/d/a") for n in range(40) if n != 3)
    put(base, "s/9/more")
    with pytest.raises(IncompleteTreeError, match=r"s/9 has 3 files"):
        work.link_trees([(P(f"s/{n}"), P(f"u/{n}")) for n in range(40)], whole={P("s/9"): (2, 2)})
    assert not list((base / "u").glob(".*")), "nothing is left half-way"


def test_what_is_linked_is_told_as_a_list_of_inputs(work: WorkFiles, base: Path) -> None:
    put(base, "s/d/\udcff", b"123")
    put(base, "s/b c", b"4")
    put(base, "s/two\nlines")
    put(base, "there/old")
    listed = work.link_trees([(P("s"), P("t/s")), (P("s/b c"), P("t/file")), (P("s"), P("there"))])
    lines = {target: set((text or b"").splitlines()) for target, text in listed.items()}
    assert lines[P("t/s")] == {b"3\tt/s/d/\xff", b"1\tt/s/b c"}
    assert lines[P("t/file")] == {b"1\tt/file"}
    assert listed[P("there")] is None, "it was not linked now"
    record = work.list_records([P("t/s")])[P("t/s")] or b""
    assert set(lines_of("t/s", record).splitlines()) == lines[P("t/s")], "as it is when it is listed later"


def test_of_very_many_links_no_more_is_told_than_a_call_may(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("s/a", "s/b", "small/a"):
        put(base, name)
    monkeypatch.setattr("ccatwm.edges.workfiles.local.MOST_TOLD", 8)
    work = LocalWorkFiles(base, PlainEffects())
    listed = work.link_trees([(P("s"), P("t")), (P("small"), P("u")), (P("small"), P("v"))])
    assert listed == {P("t"): None, P("u"): b"1\tu/a\n", P("v"): None}


def test_many_folders_are_made_exclusively(work: WorkFiles, base: Path) -> None:
    (base / "runs/7").mkdir(parents=True)
    made = work.make_exclusives([P(f"runs/{number}") for number in range(30)])
    assert [path.name for path, is_made in made.items() if not is_made] == ["7"]
    assert len(list((base / "runs").iterdir())) == 30


# --- what others brought ------------------------------------------------------------------------------------------


@pytest.fixture
def brought(base: Path) -> Path:
    """A folder of somebody else, outside the base directory."""
    folder = base.parent / "brought" / "scan-1"
    (folder / "d").mkdir(parents=True)
    (folder / "a").write_bytes(b"123")
    (folder / "d" / "b").write_bytes(b"45")
    return folder


def test_a_tree_of_somebody_else_is_linked_and_not_changed(work, base, brought):
    before = (brought / "a").stat()
    assert work.adopt_tree(P(brought), P("c/one")) == Received(5, 2, "", 5)
    assert (base / "c/one/d/b").read_bytes() == b"45"
    after = (brought / "a").stat()
    assert (base / "c/one/a").stat().st_ino == after.st_ino
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_what_was_there_gives_way_to_a_tree_of_somebody_else(work, base, brought):
    put(base, "c/one/old", b"x")
    work.adopt_tree(P(brought), P("c/one"))
    assert visible(base / "c/one") == ["a", "d", "d/b"]


def test_a_tree_with_a_link_or_none_at_all_is_not_adopted_and_leaves_nothing(work, base, brought):
    (brought / "d" / "link").symlink_to("/etc/passwd")
    with pytest.raises(CorruptCopyError, match="link is neither a file nor a folder"):
        work.adopt_tree(P(brought), P("c/one"))
    with pytest.raises(CorruptCopyError, match="a is no folder"):
        work.adopt_tree(P(brought / "a"), P("c/one"))
    with pytest.raises(MissingCopyError):
        work.adopt_tree(P(brought / "nothing"), P("c/one"))
    assert not list((base / "c").iterdir())


# --- how much it is --------------------------------------------------------------------------------------------


def test_a_folder_is_measured_with_all_that_is_in_it(work, base):
    put(base, "a/one", b"123")
    put(base, "a/b/two", b"45")
    (base / "a" / "link").symlink_to("one")
    found = work.measure_trees([P("a"), P("a/one"), P("nowhere")])
    assert found == {P("a"): TreeSize(5, 5, 5, 5, 2), P("a/one"): None, P("nowhere"): None}


def test_a_file_with_another_name_elsewhere_frees_nothing(work, base):
    put(base, "a/one", b"123")
    (base / "kept").hardlink_to(base / "a" / "one")
    assert work.measure_trees([P("a")]) == {P("a"): TreeSize(3, 2, 0, 1, 1)}


def test_a_file_with_names_in_several_folders_is_freed_with_the_last(work, base):
    put(base, "a/one", b"123")
    put(base, "b/two", b"1")
    (base / "b" / "one").hardlink_to(base / "a" / "one")
    (base / "b" / "again").hardlink_to(base / "a" / "one")
    assert work.measure_trees([P("a"), P("b")]) == {P("a"): TreeSize(3, 2, 0, 1, 1), P("b"): TreeSize(4, 3, 4, 3, 3)}


@pytest.mark.parametrize("hard", [True, False])
def test_a_tree_that_lost_files_is_not_linked_where_it_must_be_whole(work: WorkFiles, hard: bool) -> None:
    work.write_files([FileWrite(P("s/a"), b"123"), FileWrite(P("s/d/b"), b"45")])
    work.link_trees([(P("s"), P("t"))], hard=hard, whole={P("s"): (2, 5)})
    assert work.read_files([P("t/d/b")]) == {P("t/d/b"): b"45"}
    work.remove_trees([P("s/d/b")])
    with pytest.raises(IncompleteTreeError, match="s has 1 files of 3 bytes, 2 of 5 bytes expected"):
        work.link_trees([(P("s"), P("u"))], hard=hard, whole={P("s"): (2, 5)})
    with pytest.raises(IncompleteTreeError, match="gone is gone, or lost files"):
        work.link_trees([(P("gone"), P("v"))], hard=hard, whole={P("gone"): (2, 5)})
    assert work.list_folders([P()])[P()] == ["s", "t"]


def test_a_target_that_is_not_whole_is_made_anew_where_it_must_be(work: WorkFiles, base: Path) -> None:
    put(base, "s/a", b"12")
    put(base, "s/d/b", b"345")
    work.link_trees([(P("s"), P("t"))], whole={P("s"): (2, 5)})
    (base / "t/d/b").unlink()  # as after a power cut
    work.link_trees([(P("s"), P("t"))])
    assert visible(base / "t") == ["a", "d"], "nobody said what it should have"
    work.link_trees([(P("s"), P("t"))], whole={P("s"): (2, 5)})
    assert visible(base / "t") == ["a", "d", "d/b"]
