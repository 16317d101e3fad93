"""File names as text, and digests of trees."""

from __future__ import annotations

import hashlib
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.core.digests import split_checksum, tree_digest
from ccatwm.core.names import decode_name, encode_name

pytestmark = pytest.mark.quick

ANY_NAME = st.binary(min_size=1, max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(ANY_NAME)
def test_every_name_of_bytes_comes_back(name: str) -> None:
    assert decode_name(encode_name(name)) == name


@given(ANY_NAME)
def test_an_encoded_name_is_text_that_a_database_and_a_terminal_take(name: str) -> None:
    text = encode_name(name)
    assert json.loads(json.dumps(text)).encode("utf-8").decode("utf-8") == text
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text)


@given(ANY_NAME, ANY_NAME)
def test_two_names_never_have_one_text(one: str, other: str) -> None:
    assert (encode_name(one) == encode_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["NGC253_CO43.fits", "Zürich map (1).fits", "月", "-rf", "a b"])
def test_plain_text_stays_as_it_is(name: str) -> None:
    assert encode_name(name) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("100%", "100%25"),
        ("a\nb", "a%0Ab"),
        ("caf\udce9", "caf%E9"),
        ("\x1b[31m", "%1B[31m"),
        ("\u202efits", "%E2%80%AEfits"),
    ],
)
def test_what_is_not_plain_text_is_percent_encoded(name: str, text: str) -> None:
    assert encode_name(name) == text


def test_bytes_and_text_of_one_name_are_encoded_alike() -> None:
    assert encode_name(b"caf\xe9\n") == encode_name("caf\udce9\n") == "caf%E9%0A"


def test_composed_and_decomposed_letters_stay_two_names() -> None:
    assert encode_name("\u00e9") != encode_name("e\u0301")


def test_a_lone_percent_sign_of_foreign_text_is_kept() -> None:
    assert decode_name("50%") == "50%"
    assert decode_name("50%zz") == "50%zz"


def test_a_tree_digest_is_what_the_documentation_says() -> None:
    lines = b"a\x003\x00" + b"1" * 64 + b"\n" + b"b/\xff\x000\x00" + b"2" * 64 + b"\n"
    assert tree_digest([(b"b/\xff", 0, "2" * 64), (b"a", 3, "1" * 64)]) == hashlib.sha256(lines).hexdigest()


def test_a_tree_digest_sorts_by_the_bytes_of_the_path() -> None:
    entries = [("é".encode(), 1, "0" * 64), (b"z", 1, "0" * 64), (b"Z", 1, "0" * 64)]
    lines = b"".join(path + b"\x001\x00" + b"0" * 64 + b"\n" for path in (b"Z", b"z", "é".encode()))
    assert tree_digest(entries) == hashlib.sha256(lines).hexdigest()


def test_a_checksum_is_split_and_lowered() -> None:
    assert split_checksum("SHA256:ABCD") == ("sha256", "abcd")
    assert split_checksum("abcd") == ("abcd", "")
