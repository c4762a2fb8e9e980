"""Plots of training runs by step: reward, time by phase, length, entropy, importance weights and log Z."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.reports.methods import flat
from harness.reports.plots.svg import Panel, Plot, Series, picture
from harness.reports.run_config import run_config
from harness.reports.run_facts import Labelled, labelled
from harness.reports.suites import differing_settings
from harness.runs.folder import RunReader

MOST_POINTS = 300
"""With more steps, neighbours are drawn as their mean."""
PHASES = {"sample_s": "sampling", "score_s": "scoring", "update_s": "update", "sync_s": "weights to the engine"}
RATIOS = {"ratio_p99": "99th percentile", "ratio_p50": "median", "ratio_p01": "1st percentile"}
LOG_Z = {"log_z": "log Z", "log_z_target": "what it fits", "log_z_group": "partition function of the group"}


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric of the step as a panel."""

    key: str
    title: str
    from_zero: bool = False
    is_log: bool = False
    level: float | None = None


PLOTS: Mapping[str, tuple[str, Sequence[Curve]]] = {
    "training-reward": (
        "Training: reward",
        (
            Curve("reward", "reward"),
            Curve("solve_rate", "solve rate", from_zero=True),
            Curve("groups_with_signal", "groups with signal", from_zero=True),
        ),
    ),
    "training-length": (
        "Training: length",
        (
            Curve("mean_tokens", "tokens of a completion", from_zero=True),
            Curve("truncated", "cut off at the limit", from_zero=True),
        ),
    ),
    "training-entropy": (
        "Training: entropy and distance to the reference",
        (
            Curve("entropy", "entropy of a token, nats", from_zero=True),
            Curve("kl_to_reference", "log(policy / reference) of a token", level=0.0),
            Curve("distinct_solutions", "different solutions of a problem", from_zero=True),
        ),
    ),
    "training-stability": (
        "Training: updates",
        (
            Curve("grad_norm", "gradient norm", is_log=True),
            Curve("loss", "loss"),
            Curve("logp_gap", "engine and trainer, log-probs", is_log=True),
        ),
    ),
    "training-weights": (
        "Training: importance weights",
        (
            Curve("importance_weight", "mean weight within its bound", level=1.0),
            Curve("weight_clipped", "weights at the bound", from_zero=True),
            Curve("clip_fraction", "weights that the bound changed", from_zero=True),
        ),
    ),
}


def training_plots(runs: Sequence[RunReader]) -> Iterator[Plot]:
    """Yield a plot for each group of metrics that a run has. Runs that differ in their seeds alone are one line."""
    methods = _methods([(run, label) for run, label in labelled(runs, "train") if run.steps()])
    if not methods:
        return
    seeds = max(len(method.runs) for method in methods)
    note = (
        "Lines: means over seeds; bands: from the smallest to the largest seed."
        if seeds > 1
        else "One seed of each: there is no band."
    )
    for plot_id, (title, curves) in PLOTS.items():
        panels = [panel for curve in curves if (panel := _panel(curve, methods)).series]
        if panels:
            yield Plot(plot_id, title, picture(title, panels, notes=[note]))
    yield from _by_method("training-ratios", "Training: ratios current / old policy", methods, RATIOS, is_log=True)
    yield from _by_method("training-log-z", "Training: log Z against what it fits", methods, LOG_Z)
    yield from _by_method("training-time", "Training: seconds of a step by phase", methods, PHASES, from_zero=True)


# --- methods ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Method:
    label: str
    runs: Sequence[Sequence[Mapping[str, Any]]]
    """The steps of each seed."""


def _methods(named: Sequence[Labelled]) -> list[Method]:
    groups: dict[str, list[Labelled]] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    for run, label in named:
        key = json.dumps(flat(run.config()), sort_keys=True, default=str)
        settings[key] = flat(run.config())
        groups.setdefault(key, []).append((run, label))
    bases = {key: _base(members) for key, members in groups.items()}
    found = []
    for key, members in groups.items():
        same = [other for other, base in bases.items() if base == bases[key]]
        differing = differing_settings([settings[other] for other in same])[:2] if len(same) > 1 else []
        shown = ", ".join(f"{name.rpartition('.')[2]} {settings[key].get(name)}" for name in differing)
        found.append(Method(f"{bases[key]} ({shown})" if shown else bases[key], [run.steps() for run, _ in members]))
    return found


def _base(members: Sequence[Labelled]) -> str:
    run, label = members[0]
    objective = run_config(run).objective
    return run.label if run.label is not None else objective.id if objective is not None else label


# --- curves -----------------------------------------------------------------------------------------------------


def _panel(curve: Curve, methods: Sequence[Method]) -> Panel:
    lines = [_line(method.label, method, curve.key, style) for style, method in enumerate(methods)]
    series = [line for line in lines if line is not None]
    return Panel(curve.title, "step", series, y_is_log=curve.is_log, from_zero=curve.from_zero, level=curve.level)


def _by_method(
    plot_id: str,
    title: str,
    methods: Sequence[Method],
    metrics: Mapping[str, str],
    *,
    is_log: bool = False,
    from_zero: bool = False,
) -> Iterator[Plot]:
    """Yield a plot with a panel for each method that has the first metric, with a line for each metric."""
    panels = []
    for method in methods:
        lines = [_line(name, method, key, style) for style, (key, name) in enumerate(metrics.items())]
        if lines[0] is not None:
            series = [line for line in lines if line is not None]
            panels.append(Panel(method.label, "step", series, y_is_log=is_log, from_zero=from_zero))
    if panels:
        note = "Means over seeds; bands: from the smallest to the largest seed, where a method has several."
        yield Plot(plot_id, title, picture(title, panels, notes=[note]))


def _line(label: str, method: Method, key: str, style: int) -> Series | None:
    """Return the mean over seeds by step, over the steps that all seeds have."""
    by_seed = [{int(row["step"]): float(row[key]) for row in steps if key in row} for steps in method.runs]
    shared = sorted(set.intersection(*(set(values) for values in by_seed))) if all(by_seed) else []
    shared = [step for step in shared if all(math.isfinite(values[step]) for values in by_seed)]
    if not shared:
        return None
    size = math.ceil(len(shared) / MOST_POINTS)
    chunks = [shared[start : start + size] for start in range(0, len(shared), size)]
    seeds = [[math.fsum(values[step] for step in chunk) / len(chunk) for chunk in chunks] for values in by_seed]
    columns = list(zip(*seeds, strict=True))
    has_band = len(seeds) > 1
    return Series(
        label,
        [math.fsum(chunk) / len(chunk) for chunk in chunks],
        [math.fsum(column) / len(column) for column in columns],
        [min(column) for column in columns] if has_band else None,
        [max(column) for column in columns] if has_band else None,
        style=style,
    )
