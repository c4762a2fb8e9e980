"""The same update here and on a Tinker server: loss and gradient of each, from the same adapters and rollouts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from harness.core.protocols import ModelSource
from harness.core.seeds import derive
from harness.core.tensors import Batch
from harness.models.loading import load_module
from harness.models.tinker_server import Server
from harness.trainers.backends.tinker.adapter import ALPHA, PROJECTIONS, save_checkpoint
from harness.trainers.backends.tinker.optimizer import TinkerLearner, TinkerOptimizer
from harness.trainers.backends.tinker.policy import BagOfTokens, RemoteWeights, TinkerPolicy, TinkerReference
from harness.trainers.backends.tinker.reduction import Reduction
from harness.trainers.config import LoraConfig, TrainConfig
from harness.trainers.kl import AdaptiveKl
from harness.trainers.learner import Learner, make_optimizer
from harness.trainers.policy.lora import AdapterReference, Adapters
from harness.trainers.policy.model import Policy
from harness.trainers.reference import ReferenceReset
from harness.trainers.step_metrics import StepMetrics

# AdamW with betas of 0 and an epsilon far above the gradient is gradient descent with the rate lr / eps: the change of
# the weights is the gradient, so all of it can be compared and not only its norm.
SGD = {"lr": 30.0, "eps": 1e4, "betas": (0.0, 0.0), "grad_clip": 0.0}

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""SkyRL's JAX backend computes these projections as one, so that they have one matrix A and its gradients add up."""


@dataclasses.dataclass(frozen=True)
class Update:
    loss: float
    norm: float
    gradient: dict[str, torch.Tensor]
    log_z_gradient: list[torch.Tensor]


class BagPolicy(Policy):
    """Our policy with the features of prompts that the client of a Tinker server has."""

    def __init__(self, module: Any, adapters: Adapters, log_z: BagOfTokens) -> None:
        super().__init__(module, 1.0, adapters=adapters)
        self.log_z = log_z

    def forward(self, batch: Batch, needs: Any) -> Any:
        outputs = super().forward(batch, needs)
        return dataclasses.replace(outputs, prompt_hidden=self.log_z.features(batch))


class Pair:
    """A training client with adapters that have moved from zero, and the same adapters in a module here."""

    def __init__(
        self, server: Server, model: Path, folder: Path, reduction: Reduction, *, is_fused: bool = False
    ) -> None:
        self.server, self.base, self.folder, self.reduction = server, ModelSource(str(model)), folder, reduction
        self.rank, self.is_fused = 4, is_fused
        self.client = server.create(str(model), self.rank, seed=3)
        self.frozen = server.create(str(model), 1, seed=4)
        self._n_saved = 0

    def close(self) -> None:
        for client in (self.client, self.frozen):
            self.server.unload(client)

    def adapters(self) -> tuple[Any, Adapters]:
        """Return the base here with the adapters as they are on the server."""
        self._n_saved += 1
        saved = self.folder / f"adapters-{self._n_saved}"
        saved.mkdir(parents=True)
        archive = self.server.download(self.client, saved.name)
        save_checkpoint(saved, archive, self.base, is_merged=False)
        module = load_module(dataclasses.replace(self.base, dtype="float32", device="cpu"))
        config = LoraConfig(rank=self.rank, alpha=ALPHA, target_modules=PROJECTIONS)
        adapters = Adapters(module, config, 0, self.base.path)
        adapters.load(saved)
        return module, adapters

    def here(self, config: TrainConfig, batch: Batch) -> Update:
        module, adapters = self.adapters()
        policy = BagPolicy(module, adapters, BagOfTokens(7))
        return self._update(config, batch, policy, AdapterReference(policy, adapters), None, adapters)

    def there(self, config: TrainConfig, batch: Batch) -> Update:
        """Step by gradient descent; the gradient is the change of the weights. The adapters have moved afterwards."""
        policy = TinkerPolicy(RemoteWeights(self.server, self.client, keep=1), self.base, False, BagOfTokens(7))
        reference = TinkerReference(RemoteWeights(self.server, self.frozen, keep=1))
        before = self.weights()
        update = self._update(config, batch, policy, reference, policy, None)
        after = self.weights()
        rate, eps = config.optimizer.lr, config.optimizer.eps
        moved = {name: before[name] - after[name] for name in before}
        gradient = {name: change.double() * eps / (rate - change.double().abs()) for name, change in moved.items()}
        names = fused(before) if self.is_fused else before
        return dataclasses.replace(update, gradient={name: gradient[name].float() for name in names})

    def weights(self) -> dict[str, torch.Tensor]:
        _, adapters = self.adapters()
        return {name: parameter.detach().clone() for name, parameter in adapters.parameters().items()}

    def _update(
        self, config: TrainConfig, batch: Batch, policy: Any, reference: Any, remote: Any, adapters: Adapters | None
    ) -> Update:
        objective = config.objective.build()
        objective.prepare(TinkerPolicy.shape.fget(policy) if remote else _bag_shape(), derive(0, "objective"))
        if remote:
            optimizer: Any = TinkerOptimizer(policy, objective, config.optimizer, self.reduction)
        else:
            optimizer = make_optimizer(policy.module, objective, config.optimizer)
        learner = (TinkerLearner if remote else Learner)(
            config=config,
            objective=objective,
            policy=policy,
            reference=reference,
            optimizer=optimizer,
            max_tokens=12,
            engine_logp_is_exact=False,
            largest_mismatch=1.0,
            kl=AdaptiveKl(config.kl),
            resets=ReferenceReset(config.reference),
        )
        metrics = StepMetrics(1)
        scored = learner.score(1, batch, metrics)
        results = [learner._backward(scored, torch.arange(len(batch.rewards)), batch.totals, metrics)]
        own = [p.grad.clone() for group in objective.parameters() for p in group.parameters if p.grad is not None]
        gradient: dict[str, torch.Tensor] = {}
        if adapters is not None:
            gradient = {
                name: p.grad.clone() if p.grad is not None else torch.zeros_like(p)
                for name, p in adapters.parameters().items()
            }
            gradient = fused(gradient) if self.is_fused else gradient
            norm = float(torch.nn.utils.get_total_norm(list(gradient.values())))
        else:
            optimizer.param_groups[0]["lr"] = config.optimizer.lr
            norm = optimizer.push()
        return Update(float(results[0].loss), norm, gradient, own)


def fused(gradient: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the gradient with the shared A of fused projections once, under the name of the first."""
    summed = dict(gradient)
    for name in gradient:
        for first, *others in FUSED:
            if f".{first}.lora_A." in name:
                summed[name] = gradient[name] + sum(summed.pop(name.replace(first, other)) for other in others)
    return summed


def _bag_shape() -> Any:
    from harness.core.tensors import ModelShape
    from harness.trainers.backends.tinker.policy import N_FEATURES

    return ModelShape(hidden_size=N_FEATURES, device="cpu")
