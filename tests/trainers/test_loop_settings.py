"""What the loop adds to any objective: shaped rewards, terms of the loss, corrections, rollouts, recomputation."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from golden_losses import CASES, golden_batch, golden_outputs, tensor
from training_parts import detached, make_batch, make_outputs, tiny_module

from harness.core.errors import EngineError, RunError
from harness.core.tensors import Batch, PolicyOutputs, Totals
from harness.core.types import Completion, Graded, Problem, Request, Sampling, Tokens, Verdict
from harness.trainers.batch import collate, minibatches
from harness.trainers.config import (
    DynamicSamplingConfig,
    EngineCorrectionConfig,
    KlConfig,
    LoopConfig,
    OptimizerConfig,
    OverlongConfig,
    ReferenceConfig,
)
from harness.trainers.engine_mismatch import engine_weights, weigh_gradient
from harness.trainers.kl import AdaptiveKl, with_entropy_bonus, with_kl_in_loss, with_kl_in_reward
from harness.trainers.learner import Learner
from harness.trainers.objectives.grpo import Grpo
from harness.trainers.objectives.ppo import Ppo
from harness.trainers.objectives.remax import ReMax
from harness.trainers.objectives.trpo import Trpo
from harness.trainers.optimizer import make_optimizer, schedule
from harness.trainers.policy.logprobs import Head, token_logp
from harness.trainers.policy.model import Policy
from harness.trainers.reference import ReferenceReset
from harness.trainers.reward_shaping import untruncated_rows, with_overlong_penalty
from harness.trainers.rollouts import Rollouts, Sampler, training_problems
from harness.trainers.step_metrics import StepMetrics

BATCH = make_batch([4, 4, 4, 2, 2, 2], [3, 5, 1, 4, 2, 5], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0.5, 0, 1])
OFF = KlConfig()


def make_learner(
    config: Any,
    objective: Any,
    policy: Policy,
    reference: Any = None,
    optimizer: Any = None,
    largest: float = 1e-4,
    *,
    is_exact: bool = True,
    resets: ReferenceConfig = ReferenceConfig(),  # noqa: B008  # frozen
) -> Learner:
    return Learner(
        config=config,
        objective=objective,
        policy=policy,
        reference=reference,
        optimizer=optimizer,
        max_tokens=8,
        engine_logp_is_exact=is_exact,
        largest_mismatch=largest,
        kl=AdaptiveKl(OFF),
        resets=ReferenceReset(resets),
    )


# --- the reward -------------------------------------------------------------------------------------------------


def test_overlong_penalty_grows_from_the_buffer_to_the_limit() -> None:
    after = with_overlong_penalty(BATCH, OverlongConfig(buffer_tokens=4, penalty=0.5), max_tokens=6)
    lengths = [3, 5, 1, 4, 2, 5]
    expected = [r - 0.5 * min(max((n - 2) / 4, 0), 1) for r, n in zip(BATCH.rewards.tolist(), lengths, strict=True)]
    assert after.rewards.tolist() == pytest.approx(expected)


def test_kl_in_the_reward_is_taken_off_token_by_token() -> None:
    old = detached(make_outputs(BATCH))
    assert old.logp_reference is not None
    after = with_kl_in_reward(BATCH, old, KlConfig(place="reward", coefficient=0.3))
    assert after.token_rewards is not None
    for row, n in enumerate([3, 5, 1, 4, 2, 5]):
        kl = [float(old.logp[row, t] - old.logp_reference[row, t]) for t in range(n)]
        assert after.token_rewards[row].tolist() == pytest.approx([*(-0.3 * k for k in kl), *[0.0] * (5 - n)])
        assert float(after.rewards[row]) == pytest.approx(float(BATCH.rewards[row]) - 0.3 * sum(kl))


def test_truncated_completions_are_masked_only_when_asked() -> None:
    items = [graded("a", i, 1.0, finish_reason=reason) for i, reason in enumerate(["stop", "length", "stop"])]
    assert untruncated_rows(items).tolist() == [True, False, True]
    batch = collate(items, "cpu")
    assert [rows.tolist() for rows, _ in minibatches(batch, 1)] == [[0, 1, 2]]
    ((rows, totals),) = minibatches(batch, 1, untruncated_rows(items))
    assert rows.tolist() == [0, 2]
    assert totals == Totals(2, 2)


# --- the loss ---------------------------------------------------------------------------------------------------


def grpo_loss(batch: Batch, current: PolicyOutputs, old: PolicyOutputs, **options: Any) -> Any:
    objective = Grpo(Grpo.Config(reduction="token_mean", kl_beta=0.0, **options))
    return objective.loss(batch, current, old, objective.advantages(batch, old))


def test_weighted_kl_in_the_loss_is_trl_s() -> None:
    batch, (current, old) = golden_batch(), golden_outputs()
    result = grpo_loss(batch, current, old, std_eps=1e-4)
    kl = KlConfig(place="loss", coefficient=0.5, estimator="k3", ratio_weighted=True)
    loss = with_kl_in_loss(result, batch, current, old, kl).loss
    (gradient,) = torch.autograd.grad(loss, current.logp)
    assert float(loss.detach()) == pytest.approx(CASES["trl_weighted_kl"]["loss"], rel=1e-7)
    expected = torch.tensor(CASES["trl_weighted_kl"]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_truncated_importance_weights_have_verl_s_gradient() -> None:
    batch, (current, old) = golden_batch(), golden_outputs()
    weighed = dataclasses.replace(current, logp=weigh_gradient(current.logp, tensor("is_weights")))
    assert torch.equal(weighed.logp, current.logp)
    loss = grpo_loss(batch, weighed, old, dual_clip=3.0).loss
    (gradient,) = torch.autograd.grad(loss, current.logp)
    expected = torch.tensor(CASES["verl_grpo_truncated_is"]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", [Grpo(Grpo.Config(kl_beta=0.3)), Trpo(Trpo.Config())], ids=["grpo", "trpo"])
def test_engine_weights_are_for_the_surrogate_and_not_for_the_kl(objective: Any) -> None:
    """Against the formula: each token's surrogate times its weight, and the KL as it is."""
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    weights = torch.rand(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    weighed = dataclasses.replace(current, logp=weigh_gradient(current.logp, weights), logp_unweighed=current.logp)
    advantages = objective.advantages(BATCH, old)
    (gradient,) = torch.autograd.grad(objective.loss(BATCH, weighed, old, advantages).loss, current.logp)
    expected = torch.zeros_like(gradient)
    for row, n in enumerate([3, 5, 1, 4, 2, 5]):
        for t in range(n):
            advantage = float(advantages.values[row])
            now, before, reference = (float(x[row, t].detach()) for x in (current.logp, old.logp, old.logp_reference))
            ratio = math.exp(now - before)
            if isinstance(objective, Trpo):
                expected[row, t] = (-float(weights[row, t]) * ratio * advantage + (ratio - 1)) / 20
            else:
                is_clipped = (ratio > 1.2 and advantage > 0) or (ratio < 0.8 and advantage < 0)
                pulled = 0.0 if is_clipped else -float(weights[row, t]) * ratio * advantage
                expected[row, t] = (pulled + 0.3 * (1 - math.exp(reference - now))) / (6 * n)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_weight_decay_falls_on_vectors_where_it_is_said(decay_vectors: bool) -> None:
    """AdamW takes lr * weight_decay off each weight that it falls on; without a gradient that is all."""
    module = torch.nn.Linear(3, 2)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    settings = OptimizerConfig(lr=0.1, weight_decay=0.5, decay_vectors=decay_vectors)
    optimizer = make_optimizer(module, Grpo(Grpo.Config()), settings)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(module.weight.detach(), before["weight"] * 0.95)
    torch.testing.assert_close(module.bias.detach(), before["bias"] * (0.95 if decay_vectors else 1.0))
    with pytest.raises(ValueError, match="weight_decay above 0"):
        OptimizerConfig(lr=0.1, decay_vectors=True)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_engine_weights_are_capped_ratios(level: Any) -> None:
    behaviour = make_outputs(BATCH, seed=4).logp.detach()
    old = detached(make_outputs(BATCH))
    batch = dataclasses.replace(BATCH, logp_behaviour=behaviour)
    weights = engine_weights(batch, old.logp, EngineCorrectionConfig(level=level, cap=1.5))
    assert weights is not None
    for row, n in enumerate([3, 5, 1, 4, 2, 5]):
        ratios = [float(old.logp[row, t] - behaviour[row, t]) for t in range(n)]
        if level == "sequence":
            ratios = [sum(ratios)] * n
        expected = [min(2.718281828459045**ratio, 1.5) for ratio in ratios]
        assert weights[row].tolist() == pytest.approx([*expected, *[0.0] * (5 - n)])


@pytest.mark.parametrize(
    ("estimator", "ratio_weighted", "is_right"),
    [
        ("k2", False, True),
        ("k1_plus", False, True),
        ("k3_plus", False, True),
        ("k3", False, False),
        ("k1", True, True),
        ("k3", True, True),
    ],
)
def test_gradient_of_the_kl_estimators_on_three_tokens(estimator: Any, ratio_weighted: bool, is_right: bool) -> None:
    """The expectation over every token of a distribution, against the gradient of the KL itself."""
    logits = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.5, -0.4], dtype=torch.float64).log_softmax(0)
    logp = logits.log_softmax(0)
    (expected,) = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits, retain_graph=True)
    batch = make_batch([1] * 3, [1] * 3, [0, 0, 0])
    current, old = PolicyOutputs(logp=logp[:, None]), PolicyOutputs(logp=logp.detach()[:, None])
    old = dataclasses.replace(old, logp_reference=reference[:, None])
    total = torch.zeros(3, dtype=torch.float64)
    for token in range(3):  # one at a time, weighed by how often it is sampled
        alone = dataclasses.replace(batch, completion_mask=torch.arange(3)[:, None] == token)
        kl = KlConfig(place="loss", coefficient=3.0, estimator=estimator, ratio_weighted=ratio_weighted)
        nothing = grpo_loss(alone, current, old)
        nothing = dataclasses.replace(nothing, loss=nothing.loss * 0)
        (gradient,) = torch.autograd.grad(
            with_kl_in_loss(nothing, alone, current, old, kl).loss, logits, retain_graph=True
        )
        total += float(logp[token].detach().exp()) * gradient
    assert torch.allclose(total, expected, rtol=1e-9, atol=1e-12) == is_right


