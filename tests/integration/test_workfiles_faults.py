"""Files on full disks, on two file systems, without permissions, and under processes that die at any effect."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import ClassVar

import pytest

from ccatwm.edges.workfiles._folders import hidden_name
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.errors import CcatwmError, FilesUnavailableError, NoSpaceError
from ccatwm.interfaces import Effects, FileWrite, PlainEffects
from tests.disks import small_disk

P = PurePosixPath
KILLED = 9


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


@pytest.fixture(name="small_disk")
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB and 64 inodes."""
    folder = tmp_path / "small"
    folder.mkdir()
    with small_disk(folder, megabytes=4, inodes=64):
        yield folder


def tar(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below with its content, hidden names too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def receive(work: LocalWorkFiles, raw: bytes) -> None:
    checksum = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    work.receive_tar(io.BytesIO(raw), P("cache/p"), size_bytes=len(raw), checksum=checksum)


# --- full disks ---------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_amid_packages_that_come_together_leaves_none_of_them(small_disk: Path):
    work = LocalWorkFiles(small_disk, PlainEffects())
    with pytest.raises(NoSpaceError), work.receiving_together() as together:
        for number in range(10):
            together.receive_tar(io.BytesIO(tar(a=bytes(1 << 20))), P(f"cache/{number}"), size_bytes=None, checksum=None)
    assert tree(small_disk) == {"cache": None}


def test_an_error_of_the_flush_leaves_none_of_them(base: Path):
    class NoFlush:
        @contextmanager
        def around(self, name: str, detail: str = "") -> Iterator[None]:
            if name == "file.syncfs":
                raise OSError(errno.EIO, "Input/output error")
            yield

    work = LocalWorkFiles(base, NoFlush())
    with pytest.raises(CcatwmError, match="Input/output error"), work.receiving_together() as together:
        for number in range(3):
            together.receive_tar(io.BytesIO(tar(a=b"x")), P(f"cache/{number}"), size_bytes=None, checksum=None)
    assert tree(base) == {"cache": None}


def test_what_comes_together_is_hidden_until_all_is_on_disk_and_nobody_sweeps_it_away(base: Path):
    work = LocalWorkFiles(base, PlainEffects())
    with work.receiving_together() as together:
        for number in range(3):
            together.receive_tar(io.BytesIO(tar(a=b"x")), P(f"cache/{number}"), size_bytes=None, checksum=None)
        assert not [p for p in (base / "cache").iterdir() if not p.name.startswith(".")]
        work.remove_trees([P("cache/1")])  # with what dead processes left of it
    assert sorted(p.name for p in (base / "cache").iterdir()) == ["0", "1", "2"]


def test_a_package_too_large_for_the_disk_leaves_nothing(small_disk: Path):
    work = LocalWorkFiles(small_disk, PlainEffects())
    with pytest.raises(NoSpaceError, match=r"No space left on device: .*cache/p"):
        receive(work, tar(a=bytes(1 << 20), d__b=bytes(8 << 20)))
    assert tree(small_disk) == {"cache": None}
    receive(work, tar(a=bytes(1 << 20)))
    assert set(tree(small_disk)) == {"cache", "cache/p", "cache/p/a"}


def test_a_package_with_more_files_than_free_inodes_leaves_nothing(small_disk: Path):
    work = LocalWorkFiles(small_disk, PlainEffects())
    with pytest.raises(NoSpaceError, match="No space left"):
        receive(work, tar(**{f"f{n}": b"x" for n in range(80)}))
    assert tree(small_disk) == {"cache": None}


def test_a_file_too_large_for_the_disk_leaves_the_older_one(small_disk: Path):
    work = LocalWorkFiles(small_disk, PlainEffects())
    work.write_files([FileWrite(P("run.json"), b"old")])
    with pytest.raises(NoSpaceError, match=r"run\.json"):
        work.write_files([FileWrite(P("run.json"), bytes(8 << 20))])
    assert tree(small_disk) == {"run.json": b"old"}


def test_copies_too_large_for_the_disk_leave_nothing(small_disk: Path):
    work = LocalWorkFiles(small_disk, PlainEffects())
    work.write_files([FileWrite(P("s/a"), bytes(3 << 20))])
    with pytest.raises(NoSpaceError):
        work.link_trees([(P("s"), P("t"))], hard=False)
    assert set(tree(small_disk)) == {"s", "s/a"}


class Failing:
    """Effects of one name fail with one error, as a disk or a network file system would say it."""

    def __init__(self, name: str, code: int) -> None:
        self._name, self._code = name, code

    def around(self, name: str, detail: str = "") -> AbstractContextManager[None]:
        if name == self._name:
            raise OSError(self._code, os.strerror(self._code))
        return nullcontext()


@pytest.mark.quick
@pytest.mark.parametrize("effect", ["file.write", "file.fsync", "file.rename"])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EIO, FilesUnavailableError),
        (errno.ESTALE, FilesUnavailableError),
        (errno.ETIMEDOUT, FilesUnavailableError),
    ],
)
def test_errors_of_the_disk_in_a_large_batch_have_their_class_and_leave_nothing_hidden(
    base: Path, effect: str, code: int, error: type[CcatwmError]
):
    effect = effect.replace("fsync", "syncfs")
    work = LocalWorkFiles(base, Failing(effect, code))
    with pytest.raises(error, match=f"{os.strerror(code)}"):
        work.write_files([FileWrite(P(f"d/{n}"), b"1") for n in range(40)])
    assert set(tree(base)) == {"d"}


