"""Raw data packages as hostile or broken as they come: nothing leaves its folder, nothing half-done stays."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from ccatwm.core.digests import DIGITS
from ccatwm.edges.workfiles import _receive, _tar
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.errors import CcatwmError, CorruptCopyError, UncheckableError
from ccatwm.interfaces import PlainEffects, Received

pytestmark = pytest.mark.quick

TARGET = PurePosixPath("cache/p")
Member = tuple[str, bytes, dict[str, object]]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


def file(name: str, content: bytes = b"x", **fields: object) -> Member:
    return name, content, fields


def special(name: str, kind: bytes, **fields: object) -> Member:
    return name, b"", {"type": kind, **fields}


def tar(*members: Member, format: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format, errors="surrogateescape") as archive:
        for name, content, fields in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def sum_of(raw: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, raw).hexdigest()}"


def receive(
    base: Path,
    raw: bytes,
    *,
    size: int | None = None,
    checksum: str | None = None,
    members: dict | None = None,
) -> Received:
    work = LocalWorkFiles(base, PlainEffects())
    return work.receive_tar(io.BytesIO(raw), TARGET, size_bytes=size, checksum=checksum, members=members)


def refuse(
    base: Path, raw: bytes, why: str, kind: type[CcatwmError] = CorruptCopyError, **expected: object
) -> None:
    """The package is refused for this reason, and nothing is left, here or beside the base directory."""
    before = everything(base.parent)
    with pytest.raises(kind, match=why):
        receive(base, raw, **expected)  # type: ignore[arg-type]
    assert everything(base.parent) - before <= {"base/cache"}


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def content(base: Path) -> dict[str, bytes]:
    top = base / TARGET
    return {str(p.relative_to(top)): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}


# --- hostile members ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "..", "./../x", "d/" * 40 + "../" * 41 + "x"])
def test_a_tar_with_a_parent_path_is_refused(base: Path, name: str, format: int):
    refuse(base, tar(file("good"), file(name), format=format), "leads out of its package")


def test_a_tar_with_an_absolute_path_is_refused(base: Path):
    refuse(base, tar(file(f"{base.parent}/outside")), "has an absolute path")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a FIFO"),
        (b"V", "special file"),
        (b"Z", "special file"),
    ],
)
def test_a_tar_with_a_special_file_is_refused(base: Path, kind: bytes, said: str):
    refuse(base, tar(file("good"), special("bad", kind, devmajor=1, devminor=3)), f"bad is .*{said}")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "good"])
def test_a_tar_with_a_symbolic_link_is_refused(base: Path, target: str):
    raw = tar(file("good"), special("link", tarfile.SYMTYPE, linkname=target), file("link/x"))
    refuse(base, raw, "link is a symbolic link: packages hold files and folders only")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/etc/passwd", "absolute"),
        ("../../secret", "leads out"),
        ("later", "not before it"),
        ("d", "not before it"),
    ],
)
def test_a_hard_link_out_of_the_package_is_refused(base: Path, target: str, said: str):
    (base / "secret").write_text("secret")
    raw = tar(file("d/a"), special("link", tarfile.LNKTYPE, linkname=target), file("later"))
    refuse(base, raw, said)


def test_a_hard_link_inside_the_package_becomes_a_file_of_its_own(base: Path):
    received = receive(base, tar(file("d/a", b"abc"), special("b", tarfile.LNKTYPE, linkname="./d/a")))
    assert content(base) == {"b": b"abc", "d/a": b"abc"}
    assert received.file_count == 2
    assert not (base / TARGET / "b").samefile(base / TARGET / "d/a")


@pytest.mark.parametrize("again", ["a", "./a", "a//", "d/.././a"])
def test_a_name_that_is_there_twice_is_refused(base: Path, again: str):
    refuse(base, tar(file("a", b"1"), file(again, b"2")), "is in the package twice|leads out")


def test_a_folder_may_be_there_twice(base: Path):
    folder = special("d", tarfile.DIRTYPE)
    assert receive(base, tar(folder, file("d/a"), folder)).file_count == 1


def test_a_file_where_a_folder_is_and_the_other_way_round_are_refused(base: Path):
    refuse(base, tar(file("d/a"), file("d")), "twice")
    refuse(base, tar(file("d"), file("d/a")), "both a file and a folder")
    refuse(base, tar(file("d"), special("d", tarfile.DIRTYPE)), "both a file and a folder")


def test_modes_and_owners_and_times_of_the_tar_do_not_count(base: Path):
    receive(base, tar(file("d/a", mode=0o6777, uid=12345, gid=12345, mtime=1)))
    found = (base / TARGET / "d/a").stat()
    assert stat.S_IMODE(found.st_mode) == 0o444
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
    assert found.st_mtime > 1e9


def test_modes_do_not_depend_on_the_umask(base: Path):
    before = os.umask(0o077)
    try:
        receive(base, tar(file("d/a")))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((base / TARGET / name).stat().st_mode) for name in (".", "d", "d/a")]
    assert modes == [0o755, 0o755, 0o444]


def test_folders_keep_the_group_of_their_parent(base: Path):
    (base / "cache").mkdir()
    (base / "cache").chmod(0o2770)
    receive(base, tar(file("d/a")))
    assert [stat.S_IMODE((base / TARGET / name).stat().st_mode) for name in (".", "d")] == [0o2755, 0o2755]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_bytes_are_kept(base: Path, format: int):
    names = [
        os.fsdecode(b"caf\xe9.fits"),
        "Zürich",
        "new\nline",
        "-rf",
        "\x1b[31m",
        "l" * 255,
        "d/" * 100 + "deep",
    ]
    receive(base, tar(*(file(name, os.fsencode(name)) for name in names), format=format))
    assert content(base) == {name: os.fsencode(name) for name in names}


@pytest.mark.parametrize("name", ["n" * 256, "d/" * 600 + "x"])
def test_a_name_too_long_is_refused_and_shown_short(base: Path, name: str):
    refuse(base, tar(file(name)), "^member .{1,200} has a name that is too long")


def test_a_sparse_bomb_ends_at_the_limit(base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_tar, "EXPANSION_ALLOWANCE", 1 << 20)
    stored = b"".join(f"{n}\n".encode() for n in (1, 1 << 40, 0)).ljust(
        512, b"\0"
    )  # GNU sparse 1.0: nothing stored
    pax = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "bomb",
        "GNU.sparse.realsize": str(1 << 40),
    }
    raw = tar(("bomb", stored, {"pax_headers": pax}), format=tarfile.PAX_FORMAT)
    refuse(base, raw, "unpacks to more than")


def test_an_endless_map_of_a_sparse_file_is_not_kept_in_memory(base: Path):
    pax = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "a",
        "GNU.sparse.realsize": "1",
    }
    numbers = b"1000000000\n" + b"0\n" * (4 << 20)
    raw = tar(file("a", numbers, pax_headers=pax), format=tarfile.PAX_FORMAT)
    refuse(base, gzip.compress(raw), "bytes of headers before a member")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_bomb_ends_at_the_limit(
    base: Path, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_tar, "EXPANSION_ALLOWANCE", 1 << 20)
    refuse(base, compress(tar(file("bomb", bytes(8 << 20)))), "unpacks to more than")


def test_a_bomb_of_hard_links_ends_at_the_limit(base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_tar, "EXPANSION_ALLOWANCE", 1 << 20)
    links = [special(f"l{n}", tarfile.LNKTYPE, linkname="a") for n in range(200)]
    refuse(base, tar(file("a", bytes(1 << 20)), *links), "unpacks to more than")


def test_a_header_that_says_a_huge_or_negative_size_is_refused(base: Path):
    for size in (1 << 60, -(1 << 40)):
        header = tarfile.TarInfo("a").tobuf(format=tarfile.GNU_FORMAT)
        number = (
            b"\x80" + size.to_bytes(11, "big")
            if size > 0
            else b"\xff" + size.to_bytes(11, "big", signed=True)
        )
        refuse(base, resum(header[:124] + number + header[136:]) + bytes(1024), "not a whole tar")


def test_an_extended_header_is_not_read_into_memory_whatever_its_size(base: Path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    refuse(base, header.tobuf(format=tarfile.GNU_FORMAT) + bytes(2048), "extended header of")


def test_a_thousand_nested_headers_are_refused(base: Path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    one = header.tobuf(format=tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")
    refuse(base, one * 5000 + bytes(1024), "not a whole tar")


def resum(header: bytes) -> bytes:
    """The header with a right checksum of its own."""
    blank = header[:148] + b" " * 8 + header[156:512]
    return header[:148] + b"%06o\0 " % sum(struct.unpack("512B", blank)) + header[156:512]


# --- broken copies ------------------------------------------------------------------------------------------------

GOOD = tar(file("a", b"A" * 3000), file("d/b", b"B" * 700), file("c", b"C"))
COMPRESSED = {"plain": GOOD, "gz": gzip.compress(GOOD), "bz2": bz2.compress(GOOD), "xz": lzma.compress(GOOD)}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_good_tar_is_received_however_it_is_compressed(base: Path, kind: str):
    raw = COMPRESSED[kind]
    received = receive(base, raw, size=len(raw), checksum=sum_of(raw))
    assert content(base) == {"a": b"A" * 3000, "c": b"C", "d/b": b"B" * 700}
    assert (received.size_bytes, received.file_count, received.unpacked_bytes) == (len(raw), 3, 3701)


@pytest.mark.parametrize("algorithm", sorted(DIGITS))
def test_every_known_checksum_is_checked(base: Path, algorithm: str):
    receive(base, GOOD, checksum=sum_of(GOOD, algorithm).upper())
    refuse(
        base,
        tar(file("other")),
        f"{algorithm} is [0-9a-f]+, [0-9a-f]+ expected",
        checksum=sum_of(GOOD, algorithm),
    )


@pytest.mark.parametrize("checksum", ["crc32:12345678", "d41d8cd98f00b204e9800998ecf8427e", "sha256:", ""])
def test_an_unknown_checksum_says_which_are_known(base: Path, checksum: str):
    refuse(base, GOOD, "known are sha256, sha512, sha1, md5, blake2b", UncheckableError, checksum=checksum)


def test_a_listed_checksum_of_an_unknown_kind_says_nothing_against_the_copy(base: Path):
    refuse(base, GOOD, "known are sha256", UncheckableError, members={"c": (1, "crc32c:00")})


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_tar_cut_anywhere_is_refused_even_without_size_and_checksum(base: Path, kind: str):
    raw = COMPRESSED[kind]
    end_marks = raw.rstrip(b"\0") if kind == "plain" else raw
    for length in range(0, len(end_marks), max(1, len(end_marks) // 40)):
        refuse(base, raw[:length], "not a whole tar|no file in the package")


def test_a_tar_cut_between_two_members_is_refused_unless_a_checksum_vouches_for_it(base: Path):
    cut = GOOD[: 512 + 3072]
    refuse(base, cut, "it has no end mark")
    assert receive(base, cut, checksum=sum_of(cut)).file_count == 1


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_flipped_byte_is_found_wherever_it_is(base: Path, kind: str):
    raw = COMPRESSED[kind]
    for place in range(0, len(raw), max(1, len(raw) // 40)):
        flipped = bytearray(raw)
        flipped[place] ^= 0x10
        refuse(base, bytes(flipped), "sha256 is", size=len(raw), checksum=sum_of(raw))


def test_a_damaged_header_is_not_taken_for_the_end_of_the_tar(base: Path):
    second = 512 + 3072
    refuse(base, GOOD[: second + 5] + b"!" + GOOD[second + 6 :], "damaged header at byte 3584")


@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_a_flipped_byte_in_compressed_data_is_found_without_a_checksum(base: Path, kind: str):
    raw = COMPRESSED[kind]
    for place in range(len(raw) // 3, len(raw) - 8):
        flipped = bytearray(raw)
        flipped[place] ^= 0x10
        refuse(base, bytes(flipped), "not a whole tar|no file|damaged|member")


@pytest.mark.parametrize("kind", [gzip.compress, lzma.compress])
def test_the_checksum_of_the_compressed_data_is_checked_behind_the_end_mark(
    base: Path, kind: Callable[[bytes], bytes]
):
    raw = kind(tar(file("a")) + bytes(1 << 20))
    refuse(base, raw[:-8] + bytes(8), "not a whole tar")


def test_padding_after_the_end_counts_for_size_and_checksum(base: Path):
    padded = GOOD + bytes(10240)
    receive(base, padded, size=len(padded), checksum=sum_of(padded))
    refuse(base, padded, "longer than", size=len(GOOD))
    refuse(base, GOOD, f"{len(GOOD)} bytes, {len(padded)} expected", size=len(padded))


def test_reading_stops_early_at_a_copy_that_is_longer_than_it_should_be(base: Path):
    stream = io.BytesIO(tar(file("a", bytes(64 << 20))))
    with pytest.raises(CorruptCopyError, match="longer than the 5000 bytes"):
        LocalWorkFiles(base, PlainEffects()).receive_tar(stream, TARGET, size_bytes=5000, checksum=None)
    assert stream.tell() <= 2 * _receive.BLOCK


@pytest.mark.parametrize(
    "raw", [b"", bytes(10240), b"SIMPLE  =                    T" * 1000, b"\x1f\x8b\x08 no gzip"]
)
def test_what_is_no_tar_or_an_empty_one_is_refused(base: Path, raw: bytes):
    refuse(base, raw, "not a whole tar|no file in the package")


# --- files that are listed --------------------------------------------------------------------------------------


def test_listed_files_are_compared_under_any_known_checksum(base: Path):
    raw = tar(file("a", b"1"), file("50%", b"22"), file("unlisted"))
    listed = {"./a": (1, sum_of(b"1", "md5")), "50%25": (2, sum_of(b"22"))}
    assert receive(base, raw, members=listed).file_count == 3


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"a": (2, None)}, "file a has 1 bytes, 2 expected"),
        ({"a": (1, sum_of(b"2", "md5"))}, "file a has md5"),
        ({"a": (1, sum_of(b"2"))}, "file a has sha256"),
        ({"b": (1, None)}, "1 listed files are not in the package: b"),
    ],
)
def test_a_file_that_is_not_as_listed_is_refused(base: Path, listed: dict, said: str):
    refuse(base, tar(file("a", b"1")), said, members=listed)


# --- two at once ---------------------------------------------------------------------------------------------------


def test_a_second_process_that_receives_the_same_package_does_not_sweep_away_the_first(base: Path):
    class Meanwhile(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() == 0:
                receive(base, GOOD)
            return super().read(size)

    LocalWorkFiles(base, PlainEffects()).receive_tar(Meanwhile(GOOD), TARGET, size_bytes=None, checksum=None)
    assert content(base) == {"a": b"A" * 3000, "c": b"C", "d/b": b"B" * 700}
    assert [path.name for path in (base / "cache").iterdir()] == ["p"]
