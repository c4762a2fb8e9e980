"""Student's t distribution, without scipy.

The command line needs a few quantiles only, and scipy is not a dependency.
"""

from __future__ import annotations

import math
from functools import lru_cache

MOST_TERMS = 500
_TINY = 1e-300


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), the distribution function of Beta(a, b).

    The continued fraction of Abramowitz and Stegun 26.5.8, evaluated by Lentz's method on the side where it converges
    fast.
    """
    if not (a > 0 and b > 0 and 0 <= x <= 1):
        raise ValueError(f"the incomplete beta function needs a, b > 0 and 0 <= x <= 1, not {a}, {b}, {x}")
    if x in (0, 1):
        return float(x)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1 - x)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log) / a / _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """Return 1 + d1 / (1 + d2 / (1 + ...)) with the terms of I_x(a, b)."""
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, MOST_TERMS):
        m = term // 2
        if term % 2:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 + factor * d
        d = 1 / (d if abs(d) > _TINY else _TINY)
        c = 1 + factor / c
        c = c if abs(c) > _TINY else _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def t_tail(t: float, df: float) -> float:
    """Return the probability that a t variable with `df` degrees of freedom, not always whole, exceeds `t` >= 0."""
    return 0.5 * incomplete_beta(df / 2, 0.5, df / (df + t * t))


@lru_cache(maxsize=4096)
def t_quantile(level: float, df: float) -> float:
    """Return the two-sided quantile: a t variable lies within plus and minus this value with probability `level`."""
    if not (0 < level < 1 and df > 0):
        raise ValueError(f"a quantile of t needs 0 < level < 1 and df > 0, not {level} and {df}")
    tail, t = (1 - level) / 2, 0.0
    log = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    while True:
        # The tail is convex, so Newton's steps from below never pass the root.
        density = math.exp(log - (df + 1) / 2 * math.log1p(t * t / df))
        step = (t_tail(t, df) - tail) / density
        t += step
        if step <= 1e-10 * t:
            return t
