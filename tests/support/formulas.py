"""Every objective's loss from its formula, in plain loops over Python floats: nothing shared with the package.

A loss is a function of `now` (whose log-probabilities carry the gradient) and `held` (the same numbers where the
formula stops the gradient), so that a difference quotient in `now` alone is the gradient that training should see.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """One completion: log-probabilities of its tokens under three policies, and what it earned."""

    new: list[float]
    old: list[float]
    ref: list[float]
    reward: float
    group: int
    greedy: float = 0.0
    log_z: float = 0.0
    values: list[float] = field(default_factory=list)
    old_values: list[float] = field(default_factory=list)
    token_rewards: list[float] = field(default_factory=list)


Rows = Sequence[Row]
Loss = Callable[[Rows, Rows], float]


def clip(x: float, low: float, high: float) -> float:
    return low if x < low else high if x > high else x


def peers(rows: Rows, row: Row) -> list[float]:
    return [other.reward for other in rows if other.group == row.group]


def z_scores(rows: Rows) -> list[float]:
    return [
        (row.reward - statistics.mean(peers(rows, row))) / (statistics.stdev(peers(rows, row)) + 1e-6) for row in rows
    ]


def surrogate(new: float, old: float, advantage: float, low: float = 0.2, high: float = 0.2) -> float:
    ratio = math.exp(new - old)
    return min(ratio * advantage, clip(ratio, 1 - low, 1 + high) * advantage)


def mean_of_means(per_token: list[list[float]]) -> float:
    return statistics.fmean(statistics.fmean(tokens) for tokens in per_token)


def mean_of_tokens(per_token: list[list[float]]) -> float:
    return sum(map(sum, per_token)) / sum(map(len, per_token))


def mean_of_sums(per_token: list[list[float]]) -> float:
    return statistics.fmean(sum(tokens) for tokens in per_token)


def mean_by_prompt(rows: Rows, per_token: list[list[float]]) -> float:
    by_prompt: dict[int, list[float]] = {}
    for row, tokens in zip(rows, per_token, strict=True):
        by_prompt.setdefault(row.group, []).extend(tokens)
    return statistics.fmean(map(statistics.fmean, by_prompt.values()))


def score(rows: Rows, advantages: list[float]) -> float:
    return mean_of_sums([[-a * lp for lp in row.new] for row, a in zip(rows, advantages, strict=True)])


def token_surrogates(
    rows: Rows, advantages: list[list[float]], low: float = 0.2, high: float = 0.2
) -> list[list[float]]:
    return [
        [-surrogate(n, o, a, low, high) for n, o, a in zip(row.new, row.old, per_token, strict=True)]
        for row, per_token in zip(rows, advantages, strict=True)
    ]


def spread(rows: Rows, advantages: list[float]) -> list[list[float]]:
    return [[a] * len(row.new) for row, a in zip(rows, advantages, strict=True)]


def white(per_token: list[list[float]]) -> list[list[float]]:
    tokens = [value for row in per_token for value in row]
    mean, scale = statistics.fmean(tokens), 1 / math.sqrt(statistics.variance(tokens) + 1e-8)
    return [[(value - mean) * scale for value in row] for row in per_token]


# --- policy gradients -------------------------------------------------------------------------------------------


def reinforce(now: Rows, held: Rows) -> float:
    """Of a first step: no rewards were seen before."""
    return score(now, [row.reward for row in held])


def reinforce_batch_mean(now: Rows, held: Rows) -> float:
    mean = statistics.fmean(row.reward for row in held)
    return score(now, [row.reward - mean for row in held])


def rloo(now: Rows, held: Rows) -> float:
    advantages = []
    for i, row in enumerate(held):
        others = [other.reward for j, other in enumerate(held) if other.group == row.group and j != i]
        advantages.append(row.reward - statistics.fmean(others))
    return score(now, advantages)


def remax(now: Rows, held: Rows) -> float:
    return score(now, [row.reward - row.greedy for row in held])


def reinforce_pp(gamma: float) -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        returns = []
        for row in held:
            to_come = [0.0] * len(row.old)
            for t in range(len(row.old)):
                to_come[t] = sum(gamma ** (s - t) * row.token_rewards[s] for s in range(t, len(row.old)))
            returns.append(to_come)
        return mean_of_tokens(token_surrogates(now, white(returns)))

    return loss


def reinforce_pp_baseline(now: Rows, held: Rows) -> float:
    centred = [row.reward - statistics.fmean(peers(held, row)) for row in held]
    return mean_of_tokens(token_surrogates(now, white(spread(held, centred))))


def ppo(gamma: float, lam: float) -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        advantages, value_errors = [], []
        for row in held:
            n = len(row.old)
            following = [*row.old_values[1:], 0.0]
            deltas = [row.token_rewards[t] + gamma * following[t] - row.old_values[t] for t in range(n)]
            gae = [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, n)) for t in range(n)]
            advantages.append(gae)
            errors = []
            for value, old, advantage in zip(row.values, row.old_values, gae, strict=True):
                target = advantage + old
                near = clip(value, old - 0.5, old + 0.5)
                errors.append(max((value - target) ** 2, (near - target) ** 2) / 2)
            value_errors.append(errors)
        return mean_of_tokens(token_surrogates(now, white(advantages))) + mean_of_tokens(value_errors)

    return loss


def dr_grpo(longest: int) -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        centred = [row.reward - statistics.fmean(peers(held, row)) for row in held]
        return mean_of_sums(token_surrogates(now, spread(held, centred))) / longest

    return loss


def dapo_as_printed(now: Rows, held: Rows) -> float:
    return mean_by_prompt(now, token_surrogates(now, spread(held, z_scores(held)), 0.2, 0.28))


def dapo(now: Rows, held: Rows) -> float:
    return mean_of_tokens(token_surrogates(now, spread(held, z_scores(held)), 0.2, 0.28))


def dual_clipped(now: Rows, held: Rows) -> float:
    rows = []
    for row, a in zip(now, z_scores(held), strict=True):
        plain = [surrogate(n, o, a) for n, o in zip(row.new, row.old, strict=True)]
        rows.append([-max(value, 1.5 * a) if a < 0 else -value for value in plain])
    return mean_of_means(rows)


def gspo(low: float, high: float) -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        terms = []
        for row, a in zip(now, z_scores(held), strict=True):
            product = math.prod(math.exp(n - o) for n, o in zip(row.new, row.old, strict=True))
            s = product ** (1 / len(row.new))
            terms.append(-min(s * a, clip(s, 1 - low, 1 + high) * a))
        return statistics.fmean(terms)

    return loss


def gmpo(now: Rows, held: Rows) -> float:
    terms = []
    for row, a in zip(now, z_scores(held), strict=True):
        sign, product = (1 if a > 0 else -1), 1.0
        for n, o in zip(row.new, row.old, strict=True):
            ratio = math.exp(n - o)
            product *= min(ratio**sign, clip(ratio, math.exp(-0.4), math.exp(0.4)) ** sign) ** sign
        terms.append(-a * product ** (1 / len(row.new)))
    return statistics.fmean(terms)


def cispo(now: Rows, held: Rows) -> float:
    return mean_of_tokens(cispo_tokens(now, held))


def cispo_as_printed(now: Rows, held: Rows) -> float:
    return mean_by_prompt(now, cispo_tokens(now, held))


def cispo_tokens(now: Rows, held: Rows) -> list[list[float]]:
    tokens = []
    for row, fixed, a in zip(now, held, z_scores(held), strict=True):
        weights = [clip(math.exp(n - o), 0.0, 1.2) for n, o in zip(fixed.new, fixed.old, strict=True)]
        tokens.append([-w * a * lp for w, lp in zip(weights, row.new, strict=True)])
    return tokens


def sapo(now: Rows, held: Rows) -> float:
    rows = []
    for row, a in zip(now, z_scores(held), strict=True):
        tau = 1.0 if a > 0 else 1.05
        ratios = [math.exp(n - o) for n, o in zip(row.new, row.old, strict=True)]
        rows.append([-4 / tau / (1 + math.exp(-tau * (ratio - 1))) * a for ratio in ratios])
    return mean_of_means(rows)


def dppo(low: float, high: float, cap: float) -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        rows = []
        for row, fixed, a in zip(now, held, z_scores(held), strict=True):
            tokens = []
            for live, n, o in zip(row.new, fixed.new, fixed.old, strict=True):
                moved = math.exp(n) - math.exp(o)
                is_near = moved <= high if a > 0 else moved >= -low
                tokens.append(-min(math.exp(n - o), cap) * a * live if is_near else 0.0)
            rows.append(tokens)
        return mean_of_tokens(rows)

    return loss


def covariances(held: Rows) -> list[list[float]]:
    scores = z_scores(held)
    weighted = [(s, lp) for row, s in zip(held, scores, strict=True) for lp in row.old]
    mean_a, mean_lp = statistics.fmean(a for a, _ in weighted), statistics.fmean(lp for _, lp in weighted)
    return [[(s - mean_a) * (lp - mean_lp) for lp in row.old] for row, s in zip(held, scores, strict=True)]


def clip_cov(low: float, high: float) -> Loss:
    """Of a share of 1: every token between the bounds is left out."""

    def loss(now: Rows, held: Rows) -> float:
        kept = [[not low < c < high for c in row] for row in covariances(held)]
        terms = token_surrogates(now, spread(held, z_scores(held)))
        return mean_of_tokens([[t * k for t, k in zip(*pair, strict=True)] for pair in zip(terms, kept, strict=True)])

    return loss


def kl_cov(n_marked: int, coefficient: float) -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        found = covariances(held)
        least = sorted((c for row in found for c in row), reverse=True)[n_marked - 1]
        rows = []
        for row, cov, a in zip(now, found, z_scores(held), strict=True):
            gaps = [n - o for n, o in zip(row.new, row.old, strict=True)]
            rows.append(
                [-math.exp(g) * a + coefficient * abs(g) * (c >= least) for g, c in zip(gaps, cov, strict=True)]
            )
        return mean_of_tokens(rows)

    return loss


def trpo(coefficient: float) -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        tokens = []
        for row, a in zip(now, z_scores(held), strict=True):
            ratios = [math.exp(n - o) for n, o in zip(row.new, row.old, strict=True)]
            tokens.append([-ratio * a + coefficient * (ratio - 1 - math.log(ratio)) for ratio in ratios])
        return mean_of_tokens(tokens)

    return loss


def kimi(tau: float, anchor: str) -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        terms = []
        for row in now:
            log_ratio = sum(row.new) - sum(row.old if anchor == "old" else row.ref)
            terms.append((row.reward - statistics.fmean(peers(held, row)) - tau * log_ratio) ** 2 / (2 * tau))
        return statistics.fmean(terms)

    return loss


# --- balance ----------------------------------------------------------------------------------------------------


def tb(beta: float, *, prior: bool) -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        return statistics.fmean(
            (row.log_z + sum(row.new) - beta * row.reward - (sum(row.ref) if prior else 0)) ** 2 for row in now
        )

    return loss


def vargrad_tb(beta: float, *, prior: bool) -> Loss:
    def log_reward(row: Row) -> float:
        return beta * row.reward + (sum(row.ref) if prior else 0)

    def loss(now: Rows, held: Rows) -> float:
        terms = []
        for row in now:
            log_z = statistics.fmean(log_reward(r) - sum(r.old) for r in held if r.group == row.group)
            terms.append((log_z + sum(row.new) - log_reward(row)) ** 2)
        return statistics.fmean(terms)

    return loss


def gflowrl(beta: float, low: float, high: float, cap: float, *, reading: str = "both") -> Loss:
    def loss(now: Rows, held: Rows) -> float:
        scores = z_scores(held)

        def drift(row: Row, *, in_log_z: bool = False) -> float:
            is_mean = reading == "both" or (reading == "printed" and not in_log_z)
            return (sum(row.old) - sum(row.ref)) / (len(row.old) if is_mean else 1)

        terms = []
        for row, fixed, s in zip(now, held, scores, strict=True):
            log_z = statistics.fmean(
                beta * r - drift(other, in_log_z=True)
                for other, r in zip(held, scores, strict=True)
                if other.group == row.group
            )
            gap = clip(log_z + drift(fixed) - beta * s, -low, high)
            w = min(math.exp(sum(fixed.new) - sum(fixed.old)), cap)
            length = 1 if reading == "none" else len(row.new)
            terms.append(w * (gap + (sum(row.new) - sum(row.old)) / length) ** 2)
        return statistics.fmean(terms)

    return loss


def flowrl(
    beta: float,
    *,
    weight: Callable[[float, int], float],
    by_length: bool = True,
    anchor: str = "reference",
    statistic: str = "mean_and_std",
    log_z: str = "learned",
) -> Loss:
    """`weight` takes the sum of log-ratios and the length. `log_z` "group_mean" replaces each row's own."""

    def loss(now: Rows, held: Rows) -> float:
        scores = {
            "mean_and_std": z_scores(held),
            "mean": [row.reward - statistics.fmean(peers(held, row)) for row in held],
            "none": [row.reward for row in held],
        }[statistic]

        def per(row: Row, values: list[float]) -> float:
            return sum(values) / (len(row.new) if by_length else 1)

        def towards(row: Row) -> float:
            return {"reference": per(row, row.ref), "old": per(row, row.old), "none": 0.0}[anchor]

        terms = []
        for row, fixed, s in zip(now, held, scores, strict=True):
            z = row.log_z
            if log_z == "group_mean":
                z = statistics.fmean(
                    beta * r - per(other, other.old) + towards(other)
                    for other, r in zip(held, scores, strict=True)
                    if other.group == row.group
                )
            w = weight(sum(fixed.new) - sum(fixed.old), len(fixed.new))
            terms.append(w * (z + per(row, row.new) - beta * s - towards(row)) ** 2)
        return statistics.fmean(terms)

    return loss