@pytest.mark.parametrize("chunk", [2, 1000])
def test_entropy_and_its_gradient(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 4, generator=generator, requires_grad=True)
    weight = torch.randn(7, 4, generator=generator, requires_grad=True)
    ids, upstream = torch.tensor([0, 6, 2, 2, 5]), torch.linspace(-1, 1, 5)
    monkeypatch.setattr("harness.trainers.policy.logprobs.CHUNK_ELEMENTS", chunk * 7)
    logp, entropy = token_logp(Head(weight, None, 0.7, softcap=2.0), hidden, ids, with_entropy=True)
    assert entropy is not None
    plain = torch.log_softmax(torch.tanh(hidden @ weight.T / 2) * 2 / 0.7, -1)
    expected = -(plain.exp() * plain).sum(-1)
    torch.testing.assert_close(entropy, expected)
    one = torch.autograd.grad((entropy * upstream + logp).sum(), (hidden, weight))
    other = torch.autograd.grad((expected * upstream + plain[torch.arange(5), ids]).sum(), (hidden, weight))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_entropy_bonus_is_the_mean_entropy_of_tokens() -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    plain = grpo_loss(BATCH, current, old)
    assert current.entropy is not None
    mean = sum(float(current.entropy[row, :n].sum()) for row, n in enumerate([3, 5, 1, 4, 2, 5])) / 20
    after = with_entropy_bonus(plain, BATCH, current, 0.01).loss
    assert float((plain.loss - after).detach()) == pytest.approx(0.01 * mean)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"place": "loss", "estimator": "k1"}, "zero on average"),
        ({"place": "reward", "ratio_weighted": True}, "in the loss"),
        ({"place": "loss", "estimator": "k2", "coefficient": 0.0}, "above 0"),
    ],
)
def test_a_kl_that_would_do_nothing_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        KlConfig(**settings)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (KlConfig, {"coefficient": 0.01}),
        (KlConfig, {"estimator": "k3"}),
        (KlConfig, {"ratio_weighted": True}),
        (OverlongConfig, {"penalty": 0.5}),
        (EngineCorrectionConfig, {"cap": 5.0}),
    ],
)
def test_settings_of_what_is_off_are_refused(section: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"off|buffer_tokens above 0"):
        section(**settings)
    OverlongConfig(mask_truncated=True)  # has nothing to do with the buffer


