"""All solutions of running totals: count them, list them, draw from them.

Each step begins with the result of the step before it, so a chain is an order of numbers with an operation between each
two: `4*9=36;36+2=38;38-5=33`. Chains on exactly the same numbers are counted by their last number and operation, and
the total before that is determined by the total after it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import numpy as np

from harness.graders.countdown.rules import (
    LARGEST,
    SMALLEST,
    Expression,
    RunningTotalReference,
    Writings,
    combine,
    legal_steps,
    number,
)

Numbers = tuple[int, ...]
Counts = np.ndarray[Any, np.dtype[np.int64]]
"""Number of chains for each last value; the index is the value."""


def text_counts(numbers: Numbers, n_steps: int) -> Counts:
    """Return the number of legal chains of `n_steps` steps for each last value. The numbers must be sorted."""
    counts = np.zeros(LARGEST + 1, np.int64)
    for chosen in _choices(numbers, n_steps):
        counts += _counts(chosen)
    return counts


def writings(reference: RunningTotalReference) -> Writings:
    """Return every solution of a problem, shortest first, each with all its chains."""
    found: dict[str, tuple[str, ...]] = {}
    for n_steps in reference.allowed_steps:
        for chosen in _choices(tuple(sorted(reference.numbers)), n_steps):
            of_chosen = _writings(chosen, reference.target)
            found |= {expression.text: chains for expression, chains in of_chosen.items()}
    return found


def draw_text(rng: Random, reference: RunningTotalReference, n_steps: int) -> str:
    """Return one of the right chains of `n_steps` steps, each with the same probability."""
    choices = _choices(tuple(sorted(reference.numbers)), n_steps)
    (chosen,) = rng.choices(choices, [int(_counts(chosen)[reference.target]) for chosen in choices])
    total, steps = reference.target, list[str]()
    while len(chosen) > 1:
        ways = list(_last_steps(chosen, total))
        ((rest, before, operation, last),) = rng.choices(ways, [int(_counts(way[0])[way[1]]) for way in ways])
        steps.append(f"{before}{operation}{last}={total}")
        chosen, total = rest, before
    return ";".join(reversed(steps))


def draw_legal_chain(rng: Random, numbers: Numbers, n_steps: int) -> str:
    """Return a chain of random legal steps, whatever its value."""
    order = rng.sample(numbers, n_steps + 1)
    total, steps = order[0], list[str]()
    for last in order[1:]:
        step = rng.choice([*legal_steps(total, last)])  # never empty: a sum or a difference stays within the limits
        steps.append(str(step))
        total = step.result
    return ";".join(steps)


@functools.lru_cache(maxsize=4096)
def _choices(numbers: Numbers, n_steps: int) -> tuple[Numbers, ...]:
    return tuple(sorted(set(itertools.combinations(numbers, n_steps + 1))))


@functools.cache
def _counts(chosen: Numbers) -> Counts:
    """Count the chains that use exactly these numbers."""
    counts = np.zeros(LARGEST + 1, np.int64)
    if len(chosen) == 1:
        counts[chosen[0]] = 1
        return counts
    for last, rest in _without_each(chosen):
        before = _counts(rest)
        quotient = LARGEST // last
        counts[SMALLEST + last :] += before[SMALLEST:-last]
        counts[SMALLEST:-last] += before[SMALLEST + last :]
        counts[last::last][:quotient] += before[SMALLEST : quotient + 1]
        counts[SMALLEST : quotient + 1] += before[last::last][:quotient]
    return counts


@functools.lru_cache(maxsize=4096)
def _writings(chosen: Numbers, total: int) -> Mapping[Expression, tuple[str, ...]]:
    """Return the solutions that use exactly these numbers, with their chains."""
    if len(chosen) == 1:
        return {number(total): ("",)}
    found: dict[Expression, list[str]] = {}
    for rest, before, operation, last in _last_steps(chosen, total):
        step = f"{before}{operation}{last}={total}"
        for expression, chains in _writings(rest, before).items():
            whole = combine(expression, operation, number(last), total)
            found.setdefault(whole, []).extend(f"{chain};{step}" if chain else step for chain in chains)
    return {expression: tuple(sorted(found[expression])) for expression in sorted(found, key=lambda e: e.text)}


def _last_steps(chosen: Numbers, total: int) -> Iterator[tuple[Numbers, int, str, int]]:
    """Yield the other numbers, the total before, the operation and the number of each last step that is possible."""
    for last, rest in _without_each(chosen):
        befores = {"+": total - last, "-": total + last, "/": total * last}
        if total % last == 0:
            befores["*"] = total // last
        for operation, before in befores.items():
            if SMALLEST <= before <= LARGEST and _counts(rest)[before]:
                yield rest, before, operation, last


def _without_each(chosen: Numbers) -> Iterator[tuple[int, Numbers]]:
    for position, last in enumerate(chosen):
        if position == 0 or chosen[position - 1] != last:
            yield last, chosen[:position] + chosen[position + 1 :]
