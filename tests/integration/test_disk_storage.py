"""Raw data packages on disk locations: what form they have, and what is said of copies that are not as they should be."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from ccatwm.edges.storage import disk
from ccatwm.edges.storage.disk import DiskStorage
from ccatwm.errors import (
    CcatwmError,
    CopyUnavailableError,
    CorruptCopyError,
    FilesUnavailableError,
    MissingCopyError,
    SettingsError,
)
from ccatwm.interfaces import PackageCopy, PlainEffects

pytestmark = pytest.mark.quick


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


@pytest.fixture
def storage() -> DiskStorage:
    return DiskStorage(PlainEffects())


def copy(root: Path | str | None, path: str) -> PackageCopy:
    return PackageCopy("1", "lta", "disk", None if root is None else str(root), path)


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        made.addfile(tarfile.TarInfo("a"))
    return stream.getvalue()


def read(storage: DiskStorage, what: PackageCopy) -> bytes:
    with storage.open(what) as stream:
        return stream.read()


# --- form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "A.TGZ", "a.tar.xz", "a.tar.bz2"])
def test_a_tar_is_told_by_its_name(storage: DiskStorage, archive: Path, name: str):
    put(archive / name)
    assert storage.form(copy(archive, name)) == "tar"


def test_a_tar_is_told_by_its_content(storage: DiskStorage, archive: Path):
    put(archive / "package", tar())
    assert storage.form(copy(archive, "package")) == "tar"


def test_other_files_are_files_even_compressed_or_empty(storage: DiskStorage, archive: Path):
    for name, content in (("a.fits.gz", gzip.compress(b"x")), ("empty", b""), ("a.fits", b"SIMPLE")):
        put(archive / name, content)
        assert storage.form(copy(archive, name)) == "file"


def test_a_folder_is_a_directory_whatever_its_name(storage: DiskStorage, archive: Path):
    (archive / "a.tar").mkdir()
    assert storage.form(copy(archive, "a.tar")) == "directory"


# --- where it lies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", [None, "", "relative/path"])
def test_a_location_without_a_root_is_named_with_what_to_set(storage: DiskStorage, root: str | None):
    with pytest.raises(SettingsError, match="data location lta has no absolute root") as error:
        storage.form(copy(root, "a"))
    assert error.value.next == "set locations.lta.root in settings.toml"


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "a\0b"])
def test_a_path_out_of_the_location_is_refused(storage: DiskStorage, archive: Path, path: str):
    put(archive.parent / "secret")
    with pytest.raises(CorruptCopyError, match="leads out of data location lta"):
        storage.form(copy(archive, path))


def test_a_link_out_of_the_location_is_refused(storage: DiskStorage, archive: Path):
    put(archive.parent / "secret/a")
    (archive / "link").symlink_to(archive.parent / "secret")
    with pytest.raises(CorruptCopyError, match="leads out of its data location"):
        read(storage, copy(archive, "link/a"))


def test_a_link_inside_the_location_and_a_linked_root_are_followed(storage: DiskStorage, archive: Path):
    put(archive / "disk7/a", b"content")
    (archive / "by-name").symlink_to("disk7")
    (archive.parent / "mount").symlink_to(archive)
    assert read(storage, copy(archive.parent / "mount", "by-name/a")) == b"content"


def test_a_copy_that_is_not_there_is_missing(storage: DiskStorage, archive: Path):
    put(archive / "file")
    for path in ("gone", "gone/a", "file/a"):
        with pytest.raises(MissingCopyError, match=rf"{path} at lta .* is not there"):
            storage.form(copy(archive, path))


def test_a_root_that_is_not_mounted_is_told_from_a_missing_file(storage: DiskStorage, archive: Path):
    """Nothing is known about the copy; of a mount point there is an empty folder."""
    (archive / "mount-point/lost+found").mkdir(parents=True)
    for root, said in (("unmounted", "is not there"), ("mount-point", "is empty")):
        with pytest.raises(CopyUnavailableError, match=f"{root} {said}: is its file system mounted") as caught:
            read(storage, copy(archive / root, "a"))
        assert "set locations.lta.root" in caught.value.next


# --- reading -------------------------------------------------------------------------------------------------------


def test_a_fifo_does_not_hang(storage: DiskStorage, archive: Path):
    os.mkfifo(archive / "fifo")
    for look in (storage.form, lambda what: read(storage, what)):
        with pytest.raises(CorruptCopyError, match=r"is neither a file nor a folder|is not a regular file"):
            look(copy(archive, "fifo"))


def test_a_file_that_grows_while_it_is_read_is_corrupt(storage: DiskStorage, archive: Path):
    path = put(archive / "a", b"1" * 100)
    with (
        pytest.raises(CorruptCopyError, match="a changed while it was read"),
        storage.open(copy(archive, "a")) as stream,
    ):
        stream.read()
        with path.open("ab") as writer:
            writer.write(b"2")


def test_a_file_that_is_replaced_while_it_is_read_is_corrupt(storage: DiskStorage, archive: Path):
    path = put(archive / "a")
    with (
        pytest.raises(CorruptCopyError, match="a changed while it was read"),
        storage.open(copy(archive, "a")) as stream,
    ):
        stream.read()
        put(archive / "new", b"y").rename(path)


def test_a_file_that_is_removed_after_it_was_read_is_good(storage: DiskStorage, archive: Path):
    path = put(archive / "a", b"whole")
    with storage.open(copy(archive, "a")) as stream:
        assert stream.read() == b"whole"
        path.unlink()


@pytest.mark.parametrize("size", [-1, 10])
def test_a_copy_with_an_unreadable_block_is_corrupt(storage: DiskStorage, size: int):
    what = copy("/proc/self", "mem")  # a regular file whose first page is an input/output error
    with pytest.raises(CorruptCopyError, match=r"mem at lta .* cannot be read"), storage.open(what) as stream:
        stream.read(size)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ESTALE, FilesUnavailableError),
        (errno.ETIMEDOUT, FilesUnavailableError),
        (errno.EACCES, MissingCopyError),
        (errno.ENOENT, MissingCopyError),
    ],
)
def test_what_the_system_says_of_a_copy_decides_who_acts(archive: Path, code: int, error: type[CcatwmError]):
    put(archive / "another")
    with pytest.raises(error, match="a at lta"), disk._errors(copy(archive, "a")):
        raise OSError(code, os.strerror(code))


# --- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_files_sorted_by_their_bytes(storage: DiskStorage, archive: Path):
    for name in ("p/b", "p/a/z", "p/.hidden", "p/é", os.fsdecode(b"p/\xff"), "p/a.b"):
        put(archive / name, os.fsencode(name))
    found = [(name, stream.read()) for name, stream in storage.open_tree(copy(archive, "p"))]
    names = [".hidden", "a.b", "a/z", "b", "é", os.fsdecode(b"\xff")]
    assert found == [(name, os.fsencode(f"p/{name}")) for name in names]


@pytest.mark.parametrize("kind", ["a symbolic link", "a special file"])
def test_a_folder_with_a_link_or_a_special_file_is_refused(storage: DiskStorage, archive: Path, kind: str):
    put(archive / "p/a")
    if kind == "a symbolic link":
        (archive / "p/d").symlink_to("/etc")
    else:
        os.mkfifo(archive / "p/d")
    with pytest.raises(CorruptCopyError, match=f"d is {kind}: packages hold files and folders only"):
        list(storage.open_tree(copy(archive, "p")))


def test_a_file_of_a_folder_that_changes_while_it_is_read_is_corrupt(storage: DiskStorage, archive: Path):
    put(archive / "p/a")
    with pytest.raises(CorruptCopyError, match="a changed while it was read"):
        for _, stream in storage.open_tree(copy(archive, "p")):
            stream.read()
            put(archive / "p/a", b"longer")
