"""Named streams of randomness from one root."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from harness.core.seeds import derive, derive_each

paths = st.lists(st.integers(0, 5) | st.sampled_from(["eval", "train", "1", "str:1", ""]), max_size=4)


def test_a_seed_is_the_same_for_ever():
    # A change here changes the samples of every run there ever was.
    assert derive(0, "eval", "countdown", "1-2-4=36", 0) == 7483109145533818448
    assert derive(7) == 8333924190356522945


def test_a_seed_does_not_depend_on_the_process():
    program = "from harness.core.seeds import derive; print(derive(3, 'train', 5))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) == derive(3, "train", 5)


@given(st.integers(), paths)
def test_seeds_of_one_stream_are_those_of_its_numbers(root, path):
    assert list(derive_each(root, *path, n=12)) == [derive(root, *path, i) for i in range(12)]


@given(st.integers(), paths)
def test_a_seed_fits_63_bits(root, path):
    assert 0 <= derive(root, *path) < 2**63


@given(st.tuples(st.integers(-9, 9), paths), st.tuples(st.integers(-9, 9), paths))
def test_different_streams_have_different_seeds(one, other):
    # Types and borders count: 1 is not "1", and ("ab",) is not ("a", "b").
    assert (derive(one[0], *one[1]) == derive(other[0], *other[1])) == (one == other)


def test_seeds_depend_on_types_and_boundaries_of_their_parts():
    seeds = [derive(0, 1), derive(0, "1"), derive(0, "ab"), derive(0, "a", "b"), derive(0), derive(0, ""), derive(0, 0)]
    assert len(set(seeds)) == len(seeds)


def test_the_bits_of_neighbouring_seeds_are_unrelated():
    n = 2000
    for bit in range(63):
        ones = sum(derive(0, "eval", index) >> bit & 1 for index in range(n))
        assert abs(ones - n / 2) < 5 * (n / 4) ** 0.5, bit  # five standard deviations of a fair coin
