"""Paths in commands that a person pastes into a shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import PurePosixPath

from hypothesis import given, settings
from hypothesis import strategies as st

from ccatwm.core.shell_text import quote_path

NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and b"/" not in name)


def test_a_plain_path_is_quoted_as_little_as_may_be():
    assert quote_path(PurePosixPath("/data/otf/a.fits")) == "/data/otf/a.fits"
    assert quote_path(PurePosixPath("/data/50% of it")) == "'/data/50% of it'"


@settings(max_examples=50)
@given(NAMES)
def test_any_name_is_one_line_of_text_that_a_shell_reads_back(name):
    path = PurePosixPath("/x") / os.fsdecode(name)
    quoted = quote_path(path)
    assert quoted.isprintable()
    said = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True).stdout
    assert said == os.fsencode(str(path))