@pytest.mark.parametrize(
    "settings",
    [{"decay_steps": 10}, {"schedule": "cosine"}, {"schedule": "linear", "decay_steps": 5, "warmup_steps": 9}],
)
def test_a_schedule_and_its_end_go_together(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="decay_steps"):
        OptimizerConfig(lr=1.0, **settings)


def test_what_needs_the_engine_s_log_probabilities_fails_without_them() -> None:
    old = detached(make_outputs(BATCH))
    with pytest.raises(EngineError, match="gives no log-probabilities"):
        engine_weights(BATCH, old.logp, EngineCorrectionConfig(level="token"))
    policy, loop = (
        Policy(tiny_module(), 1.0),
        LoopConfig(steps=1, prompts_per_step=1, samples_per_prompt=2, logp_old="engine"),
    )
    config: Any = dataclasses.make_dataclass("C", ["loop"])(loop)
    optimizer = torch.optim.AdamW(policy.module.parameters())
    # The log-probabilities are made up, and no policy's own.
    learner = make_learner(config, Grpo(Grpo.Config(kl_beta=0.0)), policy, None, optimizer, 100.0, is_exact=False)
    with pytest.raises(EngineError, match="logp_old = 'recompute'"):
        learner._old_outputs(1, BATCH, StepMetrics(1))
    behaviour = make_outputs(BATCH, seed=4).logp.detach()
    batch = dataclasses.replace(BATCH, logp_behaviour=behaviour)
    assert torch.equal(learner._old_outputs(1, batch, StepMetrics(1)).logp, behaviour)
    with_critic = dataclasses.replace(learner, objective=critic(policy))
    assert torch.equal(with_critic._old_outputs(1, batch, StepMetrics(1)).logp, behaviour)


