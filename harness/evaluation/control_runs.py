"""Runs the controls of `harness.evaluation.controls`, each as an ordinary run folder with a mark in its record.

    OUT/trained                       the evaluation that was asked for
    OUT/base, OUT/base-best-prompt    the controls
    OUT/base-entropy, OUT/trained-entropy
    OUT/selection/TASK/...            the small evaluations by which prompts and temperatures are chosen

Everything that can be refused is refused before anything is generated. The same command resumes: what is on record is
neither generated nor chosen again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, DataError, ModelError, RunFolderError
from harness.core.progress import Progress
from harness.core.protocols import Engine, ModelSource, Split
from harness.evaluation.config import EvalConfig, ModelConfig
from harness.evaluation.controls import (
    AS_TRAINED,
    MARK,
    RULE,
    TRAINED,
    Candidate,
    ControlsConfig,
    Match,
    base_config,
    base_of,
    candidates,
    choose,
    match_temperature,
    mean_entropy,
    only_tasks,
    selection_config,
    with_prompt,
    with_temperature,
)
from harness.evaluation.loop import Evaluation, checked_setup, evaluate_opened
from harness.evaluation.setup import EvalSetup
from harness.models.loading import load_tokenizer
from harness.runs.search import SELECTION_FOLDER

Tries = dict[str, EvalSetup]


@dataclass(frozen=True, slots=True)
class ControlPlan:
    """The controls of one evaluation, with everything checked that can be checked before the models are loaded."""

    settings: ControlsConfig
    out: Path
    trained: EvalSetup
    base: EvalSetup
    prompts: Mapping[str, Mapping[Candidate, EvalSetup]]
    """By task: the prompts to try on it, each with its small evaluation."""
    left_out: Mapping[str, Mapping[str, str]]
    """By task: the prompts that can't be tried, and why."""
    splits: Mapping[str, Split]
    """By task: the split whose prompts the entropies are measured on."""
    refused: Mapping[str, Mapping[str, str]]
    """By control and task: why it is not run."""

    def lines(self) -> Iterator[str]:
        """Yield for a reader what is run, what choosing costs, and what is refused."""
        search, entropy = self.settings.search, self.settings.entropy
        base = self.base.config.model.path
        yield f"controls of {self.trained.config.model.path}: {', '.join(self.kinds())}; the base model is {base}"
        for task, tried in self.prompts.items():
            n_problems = len(next(iter(tried.values())).tasks[task].problems)
            yield (
                f"{task}: the best of {len(tried)} prompts on {n_problems} {self.settings.split} problems x {search.n} "
                f"samples ({len(tried) * n_problems * search.n} completions)"
            )
            yield from (f"{task}: the prompt {name} is left out: {why}" for name, why in self.left_out[task].items())
        for task, split in self.splits.items():
            yield (
                f"{task}: temperatures by the entropy on {entropy.problems} {split} problems x {entropy.n} samples, up "
                f"to {entropy.probes} temperatures"
            )
        for kind, tasks in self.refused.items():
            yield from (f"{task}: no control {kind}: {why}" for task, why in tasks.items())

    def kinds(self) -> list[str]:
        """Return the controls that are run on some task at least."""
        is_run = {"base": True, "best-prompt": bool(self.prompts)}
        return [kind for kind in self.settings.kinds if is_run.get(kind, bool(self.splits))]


def plan_controls(trained: EvalConfig, settings: ControlsConfig, out: Path, progress: Progress) -> ControlPlan:
    """Check the evaluation and its controls; raise for what would fail, and note what can't be done for some tasks."""
    if (out / "run.json").exists():
        raise RunFolderError(f"{out} is a run, and controls need a folder of their own; choose another --out")
    base = settings.base if settings.base is not None else base_of(trained.model.path)
    of_base = base_config(trained, base, settings.revision)
    if of_base.model.chat_template is not None and _has_that_template(of_base.model):
        of_base = base_config(trained, base, settings.revision, is_same_template=True)
    setup = checked_setup(trained, out / TRAINED, progress)
    plan = ControlPlan(settings, out, setup, checked_setup(of_base, out / "base", progress), {}, {}, {}, {})
    prompts, left_out, splits = {}, {}, {}
    refused: dict[str, dict[str, str]] = {}
    for task in setup.tasks:
        if "best-prompt" in settings.kinds:
            found, others = _prompts(plan, task, progress)
            if found:
                prompts[task], left_out[task] = found, others
            else:
                refused.setdefault("best-prompt", {})[task] = others[AS_TRAINED]
        for kind in (kind for kind in settings.kinds if kind.endswith("-entropy")):
            if (why := _without_entropy(setup, task)) is not None:
                refused.setdefault(kind, {})[task] = why
            else:
                splits[task] = _split_of_entropy(plan, task, progress)
    return replace(plan, prompts=prompts, left_out=left_out, splits=splits, refused=refused)


def _has_that_template(model: ModelConfig) -> bool:
    """Return whether a model's own chat template is the one that it is given, so that runs of both are alike."""
    given = model.source(0)
    try:
        own = load_tokenizer(replace(given, chat_template_of=None)).chat_template
        return bool(own == load_tokenizer(given).chat_template)
    except ModelError:  # the checks of the evaluations report it, if they need a tokenizer
        return False


