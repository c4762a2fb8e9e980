"""Warnings that training looks like it is collapsing. Each fires once, and again only after its condition has cleared.

Everything follows from the step metrics alone, so a resumed run gives the same warnings as an unbroken one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.trainers.config import WarningsConfig

StepRow = Mapping[str, float]

FALLEN_ENTROPY = (
    "the {name} has fallen from {before:.3g} in the first {window} steps to {now:.3g}: the policy gives the same "
    "answers over and over, and soon there is nothing left to learn from. A lower learning rate, loop.entropy_bonus or "
    "a KL to the reference (kl.place) keeps it up"
)
FALLEN_DISTINCT = (
    "the {name} of a solved problem have fallen from {before:.3g} in the first {window} steps to {now:.3g}: the policy "
    "has settled on one way to solve each. A KL to the reference (kl.place), loop.entropy_bonus or an objective that "
    "matches a distribution (flowrl, vargrad_tb) keeps more of them"
)
EQUAL_GROUPS = (
    "in the last {window} steps only {now:.1%} of the groups had different rewards: the others teach nothing. The "
    "problems are too easy or too hard; take others, more loop.samples_per_prompt, or dynamic_sampling"
)
TRUNCATED = (
    "in the last {window} steps {now:.0%} of the completions were cut off at the token limit: their answers are lost. "
    "Raise sampling.max_tokens, or set overlong.buffer_tokens or overlong.mask_truncated"
)
CLIPPED = (
    "in the last {window} steps {now:.0%} of the importance weights were at their bound: a step's updates move the "
    "policy further than its samples can support. Lower optimizer.lr, loop.minibatches_per_step or loop.epochs"
)
ENGINE_CLIPPED = (
    "in the last {window} steps {now:.0%} of the weights between engine and trainer were at engine_correction.cap: the "
    "two disagree on what was sampled; look at logp_gap in steps.jsonl"
)


@dataclass(frozen=True, slots=True)
class TrainingWarning:
    """One warning, with the first step at which its condition held."""

    step: int
    name: str
    text: str


@dataclass(slots=True)
class Diagnostics:
    """Checks the metrics of the steps, given in order, against the thresholds of the config."""

    config: WarningsConfig
    _first: list[StepRow] = field(default_factory=list)
    _last: deque[StepRow] = field(default_factory=deque)
    _active: set[str] = field(default_factory=set)

    def update(self, row: StepRow) -> list[TrainingWarning]:
        """Add the metrics of a step and return the warnings that start with it."""
        window = self.config.window_steps
        if len(self._first) < window:
            self._first.append(row)
        self._last.append(row)
        if len(self._last) > window:
            self._last.popleft()
        if len(self._last) < window:
            return []
        found, step = dict(self._conditions()), int(row["step"])
        new = [TrainingWarning(step, name, text) for name, text in found.items() if name not in self._active]
        self._active = set(found)
        return new

    def _conditions(self) -> Iterable[tuple[str, str]]:
        """Yield the name and text of every condition that holds now."""
        config = self.config
        yield from self._fallen("entropy", "entropy", config.entropy_share, FALLEN_ENTROPY)
        yield from self._fallen("distinct_solutions", "distinct answers", config.distinct_share, FALLEN_DISTINCT)
        yield from self._level("groups_with_signal", lambda share: share <= config.equal_groups, EQUAL_GROUPS)
        yield from self._level("truncated", lambda share: share >= config.truncated, TRUNCATED)
        yield from self._level("clip_fraction", lambda share: share >= config.clipped, CLIPPED)
        yield from self._level("engine_weight_at_cap", lambda share: share >= config.clipped, ENGINE_CLIPPED)

    def _fallen(self, key: str, name: str, share: float, text: str) -> Iterable[tuple[str, str]]:
        before, now = _mean(self._first, key), _mean(self._last, key)
        if share > 0 and before is not None and now is not None and now < share * before:
            yield key, text.format(name=name, before=before, now=now, window=self.config.window_steps)

    def _level(self, key: str, is_bad: Callable[[float], bool], text: str) -> Iterable[tuple[str, str]]:
        now = _mean(self._last, key)
        if now is not None and is_bad(now):
            yield key, text.format(now=now, window=self.config.window_steps)


def _mean(rows: Iterable[StepRow], key: str) -> float | None:
    """Return the mean of a metric, or None where no step has it: not every grader or objective gives every metric."""
    values = [row[key] for row in rows if key in row]
    return math.fsum(values) / len(values) if values else None
