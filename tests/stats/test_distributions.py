"""Quantiles and tails against scipy."""

import pytest
import scipy.special
import scipy.stats

from harness.stats.distributions import incomplete_beta, t_quantile, t_tail


@pytest.mark.parametrize("x", [0.0, 1e-6, 0.2, 0.5, 0.9, 1.0])
def test_the_incomplete_beta_function_agrees_with_scipy(x):
    for a in (0.5, 1, 3.3, 80, 1000):
        for b in (0.5, 1, 7.1, 300):
            assert incomplete_beta(a, b, x) == pytest.approx(scipy.special.betainc(a, b, x), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("df", [1, 1.3, 2, 4.5, 29, 499, 1e5])
def test_t_agrees_with_scipy(df):
    for level in (0.01, 0.5, 0.8, 0.95, 0.999, 1 - 1e-8):
        assert t_quantile(level, df) == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, df), rel=1e-7)
    for t in (0.0, 0.3, 2.0, 40.0):
        assert t_tail(t, df) == pytest.approx(scipy.stats.t.sf(t, df), rel=1e-9)


@pytest.mark.parametrize(("a", "b", "x"), [(0, 1, 0.5), (1, -1, 0.5), (1, 1, 1.5)])
def test_the_incomplete_beta_function_refuses_impossible_arguments(a, b, x):
    with pytest.raises(ValueError, match="a, b > 0"):
        incomplete_beta(a, b, x)


@pytest.mark.parametrize(("level", "df"), [(0, 3), (1, 3), (0.5, 0)])
def test_quantiles_of_t_refuse_impossible_arguments(level, df):
    with pytest.raises(ValueError, match="0 < level < 1"):
        t_quantile(level, df)
