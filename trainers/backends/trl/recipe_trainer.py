"""TRL's GRPOTrainer in a script of the user's own, with the advantages and the loss of a recipe.

TRL keeps its loop: it samples, calls the reward functions, accumulates gradients, steps the optimiser and saves. Every
process then has all completions of a generation, so that advantages see whole groups, and an update is a minibatch of
our loop: whole groups in order, a loss divided by the totals of all processes and all accumulated micro-batches.
Written for TRL 1.16, whose private names it overrides; `tests/trainers/backends/` is the contract with that version.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import use_adapter

from harness.core.errors import ConfigError, RunError, RunFolderError
from harness.core.protocols import Need
from harness.core.seeds import derive
from harness.core.tensors import Batch, LossResult, PolicyOutputs, Totals
from harness.core.types import Completion, FinishReason, Graded, Problem, Tokens, Verdict
from harness.trainers.backends.trl.grpo_arguments import as_trained, n_minibatches
from harness.trainers.backends.trl.learner import SharedLearner, Update, equal_shares, own_optimizer
from harness.trainers.backends.trl.policy import WrappedPolicy
from harness.trainers.backends.trl.world import World
from harness.trainers.batch import collate, minibatches
from harness.trainers.checks import reads_reference
from harness.trainers.config import TrainConfig
from harness.trainers.engine_mismatch import largest_mismatch
from harness.trainers.kl import AdaptiveKl
from harness.trainers.learner import ScoredBatch
from harness.trainers.reference import ReferenceReset
from harness.trainers.reward_shaping import untruncated_rows
from harness.trainers.step_metrics import StepMetrics

STATE = "harness_objective.pt"
"""Part of a checkpoint: the objective's own parameters, their optimiser and the KL controller."""


