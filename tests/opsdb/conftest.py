"""Fixtures of the ops-db tests; other folders import them from `tests.opsdb.databases`."""

from tests.opsdb.databases import both_databases as both_databases
from tests.opsdb.databases import database as database
