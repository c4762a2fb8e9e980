"""Compute `advantages.json` with the functions that the authors of the advantages published.

Run by hand, with torch, numpy and scipy, next to checkouts of the repositories at the commits below, in one folder
under the names of the repositories (`maxrl`, `Passk_Training`, ...):

    python tests/trainers/advantages/golden/make_advantages.py FOLDER

Nothing of this project is imported, and nothing of theirs is kept: their functions are read out of their files and run
on inputs drawn here. Two need a hand: the snippet of RS-GRPO uses a name that it never defines, which gets a tensor,
and DARLING's classes come from a language model, in whose place the partition drawn here is returned.
"""

from __future__ import annotations

import ast
import asyncio
import json
import math
import random
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.special import comb

SIZE, LONGEST, K, BETA = 6, 5, 3, 2.0
N_RIGHT = [0, 1, 2, 4, 6]
SOURCES = {
    "maxrl": ("tajwarfahim/maxrl", "c0698ebb439a81ae1c6b01a842df3f2541816b4d", "verl/trainer/ppo/core_algos.py"),
    "pass_at_k": ("RUCAIBox/Passk_Training", "c3ba575ecb31f47fd9f5c43b18c081d4a295f783", "code/passk_adv.py"),
    "ucpo": ("AnamikaLochab/UCPO", "93ce5064d7373babc62b69a4a6b884ebfb7d658b", "verl/verl/trainer/ppo/core_algos.py"),
    "risk_sensitive": ("Jackory/RS-GRPO", "2f4103b09e38b1c8f0488c9797c5487d385adc5c", "codes/risk_sensitive_adv.py"),
    "unlikeliness": (
        "AndreHe02/rewarding-unlikely-release",
        "ca1cff05ebdf2cfe9737fd416897da838a93e11a",
        "verl/trainer/ppo/ray_lean_trainer.py",
    ),
    "rarity": (
        "facebookresearch/darling",
        "c07a3238a8b4a9f07c9272f823b23d5e1c47f99b",
        "verl/verl/utils/reward_score/partition_reward_vllm_serve.py",
    ),
}


