"""The frontier and comparisons at equal accuracy, against definitions written out, numerical derivatives and scipy."""

import importlib.util
import itertools
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from harness.stats.frontier import Frontier, Point, distinct_among, level_in, matched, overlap, seeded_interval
from harness.stats.intervals import mean_interval


def point(accuracy, diversity, step=1):
    """Build a point of two seeds and three problems with these means."""
    spread = np.array([[-0.01, 0, 0.02], [0, 0.01, -0.02]])
    return Point(step, 1.0, accuracy + spread, diversity + 3 * spread)


def random_points(rng, n_points, shape=(3, 40), shift=0.0):
    quality = rng.normal(0, 0.05, size=shape)
    points = []
    for place in range(n_points):
        accuracy = 0.4 + 0.1 * place + shift + quality + rng.normal(0, 0.03, size=shape)
        diversity = 5 - 0.5 * place**1.5 - 3 * quality + rng.normal(0, 0.3, size=shape)
        points.append(Point(place, 1.0, accuracy, diversity))
    return points


# --- values -----------------------------------------------------------------------------------------------------


def test_distinct_among_is_the_mean_over_all_subsets():
    samples = [*"aaabbc", None, None]
    subsets = list(itertools.combinations(samples, 4))
    expected = sum(len({s for s in subset if s}) for subset in subsets) / len(subsets)
    found = distinct_among([8, 5, 4], [[3, 2, 1], [], [1, 1, 1, 1]], 4)
    assert found == pytest.approx([expected, 0, 4], abs=1e-12)
    with pytest.raises(ValueError, match="k <= n"):
        distinct_among([3], [[3]], 4)


def test_a_seeded_interval_adds_the_t_margin_of_the_runs():
    rng = np.random.default_rng(1)
    values = np.clip(rng.normal(0.5, 0.2, size=(3, 200)) + np.array([[-0.05], [0.0], [0.05]]), 0, 1)
    found, over_problems = seeded_interval(values), mean_interval(values.mean(axis=0).tolist())
    t = scipy.stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.95)
    mean = values.mean()
    assert found.low == pytest.approx(mean - math.hypot(mean - over_problems.low, mean - t.low))
    assert found.high == pytest.approx(mean + math.hypot(over_problems.high - mean, t.high - mean))
    assert seeded_interval(values[:1]) == mean_interval(values[0].tolist())


def test_a_seeded_interval_stays_open_where_every_problem_is_solved():
    found = seeded_interval(np.ones((3, 50)))
    assert found.high == 1 and found.low == pytest.approx(0.025 ** (1 / 50))
    assert seeded_interval(np.full((2, 1), 0.5)).low == 0


# --- the frontier -----------------------------------------------------------------------------------------------


def is_on_the_hull(one, points):
    """No point, and no mixture of two, has as much accuracy and more diversity, or the other way round."""
    x, y = one
    for (a, b), (c, d) in itertools.product(points, repeat=2):
        for q in np.linspace(0, 1, 101):
            there = q * a + (1 - q) * c, q * b + (1 - q) * d
            if there[0] >= x and there[1] >= y and max(there[0] - x, there[1] - y) > 1e-9:
                return False
    return True


def test_the_frontier_has_the_points_that_no_mixture_of_points_exceeds():
    rng = np.random.default_rng(2)
    for _ in range(20):
        places = rng.uniform(size=(7, 2))
        points = [point(*place) for place in places]
        found = [p.at for p in Frontier.of(points).points]
        expected = sorted(p.at for p in points if is_on_the_hull(p.at, [other.at for other in points]))
        assert found == pytest.approx(np.array(expected))


def test_points_with_other_seeds_or_none_are_refused():
    with pytest.raises(ValueError, match="the same seeds and problems"):
        Frontier.of([point(0.5, 4), Point(2, 1.0, np.ones((1, 3)), np.ones((1, 3)))])
    with pytest.raises(ValueError, match="at least one point"):
        Frontier.of([])


