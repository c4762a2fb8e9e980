"""Fingerprints: what they are blind to, what they are not, and how a difference is named."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import DataError
from harness.data import fingerprints
from harness.data.fingerprints import differences, fingerprint, row_digest

ROW = ("What is $-12 + x$ if x = 3.5?", "-8.5")


def test_row_digest_is_that_of_the_normalised_texts():
    """From the definition, apart from the code."""
    said = "What is $-12 + x$ if x = 3.5?\n-8.5"
    assert (
        row_digest("  What is\t$-12 + x$\n\nif x = 3.5? ", "-8.5\n") == hashlib.sha256(said.encode()).hexdigest()[:10]
    )


@pytest.mark.parametrize(
    "other",
    [
        ("What is $-13 + x$ if x = 3.5?", "-8.5"),
        ("What is $12 + x$ if x = 3.5?", "-8.5"),
        ("What is $-12 + x$ if x = 35?", "-8.5"),
        ("what is $-12 + x$ if x = 3.5?", "-8.5"),
        (ROW[0], "8.5"),
        (ROW[0], "-85"),
        (ROW[0], "-8.50"),
        (ROW[0] + " -8.5", ""),
    ],
)
def test_a_changed_digit_sign_point_or_letter_changes_the_digest(other):
    assert row_digest(*other) != row_digest(*ROW)


@given(st.dictionaries(st.text(st.characters(exclude_characters="\t\n"), min_size=1), st.text(min_size=1)))
def test_fingerprint_does_not_depend_on_the_order_of_rows(digests):
    assert fingerprint(digests) == fingerprint(dict(reversed(digests.items())))


def test_row_digest_accepts_unpaired_surrogates():
    assert row_digest("\ud800", "1") != row_digest("\udc00", "1")


def test_a_changed_id_or_digest_or_a_missing_row_changes_the_fingerprint():
    digests = {"a": "1", "b": "2", "c": "3"}
    others = [
        {"a": "1", "b": "2"},
        {**digests, "d": "4"},
        {"a": "1", "b": "3", "c": "2"},
        {"A": "1", "b": "2", "c": "3"},
    ]
    assert fingerprint(digests) not in set(map(fingerprint, others))
    assert len(set(map(fingerprint, others))) == len(others)


def test_differences_name_every_row_and_how_it_differs():
    expected = {"a": "1", "b": "2", "c": "3", "d": "4"}
    found = {"d": "4", "c": "9", "e": "5", "a": "1"}
    assert differences(found, expected) == ("c: altered", "e: not in the recorded data", "b: missing")
    assert differences(expected, expected) == ()


def test_digests_survive_a_round_trip(tmp_path):
    digests = {"test/algebra/2584": "0123456789", "é 1": "abcdef0123"}
    fingerprints.write_digests(tmp_path / "x.tsv", digests)
    assert fingerprints.read_digests(tmp_path / "x.tsv") == digests


def test_an_id_that_occurs_twice_is_refused():
    fingerprints.unique(["a", "b"], "here")
    with pytest.raises(DataError, match="here has the id b twice"):
        fingerprints.unique(["a", "b", "c", "b"], "here")
