"""Compute `flowrl_losses.json` with the two published implementations of FlowRL themselves.

Run by hand, with torch and numpy alone, next to checkouts of both repositories at the commits below:

    python tests/trainers/objectives/golden/make_flowrl_losses.py FLOWRL_CHECKOUT VERL_RECIPE_CHECKOUT

Nothing of this project is imported, and nothing of theirs is kept: their functions are read out of their files, and
each runs whole, from `update_policy` down, on a stand-in for the trainer that hands it stored log-probabilities, one
minibatch cut into two micro-batches, and log Z from their own head (its dropout off, so that the numbers repeat). What
is kept is the gradient that such an update leaves. Inputs are those of losses.json, but for
the log-probabilities of one completion.
"""

from __future__ import annotations

import ast
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch

HERE = Path(__file__).parent
STORED = json.loads((HERE / "losses.json").read_text(encoding="utf-8"))["inputs"]
CUT = [[0, 1, 2, 3, 4], [5, 6, 7]]
EPOCHS = 2
"""The recipe takes the policy itself as the old one where a step makes a single update, and all its weights are 1."""
HIDDEN = 4
LIFT = [0.0, 0.7, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
"""On each of a completion's tokens, so that one of the ratios is above the recipe's cap of 10."""

RELEASE = {
    "repository": "github.com/Xuekai-Zhu/FlowRL",
    "commit": "decbc57b8cef50c6cb142d3a7565858e13811454",
    "actor": "verl@FlowRL/verl/workers/actor/dp_actor.py",
    "head": "verl@FlowRL/verl/workers/fsdp_workers.py",
}
RECIPE = {
    "repository": "github.com/verl-project/verl-recipe",
    "commit": "48ea0a797fa29867ea0ad92aff7d284eec7d4be3",
    "actor": "flowrl/flowrl_actor.py",
    "head": "flowrl/flowrl_actor.py",
}
LIBRARY = "verl@FlowRL/verl"
"""verl 0.4 as the release carries it, which the recipe names as the one it was tested with."""


def read_out(path: Path, names: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """Functions and classes of a file, wherever in it they are, made without importing it."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if getattr(node, "name", None) in names]
    for node in found:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list, node.returns = [], None
            for argument in node.args.args:
                argument.annotation = None
    space = dict(known)
    exec(compile(ast.Module(body=found, type_ignores=[]), str(path), "exec"), space)
    return space


def inputs() -> dict[str, torch.Tensor]:
    lengths = torch.tensor(STORED["lengths"])
    values = {name: torch.tensor(STORED[name], dtype=torch.float64) for name in ("logp", "logp_old", "logp_reference")}
    prompts = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(30), dtype=torch.float64)
    hidden = prompts[torch.tensor(STORED["groups"])]
    values["logp"] = values["logp"] + torch.tensor(LIFT, dtype=torch.float64)[:, None]
    return {**values, "mask": (torch.arange(values["logp"].shape[1]) < lengths[:, None]).double(), "hidden": hidden}


def advantages(mask: torch.Tensor, library: Path) -> torch.Tensor:
    known = {"torch": torch, "np": np, "defaultdict": defaultdict}
    name = "compute_grpo_outcome_advantage"
    rewards = torch.zeros_like(mask)
    rewards[torch.arange(len(mask)), mask.sum(1).long() - 1] = torch.tensor(STORED["rewards"], dtype=torch.float64)
    compute = read_out(library / "trainer/ppo/core_algos.py", [name], known)[name]
    result: torch.Tensor = compute(rewards, mask, np.array(STORED["groups"]))[0]
    return result


class Piece(dict[str, torch.Tensor]):
    """A batch as both loops handle it."""

    meta_info: ClassVar = {"temperature": 1.0}
    non_tensor_batch: ClassVar[dict[str, Any]] = {}

    @property
    def batch(self) -> Piece:
        return self

    def select(self, **_: Any) -> Piece:
        return self

    def split(self, _: int) -> list[Piece]:
        return [self]

    def to(self, _: Any) -> Piece:
        return self

    def cut(self) -> tuple[list[Piece], None]:
        return [Piece({name: value[rows] for name, value in self.items()}) for rows in CUT], None


def updated(source: dict[str, str], folder: Path, library: Path) -> dict[str, Any]:
    """The gradients at the policy's log-probabilities and at the pooled prompt after one update of theirs."""
    x = inputs()
    logp, hidden = x["logp"].requires_grad_(), x["hidden"].requires_grad_()
    means = read_out(library / "utils/torch_functional.py", ["masked_sum", "masked_mean"], {"torch": torch})
    known = {
        "torch": torch,
        "verl_F": SimpleNamespace(**{name: means[name] for name in ("masked_sum", "masked_mean")}),
        "DataProto": SimpleNamespace,
        "get_torch_device": lambda: SimpleNamespace(current_device=lambda: "cpu"),
        "get_device_id": lambda: "cpu",
        "rearrange_micro_batches": lambda batch, **_: batch.cut(),
        "prepare_dynamic_batch": lambda batch, **_: batch.cut(),
        "append_to_dict": lambda metrics, new: metrics.update(new),
    }
    theirs = read_out(folder / source["actor"], ["update_policy", "compute_flowrl_objective", "compute_flowrl"], known)
    head = read_out(folder / source["head"], ["ProjZModule"], {"torch": torch})["ProjZModule"]
    torch.manual_seed(0)
    proj_z = head(HIDDEN).double().eval()
    n = len(STORED["lengths"])

    class Actor(SimpleNamespace):
        def _forward_micro_batch(self, batch: Any = None, micro_batch: Any = None, **_: Any) -> Any:
            rows = (batch if batch is not None else micro_batch)["rows"]
            return None, logp[rows], proj_z(hidden[rows])

    for name in ("update_policy", "compute_flowrl_objective", "compute_flowrl"):
        if name in theirs:
            setattr(Actor, name, theirs[name])
    config = {"ppo_mini_batch_size": n, "ppo_epochs": EPOCHS, "use_dynamic_bsz": True, "use_kl_loss": True}
    config |= {"clip_ratio": 0.2, "clip_ratio_low": None, "clip_ratio_high": None, "entropy_coeff": 0.0}
    config |= {"loss_agg_mode": "token-mean", "ppo_max_token_len_per_gpu": 1, "get": lambda _, other: other}
    actor = Actor(
        config=SimpleNamespace(**config),
        actor_module=SimpleNamespace(train=lambda: None),
        actor_optimizer=SimpleNamespace(zero_grad=lambda: None),
        ulysses_sequence_parallel_size=1,
        scaler=None,
        flowrl_beta_coef=15.0,
        _optimizer_step=lambda: torch.zeros(()),
    )
    data = Piece(
        responses=x["mask"],
        attention_mask=x["mask"],
        response_mask=x["mask"],
        old_log_probs=x["logp_old"],
        ref_log_prob=x["logp_reference"],
        advantages=advantages(x["mask"], library),
        rows=torch.arange(n),
    )
    actor.update_policy(data)
    assert logp.grad is not None and hidden.grad is not None
    weights = {name: value.tolist() for name, value in proj_z.net.state_dict().items()}
    gradients = {"gradient": logp.grad / EPOCHS, "gradient_of_hidden": hidden.grad / EPOCHS}
    return {**source, **{name: value.tolist() for name, value in gradients.items()}, "head_weights": weights}


if __name__ == "__main__":
    release, recipe = map(Path, sys.argv[1:3])
    kept = {
        "cut": CUT,
        "lift": LIFT,
        "hidden": inputs()["hidden"].tolist(),
        "release": updated(RELEASE, release, release / LIBRARY),
        "recipe": updated(RECIPE, recipe, release / LIBRARY),
    }
    (HERE / "flowrl_losses.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")
