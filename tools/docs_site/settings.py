"""Reference page of the settings of a training run and of an evaluation."""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

from docs_site.fields import Setting, is_section, settings_of
from docs_site.markdown import cell, code, page, section, table
from harness.evaluation.config import EvalConfig
from harness.evaluation.controls import ControlsTable
from harness.trainers.config import TrainConfig

MEANINGS = Path(__file__).with_name("meanings.toml")

TRAIN = """
These are the keys of a recipe, a TOML file that `harness train` reads. Give one on the command line with
`--set section.key=value`; the value is TOML. `harness train RECIPE --dry-run` prints the resolved file.
"""
EVAL = """
These are the keys of `harness eval --config FILE`. Flags override the file, and `--set section.key=value` overrides
flags. `harness eval ... --dry-run` prints the resolved file.
"""
STAR = """
A key with a star (\\*) may change when a run is resumed. With another value of any other key, the folder is refused
and the message names the keys that differ.
"""


def train_page() -> str:
    tables = (
        "The tables `[task]`, `[objective]`, `[engine]` and `[grader]` hold an `id` and the options of that plug-in."
    )
    return page("Training settings", TRAIN.strip(), STAR.strip(), tables, *_sections(TrainConfig, "train"))


def eval_page() -> str:
    sections = [*_sections(EvalConfig, "eval"), *_controls()]
    return page("Evaluation settings", EVAL.strip(), STAR.strip(), *sections)


def _controls() -> Iterator[str]:
    """Yield the section of the settings that only `--controls` reads."""
    meanings = MeaningsOf("controls")
    lead = "Read by [`--controls`](../how-to/controls.md) alone, and not a part of a run's config."
    settings = [dataclasses.replace(s, key=s.key.replace("TASK", "NAME")) for s in all_settings(ControlsTable)]
    yield section(code("[controls]"), lead, _table(settings, meanings))
    meanings.require_all_used()


def all_settings(schema: type, prefix: str = "", *, is_mutable: bool = False) -> Iterator[Setting]:
    """Yield every setting of a schema and of its sections, under its full key."""
    for setting in settings_of(schema, prefix):
        yield dataclasses.replace(setting, is_mutable=setting.is_mutable or is_mutable)
    for name, inner, is_free in _section_schemas(schema):
        yield from all_settings(inner, f"{prefix}{name}.", is_mutable=is_mutable or is_free)


def _section_schemas(schema: type) -> Iterator[tuple[str, type, bool]]:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if is_section(field, hints[field.name]):
            is_mapping = "sections" in field.metadata
            inner = typing.get_args(hints[field.name])[1] if is_mapping else hints[field.name]
            yield f"{field.name}.TASK" if is_mapping else field.name, inner, field.metadata.get("incidental", False)


def _sections(schema: type, name: str) -> Iterator[str]:
    meanings = MeaningsOf(name)
    yield section("Top level", _table(settings_of(schema), meanings))
    for title, inner, is_free in _section_schemas(schema):
        settings = list(all_settings(inner, f"{title}.", is_mutable=is_free))
        lead = inspect.getdoc(inner) if not str(inspect.getdoc(inner)).startswith(f"{inner.__name__}(") else ""
        yield section(code(f"[{title}]"), " ".join((lead or "").split()), _table(settings, meanings))
    meanings.require_all_used()


def _table(settings: typing.Iterable[Setting], meanings: MeaningsOf) -> str:
    rows = [
        [code(s.key) + (" \\*" if s.is_mutable else ""), s.default, cell(s.values), meanings.of(s)] for s in settings
    ]
    return table(["key", "default", "values", "meaning"], rows)


class MeaningsOf:
    """The meaning of each key: its line in `meanings.toml`, else its docstring in the code.

    The build fails on a key with neither, and on a line for a key that does not exist.
    """

    def __init__(self, name: str) -> None:
        self._texts: Mapping[str, str] = tomllib.loads(MEANINGS.read_text(encoding="utf-8"))[name]
        self._used: set[str] = set()

    def of(self, setting: Setting) -> str:
        self._used.add(setting.key)
        text = self._texts.get(setting.key, setting.meaning)
        if not text:
            raise ValueError(f"{setting.key} has no docstring and no line in {MEANINGS.name}; add one")
        return text

    def require_all_used(self) -> None:
        if unknown := self._texts.keys() - self._used:
            raise ValueError(f"{MEANINGS.name} describes keys that do not exist: {', '.join(sorted(unknown))}")