def critic(policy: Policy) -> Ppo:
    """With a head whose values are not zero."""
    objective = Ppo(Ppo.Config())
    objective.prepare(policy.shape, seed=0)
    torch.nn.init.normal_(objective.head[-1].weight, generator=torch.Generator().manual_seed(3))
    return objective


def test_a_critic_s_values_are_taken_piece_by_piece_and_no_state_is_kept() -> None:
    policy = Policy(tiny_module(), 1.0)
    objective = critic(policy)
    loop = LoopConfig(steps=1, prompts_per_step=2, samples_per_prompt=3, tokens_per_microbatch=2)
    config: Any = dataclasses.make_dataclass("C", ["loop"])(loop)
    learner = make_learner(config, objective, policy)
    old = learner._old_outputs(1, BATCH, StepMetrics(1))
    kept = {f.name: v for f in dataclasses.fields(old) if (v := getattr(old, f.name)) is not None}
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {"logp": (6, 5), "values": (6, 5)}
    for row, (p, c) in enumerate(zip([4, 4, 4, 2, 2, 2], [3, 5, 1, 4, 2, 5], strict=True)):
        ids = BATCH.sequence_ids[row : row + 1, : p + c]
        states = policy.module(ids, output_hidden_states=True).hidden_states[-1][0, p - 1 : p + c - 1]
        with torch.no_grad():
            torch.testing.assert_close(old.values[row, :c], objective.head(states)[:, 0], rtol=1e-4, atol=1e-4)
    whole = make_outputs(BATCH, policy.shape.hidden_size)
    whole = dataclasses.replace(whole, completion_hidden=whole.completion_hidden.float(), logp=whole.logp.detach())
    with torch.no_grad():
        pieced = dataclasses.replace(whole, values=objective.values(whole), completion_hidden=None)
    one, other = objective.advantages(BATCH, whole), objective.advantages(BATCH, pieced)
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.extra["values"], other.extra["values"])


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_stops_the_run(reward: float) -> None:
    with pytest.raises(RunError, match="a completion of a the reward"):
        collate([graded("a", 0, 1.0), graded("a", 1, reward)], "cpu")


