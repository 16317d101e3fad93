"""What holds on tables of ours holds on those of others: the same tests, on tables in disguise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb.engine import POSTGRESQL_CONNECT
from tests.foreign.disguise import Disguise, DisguisedObservatory, wear
from tests.opsdb.databases import PostgresServer
from tests.passes.conftest import Observatory
from tests.passes.conftest import observatory as observatory
from tests.passes.test_backfill import (
    archive as archive,
)
from tests.passes.test_backfill import (
    test_exactly_what_is_missing_of_the_period_is_made as test_a_backfill_makes_exactly_what_is_missing,
)
from tests.passes.test_backfill import (
    test_the_estimate_says_what_its_core_hours_stand_on as test_a_backfill_has_an_estimate,
)
from tests.passes.test_companions import (
    nights as nights,
)
from tests.passes.test_companions import (
    test_a_full_comparison_of_a_quiet_system_finds_nothing as test_a_full_comparison_finds_nothing,
)
from tests.passes.test_companions import (
    test_a_late_or_nearer_load_concerns_only_the_scans_that_can_use_it as test_a_late_load_concerns_its_users,
)
from tests.passes.test_companions import (
    test_each_scan_gets_the_nearest_loads_of_its_own_module_as_inputs_of_their_own_kind as test_the_nearest_loads_are_taken,
)
from tests.passes.test_companions import (
    test_the_night_of_a_bad_load_is_made_again_with_the_next_nearest_ones as test_a_bad_night,
)
from tests.passes.test_excluding import (
    test_a_module_and_a_time_also_take_what_comes_later as test_a_module_and_a_time_are_excluded,
)
from tests.passes.test_excluding import (
    test_what_is_included_again_restores_the_old_products_without_a_run as test_what_is_included_again_is_restored,
)
from tests.passes.test_groupings import (
    only_grouping as only_grouping,
)
from tests.passes.test_groupings import (
    test_a_grouping_is_shown_by_sub_group_before_any_pipeline as test_a_grouping_is_shown,
)
from tests.passes.test_readiness import (
    test_a_scan_waits_until_all_its_packages_are_archived as test_a_scan_waits_for_its_packages,
)
from tests.passes.test_readiness import (
    two_packages as two_packages,
)

pytestmark = pytest.mark.postgres

IMPORTED = (
    test_a_backfill_makes_exactly_what_is_missing, test_a_backfill_has_an_estimate, test_a_full_comparison_finds_nothing,
    test_a_late_load_concerns_its_users, test_the_nearest_loads_are_taken, test_a_bad_night,
    test_a_module_and_a_time_are_excluded, test_what_is_included_again_is_restored, test_a_grouping_is_shown,
    test_a_scan_waits_for_its_packages,
)  # fmt: skip
DISGUISES = {
    "numbers": Disguise(keys="numeric", references="bigint", spelled="title", times="aware"),
    "texts": Disguise(keys="bigint", references="bigint as text", name=lambda column: f'%({column})s " 50%'),
}


@pytest.fixture(params=DISGUISES)
def empty_observatory(
    request: pytest.FixtureRequest, postgresql_server: PostgresServer, tmp_path: Path
) -> Iterator[Observatory]:
    folder = tmp_path / "world"
    folder.mkdir()
    url = postgresql_server(upgraded=True)
    made = DisguisedObservatory(folder, url, settings_changes=wear(url, DISGUISES[request.param], folder))
    made.kept = sa.create_engine(url, connect_args=POSTGRESQL_CONNECT)
    yield made
    made.kept.dispose()
    postgresql_server.drop(url)
