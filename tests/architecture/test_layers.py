"""Allowed imports: the contracts of pyproject.toml, and the rules for plug-ins that those can't express."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest

CONSTANTS = {
    "harness/tasks": "TASK",
    "harness/engines": "ENGINE",
    "harness/graders": "GRADER",
    "harness/metrics": "METRIC",
    "harness/trainers/advantages": "ADVANTAGE",
    "harness/trainers/objectives": "OBJECTIVE",
    "harness/trainers/backends": "BACKEND",
    "harness/reports/tables": "TABLE",
}
"""Folder of plug-ins -> the constant that makes a module in it a plug-in. Its other modules are helpers."""

SHARED_HELPERS = {
    # countdown's generators, references and grader share the rules of the game
    ("harness.tasks.countdown", "harness.graders.countdown.rules"),
    ("harness.tasks.countdown_steps", "harness.graders.countdown.rules"),
    ("harness.tasks.countdown_steps", "harness.graders.countdown.running_totals"),
}
"""Helpers that another folder may import. In addition, a task may import the reference type of a grader."""

REFERENCES = re.compile(r"harness\.graders\.(\w+\.reference|references(\.\w+)?)")

LINT = "import importlinter.cli as c; raise SystemExit(c.lint_imports(no_cache=True, no_logo=True))"

# One import that breaks each contract: where, what, and the id of the contract.
PLANTS = [
    ("harness/core/seeds.py", "import harness.evaluation.loop", "layers"),
    ("harness/core/seeds.py", "from harness import graders", "layers"),
    ("harness/evaluation/loop.py", "from harness.trainers import config", "layers"),
    ("trainers/loop.py", "import harness.commands", "layers"),
    ("harness/commands/demo.py", "import harness.cli", "layers"),
    ("reports/planted.py", "import harness.commands.base.output", "layers"),
    ("harness/metrics/planted.py", "import harness.graders.exact", "layers"),
    ("harness/planted.py", "import harness", "layers"),  # a folder without a place
    ("harness/cli.py", "import harness.engines.scripted", "plugins"),
    ("trainers/loop.py", "from harness.trainers.objectives import grpo", "plugins"),
    ("harness/evaluation/loop.py", "import harness.graders.exact", "graders"),
    ("harness/evaluation/loop.py", "from harness import metrics", "metrics"),
    ("tasks/countdown.py", "import harness.sandbox", "sandbox"),
    ("harness/runs/jsonl.py", "import harness.data.files", "layers"),
    ("reports/planted.py", "def late():\n    import harness.evaluation.loop", "readers"),
    ("harness/commands/doctor.py", "from harness.trainers import config", "readers"),
    ("harness/commands/planted.py", "from harness.commands.eval import shortfall", "commands"),
    ("trainers/loop.py", "from harness.trainers.advantages import maxrl", "plugins"),
    ("trainers/objectives/grpo.py", "from harness.trainers.advantages import group", "objectives"),
    ("trainers/objectives/grpo.py", "from harness.trainers import policy", "objectives"),
    ("trainers/advantages/maxrl.py", "from harness.trainers import kl", "objectives"),
    ("harness/evaluation/loop.py", "def late():\n    import torch", "tensors"),
    ("reports/planted.py", "import torch", "tensors"),
    ("harness/engines/planted.py", "from torch import nn", "tensors"),
    ("harness/__init__.py", "from harness import cli", "root"),
]


@pytest.fixture
def lint(python):
    pytest.importorskip("importlinter", reason="import-linter is not installed; `tox -e layers` runs this")
    return lambda checkout: python("-c", LINT, cwd=checkout)


def test_the_contracts_are_kept(checkout, lint):
    linted = lint(checkout)
    assert linted.returncode == 0, linted.stdout
    assert " 0 broken." in linted.stdout


@pytest.mark.parametrize(("file", "planted", "contract"), PLANTS)
def test_a_planted_import_breaks_its_contract(copied_checkout, lint, file, planted, contract):
    path = copied_checkout / file
    path.write_text((path.read_text() if path.exists() else "") + f"\n{planted}\n")
    linted = lint(copied_checkout)
    assert linted.returncode == 1
    assert f"{_contracts(copied_checkout)[contract]} BROKEN" in linted.stdout


def test_every_contract_is_broken_by_some_plant(checkout):
    assert {contract for _, _, contract in PLANTS} == set(_contracts(checkout))


def test_plugins_are_independent_of_their_siblings(checkout):
    assert _sibling_imports(checkout) == []


@pytest.mark.parametrize(
    ("file", "planted"),
    [
        ("tasks/planted.py", "from harness.tasks.countdown import TASK"),
        ("tasks/planted.py", "from harness.tasks import countdown"),
        ("tasks/planted.py", "from .countdown import TASK"),
        ("tasks/planted.py", "from . import countdown"),
        ("harness/graders/math/reference.py", "import harness.graders.exact"),
        ("trainers/objectives/ppo.py", "def late():\n    import harness.trainers.objectives.grpo"),
        ("trainers/objectives/planted.py", "from harness.trainers.objectives.flowrl import FlowRL"),
        (
            "trainers/objectives/planted.py",
            "from harness.trainers.objectives.flowrl import FlowRL, Need\nclass A(FlowRL): ...",
        ),
    ],
)
def test_an_import_of_a_sibling_plugin_is_found(copied_checkout, file, planted):
    path = copied_checkout / file
    path.write_text((path.read_text() if path.exists() else "TASK = None") + f"\n{planted}\n")
    assert len(_sibling_imports(copied_checkout)) == 1


def test_helpers_are_imported_in_their_own_folder_only(checkout):
    assert _foreign_helpers(checkout) == set()


def test_an_import_of_a_foreign_helper_is_found(copied_checkout):
    (copied_checkout / "tasks/planted.py").write_text("from harness.graders.countdown import rules\n")
    (copied_checkout / "harness/metrics/planted.py").write_text("from harness.graders.math.notation import plain\n")
    assert _foreign_helpers(copied_checkout) == {
        ("harness.tasks.planted", "harness.graders.countdown.rules"),
        ("harness.metrics.planted", "harness.graders.math.notation"),
    }


# --- the imports of the plug-ins, read from their sources ---------------------------------------------------------


def test_test_modules_are_never_imported(checkout):
    """Helpers of several test modules are in tests/support; text that a test runs elsewhere counts as well."""
    line = re.compile(r"^\s*(from|import) test_\w+", re.MULTILINE)
    files = sorted((checkout / "tests").rglob("*.py"))
    assert len(files) > 100
    assert [str(path) for path in files if line.search(path.read_text(encoding="utf-8"))] == []


def _sibling_imports(checkout):
    """Return (importer, imported) where a module imports a plug-in of its own folder.

    Its own package is excepted, and a sibling that it subclasses: a variant of a published method is its class
    with a method or two overridden, so the dependency is its definition.
    """
    return sorted(
        (importer, imported)
        for folder, members in _modules(checkout).items()
        for importer, path in members.items()
        for imported in (_imports(importer, path) & _plugins(folder, members)) - _subclassed(path)
        if importer != imported and not importer.startswith(f"{imported}.")
    )


def _subclassed(path):
    """Return the modules of which a file imports nothing but classes that it subclasses."""
    tree = ast.parse(path.read_text())
    bases = {
        base.id for node in tree.body if isinstance(node, ast.ClassDef) for base in node.bases if hasattr(base, "id")
    }
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {node.module for node in imports if {alias.asname or alias.name for alias in node.names} <= bases}


def _foreign_helpers(checkout):
    """Return (importer, imported) where a module imports a helper of another folder."""
    modules = _modules(checkout)
    helpers = {name: folder for folder, members in modules.items() for name in set(members) - _plugins(folder, members)}
    return {
        (importer, imported)
        for folder, members in modules.items()
        for importer, path in members.items()
        for imported in _imports(importer, path) & set(helpers)
        if helpers[imported] != folder and not _is_shared(importer, imported)
    }


def _is_shared(importer, imported):
    is_reference = importer.startswith("harness.tasks.") and REFERENCES.fullmatch(imported)
    return is_reference or (importer, imported) in SHARED_HELPERS


def _modules(checkout):
    """Return folder of plug-ins -> module -> file; a package is its `__init__.py`."""
    return {
        folder: {
            ".".join([*path.relative_to(checkout).with_suffix("").parts]).removesuffix(".__init__"): path
            for path in sorted((checkout / folder).rglob("*.py"))
            if path != checkout / folder / "__init__.py"
        }
        for folder in CONSTANTS
    }


def _plugins(folder, members):
    assigns = re.compile(rf"^{CONSTANTS[folder]}\b.* = ", re.MULTILINE)
    return {name for name, path in members.items() if assigns.search(path.read_text())}


def _imports(module, path):
    """Every dotted name an import statement of this file may load."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            package = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {package, *(f"{package}.{alias.name}" for alias in node.names)}
    return found


def _contracts(checkout):
    """Contract id -> name."""
    settings = tomllib.loads((checkout / "pyproject.toml").read_text())
    return {contract["id"]: contract["name"] for contract in settings["tool"]["importlinter"]["contracts"]}