def test_the_value_at_an_accuracy_is_interpolated_and_nothing_is_extrapolated():
    frontier = Frontier.of([point(0.5, 5), point(0.7, 4.5), point(0.8, 3), point(0.6, 2)])
    assert [p.at for p in frontier.points] == pytest.approx(np.array([(0.5, 5), (0.7, 4.5), (0.8, 3)]))
    for accuracy in (frontier.span[0], 0.65, 0.7, 0.74, frontier.span[1]):
        expected = np.interp(accuracy, [0.5, 0.7, 0.8], [5, 4.5, 3])
        assert frontier.at(accuracy).mean() == pytest.approx(expected)
    for accuracy in (0.49, 0.81):
        with pytest.raises(ValueError, match=r"spans an accuracy of 0.500 to 0.800, without 0\."):
            frontier.at(accuracy)
    with pytest.raises(ValueError, match=r"without 0\.500"):
        Frontier.of([point(0.5, 5)]).at(0.5)


def test_the_values_at_an_accuracy_are_the_derivative_of_the_interpolation():
    points = random_points(np.random.default_rng(3), 4)
    accuracy, step = 0.55, 1e-5
    values = Frontier.of(points).at(accuracy)
    found = values - values.mean()
    weights = np.zeros((3, 40))

    def height(towards, size):
        """Interpolate where all points are moved by the deviations of one seed and problem."""
        xs, ys = zip(
            *(
                (p.at[0] + size * (p.accuracy[towards] - p.at[0]), p.at[1] + size * (p.diversity[towards] - p.at[1]))
                for p in Frontier.of(points).points
            ),
            strict=True,
        )
        return np.interp(accuracy, xs, ys)

    for cell in np.ndindex(3, 40):
        weights[cell] = (height(cell, step) - height(cell, -step)) / (2 * step)
    assert found == pytest.approx(weights, abs=1e-6)


def test_the_interval_at_a_point_is_nearly_that_of_the_point_and_counts_seeds():
    rng = np.random.default_rng(8)
    effect = rng.normal(0, 0.3, size=(3, 1))
    points = [
        Point(place, 1.0, np.full((3, 200), a), d + effect + rng.normal(0, 1, size=(3, 200)))
        for place, (a, d) in enumerate([(0.5, 5), (0.7, 3)])
    ]
    frontier = Frontier.of(points)
    found, expected = frontier.interval(0.5), seeded_interval(points[0].diversity, 64.0)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.01)
    t = scipy.stats.ttest_1samp(points[0].diversity.mean(axis=1), 0).confidence_interval(0.95)
    assert found.high - found.low > t.high - t.low


# --- two arms ---------------------------------------------------------------------------------------------------


def test_arms_overlap_where_both_have_a_frontier():
    low, high = Frontier.of([point(0.4, 5), point(0.6, 3)]), Frontier.of([point(0.55, 6), point(0.9, 1)])
    assert overlap(low, high) == pytest.approx((0.55, 0.6))
    assert overlap(low, Frontier.of([point(0.7, 6), point(0.9, 1)])) is None
    assert overlap(low, Frontier.of([point(0.6, 6), point(0.9, 1)])) is None
    assert overlap(low, Frontier.of([point(0.5, 6)])) is None


def test_the_level_is_the_roundest_number_near_the_middle():
    assert level_in((0.61, 0.87)) == 0.75
    assert level_in((0.76, 0.79)) == 0.78
    assert level_in((0.771, 0.779)) == pytest.approx(0.775)


def resampled_logs(first, second, level, rng, draws=4000):
    """The standard deviation of the log ratio when problems are resampled, and everything is computed from them."""
    ends = []
    for _ in range(draws):
        chosen = rng.integers(0, 40, size=40)
        heights = []
        for points in (first, second):
            drawn = [Point(p.step, 1.0, p.accuracy[:, chosen], p.diversity[:, chosen]) for p in points]
            xs, ys = np.array([p.at for p in Frontier.of(drawn).points]).T
            heights.append(np.interp(level, xs, ys))
        ends.append(math.log(heights[1] / heights[0]))
    return np.std(ends)


