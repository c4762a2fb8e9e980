"""Replies from a script instead of a model: the fake that ships with the seam, for tests and dry runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Request, Tokens

if TYPE_CHECKING:
    import torch


class ScriptedEngine(Engine):
    """Gives the n-th reply to the n-th sample of every problem, over and over, or one picked by the seed.

    A reply counts a token a word. It follows a policy only so far as to remember the newest version it was given.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        replies: tuple[str, ...] = ("",)
        pick: Literal["index", "seed"] = "index"

        def __post_init__(self) -> None:
            if not self.replies:
                raise ValueError("replies needs at least one reply")

    follows_policy: ClassVar[bool] = True

    config: Config

    def open(self, source: ModelSource) -> None:
        pass

    def close(self) -> None:
        pass

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        self.version = version

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            chosen = request.index if self.config.pick == "index" else request.seed
            words = self.config.replies[chosen % len(self.config.replies)].split(" ")
            kept = words[: request.sampling.max_tokens]
            n_prompt = sum(len(message.content.split()) for message in request.messages)
            yield Completion(
                request.problem_id,
                request.index,
                request.seed,
                " ".join(kept),
                "stop" if len(kept) == len(words) else "length",
                Tokens(n_prompt, len(kept)),
            )


ENGINE = ScriptedEngine