def _prompts(plan: ControlPlan, task: str, progress: Progress) -> tuple[dict[Candidate, EvalSetup], dict[str, str]]:
    """Return the prompts that can be tried, with their evaluations, and why others can't; none without the first."""
    settings, base = plan.settings, plan.base.config
    if settings.split == base.split:
        return {}, {AS_TRAINED: f"the evaluation reads the {base.split} split itself; set controls.split"}
    if any(problem.passages for problem in plan.base.tasks[task].problems):
        return {}, {AS_TRAINED: "it scores given texts, whose prompts can't be changed"}
    found: dict[Candidate, EvalSetup] = {}
    others: dict[str, str] = {}
    for candidate in candidates(plan.trained.config, task, settings.search):
        config = with_prompt(base, task, candidate)
        config = selection_config(config, task, settings.split, settings.search.problems, settings.search.n)
        folder = _selection_folder(plan.out, task) / f"prompt-{_file_name(candidate.name)}"
        try:
            found[candidate] = checked_setup(config, folder, progress)
        except (ConfigError, DataError, ModelError) as error:
            others[candidate.name] = str(error)
            if candidate.name == AS_TRAINED:
                return {}, others
    return found, others


def _without_entropy(setup: EvalSetup, task: str) -> str | None:
    """Return why no temperature can be matched on a task; None if one can."""
    if setup.tasks[task].plan.sampling.temperature == 0:
        return "at temperature 0 there is no entropy to match"
    if any(problem.passages for problem in setup.tasks[task].problems):
        return "it scores given texts and samples nothing"
    return None


def _split_of_entropy(plan: ControlPlan, task: str, progress: Progress) -> Split:
    """Return the split that choices are made on, or that of the evaluation where the task has no such split.

    Measuring an entropy reads no answers.
    """
    try:
        checked_setup(_entropy_config(plan, plan.base.config, task, plan.settings.split), plan.out / "none", progress)
    except (ConfigError, DataError, ModelError):
        return plan.base.config.split
    return plan.settings.split


def _entropy_config(plan: ControlPlan, config: EvalConfig, task: str, split: Split) -> EvalConfig:
    return selection_config(config, task, split, plan.settings.entropy.problems, plan.settings.entropy.n)


# --- running ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Session:
    """A model that is loaded once for several evaluations."""

    plan: ControlPlan
    engine: Engine
    source: ModelSource
    progress: Progress

    def run(self, setup: EvalSetup, mark: Mapping[str, Any] | None) -> Evaluation:
        """Evaluate, with the mark in the run's record."""
        identity = setup.identity
        if mark is not None:
            identity = identity.with_facts(MARK, {**mark, "of": self.plan.trained.identity.digest})
        opened = replace(setup, engine=self.engine, source=self.source, identity=identity)
        return evaluate_opened(replace(opened, label=f"{setup.folder.relative_to(self.plan.out)}: "), self.progress)

    def entropy(self, config: EvalConfig, task: str, who: str, temperature: float) -> float | None:
        """Return the mean token entropy of the model at a temperature, by an evaluation on a few prompts."""
        chosen = with_temperature(config, task, temperature)
        folder = _selection_folder(self.plan.out, task) / f"entropy-{who}-T{temperature:g}"
        small = _entropy_config(self.plan, chosen, task, self.plan.splits[task])
        setup = checked_setup(small, folder, self.progress)
        done = self.run(setup, {"kind": "selection", "for": "entropy"})
        ids = {problem.id for problem in setup.tasks[task].problems}
        stored = (completion for _, completion in done.run.completions())
        return mean_entropy([c for c in stored if c.problem_id in ids and c.index < setup.tasks[task].plan.n])


@contextlib.contextmanager
def _session(plan: ControlPlan, setup: EvalSetup, progress: Progress) -> Iterator[_Session]:
    with progress.working(f"loading {setup.config.model.path} with the engine {setup.config.engine.id}"):
        setup.engine.open(setup.source)
    try:
        yield _Session(plan, setup.engine, setup.source, progress)
    finally:
        setup.engine.close()


def run_controls(plan: ControlPlan, progress: Progress) -> dict[str, Evaluation]:
    """Run the evaluation and its controls; return them by the name of their folder."""
    done: dict[str, Evaluation] = {}
    kinds = plan.kinds()
    trained, base = plan.trained, plan.base
    with _session(plan, trained, progress) as session:
        done[TRAINED] = session.run(trained, None)
        of_trained = _entropies(session, trained.config, TRAINED) if "base-entropy" in kinds else {}
    with _session(plan, base, progress) as session:
        best = _search(session) if "best-prompt" in kinds else None
        also = ["best-prompt"] if best is not None and set(best.names.values()) == {AS_TRAINED} else []
        if "base" in kinds or also:
            chosen = best.mark if best is not None and also else {}
            mark = {**chosen, "kind": "base", "also": also, "refused": plan.refused}
            done["base"] = session.run(base, mark)
        if best is not None and not also:
            done["base-best-prompt"] = _run(session, best.config, "base-best-prompt", best.mark)
        if of_trained:
            done |= _matched(session, base.config, "base", of_trained)
        of_base = _entropies(session, base.config, "base") if "trained-entropy" in kinds else {}
    if of_base:
        with _session(plan, trained, progress) as session:
            done |= _matched(session, trained.config, TRAINED, of_base)
    return done


