"""What a DOI and a contact of a published set may look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.core.publishing import contact_of, doi_of, read_asked


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("10.12345/chai-dr1", "10.12345/chai-dr1"),
        ("10.1000.10/a/b(c);d", "10.1000.10/a/b(c);d"),
        ("doi:10.12345/CHAI", "10.12345/chai"),
        ("DOI: 10.12345/chai", "10.12345/chai"),
        ("info:doi/10.12345/chai", "10.12345/chai"),
        ("https://doi.org/10.12345/chai%2Ddr1", "10.12345/chai-dr1"),
        ("http://dx.doi.org/10.12345/chai", "10.12345/chai"),
        ("doi.org/10.12345/chai", "10.12345/chai"),
        *((wrong, None) for wrong in (
            "", "chai-dr1", "10.12345", "10.12345/", "10.123/x", "11.12345/x", "10.12345/a b", "10.12345/a\nb",
            "https://example.org/10.12345/x", "https://doi.org/", "10.12345/a\u202eb", "https://doi.org/10.12345/a%20b",
            "doi:doi:10.12345/x",
        )),
    ],
)  # fmt: skip
def test_a_doi_has_one_form(given, kept):
    assert doi_of(given) == kept
    assert kept is None or doi_of(kept) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("maps@example.org", "maps@example.org"),
        ("Maps of CHAI <maps+x@lists.example.org>", "Maps of CHAI <maps+x@lists.example.org>"),
        ("a@b.org,c@d.org", "a@b.org, c@d.org"),
        ('"Doe, Jane" <jane@example.org> , a@b.org', '"Doe, Jane" <jane@example.org>, a@b.org'),
        ("j\u00fcrgen@m\u00fcnchen.de", "j\u00fcrgen@m\u00fcnchen.de"),
        *((wrong, None) for wrong in (
            "the CHAI team", "maps@", "@example.org", "maps@example", "maps at example.org", "a@b.org c@d.org",
            "maps@example.org\nBcc: x@y.org", "Maps\n<maps@example.org>", "<maps@example.org", "maps@-x.org", "maps@x..org",
        )),
    ],
)  # fmt: skip
def test_a_contact_is_what_may_stand_behind_to(given, kept):
    assert contact_of(given) == kept
    assert kept is None or contact_of(kept) == kept


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_was_kept_once_is_kept_as_it_is(doi, contact):
    asked = read_asked("dr1", [], {"doi": doi, "contact": contact})
    again = read_asked("dr1", [], {key: word for key, word in asked.words.items() if word})
    assert not again.problems and {**asked.words, **again.words} == asked.words
