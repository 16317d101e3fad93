"""What travels between the two halves of the program comes back as it was; what is no frame is refused in bounds."""

from __future__ import annotations

import io
import json
import struct
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ccatwm.core.wire import MAX_BODY, MAX_HEADER, PREFIX, Codec, WireError, split_prefix
from ccatwm.edges.transport._protocol import CODEC, error_from_value, error_to_value
from ccatwm.errors import DefectError, HostKeyError, NoSpaceError, Problem, SettingsError, WorldError
from ccatwm.interfaces import (
    CommandResult,
    EntryKind,
    FileWrite,
    PackageCopy,
    Received,
    Space,
    TreeEntry,
)

pytestmark = pytest.mark.quick

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # surrogates too: names on disk are bytes
PATH = st.text(st.characters(exclude_categories=(), exclude_characters="\0"), max_size=20).map(PurePosixPath)
NUMBER = st.integers(min_value=-(1 << 70), max_value=1 << 70)
KNOWN = st.one_of(
    st.builds(TreeEntry, PATH, st.sampled_from(EntryKind), NUMBER, NUMBER, st.none() | TEXT),
    st.builds(FileWrite, PATH, st.binary(max_size=50), NUMBER),
    st.builds(Received, NUMBER, NUMBER, TEXT, NUMBER),
    st.builds(Space, NUMBER, NUMBER),
    st.builds(PackageCopy, TEXT, TEXT, TEXT, st.none() | TEXT, TEXT, NUMBER),
    st.builds(CommandResult, st.none() | NUMBER, st.binary(max_size=50), st.binary(max_size=50)),
)
KEYS = st.one_of(st.none(), st.booleans(), NUMBER, TEXT, PATH, st.binary(max_size=9))
LEAVES = st.one_of(
    KEYS,
    st.floats(allow_nan=False),
    st.datetimes(timezones=st.just(UTC)),
    st.sampled_from(EntryKind),
    KNOWN,
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=20,
)


def there_and_back(value: object) -> object:
    stream = io.BytesIO(CODEC.encode(value))
    back = CODEC.read(stream.read)
    assert stream.read() == b"", "a frame ends where it says"
    return back


def typed(value: object) -> object:
    """The value with the type of every part: 1, True and 1.0 are equal in Python."""
    if isinstance(value, list | tuple):
        return type(value), [typed(inner) for inner in value]
    if isinstance(value, dict):
        return dict, [(typed(key), typed(inner)) for key, inner in value.items()]
    return type(value), value


@given(VALUES)
@example("\ud800\udc00")
@example(["b"])
@example({"b": ["u"]})
@example(PurePosixPath("caf\udce9"))
def test_every_value_comes_back_as_it_was(value: object) -> None:
    assert typed(there_and_back(value)) == typed(value)


def test_bytes_travel_as_they_are() -> None:
    content = bytes(range(256)) * 4000
    frame = CODEC.encode(FileWrite(PurePosixPath("a"), content))
    assert content in frame
    assert len(frame) < len(content) + 100


def test_a_time_comes_back_as_the_same_moment() -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=-3)))
    assert there_and_back(at) == at


@dataclass(frozen=True)
class Unknown:
    number: int = 1


@pytest.mark.parametrize(
    "value", [object(), Unknown(), {1, 2}, datetime(2026, 1, 1), bytearray(b"x"), print, [[Unknown]]]
)
def test_what_is_not_in_the_table_cannot_be_sent(value: object) -> None:
    with pytest.raises(WireError, match="cannot be sent"):
        CODEC.encode(value)


def test_what_is_nested_too_deep_cannot_be_sent() -> None:
    value: list[object] = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(WireError):
        CODEC.encode(value)


# --- hostile frames -------------------------------------------------------------------------------------------------


