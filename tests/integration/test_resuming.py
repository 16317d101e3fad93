"""An unpacking that was killed is gone on with where the package lists a checksum for each of its files: what is whole is
not read from the copy again. Real processes, killed amid writing.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.errors import CorruptCopyError
from ccatwm.interfaces import PlainEffects

pytestmark = pytest.mark.quick
TARGET = PurePosixPath(".cache/packages/scan-1")
SIZE = 300_000
FILES = {f"part-{n % 3}/file-{n}": bytes([n]) * SIZE for n in range(9)}
MEMBERS = {name: (len(content), f"md5:{hashlib.md5(content).hexdigest()}") for name, content in FILES.items()}


class Dies(PlainEffects):
    """Ends the process, as kill -9 would, in the middle of the n-th file."""

    def __init__(self, files: int) -> None:
        self._left = files

    @contextmanager
    def around(self, name: str, detail: str) -> Iterator[None]:
        if name == "file.write":
            self._left -= 1
        yield
        if name == "file.write" and self._left == 0:
            os._exit(9)


class Counted(io.BytesIO):
    """A copy that counts what is read of it."""

    def __init__(self, content: bytes, seekable: bool = True) -> None:
        super().__init__(content)
        self.count = 0
        self._seekable = seekable

    def seekable(self) -> bool:
        return self._seekable

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def archive(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as made:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def receive(
    base: Path, content: bytes, *, effects: PlainEffects | None = None, seekable: bool = True, **more: object
) -> int:
    """Bytes that were read of the copy."""
    stream = Counted(content, seekable)
    options = {"size_bytes": len(content), "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}", "members": MEMBERS}
    LocalWorkFiles(base, effects or PlainEffects()).receive_tar(stream, TARGET, **(options | more))  # type: ignore[arg-type]
    return stream.count


def killed(base: Path, content: bytes, after: int = 5, **more: object) -> Path:
    """What a process leaves that was killed with so many files written; the hidden folder."""
    child = os.fork()
    if child == 0:
        receive(base, content, effects=Dies(after), **more)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = (base / TARGET.parent).glob(".scan-1.*.part")
    return left


def unpacked(base: Path) -> dict[str, bytes]:
    folder = base / TARGET
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    return tmp_path / "base"


def test_what_was_whole_is_not_read_again(base):
    content = archive(FILES)
    killed(base, content, after=6)
    read = receive(base, content)
    assert read < 4 * SIZE + 100_000  # three files and the headers
    assert unpacked(base) == FILES
    assert list((base / TARGET.parent).iterdir()) == [base / TARGET]
    assert {p.stat().st_mode & 0o777 for p in (base / TARGET).rglob("*") if p.is_file()} == {0o444}


def test_a_file_that_was_cut_or_changed_is_brought_again(base):
    content = archive(FILES)
    left = killed(base, content, after=6)
    for name, damaged in (("file-0", b"cut"), ("file-1", b"\xff" * SIZE)):
        (found,) = left.rglob(name)
        found.chmod(0o644)
        found.write_bytes(damaged)
    assert receive(base, content) > 5 * SIZE
    assert unpacked(base) == FILES


def test_what_is_not_in_the_package_does_not_stay(base):
    content = archive(FILES)
    left = killed(base, content, after=6)
    (left / "part-0" / "stranger").write_bytes(b"x")
    (left / "link").symlink_to("/etc/passwd")
    receive(base, content)
    assert unpacked(base) == FILES and not (base / TARGET / "link").is_symlink()


@pytest.mark.parametrize("content", [archive(FILES, "w:gz"), archive(FILES)], ids=["compressed", "not to be sought in"])
def test_where_nothing_can_be_passed_over_all_is_read_and_verified_and_what_is_whole_stays(base, content):
    left = killed(base, content, after=6, seekable=False)
    (whole,) = left.rglob("file-0")
    inode = whole.stat().st_ino
    assert receive(base, content, seekable=False) == len(content)
    assert unpacked(base) == FILES
    assert (base / TARGET / "part-0" / "file-0").stat().st_ino == inode


def test_without_a_checksum_for_every_file_all_is_made_anew(base):
    content = archive(FILES)
    left = killed(base, content, after=6)
    (whole,) = left.rglob("file-0")
    inode, sizes = whole.stat().st_ino, {name: (size, None) for name, (size, _) in MEMBERS.items()}
    with open(whole, "rb"):  # keeps its inode number from being given again
        assert receive(base, content, members=sizes) == len(content)
        assert (base / TARGET / "part-0" / "file-0").stat().st_ino != inode


def test_a_copy_that_lacks_a_file_is_still_corrupt(base):
    content = archive(FILES)
    killed(base, content, after=3)
    less = archive(dict(list(FILES.items())[:-1]))
    with pytest.raises(CorruptCopyError, match="1 listed files are not in the package"):
        receive(base, less, checksum=None, size_bytes=None)
    assert not (base / TARGET).exists() and list((base / TARGET.parent).iterdir()) == []


def test_a_folder_is_gone_on_with_without_reading_its_whole_files(base):
    def files(streams: list[Counted]) -> Iterator[tuple[str, Counted]]:
        for name, content in sorted(FILES.items()):
            streams.append(Counted(content))
            yield name, streams[-1]

    child = os.fork()
    if child == 0:
        work = LocalWorkFiles(base, Dies(6))
        work.receive_tree(files([]), TARGET, size_bytes=None, checksum=None, members=MEMBERS)  # type: ignore[arg-type]
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    streams: list[Counted] = []
    work = LocalWorkFiles(base, PlainEffects())
    work.receive_tree(files(streams), TARGET, size_bytes=None, checksum=None, members=MEMBERS)  # type: ignore[arg-type]
    assert sum(stream.count for stream in streams) == 3 * SIZE
    assert unpacked(base) == FILES


def test_killed_at_every_file_it_is_whole_in_the_end(base):
    content = archive(FILES)
    for after in range(1, len(FILES) + 1):
        child = os.fork()
        if child == 0:
            receive(base, content, effects=Dies(1))  # one more file each time
            os._exit(0)
        os.waitpid(child, 0)
        assert len(list((base / TARGET.parent).glob(".scan-1.*.part"))) <= 1, after
    receive(base, content)
    assert unpacked(base) == FILES
