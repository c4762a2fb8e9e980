"""The table of methods on the page of objectives: every method with a countdown recipe, as the code describes it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

from docs_site.markdown import code, escaped, section, table
from harness.core import config as configs
from harness.core import registry
from harness.core.recipes import OF_ALL_METHODS, recipes
from harness.trainers.config import TrainConfig

LEAD = """
One row for each method, from its recipe `countdown-METHOD` and the docstrings. A method is an objective (the
surrogate), an advantage where the objective takes one, and settings of the loop. "Elsewhere" is what the authors' code,
verl or TRL do otherwise, as the docstring has it.

An engine can carry a method if it can hand over what the method reads. Tinker, verl and TRL give log-probs of tokens;
hidden states, which a log Z head or a critic reads, come from this project's own loop. This says what fits the
interface, and not that a backend for it is part of this version.
"""
OUR_SETTINGS = ("kl", "overlong", "dynamic_sampling", "mara", "reference")
ONLY_HERE = frozenset({"prompt_hidden", "prompt_last_hidden", "completion_hidden"})
_ELSEWHERE = re.compile(r"\bverl\b|\bTRL\b|authors'|\breleased\b|\b[Tt]heir (code|snippet|GRPO|recipe)\b")


def methods_table() -> str:
    rows = [row(name) for name in recipes() if name.startswith(OF_ALL_METHODS)]
    heads = ["method", "paper", "surrogate", "advantage", "of the loop", "elsewhere", "engines"]
    return section("Methods", LEAD.strip(), table(heads, rows))


def row(recipe: str) -> list[str]:
    name = recipe.removeprefix(OF_ALL_METHODS)
    config = configs.parse(TrainConfig, configs.read_toml(recipes()[recipe]))
    advantage = getattr(config.objective.options, "advantage", None)
    text = source_of(name, config)
    return [
        code(name),
        escaped(paper_of(name, text)),
        f"[`{config.objective.id}`](#{config.objective.id})",
        f"[`{advantage.id}`](advantages.md#{advantage.id})" if advantage is not None else "its own",
        ", ".join(code(key) for key in OUR_SETTINGS if getattr(config, key) != type(getattr(config, key))()),
        escaped(" ".join(elsewhere(text))),
        ", ".join(engines_of(config)),
    ]


def source_of(name: str, config: TrainConfig) -> str:
    """Return the docstring that describes a method: of the file that names its recipe, else of its objective."""
    choices = [("objectives", config.objective.id)]
    if (advantage := getattr(config.objective.options, "advantage", None)) is not None:
        choices.insert(0, ("advantages", advantage.id))
    texts = [docstring(kind, plugin_id) for kind, plugin_id in choices]
    return next((text for text in texts if f"`{OF_ALL_METHODS}{name}`" in text), texts[-1])


def docstring(kind: str, plugin_id: str) -> str:
    module = importlib.import_module(registry.entries(kind)[plugin_id].module.partition(":")[0])
    assert module.__doc__ is not None
    return module.__doc__


def paper_of(name: str, text: str) -> str:
    """Return the citation in the bullet or brackets of a method, such as `- DAPO (Yu et al. ...)`, or the file's."""
    joined = " ".join(text.split())
    named = re.findall(r"- ([A-Z][\w. ]{2,30}) \(([^()]*\d{4}[^()]*)\)", joined)
    named += re.findall(r"\(([A-Z]{3,}), ([^()]*arXiv [\d.]+\d)\)", joined)
    for heading, citation in named:
        initials = "".join(word[0] for word in heading.split())
        if _key(name) in (_key(heading), _key(initials)) or (len(heading) > 3 and _key(name).startswith(_key(heading))):
            return str(citation)
    of_file = re.search(r"Papers?: (.*?(?:arXiv \d{4}\.\d{5}|\b(?:19|20)\d\d\b(?:, arXiv \d{4}\.\d{5})?))", joined)
    return str(of_file[1]) if of_file is not None else "none"


def _key(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def elsewhere(text: str) -> Iterator[str]:
    """Yield the sentences of a docstring about other code, those of formulas and headings left out."""
    for paragraph in text.split("\n\n")[1:]:
        if paragraph.startswith(("    ", "Paper:", "Code:", "Recipe")):
            continue
        for sentence in re.split(r"(?<=\.) (?=[A-Z`])", " ".join(paragraph.split())):
            if _ELSEWHERE.search(sentence):
                yield sentence


def engines_of(config: Any) -> list[str]:
    needs = config.objective.build().needs
    return ["ours"] if needs & ONLY_HERE else ["ours", "TRL", "verl", "Tinker"]
