"""FlowRL on countdown, on one page. Read this first, then `loop.py`, which does the same for any model and task.

    python -m harness.trainers.minimal

A problem of countdown is six numbers and a target; an answer reaches the target in two steps of arithmetic, and most
problems have several. A step samples 16 answers to each of 16 problems from the policy, grades them, and moves the
policy so that the probability of an answer becomes proportional to

    reference(answer) * exp(beta * reward)

where the reference is the model before training. A method that maximises the reward may settle on one right answer;
here every right answer keeps its share. For an answer y to a prompt x, of |y| tokens, the loss is (arXiv 2509.15207,
section 3; `objectives/flowrl.py` has every term with its options)

    w * ( log Z(x) + 1/|y| log policy(y|x) - beta * r_hat - 1/|y| log reference(y|x) )^2

log Z(x), the normaliser of that distribution, is a small network that learns with the policy. r_hat is the reward,
normalised within the answers to one prompt. w corrects for the second half of a step, which learns from answers of the
policy before the first half. tests/trainers/test_minimal.py holds one step of this page against one of the loop.

Shapes: B answers in a step, G of them to one prompt; P tokens in a prompt, T in the longest answer, L = P + T; H is the
size of a hidden state, V that of the vocabulary.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.core.config import parse_plugin
from harness.core.types import Completion, FinishReason, Problem, Tokens
from harness.models.chat import prompt_ids
from harness.models.loading import resolve

STEPS = 160
PROMPTS_PER_STEP, GROUP_SIZE, MAX_TOKENS = 16, 16, 14
MINIBATCHES = 2
BETA = 0.6  # the paper has 15 for answers of thousands of tokens; the pull on a whole answer is beta times its length
MAX_WEIGHT = 1.28
LR, LOG_Z_LR = 2e-4, 3e-3  # log Z starts from nothing, so it learns faster than the policy
WARMUP_STEPS = 5
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Rollouts:
    """The answers of one step, those to one prompt next to each other, and what they earned."""

    prompts: Tensor  # (B, P)
    answers: Tensor  # (B, T), padded at the right
    mask: Tensor  # (B, T) bool, true where a token of the answer is
    rewards: Tensor  # (B,)
    n_distinct: float = 0.0  # different right answers, mean over the problems that were solved

    @property
    def sequences(self) -> Tensor:
        return torch.cat([self.prompts, self.answers], 1)  # (B, L)


# --- sample and grade -------------------------------------------------------------------------------------------


@torch.no_grad()
def roll_out(policy: Any, tokenizer: Any, task: Any, problems: Sequence[Problem[Any]]) -> Rollouts:
    """Sample GROUP_SIZE answers to each problem, and grade them."""
    repeated = [problem for problem in problems for _ in range(GROUP_SIZE)]
    # Prompts of countdown all have the same number of tokens, so that they need no padding.
    prompts = torch.tensor([prompt_ids(tokenizer, problem.messages) for problem in repeated])  # (B, P)
    sequences = policy.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=1.0,
        top_k=0,  # the whole distribution: the loss takes the probability of an answer under all of it
        max_new_tokens=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
    )
    answers = sequences[:, prompts.shape[1] :]  # (B, T)
    is_end = answers == tokenizer.eos_token_id  # (B, T)
    # The end-of-sequence token is part of an answer: to stop is a choice of the policy like any other.
    mask = is_end.cumsum(1) - is_end.long() == 0  # (B, T)
    verdicts = []
    for row, problem in enumerate(repeated):
        ids = answers[row, mask[row]].tolist()
        text = tokenizer.decode(ids, skip_special_tokens=True)
        finish_reason: FinishReason = "stop" if is_end[row].any() else "length"
        tokens = Tokens(prompts.shape[1], len(ids))
        completion = Completion(problem.id, row % GROUP_SIZE, 0, text, finish_reason, tokens)
        verdicts.append((problem.id, task.grader.grade(problem, completion)))
    found = {(key, verdict.details["solution"]) for key, verdict in verdicts if verdict.outcome == "correct"}
    n_solved = len({key for key, _ in found})
    rewards = torch.tensor([verdict.reward for _, verdict in verdicts])  # (B,)
    return Rollouts(prompts, answers, mask, rewards, len(found) / max(1, n_solved))


# --- learn ------------------------------------------------------------------------------------------------------


def log_probs(model: Any, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each answer token, (B, T), and the mean hidden state of each prompt, (B, H)."""
    n_prompt = rollouts.prompts.shape[1]
    # Padding is at the right, where a causal model does not look: no attention mask.
    output = model(rollouts.sequences, output_hidden_states=True)
    logits = output.logits[:, n_prompt - 1 : -1]  # (B, T, V): the state before a token predicts it
    logp = logits.log_softmax(-1).gather(-1, rollouts.answers[..., None])[..., 0]  # (B, T)
    return logp * rollouts.mask, output.hidden_states[-1][:, :n_prompt].mean(1)


