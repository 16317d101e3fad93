"""What authors of plug-ins test them with, under pytest: the promises of a port, each a test. Touches: nothing itself."""

import pytest

pytest.register_assert_rewrite("ccatwm.testing.scheduler", "ccatwm.testing.job_site")