# --- rollouts ---------------------------------------------------------------------------------------------------


def graded(problem_id: str, index: int, reward: float, *, finish_reason: Any = "stop") -> Graded[Any]:
    tokens = Tokens(1, 1, (1,), (2,))
    completion = Completion(problem_id, index, 0, "", finish_reason, tokens)
    outcome = "correct" if reward > 0 else "incorrect"
    return Graded(Problem(problem_id, "fake", (), None), completion, Verdict(outcome, reward))


class FakeTask:
    """Problems named by their number; `mixed` of them have one right answer in two, the others none."""

    def __init__(self, mixed: set[int], n_problems: int = 100) -> None:
        self.mixed, self.n_problems = mixed, n_problems
        self.sampling = Sampling(max_tokens=4)
        self.grader = self

    def problems(self, split: str, seed: int) -> Iterator[Problem[Any]]:
        return (Problem(str(i), "fake", (), None) for i in range(self.n_problems))

    def grade(self, problem: Problem[Any], completion: Completion) -> Verdict:
        right = int(problem.id) in self.mixed and completion.index == 0
        return Verdict("correct" if right else "incorrect", float(right))


class FakeEngine:
    """Remembers what it was asked for."""

    version = 0

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            yield Completion(request.problem_id, request.index, request.seed, "", "stop", Tokens(1, 1, (1,), (2,)))


def draw(task: FakeTask, objective: Any, max_extra_rounds: int) -> tuple[Rollouts, FakeEngine]:
    engine = FakeEngine()

    @dataclasses.dataclass
    class Settings:
        loop: LoopConfig
        dynamic_sampling: DynamicSamplingConfig
        sampling: Any = dataclasses.field(default_factory=lambda: AsTheTask())
        seed: int = 0

    settings: Any = Settings(
        LoopConfig(steps=1, prompts_per_step=3, samples_per_prompt=2),
        DynamicSamplingConfig(max_extra_rounds=max_extra_rounds),
    )
    sampler = Sampler(settings, task, engine, "greedy_reward" in objective.needs)  # type: ignore[arg-type]
    sampler.start(0)
    return sampler.draw(1), engine


class AsTheTask:
    def over(self, default: Sampling) -> Sampling:
        return default


def names(items: Iterable[Graded[Any]]) -> list[str]:
    return [f"{item.problem.id}.{item.completion.index}" for item in items]


def test_without_dynamic_sampling_everything_is_taken() -> None:
    rollouts, _ = draw(FakeTask({1}), Grpo(Grpo.Config()), 0)
    assert names(rollouts.chosen) == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"] == names(rollouts.sampled)
    assert (rollouts.n_problems_drawn, rollouts.n_rounds) == (3, 1)


def test_dynamic_sampling_replaces_groups_of_equal_rewards() -> None:
    rollouts, engine = draw(FakeTask({1, 4, 5, 7}), Grpo(Grpo.Config()), 5)
    assert names(rollouts.chosen) == ["1.0", "1.1", "4.0", "4.1", "5.0", "5.1"]
    # 0 1 2, then two for the missing, then one more
    assert rollouts.n_problems_drawn == 6
    assert rollouts.n_rounds == 3
    assert len(rollouts.sampled) == len(engine.asked) == 12


def test_dynamic_sampling_is_bounded() -> None:
    rollouts, _ = draw(FakeTask({1, 9}), Grpo(Grpo.Config()), 2)
    assert names(rollouts.chosen) == ["1.0", "1.1"]
    assert rollouts.n_rounds == 3
    nothing, _ = draw(FakeTask(set()), Grpo(Grpo.Config()), 2)
    assert len(nothing.chosen) == len(nothing.sampled) == 18, "nothing is mixed: there is nothing better to take"


