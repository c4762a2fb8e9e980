"""The policy and its reference on a Tinker server: log-probs by a pass there, their gradient collected here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.core.protocols import ModelSource, Need
from harness.core.tensors import Batch, ModelShape, PolicyOutputs
from harness.models.tinker_server import Server
from harness.trainers.backends.tinker.adapter import save_checkpoint
from harness.trainers.backends.tinker.requests import datum, from_batch, logprobs_of, sequences_of, to_batch

N_FEATURES = 256


@dataclass(slots=True)
class RemoteWeights:
    """The weights of a training client, in the place of a module. Its state is a path on the server."""

    server: Server
    client: Any
    keep: int
    """The server keeps so many saved states; older ones of this client are deleted."""
    device: str = "cpu"
    """Where the batch, the loss and the objective's own parameters are."""
    _saved: list[str] = field(default_factory=list)
    _n_saved: int = 0

    def new_name(self, kind: str) -> str:
        """Return a name that this client has not used; the server puts the client's own id before it."""
        self._n_saved += 1
        return f"{kind}-{self._n_saved:06d}"

    def state_dict(self) -> dict[str, str]:
        path = self.server.save(self.client, self.new_name("state"))
        self._saved.append(path)
        for old in self._saved[: -self.keep]:
            self.server.delete(old)
        del self._saved[: -self.keep]
        return {"path": path}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the saved weights, without the state of their optimiser: for a reference, which is never stepped."""
        former, self.client = self.client, self.server.resume(state["path"], with_optimizer=False)
        self.server.unload(former)


@dataclass(frozen=True, slots=True)
class PendingGradient:
    """A forward pass whose log-probs, a leaf of the graph, get a gradient in the backward pass."""

    sequences: Sequence[tuple[int, ...]]
    logprobs: Sequence[Tensor]
    leaf: Tensor  # (B, T)
    batch: Batch

    def gradients(self) -> list[Tensor]:
        """Return d loss / d log-prob of each sequence's targets, zero where the loss does not read it."""
        grad = self.leaf.grad if self.leaf.grad is not None else torch.zeros_like(self.leaf)
        return from_batch(grad * self.batch.completion_mask, self.batch)


@dataclass(slots=True)
class TinkerPolicy:
    """The adapters that are trained.

    The log-probs of a sequence are kept until the next step: the pass before the updates and the first update read the
    same ones, so they cost one pass. Temperature 1 only, because a server gives log-probs and no logits.
    """

    module: RemoteWeights
    base: ModelSource
    is_merged: bool
    """Whether checkpoints hold the merged model, for which the base has to be on this machine."""
    log_z: BagOfTokens | None = None
    pending: list[PendingGradient] = field(default_factory=list)
    _known: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    @property
    def shape(self) -> ModelShape:
        return ModelShape(hidden_size=N_FEATURES, device=self.module.device)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield nothing: the weights are on the server, and its sampler reads them there."""
        return iter(())

    def forward(self, batch: Batch, needs: frozenset[Need]) -> PolicyOutputs:
        """Return log-probs as a leaf that collects its gradient, and the features of prompts if they are asked for."""
        sequences = sequences_of(batch)
        if missing := [tokens for tokens in dict.fromkeys(sequences) if tokens not in self._known]:
            self._known |= zip(missing, _pass(self.module, missing), strict=True)
        logprobs = [self._known[tokens] for tokens in sequences]
        logp = to_batch(logprobs, batch)
        if torch.is_grad_enabled():
            self.pending.append(PendingGradient(sequences, logprobs, logp.requires_grad_(), batch))
        outputs = PolicyOutputs(logp=logp)
        if "prompt_hidden" not in needs:
            return outputs
        assert self.log_z is not None, "refused by the backend's check"
        return dataclasses.replace(outputs, prompt_hidden=self.log_z.features(batch))

    def forget(self) -> None:
        """Drop the log-probs: the weights have changed."""
        self._known.clear()

    def save_pretrained(self, folder: Path) -> None:
        archive = self.module.server.download(self.module.client, self.module.new_name("adapters"))
        save_checkpoint(folder, archive, self.base, is_merged=self.is_merged)


@dataclass(frozen=True, slots=True)
class TinkerReference:
    """The base model: adapters that are never stepped, so that they add nothing."""

    module: RemoteWeights

    def forward(self, batch: Batch, needs: frozenset[Need]) -> PolicyOutputs:  # noqa: ARG002
        return PolicyOutputs(logp=to_batch(_pass(self.module, sequences_of(batch)), batch))


def _pass(weights: RemoteWeights, sequences: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the log-probs of all targets of each sequence."""
    data = [datum(tokens, weights=[1.0] * (len(tokens) - 1)) for tokens in sequences]
    return logprobs_of(weights.server.wait(weights.client.forward(data, "cross_entropy"), "log-probabilities"))


class BagOfTokens:
    """Features of a prompt for a log Z head that the client keeps: the mean of a fixed random vector for each token.

    They are a random projection of the counts of its tokens, which nearly keeps distances. The order is lost.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._vectors: dict[int, Tensor] = {}

    def features(self, batch: Batch) -> Tensor:
        """Return the features of each completion's prompt. (B, N_FEATURES)"""
        rows = zip(batch.sequence_ids.tolist(), batch.prompt_lengths.tolist(), strict=True)
        prompts = [tuple(row[:n]) for row, n in rows]
        means = {prompt: torch.stack([self._vector(token) for token in prompt]).mean(0) for prompt in set(prompts)}
        return torch.stack([means[prompt] for prompt in prompts])

    def _vector(self, token: int) -> Tensor:
        if token not in self._vectors:
            generator = torch.Generator().manual_seed((self._seed + 1_000_003 * token) % 2**63)
            self._vectors[token] = torch.randn(N_FEATURES, generator=generator)
        return self._vectors[token]
