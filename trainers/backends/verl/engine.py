"""verl's FSDP2 engine with an objective of ours: its parameters, its optimiser groups, and the states that it reads.

Parameters of the objective (a log Z head, a critic) stay outside the sharded module, one copy on each process: a head
is less than a hundredth of its model, and so weights that are synced, saved or merged need no filter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from verl.utils.device import get_device_id, get_device_name
from verl.utils.fsdp_utils import fsdp2_clip_grad_norm_
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from harness.core.seeds import derive
from harness.core.tensors import ModelShape, PolicyOutputs
from harness.trainers.backends.verl.loss import HIDDEN, WorkerObjective, objective_loss
from harness.trainers.backends.verl.run import MODEL_TYPE, objective_file, run_config
from harness.trainers.learner import make_optimizer, schedule


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp2"], device=["cuda", "npu"])
class ObjectiveEngine(FSDPEngineWithLMHead):  # type: ignore[misc]
    """The engine of actor and reference; the reference has no objective."""

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs)
        self._worker: WorkerObjective | None = None
        self._hidden: Tensor | None = None
        if not self.engine_config.forward_only:
            config = run_config()
            objective = config.objective.build()
            device = str(torch.empty(0, device=get_device_id()).device)
            objective.prepare(
                ModelShape(self.model_config.hf_config.hidden_size, device), derive(config.seed, "objective")
            )
            self._worker = WorkerObjective(config, objective)

    @property
    def worker(self) -> WorkerObjective:
        assert self._worker is not None, "only the actor has an objective"
        return self._worker

    @property
    def _needs(self) -> frozenset[str]:
        return frozenset() if self._worker is None else self._worker.objective.needs & frozenset(HIDDEN)

    @property
    def _own_parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.worker.objective.parameters() for parameter in group.parameters]

    # --- building

    def _build_module(self) -> Any:
        self.model_config.model_type = "language_model"  # the base class knows no other
        try:
            module = super()._build_module()
        finally:
            self.model_config.model_type = MODEL_TYPE
        if self._needs:
            module.base_model.register_forward_hook(self._keep_hidden)
        return module

    def _keep_hidden(self, _module: Any, _inputs: Any, outputs: Any) -> None:
        self._hidden = outputs[0]

    def _build_optimizer(self, module: Any) -> torch.optim.Optimizer:
        return make_optimizer(module, self.worker.objective, self.worker.config.optimizer)

    def _build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        optimizer_config = self.worker.config.optimizer  # counts steps from 1, and a scheduler from 0
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n_done: schedule(optimizer_config, n_done + 1))

    # --- passes

    def forward_backward_batch(self, data: Any, loss_function: Callable[..., Any], forward_only: bool = False) -> Any:
        if loss_function is objective_loss:
            loss_function = functools.partial(objective_loss, worker=self.worker)
        elif loss_function is not None and not forward_only:
            raise RuntimeError(
                f"this engine trains {self.worker.objective.plugin_id!r} and was given the loss {loss_function}: set "
                "trainer.v1.trainer_mode = harness, or start it by `harness train --backend verl`"
            )
        return super().forward_backward_batch(data, loss_function, forward_only=forward_only)

    def prepare_model_outputs(self, output: Any, output_args: Any, micro_batch: Any, logits_processor_func: Any) -> Any:
        found = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        if self._needs:
            assert self._hidden is not None, "the backbone's hook keeps them in every pass"
            packed, self._hidden = self._packed(self._hidden, micro_batch), None
            if self.mode == "train":
                found |= _states(packed.float(), micro_batch, self._needs)
            elif "completion_hidden" in self._needs:
                found["values"] = self._values(packed.float(), micro_batch)
        return found

    def _packed(self, hidden: Tensor, micro_batch: Any) -> Tensor:
        """Return the last hidden states of all tokens, without padding. (1, N + pad, H) or (B, L, H) -> (N, H)"""
        lengths = micro_batch["input_ids"].offsets().diff()
        if hidden.shape[0] == 1 and hidden.shape[1] >= int(lengths.sum()):
            return hidden[0, : int(lengths.sum())]
        return hidden[torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]]

    def _values(self, packed: Tensor, micro_batch: Any) -> Tensor:
        """Return the critic's values, laid out as verl lays log-probs out: the state of a token scores the next."""
        with torch.autocast(packed.device.type, enabled=False):
            outputs = PolicyOutputs(packed.new_zeros(1, len(packed)), completion_hidden=packed[None])
            values = self.worker.objective.values(outputs)
        assert values is not None
        return torch.nested.nested_tensor_from_jagged(values[0], micro_batch["input_ids"].offsets())

    # --- the update

    def train_batch(self, data: Any, loss_function: Callable[..., Any]) -> Any:
        self.worker.sums.clear()
        self.worker.largest_ratio = 0.0
        outputs = super().train_batch(data, loss_function)
        sums = self.worker.sums
        names = _union(list(sums), self.get_data_parallel_group())
        for name in names:
            total, weight = sums.get(name, (0.0, 0.0))
            outputs["metrics"] |= {metric_name("sum", name): [total], metric_name("weight", name): [weight]}
        outputs["metrics"][metric_name("max", "ratio")] = [self.worker.largest_ratio]
        for name, norm in self._norms.items():
            outputs["metrics"][metric_name("mean", name)] = [norm]
        return outputs

    def optimizer_step(self) -> float:
        """Clip and step as our own loop does; return the norm of the gradient before clipping."""
        config = self.worker.config.optimizer
        self._average_own_gradients()
        policy = [p for p in self.module.parameters() if p.grad is not None]
        joint: list[torch.nn.Parameter] = []
        own: list[torch.nn.Parameter] = []
        for group in self.worker.objective.parameters():
            (own if group.own_clip else joint).extend(group.parameters)
        norm = math.hypot(float(_full(fsdp2_clip_grad_norm_(policy, max_norm=math.inf))), _norm(joint))
        self._norms = {"grad_norm": norm, **({"grad_norm_own": _norm(own)} if own else {})}
        is_finite = all(map(math.isfinite, self._norms.values()))
        self._norms["updates_skipped"] = float(not is_finite)
        if is_finite:
            _clip([*policy, *joint], norm, config.grad_clip)
            _clip(own, self._norms.get("grad_norm_own", 0.0), config.grad_clip)
            self.optimizer.step()
        elif config.on_non_finite == "stop":
            raise RuntimeError(
                f"the gradient is not finite: {self._norms}. Set optimizer.on_non_finite = 'skip' to leave such "
                "updates out, or lower the learning rate"
            )
        return norm

    def _average_own_gradients(self) -> None:
        """Do for the parameters outside the sharded module what FSDP does inside: the mean over processes."""
        group = self.get_data_parallel_group()
        for parameter in self._own_parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad, group=group)
            parameter.grad /= self.get_data_parallel_size()

    # --- checkpoints

    def save_checkpoint(self, local_path: str, *args: Any, **options: Any) -> None:
        super().save_checkpoint(local_path, *args, **options)
        if torch.distributed.get_rank() == 0:
            torch.save(dict(self.worker.objective.state_dict()), objective_file(Path(local_path)))

    def load_checkpoint(self, local_path: str, *args: Any, **options: Any) -> None:
        super().load_checkpoint(local_path, *args, **options)
        state = torch.load(objective_file(Path(local_path)), weights_only=True, map_location=get_device_name())
        self.worker.objective.load_state_dict(state)


