"""Diversity of classes and vectors against brute force over subsets and against scipy."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats import diversity

CLASSES = st.text("abcd", min_size=1, max_size=7)


def over_subsets(classes, m, value):
    """The mean over all subsets of m samples."""
    subsets = list(combinations(classes, m))
    return sum(value(Counter(subset)) for subset in subsets) / len(subsets)


def entropy_of(counts):
    return float(scipy.stats.entropy(list(counts.values()), base=2))


@settings(max_examples=60, deadline=None)
@given(CLASSES, st.data())
def test_expectations_over_subsets_agree_with_enumeration(classes, data):
    m = data.draw(st.integers(1, len(classes)))
    counts = diversity.class_counts(classes)
    assert diversity.coverage(counts, m) == pytest.approx(over_subsets(classes, m, len), abs=1e-12)
    assert diversity.entropy(counts, m) == pytest.approx(over_subsets(classes, m, entropy_of), abs=1e-12)
    largest = over_subsets(classes, m, lambda found: max(found.values()) / m)
    assert diversity.majority_share(counts, m) == pytest.approx(largest, abs=1e-12)
    frequencies = diversity.expected_frequencies(counts, m)
    for j in range(1, m + 1):
        n_with_j = over_subsets(classes, m, lambda found, j=j: list(found.values()).count(j))
        assert frequencies[j] == pytest.approx(n_with_j, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(CLASSES)
def test_hill_numbers_of_all_samples_are_those_of_the_shares(classes):
    counts = diversity.class_counts(classes)
    shares = np.array(counts) / len(classes)
    n = len(classes)
    assert diversity.hill_number(counts, n, 0) == pytest.approx(len(counts))
    assert diversity.hill_number(counts, n, 1) == pytest.approx(math.exp(scipy.stats.entropy(shares)))
    assert diversity.hill_number(counts, n, 2) == pytest.approx(1 / (shares**2).sum())


@settings(max_examples=60, deadline=None)
@given(CLASSES, st.data())
def test_hill_numbers_fall_with_their_order_and_grow_with_the_draw(classes, data):
    counts = diversity.class_counts(classes)
    m = data.draw(st.integers(1, len(classes)))
    found = [diversity.hill_number(counts, m, order) for order in (0, 1, 2)]
    assert found == sorted(found, reverse=True) or np.ptp(found) < 1e-9
    assert found[-1] + 1e-12 >= 1 and found[0] <= m
    if m > 1:
        assert diversity.coverage(counts, m - 1) <= diversity.coverage(counts, m) + 1e-12


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=6), st.data())
def test_novelty_utility_agrees_with_all_orders(samples, data):
    k = data.draw(st.integers(1, len(samples)))

    def utility(order):
        seen, total = set(), 0.0
        for position, (name, worth) in enumerate(order[:k]):
            total += 0.8**position * worth * (name not in seen)
            seen.add(name)
        return total * (1 - 0.8) / (1 - 0.8**k)

    orders = list(permutations(samples))
    names = sorted({name for name, _ in samples})
    worths = [[worth for name, worth in samples if name == wanted] for wanted in names]
    found = diversity.novelty_utility([len(w) for w in worths], [sum(w) / len(w) for w in worths], k, 0.8)
    assert found == pytest.approx(sum(map(utility, orders)) / len(orders), abs=1e-12)


def test_area_under_a_curve_is_its_mean_height_over_doublings():
    assert diversity.area_under([1, 2, 4], [1.0, 2.0, 3.0]) == 2.0
    assert diversity.area_under([1, 2, 4, 8], [3.0] * 4) == 3.0
    assert diversity.area_under([4], [2.5]) == 2.5


def test_a_draw_larger_than_the_samples_is_refused():
    for function in (diversity.coverage, diversity.entropy, diversity.majority_share):
        with pytest.raises(ValueError, match="1 <= m <="):
            function((2, 1), 4)


# --- vectors ------------------------------------------------------------------------------------------------------


def directions(seed, n, width):
    return diversity.unit_rows(np.random.default_rng(seed).normal(0.2, 1, (n, width)))


@pytest.mark.parametrize(("n", "width"), [(5, 40), (40, 5), (7, 7), (1, 3)])
def test_vendi_score_agrees_with_the_eigenvalues_of_the_whole_kernel(n, width):
    rows = directions(n, n, width)
    eigenvalues = np.clip(scipy.linalg.eigh(rows @ rows.T / n, eigvals_only=True), 0, None)
    assert diversity.vendi_score(rows) == pytest.approx(math.exp(scipy.stats.entropy(eigenvalues)), abs=1e-9)


def test_vendi_score_counts_orthogonal_and_equal_directions():
    assert diversity.vendi_score(np.eye(4)) == pytest.approx(4)
    assert diversity.vendi_score(np.eye(4)[[0, 0, 1, 1]]) == pytest.approx(2)
    assert diversity.vendi_score(np.eye(4)[[0, 0, 0]]) == pytest.approx(1)


@pytest.mark.filterwarnings("default")
def test_vendi_score_is_that_of_its_authors():
    vendi = pytest.importorskip("vendi_score.vendi", reason="vendi-score is not installed; `tox -e peers` runs this")
    for n, width in ((6, 20), (20, 6)):
        rows = directions(3, n, width)
        assert diversity.vendi_score(rows) == pytest.approx(vendi.score_K(rows @ rows.T), abs=1e-9)
        assert diversity.vendi_score(rows) == pytest.approx(vendi.score_dual(rows), abs=1e-6)


def test_mean_distance_agrees_with_a_loop_over_pairs():
    rows = directions(1, 9, 4)
    pairs = [1 - rows[i] @ rows[j] for i, j in combinations(range(9), 2)]
    assert diversity.mean_distance(rows) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert diversity.mean_distance(rows[[0, 0, 0]]) == pytest.approx(0, abs=1e-12)


def test_leader_clusters_join_the_nearest_leader():
    angles = np.radians([0, 5, 90, 80, 10, 45])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert diversity.leader_clusters(rows, math.cos(math.radians(12))) == [0, 0, 1, 1, 0, 2]
    assert diversity.leader_clusters(rows, -1.0) == [0] * 6
    assert diversity.leader_clusters(rows[:0], 0.5) == []


# --- agreement ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=2, max_size=12))
def test_adjusted_rand_agrees_with_kappa_over_all_pairs(items):
    first, second = zip(*items, strict=True)
    pairs = list(combinations(range(len(items)), 2))
    same = [(first[i] == first[j], second[i] == second[j]) for i, j in pairs]
    counts = diversity.pair_counts(first, second)
    assert counts == tuple(same.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False)))
    n = len(same)
    observed = sum(one == two for one, two in same) / n
    rates = sum(one for one, _ in same) / n, sum(two for _, two in same) / n
    by_chance = rates[0] * rates[1] + (1 - rates[0]) * (1 - rates[1])
    found = diversity.adjusted_rand(counts)
    if math.isclose(by_chance, 1):
        assert found is None
    else:
        assert found == pytest.approx((observed - by_chance) / (1 - by_chance), abs=1e-9)


def test_adjusted_rand_of_equal_and_of_trivial_partitions():
    assert diversity.adjusted_rand(diversity.pair_counts("aabb", "ccdd")) == pytest.approx(1)
    assert diversity.adjusted_rand(diversity.pair_counts("aaaa", "cccc")) is None
    assert diversity.adjusted_rand((0, 0, 0, 0)) is None


def test_adjusted_rand_is_that_of_scikit_learn():
    cluster = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed; `tox -e peers` runs this")
    random = np.random.default_rng(0)
    for _ in range(20):
        first, second = random.integers(0, 4, 15), random.integers(0, 3, 15)
        ours = diversity.adjusted_rand(diversity.pair_counts(first.tolist(), second.tolist()))
        assert ours == pytest.approx(cluster.adjusted_rand_score(first, second), abs=1e-12)