def test_dynamic_sampling_ends_where_the_split_does() -> None:
    rollouts, _ = draw(FakeTask({1}, n_problems=4), Grpo(Grpo.Config()), 50)
    assert names(rollouts.chosen) == ["1.0", "1.1"]
    assert len(rollouts.sampled) == 8
    with pytest.raises(RunError, match="fewer than prompts_per_step = 3"):
        draw(FakeTask({1}, n_problems=2), Grpo(Grpo.Config()), 0)


def test_the_stream_of_problems_goes_on_where_it_was() -> None:
    stream = training_problems(FakeTask(set(), 3), 0, n_drawn=2)  # type: ignore[arg-type]
    assert [p.id for p in itertools.islice(stream, 5)] == ["2", "0", "1", "2", "0"]


def test_a_greedy_completion_of_each_prompt_is_sampled_where_needed() -> None:
    rollouts, engine = draw(FakeTask({1}), ReMax(ReMax.Config()), 0)
    greedy = [request for request in engine.asked if request.sampling.temperature == 0]
    assert [(request.problem_id, request.index) for request in greedy] == [("0", 0), ("1", 0), ("2", 0)]
    assert rollouts.greedy_rewards() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert len(rollouts.sampled) == 6
    assert draw(FakeTask({1}), Grpo(Grpo.Config()), 0)[0].greedy_rewards() is None


# --- the policy and the optimiser -------------------------------------------------------------------------------


def test_gradient_checkpointing_changes_no_gradient() -> None:
    batch = make_batch([5] * 4, [3, 5, 1, 4], [0, 0, 1, 1])
    gradients = []
    for checkpointed in (False, True):
        policy = Policy(tiny_module().double(), 1.0, checkpoint_activations=checkpointed)
        assert bool(policy._checkpointed) == checkpointed
        calls = count_forwards(policy)
        outputs = policy.forward(batch, frozenset({"prompt_hidden"}))
        n_forward = len(calls)
        (outputs.logp.sum() + outputs.prompt_hidden.sum()).backward()
        assert (len(calls) > n_forward) == checkpointed
        assert not any(module.training for module in policy.module.modules())
        gradients.append([p.grad.clone() for p in policy.module.parameters()])
    # The layers in float64; logits are float32 all the same, and gradients reach 115.
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def count_forwards(policy: Policy) -> list[int]:
    """Numbers of the calls of the first attention, those of a recomputation included."""
    calls: list[int] = []
    attention = next(m for name, m in policy.module.named_modules() if name.endswith("self_attn"))
    attention.register_forward_hook(lambda *_: calls.append(len(calls)))
    return calls


def test_linear_schedule_reaches_its_end() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=2, schedule="linear", decay_steps=12, final_lr_fraction=0.1)
    assert [schedule(config, step) for step in (1, 2, 7, 12, 40)] == pytest.approx([1 / 3, 2 / 3, 0.55, 0.1, 0.1])


def test_the_state_at_the_prompt_s_last_token_is_there() -> None:
    batch = make_batch([5, 5, 3], [3, 2, 2], [0, 0, 1])
    policy = Policy(tiny_module(), 1.0)
    outputs = policy.forward(batch, frozenset({"prompt_last_hidden", "completion_hidden"}))
    assert outputs.prompt_last_hidden is not None
    assert outputs.completion_hidden is not None
    torch.testing.assert_close(outputs.prompt_last_hidden, outputs.completion_hidden[:, 0])


