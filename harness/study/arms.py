"""The arms of a study: each a recipe with settings, a sweep expanded into one arm for each value."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.config import Tree, merge, read_toml
from harness.core.errors import ConfigError
from harness.core.recipes import find_config
from harness.study.config import StudyConfig
from harness.study.index import BASE

KEYS = ("recipe", "set", "sweep", "differs")
"""Keys of an arm; any other is an option of its objective."""
OF_THE_STUDY = {"seed": "seeds", "loop.steps": "steps", "model.path": "base"}
"""Keys that no arm may have, and the key of the study for each."""
CONTROL = "grpo-kl"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train."""

    name: str
    family: str
    """Its table in the study file, which several arms share where it holds a sweep."""
    recipe: Path
    settings: Tree
    """Its own settings, over those of the recipe and of the study."""
    differs: tuple[str, ...] = ()
    """Protected keys, or sections of them, in which the arm is declared to differ through its recipe."""
    swept: Mapping[str, Any] = field(default_factory=dict)
    """Its place in the sweep, by dotted key."""

    @property
    def folder_name(self) -> str:
        return re.sub(r"[^\w.=+-]+", "-", self.name).strip("-")

    def tree(self, common: Mapping[str, Any]) -> Tree:
        """Return the training settings without those of the study."""
        return merge(read_toml(self.recipe), nested(common), self.settings)


def arms_of(study: StudyConfig, where: Path) -> list[Arm]:
    """Return all arms, the control last. Paths of recipes begin in the folder `where` of the study file."""
    arms = [arm for name, table in study.arms.items() for arm in _expand(name, table, where)]
    arms += _control(study, arms)
    names = [arm.folder_name for arm in arms]
    if twice := next((arm.name for arm in arms if names.count(arm.folder_name) > 1), None):
        raise ConfigError(f"two arms would be called {twice!r}; rename one")
    return arms


def _expand(name: str, table: Mapping[str, Any], where: Path) -> Iterator[Arm]:
    """Yield the arms of one table: one, or one for each combination of the values in lists."""
    if name == BASE or not re.fullmatch(r"[\w.+-]+", name):
        raise ConfigError(f"an arm can't be called {name!r}: {BASE!r} is taken; use letters, digits, '-', '_', '.'")
    recipe = table.get("recipe")
    if not isinstance(recipe, str):
        raise ConfigError(f'arms.{name} needs a recipe, such as recipe = "countdown-grpo"')
    options = {f"objective.{key}": value for key, value in table.items() if key not in KEYS}
    swept = {key: value for key, value in options.items() if isinstance(value, list)}
    swept |= _table(table, "sweep", name)
    fixed = nested({key: value for key, value in options.items() if not isinstance(value, list)})
    settings = merge(fixed, nested(_table(table, "set", name)))
    differs = table.get("differs", [])
    if not isinstance(differs, list) or not all(isinstance(key, str) for key in differs):
        raise ConfigError(f'arms.{name}.differs is a list of keys, such as ["dynamic_sampling"], not {differs!r}')
    for key, values in swept.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"arms.{name}: the sweep of {key!r} needs a list of values, not {values!r}")
    for chosen in itertools.product(*swept.values()):
        place = dict(zip(swept, chosen, strict=True))
        own = merge(settings, nested(place))
        if taken := next((key for key in OF_THE_STUDY if _has(own, key)), None):
            raise ConfigError(f"arms.{name} sets {taken}, which all arms share: use {OF_THE_STUDY[taken]}")
        yield Arm(_name(name, place), name, _recipe(recipe, where), own, tuple(differs), place)


def _table(table: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f'arms.{name}.{key} is a table, such as {{ "optimizer.lr" = 1e-4 }}, not {value!r}')
    return value


def _recipe(name: str, where: Path) -> Path:
    local = where / name
    return local if local.suffix == ".toml" and local.is_file() else find_config(name)


def _name(name: str, place: Mapping[str, Any]) -> str:
    if not place:
        return name
    last = [key.rpartition(".")[2] for key in place]
    labels = [short if last.count(short) == 1 else key for short, key in zip(last, place, strict=True)]
    values = [f"{value:g}" if isinstance(value, float) else str(value) for value in place.values()]
    return f"{name}[{', '.join(f'{label}={value}' for label, value in zip(labels, values, strict=True))}]"


def _control(study: StudyConfig, arms: Sequence[Arm]) -> list[Arm]:
    """Return the arm GRPO with KL, if the study wants it and has none: the first GRPO, or the first arm's settings."""
    beta = study.controls.grpo_kl
    objectives = [(arm, arm.tree(study.common).get("objective", {})) for arm in arms]
    grpos = [(arm, objective) for arm, objective in objectives if objective.get("id") == "grpo"]
    if beta == 0 or any(objective.get("kl_beta", 0) > 0 for _, objective in grpos):
        return []
    model, _ = grpos[0] if grpos else objectives[0]
    own = model.settings if grpos else {key: value for key, value in model.settings.items() if key != "objective"}
    settings = merge(own, {"objective": {"id": "grpo", "kl_beta": beta}})
    return [Arm(CONTROL, CONTROL, model.recipe, settings, model.differs)]


# --- trees ------------------------------------------------------------------------------------------------------


def nested(table: Mapping[str, Any]) -> Tree:
    """Return a tree in which a key with dots is a path."""
    trees: list[Tree] = []
    for key, value in table.items():
        tree: Any = nested(value) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            tree = {part: tree}
        trees.append(tree)
    return merge(*trees)


def _has(tree: Mapping[str, Any], key: str) -> bool:
    first, _, rest = key.partition(".")
    if first not in tree:
        return False
    return not rest or (isinstance(tree[first], Mapping) and _has(tree[first], rest))
