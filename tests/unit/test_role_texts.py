"""What is said of rights: statements of roles, and the GRANT that a refused statement lacks."""

from __future__ import annotations

import pytest

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.roles import OPERATORS, build_roles, lacking_grant

pytestmark = pytest.mark.quick


def test_tables_that_operators_write_are_there():
    assert set(OPERATORS) <= {table.name for table in t.pipeline_metadata.tables.values()}


def test_tables_of_others_are_only_read():
    foreign = [(None, "night"), ("obs", "Raw Package"), ("obs", "source")]
    roles = build_roles("p", "o", "r", managed=False, foreign=foreign)
    about = [s for role in roles for s in role.statements if "obs" in s]
    wanted = ["GRANT USAGE ON SCHEMA obs TO {};", 'GRANT SELECT ON night, obs."Raw Package", obs.source TO {};']
    assert about == [statement.format(name) for name in ("p", "o", "r") for statement in wanted]


def test_names_that_sql_would_read_otherwise_are_quoted():
    (passes, *_) = build_roles('My "role', "o", "r", managed=True)
    assert all(statement.endswith('TO "My ""role";') for statement in passes.statements)
    (passes, *_) = build_roles("user", "o", "r", managed=True)  # a reserved word
    assert all(statement.endswith('TO "user";') for statement in passes.statements)


@pytest.mark.parametrize(
    ("message", "statement", "grant"),
    [
        ("permission denied for table change_log", "INSERT INTO x", "GRANT INSERT ON ccatwm.change_log TO ada"),
        ("permission denied for table sub_group", "UPDATE x", "GRANT UPDATE ON ccatwm.sub_group TO ada"),
        ("permission denied for table ops_db", "SELECT a FROM b FOR UPDATE",
         "GRANT SELECT, UPDATE ON ccatwm.ops_db TO ada"),
        ("permission denied for sequence run_event_id_seq", "INSERT INTO x",
         "GRANT USAGE ON SEQUENCE ccatwm.run_event_id_seq TO ada"),
        ("permission denied for table source", "SELECT 1", "GRANT SELECT ON source TO ada"),
        ("permission denied for schema ccatwm", "SELECT 1", "GRANT USAGE ON SCHEMA ccatwm TO ada"),
        ("must be owner of table x", "ALTER", None),
    ],
)  # fmt: skip
def test_the_right_that_is_lacking_is_named(message, statement, grant):
    assert lacking_grant(message, statement, "ada") == grant
