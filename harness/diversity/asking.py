"""Requests to a judge behind any engine: cached by content, counted, and estimated before anything is asked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from harness.core.config import PluginChoice, to_tree
from harness.core.errors import UsageError
from harness.core.progress import Progress
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Failure, Message, Request, Sampling
from harness.models.loading import resolve
from harness.runs.reply_cache import ReplyCache

CHARACTERS_PER_TOKEN = 3.5
"""For the estimate only; a text of formulas has fewer characters to a token than prose."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of what was asked of a judge, and of the tokens that it took."""

    n_asked: int = 0
    n_cached: int = 0
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0
    cost_usd: float | None = None

    def __add__(self, other: Usage) -> Usage:
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return Usage(
            self.n_asked + other.n_asked,
            self.n_cached + other.n_cached,
            self.n_prompt_tokens + other.n_prompt_tokens,
            self.n_completion_tokens + other.n_completion_tokens,
            sum(costs) if costs else None,
        )


@dataclass
class Judge:
    """A model that is asked. It is opened for the first question that the cache has no reply to."""

    model: str
    choice: PluginChoice
    cache: ReplyCache
    budget_tokens: int
    has_consent: bool = False
    usage: Usage = field(default_factory=Usage)
    _engine: Engine | None = None

    def ask(self, prompts: Mapping[str, str], max_tokens: int, progress: Progress) -> dict[str, str | Failure]:
        """Return the reply to each prompt by its name, greedily decoded. A reply is cached as soon as it arrives."""
        digests = {name: self._digest(prompt, max_tokens) for name, prompt in prompts.items()}
        texts = {digests[name]: prompt for name, prompt in prompts.items()}  # equal ones are asked once
        found: dict[str, str | Failure] = {d: reply for d in texts if (reply := self.cache.get(d)) is not None}
        self.usage += Usage(n_cached=len(found))
        if missing := {digest: prompt for digest, prompt in texts.items() if digest not in found}:
            self._require_consent(list(missing.values()), max_tokens)
            found |= self._asked(missing, max_tokens, progress)
        return {name: found[digest] for name, digest in digests.items()}

    def _asked(self, prompts: Mapping[str, str], max_tokens: int, progress: Progress) -> dict[str, str | Failure]:
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        requests = [Request(digest, 0, (Message("user", text),), 0, sampling) for digest, text in prompts.items()]
        found: dict[str, str | Failure] = {}
        most = estimated_tokens(prompts.values(), max_tokens)
        progress.say(f"judge {self.model}: {len(prompts)} requests, about {most:,} tokens at most")
        progress.begin(f"judge {self.model}", len(requests))
        for answer in self._opened().generate(requests):
            progress.advance()
            if isinstance(answer, Failure):
                found[answer.problem_id] = answer
                self.usage += Usage(n_asked=1)
            else:
                found[answer.problem_id] = self._kept(answer, answer.problem_id)
        progress.end()
        if reasons := Counter(answer.reason for answer in found.values() if isinstance(answer, Failure)):
            (reason, _), n_failed = reasons.most_common(1)[0], reasons.total()
            progress.warn(f"judge {self.model}: no reply to {n_failed} of {len(requests)} requests: {reason}")
        return found

    def forget(self, prompt: str, max_tokens: int) -> None:
        """Drop a reply that could not be understood, so that the next command asks again."""
        self.cache.drop(self._digest(prompt, max_tokens))

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _kept(self, answer: Completion, digest: str) -> str:
        tokens = answer.tokens
        self.usage += Usage(1, 0, tokens.n_prompt, tokens.n_completion, tokens.cost_usd)
        if answer.finish_reason == "stop":
            self.cache.put(digest, answer.text)
        return answer.text

    def _require_consent(self, prompts: Sequence[str], max_tokens: int) -> None:
        used = self.usage.n_prompt_tokens + self.usage.n_completion_tokens
        needed = used + estimated_tokens(prompts, max_tokens)
        if needed > self.budget_tokens and not self.has_consent:
            raise UsageError(
                f"the judge {self.model} would get {len(prompts)} requests, about {needed:,} tokens at most, and the "
                f"budget is {self.budget_tokens:,}; add --yes, or raise --budget (replies so far are kept)"
            )

    def _digest(self, prompt: str, max_tokens: int) -> str:
        parts = [to_tree(self.choice, identity_only=True), self.model, max_tokens, prompt]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def _opened(self) -> Engine:
        if self._engine is None:
            engine = cast(Engine, self.choice.build())
            engine.open(ModelSource(self.model if engine.is_remote else resolve(self.model)))
            self._engine = engine
        return self._engine


def estimated_tokens(prompts: Iterable[str], max_tokens: int) -> int:
    """Return about the most tokens that these prompts and their replies can take."""
    return sum(round(len(prompt) / CHARACTERS_PER_TOKEN) + max_tokens for prompt in prompts)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A versioned file of this package, and the hash that names it on a card."""

    name: str
    text: str

    @classmethod
    def read(cls, name: str) -> Prompt:
        return cls(name, (Path(__file__).parent / "prompts" / f"{name}.txt").read_text(encoding="utf-8"))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def filled(self, problem: str, solutions: Sequence[str]) -> str:
        """Return the prompt with the numbered solutions between marks, which nothing in a solution can close."""
        marked = "\n\n".join(f"<<<{number}\n{_quoted(text)}\n{number}>>>" for number, text in enumerate(solutions, 1))
        return self.text.format(problem=_quoted(problem), solutions=marked, count=len(solutions))


def _quoted(text: str) -> str:
    return text.replace("<<<", "< < <").replace(">>>", "> > >").strip()
