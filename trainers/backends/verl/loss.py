"""The loss that verl's engine calls with a micro-batch: it calls the objective's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.core.protocols import Objective
from harness.core.tensors import Batch, LossResult, PolicyOutputs
from harness.trainers.backends.verl import fields
from harness.trainers.batch import select
from harness.trainers.config import TrainConfig
from harness.trainers.engine_mismatch import weigh_gradient
from harness.trainers.kl import with_entropy_bonus, with_kl_in_loss

HIDDEN = ("prompt_hidden", "prompt_last_hidden", "completion_hidden")


@dataclass(slots=True)
class WorkerObjective:
    """The objective in a worker, with the metrics of the update that is under way: name -> (sum, weight)."""

    config: TrainConfig
    objective: Objective
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    largest_ratio: float = 0.0

    def add(self, result: LossResult) -> None:
        for name, (total, weight) in result.metrics.items():
            former_total, former_weight = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (former_total + total, former_weight + weight)
        if result.ratios is not None and result.ratios.numel():
            self.largest_ratio = max(self.largest_ratio, float(result.ratios.detach().max()))


def objective_loss(
    model_output: Mapping[str, Any],
    data: Any,
    dp_group: Any = None,  # noqa: ARG001  # verl passes it
    *,
    worker: WorkerObjective | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return this micro-batch's share of the minibatch's loss, times the number of processes.

    verl adds the gradients of micro-batches and takes the mean over processes, so that the sum over both is left.
    """
    from verl.workers.utils.padding import no_padding_2_padding

    if worker is None:
        raise RuntimeError(
            "verl runs an engine of its own, which does not know the objective: set "
            "+actor_rollout_ref.model.model_type=harness_lm and actor_rollout_ref.model.external_lib="
            "harness.trainers.backends.verl.engine, or start it by `harness train --backend verl`"
        )
    logp = no_padding_2_padding(model_output["log_probs"], data).float()  # (B, T)
    entropy = model_output.get("entropy")
    outputs = PolicyOutputs(
        logp=logp,
        entropy=no_padding_2_padding(entropy, data).float() if entropy is not None else None,
        **{name: model_output.get(name) for name in HIDDEN},
    )
    tensors = padded_fields(data, logp.shape[1])
    rows = tensors[fields.TRAINED].bool().nonzero()[:, 0]
    if len(rows) == 0:  # rows that fill a batch up: nothing to learn, but every process has to take part
        return logp.sum() * 0.0, {}
    tensors = {name: tensor[rows] for name, tensor in tensors.items()}
    # The engine calls this under autocast; the loss and the objective's own parameters are float32.
    with torch.autocast(logp.device.type, enabled=False):
        result = loss_of_rows(worker, select(outputs, rows), tensors)
    worker.add(result)
    return result.loss * data["dp_size"], {}


def padded_fields(data: Any, width: int) -> dict[str, Tensor]:
    """Return the fields of a micro-batch as padded tensors. (B,), (B, k) or (B, T)"""
    names = [
        name
        for name in data.keys()  # noqa: SIM118  # iterating over a TensorDict gives rows
        if name.startswith(fields.PREFIX) or name in ("response_mask", "old_log_probs", "ref_log_prob", "input_ids")
    ]
    found = {name: _padded(data[name], width if name != "input_ids" else None) for name in names}
    found["prompt_lengths"] = data["prompts"].offsets().diff()
    found["completion_lengths"] = data["responses"].offsets().diff()
    return found


def _padded(tensor: Tensor, width: int | None) -> Tensor:
    if not tensor.is_nested:
        return tensor
    size = (tensor.shape[0], width) if width is not None else None
    return torch.nested.to_padded_tensor(tensor, 0, size)  # type: ignore[no-any-return]


def loss_of_rows(worker: WorkerObjective, outputs: PolicyOutputs, tensors: Mapping[str, Tensor]) -> LossResult:
    """Return the objective's loss with what the loop adds to it, as `Learner._backward` does."""
    config, objective = worker.config, worker.objective
    totals, prompts = fields.totals_in(tensors[fields.COUNTS])
    mask = tensors["response_mask"].bool()
    part = Batch(
        sequence_ids=tensors["input_ids"],
        prompt_lengths=tensors["prompt_lengths"],
        completion_lengths=tensors["completion_lengths"],
        completion_mask=mask,
        logp_behaviour=None,
        rewards=tensors[fields.REWARD],
        group_ids=prompts,
        totals=totals,
    )
    current = dataclasses.replace(outputs, logp=outputs.logp * mask)
    reference = tensors.get("ref_log_prob")
    old = PolicyOutputs(
        logp=tensors["old_log_probs"].float() * mask,
        logp_reference=reference.float() * mask if reference is not None else None,
    )
    weighed = current
    if (weights := tensors.get(fields.WEIGHTS)) is not None:
        weighed = dataclasses.replace(current, logp=weigh_gradient(current.logp, weights), logp_unweighed=current.logp)
    result = objective.loss(part, weighed, old, fields.advantages_in(tensors))
    if result.ratios is None:
        result = dataclasses.replace(result, ratios=(current.logp.detach() - old.logp)[mask].exp())
    if config.kl.place == "loss":
        result = with_kl_in_loss(result, part, current, old, config.kl)
    if config.loop.entropy_bonus != 0:
        result = with_entropy_bonus(result, part, current, config.loop.entropy_bonus)
    return result
