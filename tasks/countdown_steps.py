"""Countdown in two to five steps, as the answer chooses: right answers of 12 to 30 tokens, all of them known."""

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
from harness.graders.countdown.rules import RunningTotalReference, canonical_text
from harness.graders.countdown.running_totals import draw_legal_chain, draw_text, text_counts, writings
from harness.tasks._base.number_sets import TARGETS, Numbers, multisets

ID = "countdown_steps"
"""Part of the seeds of problems, so it does not follow the file's name."""
MIN_STEPS, MAX_STEPS = 2, 5


class CountdownSteps(Task[RunningTotalReference]):
    """Six sorted numbers 1..9 and a target 10..99; each step begins with the result before, `4*9=36;36-3=33;33+5=38`.

    Every problem has right answers of 2, 3, 4 and 5 steps, and an answer may use any of these numbers of steps. The
    splits are those of `countdown`: no numbers of the training split occur in validation or test.
    """

    has_demonstrations: ClassVar[bool] = True

    grader: Grader[RunningTotalReference]
    sampling: Sampling

    @dataclass(frozen=True, slots=True)
    class Config:
        min_texts: int = 4
        """Smallest number of right answers that a problem may have for each number of steps."""
        max_texts: int = 600
        """Largest number of right answers that a problem may have in all."""
        sloppiness: float = 0.0
        """Probability that a demonstration is legal arithmetic that ignores the target."""

        def __post_init__(self) -> None:
            if self.min_texts < 1:
                raise ValueError(f"min_texts must be at least 1, not {self.min_texts}")
            if not 0.0 <= self.sloppiness <= 1.0:
                raise ValueError(f"sloppiness must be between 0 and 1, not {self.sloppiness}")

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        # It grades every countdown reference, and graders are invariant in their reference.
        self.grader = cast(Grader[RunningTotalReference], CountdownGrader(CountdownGrader.Config()))
        self.sampling = Sampling(max_tokens=32, temperature=1.0)

    def _make_card(self) -> DatasetCard:
        return DatasetCard(
            title="Countdown, two to five steps, six numbers",
            source="generated; every right answer is enumerated",
            licence="Apache-2.0",
            paper="",
            sizes={split: f"{len(self._pool(split))} problems" for split in get_args(Split)},
            fingerprint=self._fingerprint(),
            several_approaches=1.0,  # answers of different numbers of steps use different numbers
            notes=f"problems with at least {self.config.min_texts} right answers of each number of steps, and at most "
            f"{self.config.max_texts} in all",
        )

    # Computed on first use, since it counts the answers of every problem; the base class declares a plain attribute.
    card: DatasetCard = cast(DatasetCard, functools.cached_property(_make_card))

    def problems(self, split: Split, seed: int) -> Iterator[Problem[RunningTotalReference]]:
        """Yield `train` in endless, reshuffled passes, and the other splits once in the order of `seed`."""
        pool = self._pool(split)
        if not pool:
            raise ConfigError(f"no {split} problem of {ID} has so many answers; lower min_texts or raise max_texts")
        passes = itertools.count() if split == "train" else range(1)
        orders = (Random(derive(seed, ID, split, p)).sample(pool, len(pool)) for p in passes)
        return itertools.starmap(_problem, itertools.chain.from_iterable(orders))

    def demonstrate(self, problem: Problem[RunningTotalReference], seed: int) -> str:
        """Return a random right answer or, with probability `sloppiness`, a random legal chain.

        Every number of steps has the same probability, then every answer of that number of steps.
        """
        rng = Random(derive(seed, ID, problem.id))
        is_sloppy = rng.random() < self.config.sloppiness
        n_steps = rng.choice(problem.reference.allowed_steps)
        if is_sloppy:
            return draw_legal_chain(rng, problem.reference.numbers, n_steps)
        return draw_text(rng, problem.reference, n_steps)

    def solutions(self, problem: Problem[RunningTotalReference]) -> tuple[str, ...]:
        """Return every solution, in the form that the grader writes in `details["solution"]`."""
        return tuple(writings(problem.reference))

    def right_texts(self, problem: Problem[RunningTotalReference]) -> tuple[str, ...]:
        """Return the chains of every solution."""
        return tuple(itertools.chain.from_iterable(writings(problem.reference).values()))

    def canonical(self, text: str) -> str:
        """Return the solution that a legal chain is a way to write."""
        return canonical_text(text)

    def golden_completions(self, problem: Problem[RunningTotalReference]) -> tuple[GoldenCompletion, ...]:
        """Return a chain of each solution, and wrong neighbours of them."""
        target = problem.reference.target
        chains = [chains[0] for chains in writings(problem.reference).values()]
        return (
            *(GoldenCompletion("solution", chain, "correct") for chain in chains),
            *(
                GoldenCompletion("one more at the end", f"{chain.rpartition('=')[0]}={target + 1}", "incorrect")
                for chain in chains
            ),
            *(GoldenCompletion("first step only", chain.partition(";")[0], "incorrect") for chain in chains),
            GoldenCompletion("six steps", chains[0] + f";{target}*1={target}" * 4, "incorrect"),
        )

    def _pool(self, split: Split) -> Sequence[tuple[Numbers, int]]:
        return _pool(split, self.config.min_texts, self.config.max_texts)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for split in get_args(Split):
            for problem in itertools.starmap(_problem, self._pool(split)):
                prompt, reference = problem.messages[0].content, problem.reference
                row = [split, problem.id, prompt, reference.numbers, reference.target, MIN_STEPS, MAX_STEPS]
                digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()[:16]


def _problem(numbers: Numbers, target: int) -> Problem[RunningTotalReference]:
    counts = [int(text_counts(numbers, n_steps)[target]) for n_steps in range(MIN_STEPS, MAX_STEPS + 1)]
    return Problem(
        id=f"{'-'.join(map(str, numbers))}={target}",
        task=ID,
        messages=(Message("user", f"{' '.join(map(str, numbers))} = {target} :"),),
        reference=RunningTotalReference(numbers, target, MIN_STEPS, MAX_STEPS),
        tags={"n_texts": str(sum(counts))},
    )


@functools.cache
def _pool(split: Split, min_texts: int, max_texts: int) -> Sequence[tuple[Numbers, int]]:
    pool: list[tuple[Numbers, int]] = []
    for numbers in multisets()[split]:
        counts = [text_counts(numbers, n_steps) for n_steps in range(MIN_STEPS, MAX_STEPS + 1)]
        pool += [
            (numbers, target)
            for target in TARGETS
            if min(count[target] for count in counts) >= min_texts and sum(c[target] for c in counts) <= max_texts
        ]
    return pool


TASK = CountdownSteps
