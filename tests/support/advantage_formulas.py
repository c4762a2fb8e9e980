"""Every advantage from its paper's formula, in plain loops over one group of Python floats; nothing shared.

A group is a list of completions. The functions return one advantage for each, in order.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One completion: its reward, the log-probs of its tokens under the old policy, and its class."""

    reward: float
    logp: tuple[float, ...]
    kind: int | None = None


Group = Sequence[Answer]
Formula = Callable[[Group], list[float]]


def rewards(group: Group) -> list[float]:
    return [answer.reward for answer in group]


def z_scores(values: Sequence[float], eps: float = 1e-6) -> list[float]:
    if len(set(values)) == 1:
        return [0.0] * len(values)
    return [(v - statistics.mean(values)) / (statistics.stdev(values) + eps) for v in values]


def group(eps: float) -> Formula:
    return lambda answers: z_scores(rewards(answers), eps)


def mean(answers: Group) -> list[float]:
    return [a.reward - statistics.fmean(rewards(answers)) for a in answers]


def leave_one_out(answers: Group) -> list[float]:
    out = []
    for i, answer in enumerate(answers):
        others = [a.reward for j, a in enumerate(answers) if j != i]
        out.append(answer.reward - statistics.fmean(others) if others else 0.0)
    return out


def maxrl(answers: Group) -> list[float]:
    average = statistics.fmean(rewards(answers))
    return [0.0 if average == 0 else (a.reward - average) / (average + 1e-6) for a in answers]


def maxrl_conditional(answers: Group) -> list[float]:
    average = statistics.fmean(rewards(answers))
    return [0.0 if average == 0 else a.reward / (average + 1e-6) for a in answers]


def alone_right(answers: Group, i: int, k: int) -> float:
    """Return the share of the groups of k with i, by listing them, in which i is right and nothing else is."""
    others = [j for j in range(len(answers)) if j != i]
    with_i = list(itertools.combinations(others, k - 1))
    if answers[i].reward != 1 or not with_i:
        return 0.0
    return sum(all(answers[j].reward == 0 for j in chosen) for chosen in with_i) / len(with_i)


def pkpo(k: int) -> Formula:
    return lambda answers: [alone_right(answers, i, k) for i in range(len(answers))]


def pkpo_others(k: int) -> Formula:
    def formula(answers: Group) -> list[float]:
        adds = pkpo(k)(answers)
        total = sum(adds)
        return [a - (total - a) / (len(adds) - 1) for a in adds]

    return formula


def pkpo_leave_one_out(k: int) -> Formula:
    def formula(answers: Group) -> list[float]:
        out = []
        for i in range(len(answers)):
            without = [answer for j, answer in enumerate(answers) if j != i]
            baseline = statistics.fmean(alone_right(without, j, k) for j in range(len(without)))
            out.append(alone_right(answers, i, k) - baseline)
        return out

    return formula


def pass_at_k(k: int) -> Formula:
    """GRPO's advantage of every possible group of k, averaged over those that a completion is in."""

    def formula(answers: Group) -> list[float]:
        groups = list(itertools.combinations(range(len(answers)), k))
        reward = {chosen: float(any(answers[j].reward == 1 for j in chosen)) for chosen in groups}
        average = statistics.fmean(reward.values())
        deviation = math.sqrt(statistics.fmean((r - average) ** 2 for r in reward.values()))
        out = []
        for i in range(len(answers)):
            own = [reward[chosen] for chosen in groups if i in chosen]
            out.append((statistics.fmean(own) - average) / (deviation + 1e-6))
        return out

    return formula


def risk_sensitive(beta: float) -> Formula:
    def formula(answers: Group) -> list[float]:
        average = statistics.fmean(math.exp(beta * a.reward) for a in answers)
        return [(math.exp(beta * a.reward) / average - 1) / beta for a in answers]

    return formula


def ucpo(tau: float, *, by_sequence: bool) -> Formula:
    def formula(answers: Group) -> list[float]:
        right = [i for i, a in enumerate(answers) if a.reward > 0]
        score = {i: sum(answers[i].logp) / (1 if by_sequence else len(answers[i].logp)) for i in right}
        total = sum(math.exp(s) for s in score.values())
        inverse = {i: 1 / max(math.exp(s) / total, 1e-6) for i, s in score.items()}
        out = z_scores(rewards(answers))
        for i in right:
            weight = (1 - tau) / len(right) + tau * inverse[i] / sum(inverse.values())
            out[i] *= len(right) * weight
        return out

    return formula


def unlikeliness(beta: float, *, released: bool = False) -> Formula:
    def formula(answers: Group) -> list[float]:
        scores = [sum(a.logp) / (len(a.logp) if released else 1) for a in answers]
        shaped = []
        for answer, own in zip(answers, scores, strict=True):
            rank = sum(other > own for other in scores) + (scores.count(own) - 1) / 2
            shaped.append(answer.reward * (1 - beta * (len(scores) - released - rank) / len(scores)))
        return z_scores(shaped)

    return formula


def alike(answers: Group, i: int) -> int:
    kind = answers[i].kind
    return 1 if kind is None else sum(a.kind == kind for a in answers)


def rarity_of_advantage(alpha: float, *, keep_total: bool) -> Formula:
    def formula(answers: Group) -> list[float]:
        right = [i for i, a in enumerate(answers) if a.reward > 0]
        weights = {i: alike(answers, i) ** -alpha for i in right}
        scale = statistics.fmean(weights.values()) if keep_total and weights else 1.0
        return [z * weights[i] / scale if i in weights else z for i, z in enumerate(z_scores(rewards(answers)))]

    return formula


def rarity_of_reward(answers: Group) -> list[float]:
    shaped = []
    for i, answer in enumerate(answers):
        unlike = (len(answers) - alike(answers, i)) / (len(answers) - 1) if len(answers) > 1 else 0.0
        shaped.append(answer.reward * max(unlike, 0.1))
    return [s - statistics.fmean(shaped) for s in shaped]