def flowrl_loss(
    log_z: Tensor, logp: Tensor, logp_old: Tensor, logp_reference: Tensor, r_hat: Tensor, mask: Tensor
) -> Tensor:
    """Return the mean of the paper's loss over answers. (B,), three times (B, T), (B,), (B, T) -> ()"""
    length = mask.sum(1)  # (B,)
    residual = log_z + logp.sum(1) / length - BETA * r_hat - logp_reference.sum(1) / length  # (B,)
    # The answers are the old policy's; weighed by the ratio they stand for those of the current one. The bound is for
    # single answers of a very large ratio, which would drown the others.
    weight = (logp - logp_old).sum(1).exp().clamp(max=MAX_WEIGHT).detach()  # (B,)
    return (weight * residual.square()).mean()


def update(
    policy: Any, reference: Any, log_z: nn.Module, optimizer: torch.optim.Optimizer, rollouts: Rollouts
) -> float:
    """Take the optimiser steps of one step, one a minibatch. Return the mean loss."""
    with torch.no_grad():
        logp_old, _ = log_probs(policy, rollouts)  # (B, T)
        logp_reference, _ = log_probs(reference, rollouts)  # (B, T)
    grouped = rollouts.rewards.view(-1, GROUP_SIZE)  # (B / G, G)
    r_hat = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-6)
    r_hat = r_hat.flatten()  # (B,)
    losses = []
    for rows in torch.arange(len(r_hat)).tensor_split(MINIBATCHES):
        part = Rollouts(rollouts.prompts[rows], rollouts.answers[rows], rollouts.mask[rows], rollouts.rewards[rows])
        logp, prompt_state = log_probs(policy, part)
        log_z_of_prompt = log_z(prompt_state.detach())[:, 0]  # (B,); detached: only the head learns log Z
        loss = flowrl_loss(log_z_of_prompt, logp, logp_old[rows], logp_reference[rows], r_hat[rows], part.mask)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:  # each by itself, so that log Z does not use up the policy's share
            nn.utils.clip_grad_norm_(group["params"], MAX_GRAD_NORM)
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


def make_log_z(hidden_size: int) -> nn.Sequential:
    """Build the log Z head: from the state of a prompt to one number, 0 at first."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.LayerNorm(hidden_size)]
    last = nn.Linear(hidden_size, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def make_optimizer(policy: nn.Module, log_z: nn.Module) -> torch.optim.AdamW:
    groups = [{"params": list(policy.parameters()), "lr": LR}, {"params": list(log_z.parameters()), "lr": LOG_Z_LR}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)


def main() -> None:
    torch.manual_seed(0)
    path = resolve("countdown-tiny")
    tokenizer, policy = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    reference = copy.deepcopy(policy).requires_grad_(False)
    log_z = make_log_z(policy.config.hidden_size)
    optimizer = make_optimizer(policy, log_z)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / (WARMUP_STEPS + 1)))
    task = parse_plugin("tasks", "countdown").build()
    problems = task.problems("train", seed=0)
    for step in range(1, STEPS + 1):
        rollouts = roll_out(policy, tokenizer, task, list(itertools.islice(problems, PROMPTS_PER_STEP)))
        loss = update(policy, reference, log_z, optimizer, rollouts)
        warm_up.step()
        solved = float(rollouts.rewards.mean())
        print(f"step {step:3}  solved {solved:.2f}  distinct {rollouts.n_distinct:.1f}  loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