def _run(session: _Session, config: EvalConfig, name: str, mark: Mapping[str, Any]) -> Evaluation:
    return session.run(checked_setup(config, session.plan.out / name, session.progress), mark)


@dataclass(frozen=True, slots=True)
class _Best:
    """The base model's best prompts by task, with the evaluation that asks with them."""

    names: Mapping[str, str]
    config: EvalConfig
    mark: Mapping[str, Any]


def _search(session: _Session) -> _Best:
    """Try the prompts on the split for choices; return the best ones."""
    plan, search = session.plan, session.plan.settings.search
    names: dict[str, str] = {}
    rates: dict[str, dict[str, float | None]] = {}
    config = only_tasks(plan.base.config, list(plan.prompts))
    for task, tried in plan.prompts.items():
        of_choice = {"kind": "selection", "for": "best-prompt"}
        rates[task] = {
            c.name: _rate(session.run(setup, {**of_choice, "prompt": c.text()}), task) for c, setup in tried.items()
        }
        names[task] = choose(rates[task])
        (chosen,) = (candidate for candidate in tried if candidate.name == names[task])
        config = with_prompt(config, task, chosen)
        shown = ", ".join(f"{name} {rate:.3f}" for name, rate in rates[task].items() if rate is not None)
        session.progress.say(f"{task}: the best prompt of the base model is {names[task]} ({shown})")
    n_problems = {task: len(next(iter(tried.values())).tasks[task].problems) for task, tried in plan.prompts.items()}
    mark: Mapping[str, Any] = {
        "kind": "best-prompt",
        "chosen": names,
        "prompt": {task: c.text() for task, tried in plan.prompts.items() for c in tried if c.name == names[task]},
        "rates": {
            task: {name: rate for name, rate in found.items() if rate is not None} for task, found in rates.items()
        },
        "left out": plan.left_out,
        "split": plan.settings.split,
        "problems": n_problems,
        "samples": search.n,
        "rule": RULE,
    }
    return _Best(names, config, mark)


def _rate(done: Evaluation, task: str) -> float | None:
    """Return the mean rate of right samples; None where nothing was graded."""
    found = done.run.estimates().get(task, [])
    return next((estimate.value for estimate in found if estimate.name.startswith("avg@")), None)


def _entropies(session: _Session, config: EvalConfig, who: str) -> dict[str, float]:
    """Return by task the entropy of a model at its own temperature."""
    temperatures = {task: session.plan.trained.tasks[task].plan.sampling.temperature for task in session.plan.splits}
    found = {task: session.entropy(config, task, who, temperature) for task, temperature in temperatures.items()}
    if None in found.values():
        session.progress.warn(
            f"the engine {config.engine.id} returns no log-probabilities, so no temperature is matched by entropy"
        )
    return {task: entropy for task, entropy in found.items() if entropy is not None}


def _matched(session: _Session, config: EvalConfig, who: str, targets: Mapping[str, float]) -> dict[str, Evaluation]:
    """Find the temperatures at which a model has these entropies, and evaluate it at them."""
    settings = session.plan.settings.entropy
    matches: dict[str, Match] = {}
    matched = only_tasks(config, list(targets))
    for task, target in targets.items():

        def entropy_at(temperature: float, task: str = task) -> float:
            found = session.entropy(config, task, who, temperature)
            assert found is not None  # the other model's engine is the same, and gave one
            return found

        start = session.plan.trained.tasks[task].plan.sampling.temperature
        match = match_temperature(entropy_at, target, start=start, probes=settings.probes, tolerance=settings.tolerance)
        matches[task] = match
        matched = with_temperature(matched, task, match.temperature)
        session.progress.say(
            f"{task}: {who} has the entropy {match.entropy:.4f} at temperature {match.temperature:g}; the target is "
            f"{target:.4f}{'' if match.is_met else ': NOT MATCHED, this is the closest'}"
        )
    mark = {
        "kind": f"{who}-entropy",
        "temperature": {task: match.temperature for task, match in matches.items()},
        "entropy": {task: match.entropy for task, match in matches.items()},
        "target": {task: match.target for task, match in matches.items()},
        "tried": {task: [list(probe) for probe in match.tried] for task, match in matches.items()},
        "not matched": [task for task, match in matches.items() if not match.is_met],
        "split": {task: session.plan.splits[task] for task in matches},
        "problems": settings.problems,
        "samples": settings.n,
        "tolerance": settings.tolerance,
    }
    return {f"{who}-entropy": _run(session, matched, f"{who}-entropy", mark)}


def _selection_folder(out: Path, task: str) -> Path:
    return out / SELECTION_FOLDER / _file_name(task)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", name).strip("-.") or "task"
