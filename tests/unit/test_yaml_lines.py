"""YAML as plain data with the line of every value, and what is refused of it."""

from __future__ import annotations

import json

import pytest

from ccatwm.upkeep._yaml import MAX_DEPTH, parse_yaml, read_json_lines, read_yaml

pytestmark = pytest.mark.quick


def data(text):
    document, problems = parse_yaml(text, "f.yaml")
    assert problems == []
    return document.data


def mistakes(text):
    _, problems = parse_yaml(text, "f.yaml")
    return [(problem.where, problem.what) for problem in problems]


def test_every_value_has_the_line_where_it_stands():
    document, _ = parse_yaml("a:\n  - b: 1\n    c: 2\n  - {b: 3,\n     c: 4}\n", "f.yaml")
    places = [("a", 0, "b"), ("a", 0, "c"), ("a", 1), ("a", 1, "c")]
    assert [document.where(place) for place in places] == ["f.yaml:2", "f.yaml:3", "f.yaml:4", "f.yaml:5"]


def test_what_is_absent_stands_where_the_thing_around_it_stands():
    document, _ = parse_yaml("\na:\n  - b: 1\n", "f.yaml")
    assert document.where(("a", 0, "missing", "deeper")) == "f.yaml:3"


def test_a_file_without_any_value_is_no_mistake():
    assert data("") is None
    assert data("# only a comment\n") is None


@pytest.mark.parametrize("text", ["1.10", "007", "1_000", "2026-03-01", "2026-03-01T01:00:00Z", "0x1f"])
def test_a_number_or_time_is_also_the_text_that_was_written(text):
    assert str(data(f"a: {text}\n")["a"]) == text


def test_a_number_that_remembers_its_digits_is_still_a_number():
    assert json.dumps(data("[1.10, 007, 3]")) == "[1.1, 7, 3]"


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system [id]",
        "!!python/name:os.system",
        "!own text",
        "!own {b: 1}",
        "!own [1]",
        "!!set {x, y}",
        "!!omap [x: 1]",
        "!!binary aGk=",
        "{!own b: 1}",
    ],
)
def test_a_tag_is_refused_wherever_it_stands(value):
    ((where, what),) = mistakes(f"\na: {value}\n")
    assert where == "f.yaml:2"
    assert what.startswith("a tag (")


@pytest.mark.parametrize("value", ["!!str 1", "!!int '1'", "!!map {b: 1}", "!!seq [1]"])
def test_a_tag_of_plain_data_says_nothing_new(value):
    assert str(data(f"a: {value}")["a"]) in ("1", "{'b': 1}", "[1]")


def test_an_alias_is_refused_before_it_is_followed():
    bomb = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(3))
    assert mistakes(bomb) == [("f.yaml:2", "an alias (*name)")]


def test_what_is_refused_hides_nothing_of_the_rest():
    document, problems = parse_yaml("a: !own text\nb: 1\nc: 2\nc: 3\n", "f.yaml")
    assert len(problems) == 2
    assert document.data == {"a": None, "b": 1, "c": 3}
    assert document.wrong == {("a",), ("c",)}


def test_a_merge_key_is_a_key_like_others():
    assert data("<<: {a: 1}\n") == {"<<": {"a": 1}}


def test_all_keys_that_are_there_twice_are_told_with_their_lines():
    text = "a: 1\nb: {c: 1,\n  c: 2}\na: 3\n"
    assert mistakes(text) == [("f.yaml:3", "key 'c' is there twice"), ("f.yaml:4", "key 'a' is there twice")]


def test_keys_that_are_alike_as_text_are_the_same():
    assert mistakes("1: a\n'1': b\n") == [("f.yaml:2", "key '1' is there twice")]


def test_a_key_that_is_a_list_is_refused():
    assert mistakes("\n? [1, 2]\n: 3\n") == [("f.yaml:2", "a key that is no text")]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"\\0"', "a NUL character"),
        ('{"\\0": 1}', "a key with a NUL character"),
        ('"\\ud800"', "invalid Unicode"),
        (".inf", "infinite or none"),
        ("-.inf", "infinite or none"),
        (".nan", "infinite or none"),
        ("2026-13-45", "a value that is none"),
        ("!!int x", "a value that is none"),
    ],
)
def test_what_is_no_storable_value_is_refused_with_its_line(value, said):
    found = mistakes(f"a: 1\nb: {value}\n")
    assert found[0][0] == "f.yaml:2"
    assert said in found[0][1]


@pytest.mark.parametrize(
    ("text", "line"), [("a: {b: 1\n", 2), ("a: 1\n---\nb: 2\n", 2), ("\ta: 1\n", 1), ("a: b: c\n", 1)]
)
def test_what_is_no_yaml_is_told_with_its_line(text, line):
    ((where, what),) = mistakes(text)
    assert where == f"f.yaml:{line}"
    assert what.startswith("is no YAML")


def test_only_so_many_levels_are_taken():
    assert data("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert "nested more than" in mistakes("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))[0][1]


def test_bytes_that_are_no_utf8_are_named_with_line_and_byte(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    document, (problem,) = read_yaml(path, too_large="split it")
    assert document is None
    assert (problem.where, problem.what, problem.next) == (f"{path}:2", "is not UTF-8", "byte 8 is 0xff")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    document, problems = read_yaml(path, too_large="split it")
    assert (document.data, problems) == ({"a": 1}, [])


def test_a_folder_is_no_file(tmp_path):
    document, (problem,) = read_yaml(tmp_path, too_large="split it")
    assert document is None
    assert problem.what.startswith("cannot be read")


def test_lines_of_json_are_counted_with_those_that_are_empty(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": 2}\n{"a"\n\xff\n')
    found = [
        (number, value, problem and problem.what[:11]) for number, value, problem in read_json_lines(path)
    ]
    assert found == [
        (1, {"a": 1}, None),
        (4, {"a": 2}, None),
        (5, None, "is no JSON:"),
        (6, None, "is not UTF-"),
    ]


def test_numbers_with_an_exponent_are_numbers_as_in_yaml_1_2():
    document, problems = parse_yaml('{a: 1e-3, b: 7.2e1, c: 1.0e300, d: "1e3", e: 1e3x}', "f.yaml")
    assert not problems
    assert document.data == {"a": 0.001, "b": 72.0, "c": 1e300, "d": "1e3", "e": "1e3x"}
