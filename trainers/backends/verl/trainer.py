"""verl's synchronous trainer with an objective of ours: it computes the advantages, and sends workers the loss."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import open_dict
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.seqlen_balancing import calculate_workload
from verl.workers.utils.padding import response_from_nested

from harness.core.errors import RunError
from harness.core.tensors import PolicyOutputs
from harness.models.chat import stop_ids
from harness.trainers.backends.verl.fields import driver_fields, scattered, spread
from harness.trainers.backends.verl.loss import objective_loss
from harness.trainers.backends.verl.rows import PADDING, Row, minibatch_places, prompt_name
from harness.trainers.backends.verl.run import TRAINER_MODE, run_config
from harness.trainers.backends.verl.scoring import score_rows
from harness.trainers.batch import collate
from harness.trainers.functional import sequence_mean, total
from harness.trainers.learner import schedule
from harness.trainers.reward_shaping import untruncated_rows
from harness.trainers.rollouts import Rollouts
from harness.trainers.step_metrics import StepMetrics

ROW = "harness/row/"
"""The prefix of what the driver measures of a step."""


@register_trainer(TRAINER_MODE)
class ObjectiveTrainer(PPOTrainerSync):  # type: ignore[misc]
    """Differs from its base in three things: which rows form a minibatch, the advantages, and the loss."""

    def __init__(self, config: Any) -> None:
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # the base class compares with this name
        super().__init__(config)
        self._run = run_config()
        self._objective = self._run.objective.build()
        self._max_tokens = int(config.data.max_response_length)
        self._minibatches: dict[str, int] = {}

    def on_init_end(self) -> None:
        self.actor_rollout_wg.set_loss_fn(objective_loss)
        super().on_init_end()

    # --- which rows form a minibatch

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], *_: Any, **__: Any) -> Any:
        """Cut the step into minibatches of whole groups in the order of the data, and share each over the ranks."""
        n_ranks = max(self._dispatch_info()) + 1
        batch = upsample_batch_to_divisible_size(
            batch, self._get_required_batch_multiple(n_ranks), self.tokenizer.eos_token_id
        )
        is_padding = [bool(tag.get(PADDING, False)) for tag in batch.tags]
        rows = self._rows(batch)
        actor = self.config.actor_rollout_ref
        size = actor.actor.ppo_mini_batch_size * actor.rollout.n
        places = minibatch_places([row.problem for row in rows], [row.session for row in rows], is_padding, size)
        workloads = calculate_workload(torch.tensor([tag["seq_len"] for tag in batch.tags])).tolist()
        order = spread(places, workloads, n_ranks)
        self._minibatches = dict(zip(batch.keys, places, strict=True))
        batch.reorder(order)
        metrics["harness/mean/rows_that_fill_up"] = float(sum(is_padding))
        return batch

    def _dispatch_info(self) -> Sequence[int]:
        workers = self.actor_rollout_wg
        if "actor" not in workers._dispatch_info:
            workers._dispatch_info["actor"] = workers._query_dispatch_info("actor")
        ranks: Sequence[int] = workers._dispatch_info["actor"]
        return ranks

    def _rows(self, batch: Any) -> list[Row]:
        wanted = ["uid", "index", "extra_info", "prompts", "responses", "response_mask", "rollout_log_probs"]
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=[*wanted, "extra_fields"]
        )
        behaviour = _lists(data["rollout_log_probs"]) if "rollout_log_probs" in data.keys() else None  # noqa: SIM118
        columns = zip(
            batch.keys,
            _plain(data["extra_info"]),
            _lists(data["prompts"]),
            _lists(data["responses"]),
            behaviour if behaviour is not None else [None] * len(batch.keys),
            _plain(data["extra_fields"]),
            strict=True,
        )
        return [
            Row(
                prompt_name(int(info["index"]), str(info["problem_id"])),
                int(key.rsplit("_", 2)[-2]) if key.count("_") >= 2 else 0,
                prompt,
                response,
                logp,
                fields.get("reward_extra_info") or {},
            )
            for key, info, prompt, response, logp, fields in columns
        ]

    # --- the advantages

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Write what the workers need of every row: the objective's advantages, shaped rewards, and totals."""
        step_metrics = StepMetrics(self.global_steps)
        rows, config = self._rows(batch), self._run
        is_padding = [bool(tag.get(PADDING, False)) for tag in batch.tags]
        usable = [i for i, row in enumerate(rows) if row.is_usable and not is_padding[i]]
        if not usable:
            raise RunError(f"step {self.global_steps}: none of {len(rows)} completions could be graded")
        ends = self._ends()
        items = [row.graded(self._max_tokens, ends) for row in rows]
        chosen = [items[i] for i in usable]
        graded = collate(chosen, "cpu", None, self._objective.needs)
        old, lengths, mask = self._old_outputs(batch, usable, graded.completion_mask.shape[1])
        if not bool((mask == graded.completion_mask).all()):
            raise RunError(
                "verl's response_mask leaves tokens of a completion out, as with tools and several turns, and the "
                "objectives here read whole completions: use the agent loop single_turn_agent"
            )
        sampled = [item for i, item in enumerate(items) if not is_padding[i]]
        step_metrics.add_rollouts(Rollouts(sampled, chosen, self.config.data.train_batch_size, 1), graded)
        step_metrics.mismatch.add(graded, old.logp)
        if old.logp_reference is not None:
            drift = sequence_mean(old.logp - old.logp_reference, graded.completion_mask)
            step_metrics.set(kl_to_reference=float(drift.mean()))
        scored = score_rows(
            config,
            self._objective,
            graded,
            old,
            step=self.global_steps,
            max_tokens=self._max_tokens,
            minibatches=torch.tensor([self._minibatches[batch.keys[i]] for i in usable]),
            trained=untruncated_rows(chosen) if config.overlong.mask_truncated else None,
        )
        if scored.engine_weights is not None:
            at_cap = scored.engine_weights >= config.engine_correction.cap
            step_metrics.add({"engine_weight": total(scored.engine_weights, graded.completion_mask)})
            step_metrics.add({"engine_weight_at_cap": total(at_cap, graded.completion_mask)})
        step_metrics.set(lr=config.optimizer.lr * schedule(config.optimizer, self.global_steps))
        row = {name: value for name, value in step_metrics.row().items() if name not in ("wall_s", "tokens_per_s")}
        metrics.update({f"{ROW}{name}": value for name, value in row.items()})
        return self._put(batch, scattered(driver_fields(scored), usable, lengths))

    def _old_outputs(
        self, batch: Any, usable: Sequence[int], width: int
    ) -> tuple[PolicyOutputs, list[int], torch.Tensor]:
        """Return the passes before the updates for the usable rows, all rows' lengths, and verl's mask."""
        wanted = ["response_mask", "old_log_probs", "ref_log_prob", "values"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted)
        lengths = data["response_mask"].offsets().diff().tolist()

        def padded(name: str) -> torch.Tensor | None:
            if name not in data.keys():  # noqa: SIM118
                return None
            nested = data[name]
            if name == "values":  # of prompt and response, as the engine returned them
                nested = response_from_nested(nested, data["response_mask"])
            whole: torch.Tensor = torch.nested.to_padded_tensor(nested, 0, (len(lengths), max(lengths)))
            return whole[list(usable), :width].float()

        logp, mask = padded("old_log_probs"), padded("response_mask")
        assert logp is not None and mask is not None
        return PolicyOutputs(logp, logp_reference=padded("ref_log_prob"), values=padded("values")), lengths, mask.bool()

    def _put(self, batch: Any, fields: dict[str, Any]) -> Any:
        found = {
            name: torch.nested.as_nested_tensor(value, layout=torch.jagged) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        # verl's own metrics read these two.
        reward = fields["harness_reward"][:, None]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"])
        flat = [reward[i].expand(int(n)) for i, n in enumerate(data["response_mask"].offsets().diff())]
        nested = torch.nested.as_nested_tensor(flat, layout=torch.jagged)
        found |= {"advantages": nested, "returns": nested}
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=tu.get_tensordict(found))

    def _ends(self) -> frozenset[int]:
        from transformers import GenerationConfig

        try:
            declared = GenerationConfig.from_pretrained(self.config.actor_rollout_ref.model.path).eos_token_id
        except OSError:  # a model without that file
            declared = None
        return stop_ids(declared, self.tokenizer)

    # --- checkpoints

    def _save_checkpoint(self) -> None:
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        os.makedirs(folder, exist_ok=True)
        advantage = self._objective.advantage
        torch.save(dict(advantage.state_dict()) if advantage is not None else {}, _driver_file(folder))
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        if self.global_steps > 0 and self._objective.advantage is not None:
            self._objective.advantage.load_state_dict(torch.load(_driver_file(folder), weights_only=True))


def _driver_file(folder: Path) -> Path:
    return folder / "harness_driver.pt"


def _lists(nested: Any) -> list[list[Any]]:
    return [row.tolist() for row in nested.unbind()]


def _plain(column: Any) -> list[Any]:
    """Return a column without tensors, which the queue gives back in one of several wrappers."""
    return [getattr(value, "data", value) for value in column]
