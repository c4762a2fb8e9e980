"""The study file: arms, seeds, checkpoints, tasks and temperatures, as TOML.

name = "kl-or-flow"
base = "countdown-tiny"
steps = 160
checkpoints = [80, 160]

[common.optimizer]          # settings of all arms, over their recipes
lr = 2e-4

[arms.grpo]
recipe = "countdown-grpo"

[arms.flowrl]
recipe = "countdown-flowrl"
beta = [0.3, 0.6, 1]        # an option of the objective; a list expands into arms
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.core.config import PluginChoice, parse, plugin
from harness.core.errors import ConfigError, UnknownNameError
from harness.core.types import Bounds, Temperature

FOLDER = Path(__file__).resolve().parent / "files"
MOST_DRAWS = 999
Settings = Mapping[str, Any]
Seed = Annotated[int, Bounds(ge=0), "such as 1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlsConfig:
    """Comparisons that a study has unless it declines them. The base is always an arm."""

    grpo_kl: Annotated[float, Bounds(ge=0), "0 is off, 0.1 is what FlowRL's reference pulls with on countdown"] = 0.1
    """The coefficient of the KL of the arm `grpo-kl`, added where no arm is GRPO with a KL; 0 is off."""
    evaluation: bool = True
    """Evaluate the base with its best prompt and at the temperature of equal entropy, for each arm's last checkpoint
    of the first seed, as `harness eval --controls` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig:
    """A first stage, in which each arm tries as many settings on a validation split. The best one is the arm's."""

    budget: Annotated[int, Bounds(ge=0), "0 is off"] = 0
    """Settings that each arm tries: the product of the lists of its grid."""
    split: Literal["validation", "test"] = "validation"
    """Its problems must be others than those of the study's split."""
    steps: Annotated[int, Bounds(ge=1), "such as 80"] | None = None
    """Of each trial; unset, those of the study."""
    seed: Seed = 0
    """Of the trainings; not one of the study's."""
    temperature: Temperature | None = None
    """Of the evaluations; unset, the first of the study's."""
    n: Annotated[int, Bounds(ge=1), "such as 16"] = 16
    limit: Annotated[int, Bounds(ge=1), "such as 96"] | None = None
    rule: str = "pass@1"
    """The estimate whose mean over the tasks is to be largest; of equal ones the first setting wins."""
    grid: Mapping[str, Settings] = field(default_factory=dict)
    """By table of the arms: lists of values by key; a key without a dot is an option of the objective."""

    def __post_init__(self) -> None:
        if self.grid and self.budget == 0:
            raise ValueError("there is a grid and no budget; set budget to the number of settings that each arm tries")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastConfig:
    """Assumptions about differences between arms, for the power that is printed before two arms have run."""

    seed_sd: Annotated[float, Bounds(ge=0), "such as 0.015"] = 0.015
    """Standard deviation of pass@1 over the training seeds of one arm."""
    problem_sd: Annotated[float, Bounds(ge=0), "such as 0.1"] = 0.1
    """Standard deviation over problems of the true difference between two arms."""
    power: Annotated[float, Bounds(gt=0, lt=1), "such as 0.8"] = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class RayConfig:
    """The size of a job on a cluster, for `harness study --ray`."""

    num_cpus: Annotated[float, Bounds(gt=0), "such as 4"] = 1
    """Processors of a job, which are also its threads."""
    num_gpus: Annotated[float, Bounds(ge=0), "such as 1"] = 0
    """GPUs of a job; may be a fraction. With 0 it sees none."""
    retries: Annotated[int, Bounds(ge=0), "such as 3"] = 3
    """How often a job whose process or node dies is run again. It continues from its last checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """Everything a study depends on."""

    name: str
    base: str
    """The model that every arm starts from: a directory, a bundled model or a hub id."""
    steps: Annotated[int, Bounds(ge=1), "such as 160"]
    checkpoints: tuple[Annotated[int, Bounds(ge=1), "such as 80"], ...] = ()
    """Steps whose checkpoints are evaluated; empty is the last one."""
    seeds: tuple[Seed, ...] = (1, 2, 3)
    """Of the trainings of each arm."""
    draws: Annotated[int, Bounds(ge=1, le=MOST_DRAWS), "such as 3"] = 3
    """Independent evaluations of each checkpoint, with evaluation seeds of their own."""
    temperatures: tuple[Temperature, ...] = (0.6, 1.0)
    n: Annotated[int, Bounds(ge=1), "such as 64"] = 16
    """Samples of each problem in each draw."""
    limit: Annotated[int, Bounds(ge=1), "such as 96"] | None = None
    """Only the first problems of each task."""
    split: Literal["validation", "test"] = "test"
    tasks: tuple[PluginChoice, ...] = plugin("tasks", otherwise=())
    """The tasks that are evaluated; empty is the task that is trained on."""
    common: Settings = field(default_factory=dict)
    """Training settings of all arms, over their recipes."""
    evaluation: Settings = field(default_factory=dict)
    """Further settings of all evaluations, such as `preset` or `metrics`."""
    arms: Mapping[str, Settings]
    controls: ControlsConfig = field(default_factory=ControlsConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    forecast: ForecastConfig = field(default_factory=ForecastConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(f"name is {self.name!r}; use letters, digits, '-', '_' and '.': it names the folder")
        for key in ("seeds", "temperatures", "checkpoints"):
            values = getattr(self, key)
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise ValueError(f"{key} has {twice} twice; each is one set of cells, so name it once")
        if not self.seeds or not self.temperatures:
            raise ValueError("seeds and temperatures need one entry at least, such as seeds = [1, 2, 3]")
        if self.checkpoints and max(self.checkpoints) > self.steps:
            raise ValueError(f"there is no checkpoint {max(self.checkpoints)} in {self.steps} steps; raise steps")
        if not self.arms:
            raise ValueError('arms is empty; add a table such as [arms.grpo] with recipe = "countdown-grpo"')
        if self.tuning.budget > 0 and self.tuning.seed in self.seeds:
            raise ValueError(f"tuning.seed = {self.tuning.seed} is one of seeds; tune with a seed of its own")
        if self.tuning.budget > 0 and self.tuning.split == self.split:
            raise ValueError(f"tuning.split and split are both {self.split!r}: settings would be chosen on the result")
        if len({chosen.id for chosen in self.tasks}) < len(self.tasks):
            raise ValueError("tasks names a task twice; make a study of each variant")
        for section, key, instead in _REPLACED:
            if key in _keys(getattr(self, section)):
                raise ValueError(f"{section}.{key} is set for the whole study: use {instead}")

    @property
    def evaluated_steps(self) -> tuple[int, ...]:
        return tuple(sorted(self.checkpoints)) if self.checkpoints else (self.steps,)


_REPLACED = (
    ("common", "seed", "seeds"),
    ("common", "loop.steps", "steps"),
    ("common", "model.path", "base"),
    ("evaluation", "seed", "draws"),
    ("evaluation", "n", "n"),
    ("evaluation", "limit", "limit"),
    ("evaluation", "split", "split"),
    ("evaluation", "tasks", "tasks"),
    ("evaluation", "model.path", "base"),
    ("evaluation", "sampling.temperature", "temperatures"),
)
"""Section, key in it, and the key of the study that stands for it."""


def _keys(tree: Settings, where: str = "") -> set[str]:
    """Return the dotted keys of all values in a tree."""
    found: set[str] = set()
    for key, value in tree.items():
        found |= _keys(value, f"{where}{key}.") if isinstance(value, Mapping) else {where + key}
    return found


def bundled_studies() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find_study(name: str) -> Path:
    """Return the path of a study file, or of the bundled study of that name."""
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return Path(name)
    if name not in bundled_studies():
        raise UnknownNameError("study", name, bundled_studies())
    return bundled_studies()[name]


def read_study(path: Path) -> StudyConfig:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no study file {path}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"the study file {path} can't be read: {error}") from None
    try:
        return parse(StudyConfig, tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