@pytest.mark.quick
@pytest.mark.parametrize("effect", ["file.write", "file.fsync", "file.rename"])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EIO, FilesUnavailableError),
        (errno.ESTALE, FilesUnavailableError),
        (errno.ETIMEDOUT, FilesUnavailableError),
    ],
)
def test_errors_of_the_disk_have_their_class_and_leave_nothing(
    base: Path, effect: str, code: int, error: type[CcatwmError]
):
    work = LocalWorkFiles(base, Failing(effect, code))
    with pytest.raises(error, match=f"{os.strerror(code)}"):
        receive(work, tar(a=b"1"))
    with pytest.raises(error, match=f"{os.strerror(code)}"):
        work.write_files([FileWrite(P("f"), b"1")])
    assert [name for name in tree(base) if name not in ("cache", "cache/p", "cache/p/a", "f")] == []
    if effect != "file.fsync":  # what was renamed before its folder was flushed may stay: it is whole
        assert tree(base) == {"cache": None}


@pytest.mark.quick
def test_a_large_batch_is_flushed_by_its_file_systems_before_and_after_the_renames(base: Path):
    class Listing:
        names: ClassVar[list[str]] = []

        def around(self, name: str, detail: str = "") -> AbstractContextManager[None]:
            self.names.append(name)
            return nullcontext()

    files = [FileWrite(P(f"r{n % 7}/a{n}"), b"%d" % n) for n in range(300)]
    LocalWorkFiles(base, Listing()).write_files(iter(files))
    assert LocalWorkFiles(base, PlainEffects()).read_files(file.path for file in files) == {
        file.path: file.content for file in files
    }
    effects = [name for name in Listing.names if name != "file.mkdir"]
    first, second = ["file.write"] * 256, ["file.write"] * 44
    renames = [["file.rename"] * len(some) for some in (first, second)]
    assert effects == [
        *first, "file.syncfs", *renames[0], *second, "file.syncfs", *renames[1], "file.syncfs",
    ]  # fmt: skip


def test_a_large_batch_on_two_file_systems_is_flushed_on_both(tmp_path: Path, small_disk: Path):
    work = LocalWorkFiles(tmp_path, PlainEffects())
    work.write_files([FileWrite(P("small" if n % 2 else "large") / f"{n}", b"x") for n in range(40)])
    assert len(list(small_disk.iterdir())) == 20
    with pytest.raises(NoSpaceError):
        work.write_files([FileWrite(P("small") / f"n{n}", b"x") for n in range(60)])
    assert {name[0] for name in tree(small_disk)} <= set("0123456789"), "nothing hidden, nothing half"


@pytest.mark.quick
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_what_is_removed_needs_no_room_for_a_longer_name(base: Path, code: int):
    (base / "trash/1/d").mkdir(parents=True)
    (base / "trash/1/d/f").write_bytes(b"x")
    LocalWorkFiles(base, Failing("file.rename", code)).remove_trees([P("trash/1")])
    assert tree(base) == {"trash": None}


# --- two file systems, no permissions ------------------------------------------------------------------------------


