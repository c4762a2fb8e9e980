"""The generated reference pages: complete, and refused where a description is missing."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs", reason="the documentation is tested by `tox -e docs`")

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import docs_hook
from docs_site import settings
from docs_site.fields import Setting

from harness.core import config as configs
from harness.core import registry
from harness.core.errors import HarnessError
from harness.core.recipes import recipes
from harness.evaluation.config import EvalConfig
from harness.evaluation.controls import ControlsTable
from harness.trainers.config import TrainConfig


def keys(schema: Any, where: str = "", *, is_mutable: bool = False) -> dict[str, bool]:
    """Every key, and whether a run may change it on resuming."""
    found = {}
    types = configs._types_of(schema)
    for field in dataclasses.fields(schema):
        is_free = is_mutable or field.metadata.get("incidental", False)
        if "sections" in field.metadata:
            continue
        if dataclasses.is_dataclass(types[field.name]) and "plugin" not in field.metadata:
            found |= keys(types[field.name], f"{where}{field.name}.", is_mutable=is_free)
        else:
            found[where + field.name] = is_free
    return found


@pytest.mark.parametrize(("name", "schema"), [("train", TrainConfig), ("eval", EvalConfig)])
def test_every_setting_is_listed_and_starred_if_it_may_change(name: str, schema: type) -> None:
    page = docs_hook.PAGES[f"reference/{name}-settings.md"]()
    listed = {key: bool(star) for key, star in re.findall(r"^\| `([a-z_.0-9]+)`( \\\*)? \|", page, re.MULTILINE)}
    expected = keys(schema) if name == "train" else {**keys(schema), **keys(ControlsTable)}
    assert listed == expected


def test_a_setting_without_a_meaning_fails() -> None:
    with pytest.raises(ValueError, match=r"loop\.new has no docstring and no line in meanings\.toml"):
        settings.MeaningsOf("train").of(Setting("loop.new", "`0`", "integer", "", is_mutable=False))


def test_a_meaning_of_a_setting_that_does_not_exist_fails() -> None:
    with pytest.raises(ValueError, match=r"keys that do not exist: .*loop\.steps"):
        settings.MeaningsOf("train").require_all_used()


@pytest.mark.parametrize("kind", docs_hook.PLUGIN_KINDS)
def test_every_plugin_has_a_section(kind: str) -> None:
    page = docs_hook.PAGES[f"reference/{kind}.md"]()
    assert re.findall(r"^## `\w+` \{ #(\w+) \}$", page, re.MULTILINE) == list(registry.entries(kind))


def test_every_task_has_its_card_and_grader() -> None:
    page = docs_hook.PAGES["reference/tasks.md"]()
    families = {"lm_eval", "matharena", "jsonl", "hub"}
    assert page.count("\n| grader | [`") == len(registry.entries("tasks").keys() - families)
    assert "| grader | [`math`](graders.md#math) |" in page


def test_the_formula_of_an_objective_is_a_block() -> None:
    page = docs_hook.PAGES["reference/objectives.md"]()
    assert "```text\nw * ( log Z(x) + 1/|y| log policy(y|x) - beta * r_hat" in page


def test_every_recipe_and_error_is_listed() -> None:
    page = docs_hook.PAGES["reference/recipes.md"]()
    assert all(f"| `{name}` |" in page for name in recipes())
    page = docs_hook.PAGES["reference/errors.md"]()
    assert all(f"| `{error.__name__}` |" in page for error in HarnessError.__subclasses__())


def test_every_method_has_a_row_with_its_paper_surrogate_and_engines() -> None:
    page = docs_hook.PAGES["reference/objectives.md"]()
    rows = {
        match[1]: match[0].split(" | ") for match in re.finditer(r"^\| `(\w+)` \| .*\| ours.*\|$", page, re.MULTILINE)
    }
    assert set(rows) == {name.removeprefix("countdown-") for name in recipes() if name.startswith("countdown-")}
    papers = {name: row[1] for name, row in rows.items()}
    assert {name for name, paper in papers.items() if not re.search(r"arXiv \d{4}\.\d{5}|19\d\d", paper)} == {"base"}
    assert "2509.02534" in papers["darling"] and "2406.05673" in papers["for"] and "2503.18929" in papers["tba"]
    assert "(advantages.md#maxrl)" in rows["maxrl"][3] and "(#grpo)" in rows["maxrl"][2]
    assert rows["flowrl"][-1].startswith("ours |") and "Tinker" in rows["grpo"][-1]