def test_the_margin_over_problems_is_that_of_resampling_them():
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 0.1, size=(1, 40))
    first, second = (
        [
            Point(p.step, 1.0, p.accuracy + shared, p.diversity - 5 * shared)
            for p in random_points(rng, 4, (1, 40), shift)
        ]
        for shift in (0, 0.02)
    )
    found = matched(first=Frontier.of(first), second=Frontier.of(second), accuracy=0.55)
    margin = scipy.stats.t.ppf(0.975, 39) * resampled_logs(first, second, 0.55, rng)
    assert math.log(found.ratio_interval.high / found.ratio) == pytest.approx(margin, rel=0.1)
    assert math.log(found.ratio / found.ratio_interval.low) == pytest.approx(margin, rel=0.1)
    assert found.p is None


def test_the_margin_over_seeds_is_that_of_welch():
    rng = np.random.default_rng(5)
    effects = rng.normal(0, 0.2, size=(2, 3, 1))
    first, second = (
        [Point(p.step, 1.0, p.accuracy, p.diversity + effect) for p in random_points(rng, 3, (3, 400))]
        for effect in effects
    )
    one, two = Frontier.of(first), Frontier.of(second)
    found = matched(one, two, 0.5)
    values = [np.log(side.mean()) + side.mean(axis=1) / side.mean() - 1 for side in (one.at(0.5), two.at(0.5))]
    welch = scipy.stats.ttest_ind(values[1], values[0], equal_var=False)
    assert found.ratio_interval.high == pytest.approx(math.exp(welch.confidence_interval(0.95).high), rel=0.02)
    assert found.p is not None and found.p.p == pytest.approx(welch.pvalue, rel=0.1)
    assert (found.p.p < 0.05) == (not found.ratio_interval.low <= 1 <= found.ratio_interval.high)
    assert "3 and 3 runs (Welch)" in found.p.method


def test_the_comparison_states_both_sides_and_turns_around():
    rng = np.random.default_rng(6)
    one, two = (Frontier.of(random_points(rng, 4, shift=shift)) for shift in (0.0, 0.05))
    there, back = matched(one, two, 0.6), matched(two, one, 0.6)
    assert there.first == pytest.approx(one.at(0.6).mean()) and there.second == pytest.approx(two.at(0.6).mean())
    assert there.ratio == pytest.approx(there.second / there.first) == pytest.approx(1 / back.ratio)
    assert there.difference == pytest.approx(there.second - there.first)
    assert there.ratio_interval.low == pytest.approx(1 / back.ratio_interval.high)
    assert there.difference_interval.low == pytest.approx(-back.difference_interval.high)
    assert there.difference_interval.low < there.difference < there.difference_interval.high


def test_an_arm_against_itself_has_an_open_interval_around_one():
    one = Frontier.of(random_points(np.random.default_rng(7), 3, (1, 40)))
    found = matched(one, one, 0.5)
    assert found.ratio == 1 and found.ratio_interval.low < 1 < found.ratio_interval.high


def test_no_ratio_to_an_arm_without_right_solutions():
    nothing = Frontier.of([Point(1, 1.0, np.full((1, 3), a), np.full((1, 3), d)) for a, d in ((0.1, 0.0), (0.0, 0.01))])
    with pytest.raises(ValueError, match="a diversity of 0 there"):
        matched(nothing, nothing, 0.1)


# --- coverage ---------------------------------------------------------------------------------------------------


@cache
def simulation():
    path = Path(__file__).parents[2] / "tools" / "coverage_of_frontier.py"
    spec = importlib.util.spec_from_file_location("coverage_of_frontier", path)
    module = sys.modules["coverage_of_frontier"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arms", "effects", "n_problems", "n_seeds"),
    [("apart", (0.15, 0.1), 96, 2), ("steep", (0.15, 0.1), 96, 5), ("equal", (0.4, 0.3), 30, 3)],
)
def test_the_intervals_cover_on_cells_of_the_grid(arms, effects, n_problems, n_seeds, monkeypatch):
    grid = simulation()
    monkeypatch.setattr(grid, "ARMS", {arms: grid.ARMS[arms]})
    monkeypatch.setattr(grid, "EFFECTS", (effects,))
    monkeypatch.setattr(grid, "TRUTH_PROBLEMS", 100_000)
    (cell,) = (c for c in grid.cells() if (c.n_problems, c.n_seeds) == (n_problems, n_seeds))
    row = grid.simulate(cell, 250)
    for name in grid.QUANTITIES:
        assert row[f"coverage_{name}"] >= 0.93 - 2 * row["mc_error"], name