def read_out(source: str, names: list[str], folder: Path, **known: Any) -> dict[str, Any]:
    """Functions of an author's file, wherever in it they are, made without importing it."""
    repository, _, file = SOURCES[source]
    tree = ast.parse((folder / repository.split("/")[1] / file).read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in found:
        node.decorator_list, node.returns = [], None
        for argument in node.args.args:
            argument.annotation = None
    space = {"torch": torch, "np": np, "defaultdict": defaultdict, "math": math, "comb": comb, **known}
    exec(compile(ast.Module(body=found, type_ignores=[]), file, "exec"), space)
    return space


def draw_inputs() -> dict[str, Any]:
    draw = random.Random(40)
    rows = [
        {
            "group": group,
            "reward": float(i < n_right),
            "logp": [-draw.expovariate(1.0) for _ in range(draw.randint(1, LONGEST))],
            "class": draw.choice([0, 0, 0, 1, 2]),
        }
        for group, n_right in enumerate(N_RIGHT)
        for i in draw.sample(range(SIZE), SIZE)
    ]
    return {"rows": rows}


class Inputs:
    def __init__(self, stored: dict[str, Any]) -> None:
        rows = stored["rows"]
        lengths = torch.tensor([len(row["logp"]) for row in rows])
        self.mask = (torch.arange(LONGEST) < lengths[:, None]).double()
        self.logp = torch.tensor([row["logp"] + [0.0] * (LONGEST - len(row["logp"])) for row in rows]).double()
        self.rewards = torch.tensor([row["reward"] for row in rows], dtype=torch.float64)
        self.index = np.array([row["group"] for row in rows])
        self.classes = [row["class"] for row in rows]

    def token_rewards(self) -> torch.Tensor:
        """Some of the functions write into their argument, so it is made for each."""
        given = torch.zeros_like(self.mask)
        given[torch.arange(len(given)), self.mask.sum(1).long() - 1] = self.rewards
        return given

    def parts(self) -> dict[int, list[list[int]]]:
        found: dict[int, dict[int, list[int]]] = {}
        for row, (group, kind) in enumerate(zip(self.index.tolist(), self.classes, strict=True)):
            found.setdefault(group, {}).setdefault(kind, []).append(row)
        return {group: list(classes.values()) for group, classes in found.items()}


def at_first_token(advantages: torch.Tensor) -> list[float]:
    """Every function repeats a completion's number over its tokens."""
    values: list[float] = advantages[:, 0].tolist()
    return values


def unlikeliness(x: Inputs, folder: Path) -> list[float]:
    compute = read_out("unlikeliness", ["_compute_advantages"], folder, masked_mean=masked_mean)["_compute_advantages"]
    trainer = SimpleNamespace(config=SimpleNamespace(lean={"rank_penalty": 0.25}))
    tensors = {"rewards": x.rewards.clone(), "old_log_probs": x.logp, "responses": x.mask, "attention_mask": x.mask}
    result = compute(trainer, SimpleNamespace(batch=tensors, non_tensor_batch={"uid": x.index}))
    return at_first_token(result.batch["advantages"])


def masked_mean(values: torch.Tensor, mask: torch.Tensor, axis: int) -> torch.Tensor:
    return (values * mask).sum(axis) / mask.sum(axis)


def darling_factors(x: Inputs, folder: Path) -> list[float]:
    async def partition_async(*_: Any) -> dict[int, list[list[int]]]:
        return x.parts()

    partition = read_out("rarity", ["partition"], folder, asyncio=asyncio, partition_async=partition_async)["partition"]
    factors: list[float] = partition(solution_str=[""] * len(x.index), uid=x.index.tolist(), prompts=[])
    return factors


def cases(x: Inputs, folder: Path) -> dict[str, Any]:
    core = read_out(
        "maxrl",
        ["compute_maxrl_outcome_advantage", "compute_pkpo_outcome_advantage"],
        folder,
        rearrange=lambda values, _, n: values.view(-1, n),
    )
    passk = read_out("pass_at_k", ["calc_adv", "compute_advantage"], folder, print=lambda *_: None)
    risk = read_out(
        "risk_sensitive", ["compute_rs_grpo_advantage"], folder, pass_at_1_scores=torch.zeros(len(x.rewards))
    )
    ucpo = read_out("ucpo", ["_canon_index", "compute_dgrpo_advantage_outcome_invq_l"], folder)
    given = {"response_mask": x.mask, "index": x.index}

    def case(source: str, function: str, settings: dict[str, Any], values: list[float]) -> dict[str, Any]:
        repository, commit, file = SOURCES[source]
        where = {"repository": f"github.com/{repository}", "commit": commit, "file": file, "function": function}
        return {**where, "settings": settings, "values": values}

    pkpo = core["compute_pkpo_outcome_advantage"](x.token_rewards(), **given, config=SimpleNamespace(pass_k=K))[0]
    inverse = ucpo["compute_dgrpo_advantage_outcome_invq_l"](x.token_rewards(), x.mask, x.logp, x.index, tau=0.2)[0]
    maxrl = core["compute_maxrl_outcome_advantage"](x.token_rewards(), **given)[0]
    return {
        "maxrl": case("maxrl", "compute_maxrl_outcome_advantage", {}, at_first_token(maxrl)),
        "pkpo": case("maxrl", "compute_pkpo_outcome_advantage", {"pass_k": K}, at_first_token(pkpo)),
        "pass_at_k": case(
            "pass_at_k",
            "compute_advantage",
            {"K": K},
            at_first_token(passk["compute_advantage"](x.token_rewards(), **given, K=K)[0]),
        ),
        "ucpo": case("ucpo", "compute_dgrpo_advantage_outcome_invq_l", {"tau": 0.2}, at_first_token(inverse)),
        "risk_sensitive": case(
            "risk_sensitive",
            "compute_rs_grpo_advantage",
            {"beta": BETA},
            at_first_token(risk["compute_rs_grpo_advantage"](x.token_rewards(), **given, beta=BETA)[0]),
        ),
        "unlikeliness": case("unlikeliness", "_compute_advantages", {"rank_penalty": 0.25}, unlikeliness(x, folder)),
        "rarity_factors": case("rarity", "partition", {}, darling_factors(x, folder)),
    }


if __name__ == "__main__":
    inputs = draw_inputs()
    target = Path(__file__).with_name("advantages.json")
    document = {"inputs": inputs, "cases": cases(Inputs(inputs), Path(sys.argv[1]))}
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
