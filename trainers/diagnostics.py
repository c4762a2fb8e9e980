"""Warnings in plain words when a run's figures say that it is collapsing: each once as long as its trouble lasts.

Everything follows from the step records alone, so a resumed run says what an unbroken one would.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.trainers.config import WarningsConfig

Row = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One warning, with the step at which its trouble was first seen."""

    step: int
    name: str
    text: str


@dataclass(slots=True)
class Watch:
    """Reads the records of steps in their order."""

    config: WarningsConfig
    _begin: list[Row] = field(default_factory=list)
    _last: deque[Row] = field(default_factory=deque)
    _ringing: set[str] = field(default_factory=set)

    def see(self, row: Row) -> list[Alarm]:
        """What begins to be wrong with this step."""
        window = self.config.window_steps
        if len(self._begin) < window:
            self._begin.append(row)
        self._last.append(row)
        if len(self._last) > window:
            self._last.popleft()
        if len(self._last) < window:
            return []
        troubles = dict(self._troubles())
        alarms = [Alarm(int(row["step"]), name, text) for name, text in troubles.items() if name not in self._ringing]
        self._ringing = set(troubles)
        return alarms

    def _troubles(self) -> Iterable[tuple[str, str]]:
        config = self.config
        yield from self._fall("entropy", "entropy", config.entropy_share, FALLEN_ENTROPY)
        yield from self._fall("distinct_solutions", "distinct answers", config.distinct_share, FALLEN_DISTINCT)
        yield from self._level("groups_with_signal", lambda share: share <= config.equal_groups, EQUAL_GROUPS)
        yield from self._level("truncated", lambda share: share >= config.truncated, TRUNCATED)
        yield from self._level("clip_fraction", lambda share: share >= config.clipped, CLIPPED)
        yield from self._level("engine_weight_at_cap", lambda share: share >= config.clipped, ENGINE_CLIPPED)

    def _fall(self, key: str, name: str, share: float, text: str) -> Iterable[tuple[str, str]]:
        before, now = _mean(self._begin, key), _mean(self._last, key)
        if share > 0 and before is not None and now is not None and now < share * before:
            yield key, text.format(name=name, before=before, now=now, window=self.config.window_steps)

    def _level(self, key: str, is_bad: Callable[[float], bool], text: str) -> Iterable[tuple[str, str]]:
        now = _mean(self._last, key)
        if now is not None and is_bad(now):
            yield key, text.format(now=now, window=self.config.window_steps)


FALLEN_ENTROPY = (
    "the {name} has fallen from {before:.3g} in the first {window} steps to {now:.3g}: the policy gives ever the same "
    "answers, and soon nothing is left to learn from. A lower learning rate, loop.entropy_bonus or a KL to the "
    "reference (kl.place) holds it open"
)
FALLEN_DISTINCT = (
    "the {name} of a solved problem have fallen from {before:.3g} in the first {window} steps to {now:.3g}: the policy "
    "has settled on one way to solve each. A KL to the reference (kl.place), loop.entropy_bonus or an objective that "
    "matches a distribution (flowrl, vargrad_tb) holds more of them"
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
    "policy further than its samples can tell. Lower optimizer.lr, loop.minibatches_per_step or loop.epochs"
)
ENGINE_CLIPPED = (
    "in the last {window} steps {now:.0%} of the weights between engine and trainer were at engine_correction.cap: the "
    "two disagree on what was sampled; look at logp_gap in steps.jsonl"
)


def _mean(rows: Iterable[Row], key: str) -> float | None:
    """None where a record does not tell: a task without a notion of 'same answer', an objective without a bound."""
    values = [row[key] for row in rows if key in row]
    return math.fsum(values) / len(values) if values else None