def header(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "[1]", "[1,2,3]", "1", "null", "[1, 5]", '[{"a": 1}, []]', "[[], []]", '[["x"], []]',
        '[["b"], []]', '[["b"], [1]]', '[["b"], [-1]]',
        '[["b"], ["1"]]', '[["b"], [true]]', '[["u"], []]', '[["p"], []]', '[["p", 1], []]',
        '[["c", "Space", 1], []]', '[["c", "Space", 1, 2, 3], []]',
        '[["c", "CcatwmError", 1], []]', '[["c", "os.system", "id"], []]',
        '[["c", ["l"], 1], []]', '[["c", "EntryKind", "FILE"], []]',
        '[["e", "EntryKind", "NONE"], []]', '[["e", "Space", "x"], []]',
        '[["e", "EntryKind"], []]', '[["m", "yesterday"], []]', '[["m", 3], []]', '[["d", 1], []]', '[["d", ["l"], 1], []]',
        b"\xff\xfe", "[" * 100_000, "[" * 100_000 + "]" * 100_000, "[" + "9" * 5000 + ", []]",
    ],
)  # fmt: skip
def test_a_frame_that_holds_no_value_is_refused(text: str | bytes) -> None:
    with pytest.raises(WireError):
        CODEC.decode(header(text), b"")


def test_attachments_that_are_left_over_or_missing_are_refused() -> None:
    with pytest.raises(WireError, match="add up"):
        CODEC.decode(b"[1, []]", b"rest")
    with pytest.raises(WireError, match="missing"):
        CODEC.decode(b'[["l", ["b"], ["b"]], [4]]', b"only")


@pytest.mark.parametrize(
    "prefix",
    [
        b"",
        b"HTTP/1.1 400 Bad",
        b"Welcome to login1 of the cluster\n"[:16],
        struct.pack(">4sIQ", b"ccw2", 1, 1),
        struct.pack(">4sIQ", b"ccw1", MAX_HEADER + 1, 0),
        struct.pack(">4sIQ", b"ccw1", 0, MAX_BODY + 1),
        struct.pack(">4sIQ", b"ccw1", 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF),
    ],
)
def test_what_is_no_frame_is_refused_before_anything_of_it_is_read(prefix: bytes) -> None:
    asked: list[int] = []

    def read(size: int) -> bytes:
        asked.append(size)
        return prefix

    with pytest.raises(WireError):
        CODEC.read(read)
    assert asked == [PREFIX.size]


def test_too_much_for_one_frame_is_refused_by_whoever_would_send_it() -> None:
    with pytest.raises(WireError, match="too much for one frame"):
        CODEC.encode(bytes(MAX_BODY + 1))


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_else_than_decode_or_be_refused(content: bytes) -> None:
    with suppress(WireError):
        CODEC.decode(content, b"")


WORDS = ["c", "e", "Space", "EntryKind", "FILE", "b", "u", "p", "d", "l", "t", "m"]
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@given(JSON, st.lists(NUMBER, max_size=3))
def test_no_lists_do_anything_else_than_decode_or_be_refused(value: object, sizes: list[int]) -> None:
    with suppress(WireError):
        CODEC.decode(json.dumps([value, sizes]).encode(), b"")


def test_a_codec_knows_its_own_types_only() -> None:
    frame = CODEC.encode(Space(1, 2))
    with pytest.raises(WireError):
        Codec((Received,)).read(io.BytesIO(frame).read)
    assert split_prefix(frame[: PREFIX.size])[1] == 0


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        NoSpaceError("full", where="/x", next="free some"),
        HostKeyError("unknown"),
        SettingsError("wrong", problems=[Problem("a", "b", "c")]),
        ValueError("not a path below the base directory: /etc"),
    ],
)
def test_an_error_comes_back_as_the_same_class(error: Exception) -> None:
    back = error_from_value(there_and_back(error_to_value(error, "")), "files.exists")  # type: ignore[arg-type]
    assert (type(back), str(back)) == (type(error), str(error))


@pytest.mark.parametrize("error", [KeyError("x"), OSError(5, "eh"), SystemExit(3), MemoryError()])
def test_any_other_error_is_a_defect_and_nothing_to_try_again(error: BaseException) -> None:
    back = error_from_value(error_to_value(error, "Traceback: secret/path"), "files.exists")
    assert type(back) is DefectError
    assert not isinstance(back, WorldError)
    assert "files.exists failed on the processing host" in str(back)
    assert "defect" in str(back)
    assert "Traceback" not in str(back)
