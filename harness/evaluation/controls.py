"""Controls of a trained model: what else may explain its gain over the base model that it was trained from.

    base             the base model with the prompt, the chat template and the sampling of the trained model
    best-prompt      the same with the best of a few prompts, chosen on a split that the evaluation does not read
    base-entropy     the base model at the temperature where its mean token entropy is that of the trained model
    trained-entropy  the trained model at the temperature where its mean token entropy is that of the base model

This module plans and chooses, and runs nothing: every control is an `EvalConfig`, made from that of the trained model.
`harness.evaluation.control_runs` runs them. A study can do so itself:

    config = base_config(trained, "Qwen/Qwen2.5-7B")
    for candidate in candidates(trained, "math500", settings.search):
        selection_config(with_prompt(config, "math500", candidate), "math500", "validation", 32, 4)
    choose(rates)                            the name of the best prompt
    match_temperature(entropy_at, target)    the temperature with a given entropy
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from harness.core import registry
from harness.core.config import parse_plugin, sections
from harness.core.errors import ConfigError
from harness.core.protocols import Split
from harness.core.types import Bounds, Completion
from harness.evaluation.config import EvalConfig, PromptConfig, TaskSettings
from harness.runs.folder import RunReader

Kind = Literal["base", "best-prompt", "base-entropy", "trained-entropy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MARK = "control"
"""Name of a control's description among the data of its run record."""
TRAINED = "trained"
"""Folder of the run that the controls are for."""
AS_TRAINED = "as-trained"
BUILT_IN: Mapping[str, PromptConfig] = {
    "plain": PromptConfig(plain=True),
    "question-answer": PromptConfig(user="Question: {prompt}\nAnswer:", plain=True),
    "step-by-step": PromptConfig(user="{prompt}\n\nThink step by step before you answer."),
    "concise": PromptConfig(user="{prompt}\n\nBe concise: write only the steps that are needed, then the answer."),
    "careful": PromptConfig(
        system="You are a careful expert. Solve the problem, check the result, and answer in the form asked for."
    ),
}
"""Prompts that the search tries besides that of the trained model and the other prompts of the task."""
RULE = "the highest rate of right samples; of equal ones the first in this order"

Count = Annotated[int, Bounds(ge=1), "such as 16"]


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """The search for the base model's best prompt."""

    problems: Count = 32
    """The first problems of the split that is read."""
    n: Count = 4
    """Samples of each problem for each prompt."""
    built_in: bool = True
    """Try the built-in prompts, and the other prompts of the task."""
    prompts: Mapping[str, PromptConfig] = sections()
    """Further prompts by name, each with `user`, `system` or `plain`."""

    def __post_init__(self) -> None:
        if clash := self.prompts.keys() & {AS_TRAINED, *BUILT_IN}:
            raise ValueError(f"the prompt {min(clash)!r} has the name of a built-in one; choose another")


@dataclass(frozen=True, slots=True)
class EntropyConfig:
    """The search for the temperature with a given entropy."""

    problems: Count = 16
    n: Count = 4
    probes: Count = 10
    """Most temperatures that are tried."""
    tolerance: Annotated[float, Bounds(gt=0, lt=1), "such as 0.02"] = 0.02
    """Relative difference of the entropies at which the search ends."""


@dataclass(frozen=True, slots=True)
class ControlsConfig:
    """Which controls are run, and what they may cost."""

    base: str | None = None
    """The base model; by default the one that the record of the training run names."""
    revision: str | None = None
    """Of the base model."""
    kinds: tuple[Kind, ...] = ("base", "best-prompt", "base-entropy")
    split: Split = "validation"
    """Prompts and temperatures are chosen on its problems. It must not be the split that is evaluated."""
    search: SearchConfig = field(default_factory=SearchConfig)
    entropy: EntropyConfig = field(default_factory=EntropyConfig)

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError(f"kinds must name at least one of {', '.join(KINDS)}")


@dataclass(frozen=True, slots=True)
class ControlsTable:
    """The table `controls` of a config file, with its name in front of every key in messages."""

    controls: ControlsConfig


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt that the search tries."""

    name: str
    prompt: PromptConfig = field(default_factory=PromptConfig)
    option: str | None = None
    """Id of one of the task's own prompts."""

    def text(self) -> str:
        """Return the prompt for a reader."""
        own = self.prompt
        parts = {"prompt": self.option, "system": own.system, "user": own.user, "plain": own.plain}
        return ", ".join(f"{key} = {value!r}" for key, value in parts.items() if value is not None) or "unchanged"


# --- the base model ---------------------------------------------------------------------------------------------


def base_of(path: str) -> str:
    """Return the base model of a train run or of one of its checkpoints, from its record."""
    folder = Path(path)
    for place in (folder, folder.parent.parent if folder.parent.name == "checkpoints" else folder):
        if (place / "run.json").is_file() and (run := RunReader.read(place)).record.kind == "train":
            model = run.config().get("model")
            if isinstance(model, Mapping) and isinstance(model.get("path"), str):
                return str(model["path"])
    raise ConfigError(
        f"{path} is neither a train run nor a checkpoint in one, so its base model is not on record; name it: "
        "--controls BASE"
    )