def metric_name(kind: str, name: str) -> str:
    """Return a name under which verl keeps a metric: it takes the maximum of all whose name has `max` in it."""
    hidden = name.replace("max", "mAx").replace("min", "mIn")
    return f"harness/{kind}/{hidden}"


def _states(packed: Tensor, micro_batch: Any, needs: frozenset[str]) -> dict[str, Tensor]:
    """Return the hidden states that an objective reads. (N, H) -> (B, H), (B, T, H)"""
    from verl.workers.utils.padding import no_padding_2_padding

    starts = micro_batch["input_ids"].offsets()[:-1]
    lengths = micro_batch["prompts"].offsets().diff()
    pieces = [packed[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    found = {}
    if "prompt_hidden" in needs:
        found["prompt_hidden"] = torch.stack([piece.mean(0) for piece in pieces])
    if "prompt_last_hidden" in needs:
        found["prompt_last_hidden"] = torch.stack([piece[-1] for piece in pieces])
    if "completion_hidden" in needs:
        found["completion_hidden"] = no_padding_2_padding(packed, micro_batch)
    return found


def _union(names: list[str], group: Any) -> list[str]:
    """Return the names of all processes: one without a row to learn from has none."""
    gathered: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather_object(gathered, names, group)
    return sorted(set().union(*gathered))


def _norm(parameters: Sequence[torch.nn.Parameter]) -> float:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0


def _full(norm: Any) -> Any:
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _clip(parameters: Sequence[torch.nn.Parameter], norm: float, max_norm: float) -> None:
    """Scale the gradients down to `max_norm`, as torch does; 0 is off."""
    factor = max_norm / (norm + 1e-6) if max_norm > 0 else 1.0
    if factor < 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
