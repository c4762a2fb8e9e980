"""Config files: the package's recipes, the files that a file extends, and methods that are settings of another.

A config file may begin with `extends = "countdown-grpo"`, the name of a recipe, or `extends = "mine.toml"`, a path from
its own folder; then it holds only what differs.

Where two methods differ only in settings, one is an objective and the other a recipe: DAPO is `grpo` with the settings
of `countdown-dapo`.
"""

from __future__ import annotations

import itertools
import re
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, UnknownNameError, nearest

FOLDER = Path(__file__).resolve().parents[1] / "trainers" / "recipes"
OF_ALL_METHODS = "countdown-"
"""Prefix of the recipes of countdown, which every method has one of."""
LONGEST_TITLE = 110


@dataclass(frozen=True, slots=True)
class Method:
    """An objective with settings of its own, and the recipes that have them."""

    objective: str
    recipes: tuple[str, ...]

    @property
    def description(self) -> str:
        return f"the objective {self.objective} with the settings of {', '.join(self.recipes)}"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file as it is written, without its `extends`."""

    path: Path
    tree: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem if self.path.parent == FOLDER else str(self.path)


def recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def recipe_titles() -> dict[str, str]:
    """Return the first sentence of the comment that each recipe begins with, by name."""
    return {name: _first_sentence(path.read_text(encoding="utf-8")) for name, path in recipes().items()}


def _first_sentence(text: str) -> str:
    head = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    sentence = re.split(r"(?<!\bDr)[.;](?= |$)", " ".join(line.lstrip("# ") for line in head), maxsplit=1)[0]
    return textwrap.shorten(sentence, LONGEST_TITLE, placeholder=" ...")


def find_config(name: str) -> Path:
    """Return the path of a TOML file, or of the recipe of that name."""
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return Path(name)
    if name not in recipes():
        raise UnknownNameError("recipe or config file", name, recipes())
    return recipes()[name]


def lineage(path: Path) -> list[ConfigFile]:
    """Return a config file and those that it extends, the nearest first."""
    files: list[ConfigFile] = []
    while True:
        tree = _read(path)
        parent = tree.pop("extends", None)
        files.append(ConfigFile(path, tree))
        if parent is None:
            return files
        path = _parent(files[-1], parent)
        if any(path.resolve() == file.path.resolve() for file in files):
            names = [*(file.name for file in files), ConfigFile(path, {}).name]
            raise ConfigError(f"config files extend one another in a circle: {' -> '.join(names)}")


def _parent(file: ConfigFile, parent: Any) -> Path:
    if not isinstance(parent, str):
        raise ConfigError(f"{file.name}: extends is the name of a recipe or the path of a TOML file, not {parent!r}")
    if parent.endswith(".toml"):
        path = file.path.parent / parent
        if not path.is_file():
            raise ConfigError(f"{file.name} extends {parent}, and there is no file {path}")
        return path
    if parent not in recipes():
        raise ConfigError(f"{file.name} extends {parent!r}, which is not a recipe; {nearest(parent, recipes())}")
    return recipes()[parent]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}") from None
    except OSError as error:
        raise ConfigError(f"the config file {path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def methods_of_settings() -> Mapping[str, Method]:
    """Return the methods that are an objective with other settings, by name."""
    return {
        name: Method(objective, tuple(recipe for recipe in recipes() if name in recipe.split("-")))
        for recipe, path in recipes().items()
        if recipe.startswith(OF_ALL_METHODS)
        and (name := recipe.removeprefix(OF_ALL_METHODS)) != (objective := _objective(path))
        and objective != "sft"  # makes the base model, and is not a method to compare with the others
    }


def _objective(path: Path) -> str:
    objective: str = next(
        id_ for file in lineage(path) if (id_ := file.tree.get("objective", {}).get("id")) is not None
    )
    return objective
