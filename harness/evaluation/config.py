"""Config of an evaluation, and the sampling plan of each task."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from harness.core import registry
from harness.core.config import PluginChoice, incidental, optional_section, plugin, sections
from harness.core.errors import ConfigError
from harness.core.protocols import ModelSource, Task
from harness.core.seeds import derive_each
from harness.core.types import Bounds, MaxTokens, Message, MinP, Problem, Request, Sampling, Temperature, TopK, TopP
from harness.models.chat import PLAIN
from harness.models.loading import resolve

DEFAULT_METRICS = ("avg_at_k", "pass_at_k", "distinct_at_k")

_DATE = re.compile(r"\d{4}-\d{2}(-\d{2})?")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The model to evaluate or to train."""

    path: str
    """A directory, a train run, a bundled model or a hub id."""
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` takes the model's shape and tokenizer, and draws its weights from the run's seed."""
    trust_remote_code: bool = incidental(default=False)
    """Run the Python code in the model's own files (auto_map in its config.json), with the rights of this process. If
    false, a model that needs such code is refused. Read the code before you set it."""
    chat_template: str | None = None
    """Write the prompts with the chat template of this model, a name as in `path`, instead of the model's own."""
    released: str | None = incidental(default=None)
    """When the model was published, such as 2024-09. The protocol card has it next to the date of each data set."""

    def __post_init__(self) -> None:
        if self.released is not None and not _DATE.fullmatch(self.released):
            raise ValueError(f"model.released is {self.released!r}, and must be a date such as 2024-09 or 2024-09-19")

    def source(self, random_seed: int, *, is_remote: bool = False) -> ModelSource:
        """Return the model that an engine opens. The path of a remote model is its server's name for it."""
        if is_remote and (self.weights == "random" or self.revision is not None):
            raise ConfigError(
                "model.weights and model.revision have no effect on a remote model, whose server decides them; "
                "leave them out"
            )
        if is_remote and self.chat_template is not None:
            raise ConfigError(
                "model.chat_template has no effect on a remote model, whose server writes the prompts; leave it out"
            )
        return ModelSource(
            path=self.path if is_remote else resolve(self.path),
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            random_seed=random_seed if self.weights == "random" else None,
            trust_remote_code=self.trust_remote_code,
            chat_template_of=resolve(self.chat_template) if self.chat_template is not None else None,
        )


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """The fields of `Sampling`; each one that is set replaces the task's own default."""

    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    stop: tuple[str, ...] | None = None

    def over(self, default: Sampling) -> Sampling:
        """Return the default with the options that are set here."""
        options = {option.name: getattr(self, option.name) for option in fields(Sampling)}
        return replace(default, **{name: value for name, value in options.items() if value is not None})

    def truncating(self) -> list[str]:
        return self.over(Sampling(max_tokens=1)).truncating()


@dataclass(frozen=True, slots=True)
class GradingConfig:
    """Where completions are graded. No verdict depends on it."""

    on: Literal["ray"] | None = incidental(default=None)
    """`ray`: on the nodes of a Ray cluster, each of which must grade as this machine does. None: on this machine."""
    address: str | None = incidental(default=None)
    """Of the cluster; None is the engine's, or else a Ray on this machine."""
    cpus: float | None = incidental(default=None)
    """Processors of the cluster that each completion takes while it is graded; None is 1."""

    def __post_init__(self) -> None:
        if self.on is None and (self.address is not None or self.cpus is not None):
            raise ValueError('grading.address and grading.cpus have no effect without grading.on = "ray"')
        if self.num_cpus <= 0:
            raise ValueError("grading.cpus must be above 0")

    @property
    def num_cpus(self) -> float:
        return self.cpus if self.cpus is not None else 1.0


PLACE = "{prompt}"


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """Changes of the prompts that the tasks give their problems."""

    user: str | None = None
    """A template of the last message, in which {prompt} stands for the task's own text."""
    system: str | None = None
    """A system message, in place of the task's own; an empty text leaves that out."""
    plain: bool | None = None
    """If true, the model reads the texts of the messages alone, without a chat template."""

    def __post_init__(self) -> None:
        if self.user is not None and PLACE not in self.user:
            raise ValueError(f"the template user = {self.user!r} must have {PLACE} where the task's own text goes")

    def over(self, default: PromptConfig) -> PromptConfig:
        """Return the default with the changes that are set here."""
        changes = {name.name: value for name in fields(self) if (value := getattr(self, name.name)) is not None}
        return replace(default, **changes)

    def rewrite(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the messages of a problem with these changes."""
        if self.system is not None:
            messages = tuple(message for message in messages if message.role != "system")
            messages = (Message("system", self.system), *messages) if self.system else messages
        if self.user is not None:
            place = max((i for i, m in enumerate(messages) if m.role in ("user", PLAIN)), default=len(messages) - 1)
            last = messages[place]
            content = self.user.replace(PLACE, last.content)
            messages = (*messages[:place], replace(last, content=content), *messages[place + 1 :])
        return (Message(PLAIN, "\n\n".join(m.content for m in messages)),) if self.plain else messages


@dataclass(frozen=True, slots=True)
class TaskSettings(SamplingConfig):
    """Settings of one task, which replace those for all tasks."""

    grader: PluginChoice | None = plugin("graders", is_incidental=True, otherwise=None)
    """Instead of the task's own. A new one grades the stored completions too."""
    prompt: PromptConfig = optional_section(PromptConfig)


@dataclass(frozen=True, slots=True)
class Plan:
    """How many completions of each problem are drawn, and how."""

    n: int
    sampling: Sampling
    seed: int
    stream: tuple[str | int, ...]
    """Name of the random stream, which keeps its seeds apart from those of other uses."""
    changes: tuple[SamplingConfig, ...] = ()
    """The configured changes, which apply to a problem that brings its own sampling too."""

    def seeds(self, problem: Problem[Any]) -> Iterator[int]:
        """Yield the seed of each completion of a problem."""
        return derive_each(self.seed, *self.stream, problem.task, problem.id, n=self.n)

    def request(self, problem: Problem[Any], index: int, seed: int) -> Request:
        return Request(problem.id, index, problem.messages, seed, self._sampling(problem), problem.passages)

    def _sampling(self, problem: Problem[Any]) -> Sampling:
        if problem.sampling is None:
            return self.sampling
        return functools.reduce(lambda sampling, change: change.over(sampling), self.changes, problem.sampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Everything an evaluation depends on. `n` and `limit` may grow on resuming."""

    model: ModelConfig
    tasks: tuple[PluginChoice, ...] = plugin("tasks")
    grader: PluginChoice | None = plugin("graders", otherwise=None)
    """Grades every task, instead of its own grader."""
    engine: PluginChoice = plugin("engines", default="hf")
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    prompt: PromptConfig = optional_section(PromptConfig)
    per_task: Mapping[str, TaskSettings] = sections()
    preset: str | None = incidental(default=None)
    """The published protocol that the settings come from (`harness show presets/NAME`)."""
    deviations: tuple[str, ...] = incidental(default=())
    """Settings that differ from that protocol."""
    split: Literal["train", "validation", "test"] = "test"
    n: Annotated[int, Bounds(ge=1), "such as 16"] = incidental(default=16)
    until: float | None = incidental(default=None)
    """Stop a task before n samples once the interval from sampling is within plus and minus this."""
    limit: Annotated[int, Bounds(ge=1), "such as 100"] | None = incidental(default=None)
    problems: tuple[str, ...] | None = incidental(default=None)
    """Ask only these: ids, or numbers counted from 0. Every task must have some of them."""
    seed: int = 0
    problem_seed: int = 0
    grading: GradingConfig = optional_section(GradingConfig)
    max_ungraded: Annotated[float, Bounds(ge=0, le=1), "a share, such as 0.01"] = incidental(default=0.01)
    """Share of ungraded completions above which the command ends with exit code 3."""
    strict_data: bool = incidental(default=False)
    """Refuse data whose fingerprint is not the stored one, instead of printing a warning."""
    store_ids: bool = incidental(default=False)
    """Store token ids and log-probabilities with the texts."""
    metrics: tuple[PluginChoice, ...] = plugin("metrics", default=list(DEFAULT_METRICS), is_incidental=True)

    def __post_init__(self) -> None:
        if self.until is not None and not 0 < self.until < 0.5:
            raise ValueError("until is half the width of an interval of a rate: above 0 and below 0.5, such as 0.02")
        if not self.tasks:
            raise ValueError("tasks must name at least one task")
        for chosen in self.metrics:
            largest = registry.load("metrics", chosen.id).samples_needed(chosen.options)
            if largest > self.n:
                raise ValueError(
                    f"the metric {chosen.id} needs k = {largest} samples per problem, and n is {self.n}; raise n, or "
                    "choose other metrics"
                )
        if len({chosen.id for chosen in self.tasks}) < len(self.tasks):
            raise ValueError("tasks names a task twice; evaluate each variant of it in a run of its own")
        if unknown := self.per_task.keys() - {chosen.id for chosen in self.tasks}:
            raise ValueError(f"per_task has settings for {min(unknown)!r}, which is not one of the tasks")
        if self.problems is not None and self.limit is not None:
            raise ValueError("limit and problems exclude each other: set how many, or which")

    def prompt_of(self, task: str) -> PromptConfig:
        """Return the changes of a task's prompts: its own settings over those of all tasks."""
        own = self.per_task[task].prompt if task in self.per_task else PromptConfig()
        return own.over(self.prompt)

    def judge(self, task: str) -> PluginChoice | None:
        """Return the grader to use instead of the task's own, if the config chose one."""
        special = self.per_task[task].grader if task in self.per_task else None
        return special if special is not None else self.grader

    def plan(self, name: str, task: Task[Any]) -> Plan:
        """Return the sampling plan: settings of the task, over those of all tasks, over the task's own default."""
        changes = (self.sampling, *([self.per_task[name]] if name in self.per_task else []))
        sampling = functools.reduce(lambda sampling, change: change.over(sampling), changes, task.sampling)
        n = task.n_samples(self.n, sampling)
        return Plan(n, sampling, self.seed, ("eval",), changes)