def base_config(
    trained: EvalConfig, base: str, revision: str | None = None, *, is_same_template: bool = False
) -> EvalConfig:
    """Return the evaluation of the base model with everything else as the trained model has it.

    The prompts are written with the trained model's chat template, unless the base has the same or a server writes
    them.
    """
    is_remote = registry.load("engines", trained.engine.id).is_remote
    template = trained.model.chat_template if trained.model.chat_template is not None else trained.model.path
    model = replace(
        trained.model,
        path=base,
        revision=revision,
        weights="pretrained",
        chat_template=None if is_remote or is_same_template else template,
        released=None,
    )
    return replace(trained, model=model)


# --- prompts ----------------------------------------------------------------------------------------------------


def candidates(trained: EvalConfig, task: str, search: SearchConfig) -> list[Candidate]:
    """Return the prompts to try on a task, that of the trained model first."""
    chosen = next(choice for choice in trained.tasks if choice.id == task)
    own = [p for p in chosen.build().prompts() if p != getattr(chosen.options, "prompt", None)]
    tried = [Candidate(AS_TRAINED)]
    if search.built_in:
        tried += [Candidate(name, prompt) for name, prompt in BUILT_IN.items()]
        tried += [Candidate(f"prompt={name}", option=name) for name in own]
    return [*tried, *(Candidate(name, prompt) for name, prompt in search.prompts.items())]


def with_prompt(config: EvalConfig, task: str, candidate: Candidate) -> EvalConfig:
    """Return the evaluation with another prompt of one task."""
    tasks = tuple(
        replace(choice, options=replace(choice.options, prompt=candidate.option))
        if choice.id == task and candidate.option is not None
        else choice
        for choice in config.tasks
    )
    if candidate.prompt == PromptConfig():
        return replace(config, tasks=tasks)
    return _with_settings(replace(config, tasks=tasks), task, prompt=candidate.prompt.over(config.prompt_of(task)))


def choose(rates: Mapping[str, float | None]) -> str:
    """Return the name with the highest rate, of equal ones the first; None is a rate that is not known."""
    return max(rates, key=lambda name: rate if (rate := rates[name]) is not None else -1.0)


# --- temperature ------------------------------------------------------------------------------------------------

COLDEST, HOTTEST = 0.05, 5.0


@dataclass(frozen=True, slots=True)
class Match:
    """The temperature whose entropy is closest to the target, and all that were tried."""

    target: float
    temperature: float
    entropy: float
    tried: Sequence[tuple[float, float]]
    """Temperature and entropy, in the order of the search."""
    is_met: bool


def match_temperature(
    entropy_at: Callable[[float], float],
    target: float,
    *,
    start: float = 1.0,
    probes: int = 10,
    tolerance: float = 0.02,
) -> Match:
    """Return the temperature at which a model's mean token entropy is `target`, by bisection of its logarithm.

    The entropy of a model that samples its own tokens grows with the temperature. The search ends within a relative
    `tolerance` of the target, or after `probes` temperatures; then the closest one is the match, and `is_met` is false.
    """
    low, high, temperature = COLDEST, HOTTEST, start
    tried: list[tuple[float, float]] = []
    while True:
        entropy = entropy_at(temperature)
        tried.append((temperature, entropy))
        is_met = abs(entropy - target) <= tolerance * target
        if is_met or len(tried) == probes:
            break
        low, high = (low, temperature) if entropy > target else (temperature, high)
        temperature = round(math.sqrt(low * high), 4)
    best = min(tried, key=lambda probe: abs(probe[1] - target))
    return Match(target, *best, tried, is_met)


def mean_entropy(completions: Sequence[Completion]) -> float | None:
    """Return the mean entropy of the sampling distribution per token, in nats; None without log-probabilities.

    It is the mean of -log p of the sampled tokens, which is unbiased for the entropy at each position: E(-log p) is the
    entropy of the distribution that was sampled from, after temperature and truncation.
    """
    logps = [completion.tokens.logp_behaviour for completion in completions]
    known = [logp for logp in logps if logp is not None]
    n_tokens = sum(map(len, known))
    if len(known) < len(logps) or n_tokens == 0:
        return None
    return -math.fsum(map(math.fsum, known)) / n_tokens


def with_temperature(config: EvalConfig, task: str, temperature: float) -> EvalConfig:
    """Return the evaluation with another temperature of one task."""
    return _with_settings(config, task, temperature=temperature)


# --- configs ----------------------------------------------------------------------------------------------------


def selection_config(config: EvalConfig, task: str, split: Split, n_problems: int, n: int) -> EvalConfig:
    """Return a small evaluation of one task on another split, which a choice is made by."""
    return replace(
        only_tasks(config, [task]),
        split=split,
        limit=n_problems,
        problems=None,
        n=n,
        until=None,
        preset=None,
        deviations=(),
        store_ids=True,
        metrics=(parse_plugin("metrics", "avg_at_k"),),
    )


def only_tasks(config: EvalConfig, names: Sequence[str]) -> EvalConfig:
    """Return the evaluation of some of its tasks."""
    return replace(
        config,
        tasks=tuple(choice for choice in config.tasks if choice.id in names),
        per_task={name: settings for name, settings in config.per_task.items() if name in names},
    )


def _with_settings(config: EvalConfig, task: str, **changes: Any) -> EvalConfig:
    own = config.per_task.get(task, TaskSettings())
    return replace(config, per_task={**config.per_task, task: replace(own, **changes)})
