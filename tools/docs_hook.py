"""MkDocs hook: add the generated reference pages and the pages kept at the top of the repository to the site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from docs_site import commands, errors, plugins, recipes, settings
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PLUGIN_KINDS = ("tasks", "objectives", "advantages", "graders", "metrics", "engines", "backends", "tables")


def _top_page(name: str) -> str:
    """Return a page of the repository's top folder with its links made relative to docs/."""
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


PAGES: Mapping[str, Callable[[], str]] = {
    **{f"reference/{kind}.md": partial(plugins.plugin_page, kind) for kind in PLUGIN_KINDS},
    "reference/commands.md": commands.commands_page,
    "reference/train-settings.md": settings.train_page,
    "reference/eval-settings.md": settings.eval_page,
    "reference/recipes.md": recipes.recipes_page,
    "reference/presets.md": recipes.presets_page,
    "reference/errors.md": errors.errors_page,
    "contributing.md": partial(_top_page, "CONTRIBUTING.md"),
    "changelog.md": partial(_top_page, "CHANGELOG.md"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, content in PAGES.items():
        files.append(File.generated(config, uri, content=content()))
    return files
