"""Countdown: reach a target from six numbers in two steps. Small enough for a laptop; every solution is known."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, cast, get_args

from harness.core.errors import ConfigError
from harness.core.protocols import Grader, Split, Task
from harness.core.seeds import derive
from harness.core.types import DatasetCard, GoldenCompletion, Message, Problem, Sampling
from harness.graders.countdown import CountdownGrader
from harness.graders.countdown.rules import (
    CountdownReference,
    canonical_text,
    legal_chains,
    solution_counts,
    writings,
)
from harness.tasks._base.number_sets import TARGETS, Numbers, multisets

ID = "countdown"
"""Part of the seeds of problems, so it does not follow the file's name."""


class Countdown(Task[CountdownReference]):
    """Six sorted numbers 1..9 and a target 10..99; an answer is two steps, `4*9=36;36+2=38`.

    The split depends only on the numbers, so no numbers of the training split occur in validation or test.
    """

    has_demonstrations: ClassVar[bool] = True

    grader: Grader[CountdownReference]
    sampling: Sampling

    @dataclass(frozen=True, slots=True)
    class Config:
        min_solutions: int = 6
        """Smallest number of distinct solutions that a problem may have."""
        sloppiness: float = 0.0
        """Probability that a demonstration is legal arithmetic that ignores the target."""

        def __post_init__(self) -> None:
            if self.min_solutions < 1:
                raise ValueError(f"min_solutions must be at least 1, not {self.min_solutions}")
            if not 0.0 <= self.sloppiness <= 1.0:
                raise ValueError(f"sloppiness must be between 0 and 1, not {self.sloppiness}")

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.grader = CountdownGrader(CountdownGrader.Config())
        self.sampling = Sampling(max_tokens=14, temperature=1.0)

    def _make_card(self) -> DatasetCard:
        return DatasetCard(
            title="Countdown, two steps, six numbers",
            source="generated; every solution is enumerated",
            licence="Apache-2.0",
            paper="",
            sizes={split: f"{len(self._pool(split))} problems" for split in get_args(Split)},
            fingerprint=_fingerprint(self.config.min_solutions),
            several_approaches=1.0 if self.config.min_solutions > 1 else None,
            notes=f"problems with at least {self.config.min_solutions} distinct solutions",
        )

    # Computed on first use, since it enumerates every problem; the base class declares a plain attribute.
    card: DatasetCard = cast(DatasetCard, functools.cached_property(_make_card))

    def problems(self, split: Split, seed: int) -> Iterator[Problem[CountdownReference]]:
        """Yield `train` in endless, reshuffled passes, and the other splits once in the order of `seed`."""
        pool = self._pool(split)
        if not pool:
            raise ConfigError(
                f"no {split} problem of {ID} has {self.config.min_solutions} solutions; lower min_solutions"
            )
        passes = itertools.count() if split == "train" else range(1)
        orders = (Random(derive(seed, ID, split, p)).sample(pool, len(pool)) for p in passes)
        return itertools.starmap(_problem, itertools.chain.from_iterable(orders))

    def demonstrate(self, problem: Problem[CountdownReference], seed: int) -> str:
        """Return a random solution in a random notation or, with probability `sloppiness`, a random legal chain."""
        rng = Random(derive(seed, ID, problem.id))
        if rng.random() < self.config.sloppiness:
            return rng.choice(legal_chains(tuple(sorted(rng.sample(problem.reference.numbers, 3)))))
        return rng.choice(rng.choice(tuple(writings(problem.reference).values())))

    def solutions(self, problem: Problem[CountdownReference]) -> tuple[str, ...]:
        """Return every solution, in the form that the grader writes in `details["solution"]`."""
        return tuple(writings(problem.reference))

    def right_texts(self, problem: Problem[CountdownReference]) -> tuple[str, ...]:
        """Return the chains of every solution."""
        return tuple(itertools.chain.from_iterable(writings(problem.reference).values()))

    def canonical(self, text: str) -> str:
        """Return the solution that a legal chain is a way to write."""
        return canonical_text(text)

    def golden_completions(self, problem: Problem[CountdownReference]) -> tuple[GoldenCompletion, ...]:
        """Return a chain of each solution, and wrong neighbours of them."""
        target = problem.reference.target
        chains = [chains[0] for chains in writings(problem.reference).values()]
        return (
            *(GoldenCompletion("solution", chain, "correct") for chain in chains),
            *(
                GoldenCompletion("one more at the end", f"{chain.rpartition('=')[0]}={target + 1}", "incorrect")
                for chain in chains
            ),
            *(GoldenCompletion("last step missing", chain.rpartition(";")[0], "incorrect") for chain in chains),
        )

    def _pool(self, split: Split) -> Sequence[tuple[Numbers, int]]:
        return _pool(split, self.config.min_solutions)


def _problem(numbers: Numbers, target: int) -> Problem[CountdownReference]:
    return Problem(
        id=f"{'-'.join(map(str, numbers))}={target}",
        task=ID,
        messages=(Message("user", f"{' '.join(map(str, numbers))} = {target} :"),),
        reference=CountdownReference(numbers, target),
        tags={"n_solutions": str(solution_counts(numbers)[target])},
    )


@functools.cache
def _pool(split: Split, min_solutions: int) -> Sequence[tuple[Numbers, int]]:
    return [
        (numbers, target)
        for numbers in multisets()[split]
        for target in TARGETS
        if solution_counts(numbers).get(target, 0) >= min_solutions
    ]


@functools.cache
def _fingerprint(min_solutions: int) -> str:
    digest = hashlib.sha256()
    for split in get_args(Split):
        for problem in itertools.starmap(_problem, _pool(split, min_solutions)):
            prompt, reference = problem.messages[0].content, problem.reference
            row = [split, problem.id, prompt, reference.numbers, reference.target, reference.n_steps]
            digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:16]


TASK = Countdown
