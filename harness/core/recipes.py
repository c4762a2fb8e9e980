"""The settings that come with the package, one file a run, and the methods that have no other.

Where two methods differ by settings alone, one of them is a file among the objectives and the other is a recipe: DAPO
is `grpo` as `countdown-dapo` has it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UnknownNameError

FOLDER = Path(__file__).resolve().parents[1] / "trainers" / "recipes"
OF_ALL_METHODS = "countdown-"
"""Begins the names of the recipes of the one task that every method has a recipe for."""


@dataclass(frozen=True, slots=True)
class Method:
    """An objective with settings of its own, and the recipes that have them."""

    objective: str
    recipes: tuple[str, ...]

    @property
    def description(self) -> str:
        return f"the objective {self.objective} with the settings of {', '.join(self.recipes)}"


def recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find_config(name: str) -> Path:
    """Return the path of a TOML file, or of the recipe of that name."""
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return Path(name)
    if name not in recipes():
        raise UnknownNameError("recipe or config file", name, recipes())
    return recipes()[name]


def methods_of_settings() -> Mapping[str, Method]:
    """By name, those that differ from an objective's by settings alone."""
    return {
        name: Method(objective, tuple(recipe for recipe in recipes() if name in recipe.split("-")))
        for recipe, path in recipes().items()
        if recipe.startswith(OF_ALL_METHODS)
        and (name := recipe.removeprefix(OF_ALL_METHODS)) != (objective := _objective(path))
        and objective != "sft"  # what makes the base model is no method beside it
    }


def _objective(path: Path) -> str:
    objective: str = tomllib.loads(path.read_text(encoding="utf-8"))["objective"]["id"]
    return objective