class RecipeTrainer(GRPOTrainer):  # type: ignore[misc]
    """Takes what GRPOTrainer takes; the arguments are those of `arguments_of`."""

    recipe: TrainConfig

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, *others: Any, **named: Any) -> None:
        if args is None:
            raise ConfigError("the arguments that follow from the recipe are missing: args=GRPOConfig(**arguments())")
        self._objective = self.recipe.objective.build()
        self._config = as_trained(self.recipe, self._objective, args)
        with_reference = reads_reference(self._config, self._objective)
        args = copy.copy(args)
        args.beta = float(with_reference)  # TRL then prepares a reference as it prepares the model
        super().__init__(model, reward_funcs, args, *others, **named)
        args.beta = self.beta = 0.0  # and makes no pass of its own
        self._refuse_other_models()
        world = World(self.accelerator.process_index, self.accelerator.num_processes)
        device = self.accelerator.device
        module = self.model.get_base_model() if is_peft_model(self.model) else self.model
        self._policy = WrappedPolicy(module, world, None, device)
        self._reference: Any = None
        if with_reference and self.ref_model is None:
            self._reference = _WithoutAdapters(self._policy, self.model)
        elif with_reference:
            self._reference = WrappedPolicy(self.ref_model, world, None, device)
        self._objective.prepare(self._policy.shape, derive(self._config.seed, "objective"))
        self._own = own_optimizer(self._objective, self._config.optimizer)
        self._kl = AdaptiveKl(self._config.kl)
        self._rewards = torch.empty(0)
        self._place = 0
        self._scored: ScoredBatch | None = None
        self._updates: list[Update] = []
        self._results: list[LossResult] = []

    def _refuse_other_models(self) -> None:
        refused = {
            "DeepSpeed is not carried by this trainer: take DDP or FSDP2, or `harness train --backend trl`": (
                self.is_deepspeed_enabled
            ),
            "tools and environments have turns that the recipe's loss would train on": (
                bool(self.tools) or self.environment_factories is not None
            ),
            "models that read images are not carried": self._is_vlm,
            "the loss of a router is a part of TRL's own loss: set output_router_logits to False": (
                self.aux_loss_enabled
            ),
        }
        for reason in (reason for reason, holds in refused.items() if holds):
            raise ConfigError(reason)

    @property
    def _learner(self) -> SharedLearner:
        """The learner of the optimiser that `train` has made."""
        return SharedLearner(
            config=self._config,
            objective=self._objective,
            policy=self._policy,
            reference=self._reference,
            optimizer=self.optimizer,
            max_tokens=self.max_completion_length,
            engine_logp_is_exact=False,
            largest_mismatch=largest_mismatch(self._config, computes_alike=False),
            kl=self._kl,
            resets=ReferenceReset(self._config.reference),
            world=self._policy.world,
            accelerator=self.accelerator,
            own=self._own,
        )

    # --- a generation

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Note the place of a micro-batch in its generation, which the first one begins. The loss needs no more."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        self._place = self._step % self._n_places
        if self._place == 0:
            self._begin(self._generate_and_score_completions(generation_batch))
        return {}

    @property
    def _n_places(self) -> int:
        n: int = self.args.steps_per_generation * self.num_iterations
        return n

    def _calculate_rewards(self, *arguments: Any) -> Tensor:
        """Keep the rewards of all processes. A completion that no function rates has none."""
        each: Tensor = super()._calculate_rewards(*arguments)
        weighted = (each * self.reward_weights.to(each.device)).nansum(dim=1)
        self._rewards = weighted.masked_fill(each.isnan().all(dim=1), torch.nan)
        return each

    def _get_per_token_logps_and_entropies(self, model: Any, input_ids: Tensor, mask: Any, n: int, **_: Any) -> Any:  # noqa: ARG002
        """Return a placeholder: the learner makes the passes that the objective needs."""
        return torch.zeros(len(input_ids), n, device=input_ids.device), None, None

    def _begin(self, generated: Any) -> None:
        n_updates = self._n_places // self.args.gradient_accumulation_steps
        number = self.state.global_step // n_updates + 1
        graded = self._graded(generated)
        if not graded:
            raise RunError(f"step {number}: no reward function rated any completion")
        self._step_metrics = StepMetrics(number)
        self._policy.wrapped = self.model_wrapped
        batch = collate(graded, str(self.accelerator.device), needs=self._objective.needs)
        self._scored = self._learner.score(number, batch, self._step_metrics)
        trained = untruncated_rows(graded) if self._config.overlong.mask_truncated else None
        self._updates = list(minibatches(batch, n_minibatches(self.args), trained))

    def _graded(self, generated: Any) -> list[Graded[Any]]:
        """Return the rated completions of all processes, in order."""
        found = []
        rows = [row for part in self._policy.world.gather(_rows(generated)) for row in part]
        for i, ((prompt, ids, logp), reward) in enumerate(zip(rows, self._rewards.tolist(), strict=True)):
            if math.isnan(reward):
                continue
            problem = Problem(str(i // self.num_generations), "trl", (), None)
            tokens = Tokens(len(prompt), len(ids), prompt, ids, logp)
            reason: FinishReason = "stop" if ids[-1] in self.eos_token_ids else "length"
            verdict = Verdict("correct" if reward > 0 else "incorrect", reward)
            found.append(Graded(problem, Completion(problem.id, i, 0, "", reason, tokens), verdict))
        return found

    # --- an update

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:  # noqa: ARG002
        if not self.model.training:
            return torch.zeros((), device=self.accelerator.device)  # an evaluation measures rewards
        assert self._scored is not None
        self._policy.wrapped = model
        n_shares, (rows, totals) = self.args.gradient_accumulation_steps, self._update()
        share = equal_shares(self._scored.batch, rows, n_shares, self._policy.world)[self._place % n_shares]
        loss, results = self._learner.share_loss(self._scored, share, totals, self._step_metrics)
        self._results += results
        return loss

    def _update(self) -> Update:
        """Return the rows of the update: none where no completion is left to learn from."""
        number = self._place // self.args.gradient_accumulation_steps % n_minibatches(self.args)
        nothing = torch.empty(0, dtype=torch.long, device=self.accelerator.device)
        return self._updates[number] if number < len(self._updates) else (nothing, Totals(1, 1))

    def _clip_grad_norm(self, model: Any) -> None:
        """Do nothing: `_get_grad_norm` always follows."""

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:  # noqa: ARG002
        """Clip the gradient of an update, step the objective's own parameters, and end the generation if it is over."""
        norms = {"grad_norm": 0.0}
        if len(self._update()[0]):
            self._follow_schedule()
            norms = self._learner.finish_update(self.state.global_step + 1, self._results, self._step_metrics)
        else:
            self.optimizer.zero_grad()
        self._results = []
        if self._place == self._n_places - 1:
            self._end()
        return norms["grad_norm"]

    def _follow_schedule(self) -> None:
        """Scale the rates of the objective's own parameters as the scheduler has scaled the policy's."""
        policy = self.optimizer.param_groups[0]
        factor = policy["lr"] / policy["initial_lr"] if policy["initial_lr"] > 0 else 1.0
        for group in self._own.param_groups if self._own is not None else ():
            group["lr"] = group["base_lr"] * factor

    def _end(self) -> None:
        """Log the metrics of a generation."""
        assert self._scored is not None
        metrics = self._step_metrics
        self._learner.adapt(self.state.global_step + 1, len(self._scored.batch.rewards), metrics)
        own, *others = self._policy.world.gather(metrics.to_cpu())
        own.merge(others)
        for name, value in own.row().items():
            if name != "step" and not name.endswith("_s"):
                self._metrics["train"][f"objective/{name}"].append(value)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        if self._config.optimizer.decay_vectors:
            return [name for name, _ in model.named_parameters()]
        names: list[str] = super().get_decay_parameter_names(model)
        return names

    # --- checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            own = self._own.state_dict() if self._own is not None else None
            state = {"objective": dict(self._objective.state_dict()), "own_optimizer": own}
            torch.save({**state, "kl": dict(self._kl.state_dict())}, Path(output_dir) / STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint) / STATE
        if not path.exists():
            raise RunFolderError(f"{path} is missing: the checkpoint was saved without a recipe, or without optimiser")
        state = torch.load(path, weights_only=True, map_location=self.accelerator.device)
        try:
            self._objective.load_state_dict(state["objective"])
            if self._own is not None:
                self._own.load_state_dict(state["own_optimizer"])
            self._kl.load_state_dict(state["kl"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunFolderError(f"{path} is of another objective than the recipe's ({error})") from error


class _WithoutAdapters:
    """The reference of a policy with peft's adapters: the base model."""

    def __init__(self, policy: WrappedPolicy, model: Any) -> None:
        self._policy, self._model = policy, model

    def forward(self, part: Batch, needs: frozenset[Need]) -> PolicyOutputs:
        with use_adapter(self._model, "ref" if "ref" in self._model.peft_config else None):
            return self._policy.forward(part, needs)


def _rows(generated: Any) -> list[tuple[Any, Any, Any]]:
    """Return the tokens of each prompt and completion without padding, and the sampler's log-probs if it gave any."""
    masks = generated["prompt_mask"], generated["completion_mask"]
    prompts = _without_padding(generated["prompt_ids"], masks[0])
    completions = _without_padding(generated["completion_ids"], masks[1])
    sampled = generated.get("sampling_per_token_logps")
    logp = _without_padding(sampled, masks[1]) if sampled is not None else [None] * len(prompts)
    return list(zip(prompts, completions, logp, strict=True))


def _without_padding(values: Tensor, mask: Tensor) -> list[Any]:
    return [row[kept].tolist() for row, kept in zip(values, mask.bool(), strict=True)]