def test_a_tree_is_copied_where_it_lies_on_another_file_system(base: Path, tmp_path: Path, small_disk: Path):
    shutil.rmtree(base)
    base = tmp_path
    (small_disk / "s").mkdir()
    (small_disk / "s/a").write_bytes(b"1")
    LocalWorkFiles(base, PlainEffects()).link_trees([(P("small/s"), P("run/s"))])
    assert (base / "run/s/a").read_bytes() == b"1"
    assert (base / "run/s/a").stat().st_dev != (small_disk / "s/a").stat().st_dev


@pytest.mark.quick
@pytest.mark.parametrize("code", ["EPERM", "EMLINK", "EXDEV", "ENOTSUP", "EACCES"])
def test_a_refused_hard_link_means_a_copy_of_that_file_alone(
    base: Path, monkeypatch: pytest.MonkeyPatch, code: str
):
    link = os.link

    def refuse_a(source: str, target: str, **options: object) -> None:
        if source == "a":
            raise OSError(getattr(errno, code), "refused")
        link(source, target, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", refuse_a)
    work = LocalWorkFiles(base, PlainEffects())
    work.write_files([FileWrite(P("s/a"), b"1"), FileWrite(P("s/b"), b"2")])
    work.link_trees([(P("s"), P("t"))])
    assert tree(base / "t") == {"a": b"1", "b": b"2"}
    assert [(base / "t" / name).samefile(base / "s" / name) for name in "ab"] == [False, True]


def as_somebody_else(act: Callable[[], None]) -> None:
    """In a child without root's rights, where permissions count; in this process if it has none anyway."""
    if os.geteuid() != 0:
        act()
        return
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_read_only_folders_are_removed_as_an_ordinary_user(request: pytest.FixtureRequest):
    top = Path(tempfile.mkdtemp(prefix="ccatwm-shared-"))  # pytest's own folders are closed to others
    request.addfinalizer(lambda: shutil.rmtree(top))
    top.chmod(0o755)
    base = top / "base"
    base.mkdir(mode=0o777)
    base.chmod(0o777)

    def act() -> None:
        work = LocalWorkFiles(base, PlainEffects())
        work.write_files([FileWrite(P("t/a/b"), b"1", mode=0o400), FileWrite(P("t/c/d"), b"2")])
        (base / "t/c").chmod(0o000)
        (base / "t/a").chmod(0o500)
        (base / "t").chmod(0o555)
        work.remove_trees([P("t")])

    as_somebody_else(act)
    assert tree(base) == {}


# --- what others leave ---------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_what_a_dead_process_left_is_swept_and_what_a_living_one_holds_stays(base: Path):
    names = {name: hidden_name("p") for name in ("dead", "living", "dead file")}
    for name in ("dead", "living"):
        (base / "cache" / names[name] / "d").mkdir(parents=True)
    (base / "cache" / names["dead file"]).write_bytes(b"x")
    others = [hidden_name("p.q"), ".p.part", ".p.0123.part"]
    for other in others:
        (base / "cache" / other).mkdir()
    held = os.open(base / "cache" / names["living"], os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        receive(LocalWorkFiles(base, PlainEffects()), tar(a=b"1"))
    finally:
        os.close(held)
    assert {path.name for path in (base / "cache").iterdir()} == {"p", names["living"], *others}


@pytest.mark.quick
def test_what_is_done_already_takes_no_effect(base: Path):
    counting = Dying(0, "never")
    work = LocalWorkFiles(base, counting)
    work.write_files([FileWrite(P("s/a"), b"1")])

    def act() -> None:
        work.make_trees([P("x/y")])
        work.make_exclusive(P("x/z"))
        work.link_trees([(P("s"), P("t"))])
        work.switch_link(P("l"), "t")
        work.switch_links([(P("l"), "t"), (P("never"), None)])
        work.remove_trees([P("gone")])

    act()
    done = counting.count
    act()
    assert counting.count == done + 1, "the one is the attempt to make a folder exclusively"


# --- processes that die --------------------------------------------------------------------------------------------


class Dying:
    """Ends the process at the k-th effect, before or after it."""

    def __init__(self, kill_at: int, when: str) -> None:
        self.count, self._kill_at, self._when = 0, kill_at, when
        self._inside = False

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        assert not self._inside, f"{name} inside another effect: neither is single"
        self.count += 1
        if self.count == self._kill_at and self._when == "before":
            os._exit(KILLED)
        self._inside = True
        yield
        self._inside = False
        if self.count == self._kill_at and self._when == "after":
            os._exit(KILLED)


def in_child(base: Path, effects: Effects, act: Callable[[LocalWorkFiles], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            act(LocalWorkFiles(base, effects))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


RAW = tar(a=b"A" * 3000, d__b=b"B", d__e__c=b"C")
ACTS: dict[str, Callable[[LocalWorkFiles], None]] = {
    "receive_tar": lambda work: receive(work, RAW),
    "link_trees": lambda work: work.link_trees(
        [(P("source"), P("run/input/s")), (P("source/a"), P("run/a"))]
    ),
    "copy_trees": lambda work: work.link_trees([(P("source"), P("run/input/s"))], hard=False),
    "write_files": lambda work: work.write_files([FileWrite(P("x/y"), b"1"), FileWrite(P("old"), b"new")]),
    "write_many_files": lambda work: work.write_files(
        [FileWrite(P("x/many") / f"{n % 3}" / f"{n}", b"%d" % n) for n in range(20)]
        + [FileWrite(P("old"), b"new")]
    ),
    "switch_link": lambda work: work.switch_link(P("run/output"), "attempt-2/output"),
    "switch_links": lambda work: (
        work.switch_links([(P("run/output"), "attempt-2/output"), (P("run/former"), None)]), None
    )[1],
    "remove_trees": lambda work: work.remove_trees([P("rubbish")]),
    "rename": lambda work: (work.rename(P("source"), P("moved/there")), None)[1],
}


def prepare(base: Path) -> None:
    work = LocalWorkFiles(base, PlainEffects())
    old = [FileWrite(P("source") / name, name.encode()) for name in ("a", "d/b", "d/c")]
    rubbish = [FileWrite(P("rubbish") / name, b"x") for name in ("a", "d/b", "d/c")]
    work.write_files([*old, *rubbish, FileWrite(P("old"), b"old")])
    work.make_trees([P("run"), P("x"), P("moved"), P("cache"), P("run/input")])
    work.switch_links([(P("run/output"), "attempt-1/output"), (P("run/former"), "x")])


def shown(base: Path) -> dict[str, bytes | None]:
    """What others see: nothing hidden, and where links lead."""
    found = {name: content for name, content in tree(base).items() if "/." not in f"/{name}"}
    return found | {"run/output": os.readlink(base / "run/output").encode()}


@pytest.mark.quick
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("act", sorted(ACTS))
def test_a_kill_at_any_effect_shows_nothing_half_done_and_trying_again_succeeds(
    tmp_path: Path, act: str, when: str
):
    before, after, effects = rehearse(tmp_path / "rehearsal", act)
    for kill_at in range(1, effects + 1):
        base = tmp_path / f"{when}-{kill_at}"
        base.mkdir()
        prepare(base)
        assert in_child(base, Dying(kill_at, when), ACTS[act]) == KILLED
        assert whole(shown(base), before, after), f"effect {kill_at} was half seen"
        assert in_child(base, PlainEffects(), ACTS[act]) == 0
        left = tree(base) | {"run/output": os.readlink(base / "run/output").encode()}
        assert left == after, f"after a kill at effect {kill_at}"


def rehearse(base: Path, act: str) -> tuple[dict[str, bytes | None], dict[str, bytes | None], int]:
    """What is there before and after the act, and how many effects it has."""
    base.mkdir()
    prepare(base)
    before, counting = shown(base), Dying(0, "never")
    ACTS[act](LocalWorkFiles(base, counting))
    return before, shown(base), counting.count


def whole(
    seen: dict[str, bytes | None], before: dict[str, bytes | None], after: dict[str, bytes | None]
) -> bool:
    """Whether every top of what the act changes is as before or as after, with all below it."""
    tops = {"cache/p", "run/input/s", "run/a", "x/y", "old", "run/output", "rubbish", "source", "moved/there"}
    return all(below(seen, top) in (below(before, top), below(after, top)) for top in tops)


def below(found: dict[str, bytes | None], top: str) -> dict[str, bytes | None]:
    return {name: content for name, content in found.items() if name == top or name.startswith(f"{top}/")}