@pytest.mark.parametrize("reset_optimizer", [True, False])
def test_the_reference_is_reset_by_schedule_and_the_optimiser_when_asked(reset_optimizer: bool) -> None:
    policy, reference = Policy(tiny_module(0), 1.0), Policy(tiny_module(1), 1.0)
    optimizer = torch.optim.AdamW(policy.module.parameters(), lr=0.1)
    sum(p.sum() for p in policy.module.parameters()).backward()
    optimizer.step()
    settings: Any = dataclasses.make_dataclass("C", ["reference"])(
        ReferenceConfig(reset_every_steps=2, reset_optimizer=reset_optimizer)
    )
    learner = make_learner(settings, Grpo(Grpo.Config()), policy, reference, optimizer, resets=settings.reference)
    metrics = StepMetrics(1)
    metrics.set(reward=0.5)

    def is_same() -> bool:
        pairs = zip(policy.module.parameters(), reference.module.parameters(), strict=True)
        return all(torch.equal(one, other) for one, other in pairs)

    learner.adapt(1, 4, metrics)
    assert not is_same()
    assert learner.changed_reference() is None
    learner.adapt(2, 4, metrics)
    assert is_same()
    assert metrics.row()["reference_reset"] == 1
    assert learner.changed_reference() is reference.module
    assert (len(optimizer.state) == 0) == reset_optimizer


# --- the KL controller and resets of the reference --------------------------------------------------------------


def test_the_coefficient_follows_the_kl_by_at_most_a_fifth_of_the_horizon_s_share() -> None:
    adaptive = AdaptiveKl(KlConfig(place="loss", coefficient=0.1, estimator="k2", target=0.02, horizon=1000))
    expected = 0.1
    for kl, n in [(0.03, 50), (0.021, 50), (0.02, 200), (0.0, 100), (-0.01, 100), (0.5, 1000)]:
        adaptive.adapt(kl, n)
        expected *= 1 + max(-0.2, min(0.2, (kl - 0.02) / 0.02)) * n / 1000
        assert adaptive.config.coefficient == pytest.approx(expected)
    fixed = AdaptiveKl(KlConfig(place="loss", coefficient=0.1, estimator="k2"))
    fixed.adapt(5.0, 1000)
    assert fixed.config.coefficient == 0.1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"place": "loss", "estimator": "k2", "horizon": 5}, "no effect without kl.target"),
        ({"place": "loss", "estimator": "k2", "target": 0.0}, "above 0"),
        ({"target": 0.1}, "place = 'off'"),
    ],
)
def test_a_target_that_can_not_be_meant_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        KlConfig(**settings)


def resets(rewards: list[float], **settings: Any) -> list[int]:
    reset = ReferenceReset(ReferenceConfig(**settings))
    return [step for step, reward in enumerate(rewards, 1) if reset.update(step, reward)]


def test_the_reference_is_reset_when_the_reward_stalls_and_counting_begins_anew() -> None:
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert resets(rising, reset_on_stall_steps=2) == []
    # means of two: at step 6 0.45 and 0.45; four steps later again
    stalling = [0.1, 0.2, 0.4, 0.5, 0.5, 0.4, 0.4, 0.5, 0.4, 0.5, 0.6]
    assert resets(stalling, reset_on_stall_steps=2) == [6, 10]
    assert resets(rising, reset_on_stall_steps=2, stall_margin=0.21) == [4]
    assert resets(stalling, reset_on_stall_steps=2, reset_every_steps=4) == [4, 8]
    assert resets(stalling, reset_every_steps=5) == [5, 10]
    with pytest.raises(ValueError, match="needs reset_on_stall_steps"):
        ReferenceConfig(stall_margin=0.1)


def test_controller_and_resets_survive_a_round_trip() -> None:
    kl = KlConfig(place="loss", estimator="k2", target=0.02)
    one, other = ((AdaptiveKl(kl), ReferenceReset(ReferenceConfig(reset_on_stall_steps=2))) for _ in range(2))
    for step, reward in enumerate([0.3, 0.2, 0.1, 0.1, 0.2], 1):
        one[0].adapt(0.1, 64)
        one[1].update(step, reward)
    assert one[1].n_resets == 1
    for mine, restored in zip(one, other, strict=True):
        stored = io.BytesIO()
        torch.save(dict(mine.state_dict()), stored)
        stored.seek(0)
        restored.load_state_dict(torch.load(stored, weights_only=True))
        assert restored.state_dict() == mine.state_dict()
    rewards = [0.2, 0.2, 0.1, 0.0]
    assert [one[1].update(step, r) for step, r in enumerate(rewards)] == [
        other[1].update(step, r) for step, r in enumerate(rewards)
    ]
