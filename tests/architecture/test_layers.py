"""What may import what: the contracts of pyproject.toml, and the rules for plug-ins that those can't say."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest

ROOMS = (
    "harness/tasks",
    "harness/engines",
    "harness/graders",
    "harness/metrics",
    "harness/trainers/objectives",
    "harness/reports/tables",
)

# Private helpers that another room may import. What a task hands to its grader, `graders._x_reference`, is for every
# task that names that grader.
SHARED_HELPERS = {
    # countdown's generator, reference and grader share the rules of the game
    ("harness.tasks.countdown", "harness.graders.countdown.rules"),
}

LINT = "import importlinter.cli as c; raise SystemExit(c.lint_imports(no_cache=True, no_logo=True))"

# One import that breaks each contract: where, what, and the id of the contract.
PLANTS = [
    ("harness/core/seeds.py", "import harness.evaluation.loop", "layers"),
    ("harness/core/seeds.py", "from harness import graders", "layers"),
    ("harness/evaluation/loop.py", "from harness.trainers import settings", "layers"),
    ("trainers/loop.py", "import harness.commands", "layers"),
    ("harness/commands/demo.py", "import harness.cli", "layers"),
    ("reports/planted.py", "import harness.commands.base.output", "layers"),
    ("harness/metrics/planted.py", "import harness.graders.exact", "layers"),
    ("harness/planted.py", "import harness", "layers"),  # a room without a place
    ("harness/cli.py", "import harness.engines.scripted", "plugins"),
    ("trainers/loop.py", "from harness.trainers.objectives import grpo", "plugins"),
    ("harness/evaluation/loop.py", "import harness.graders.exact", "graders"),
    ("harness/evaluation/loop.py", "from harness import metrics", "metrics"),
    ("tasks/countdown.py", "import harness.sandbox", "sandbox"),
    ("tasks/countdown.py", "import harness.models.make_countdown_tiny", "models"),
    ("reports/planted.py", "def late():\n    import harness.evaluation.loop", "readers"),
    ("harness/commands/doctor.py", "from harness.trainers import settings", "readers"),
    ("harness/commands/planted.py", "from harness.commands.eval import shortfall", "commands"),
    ("trainers/objectives/grpo.py", "from harness.trainers import policy", "objectives"),
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
        ("harness/engines/_decode.py", "import harness.engines.hf"),
        ("trainers/objectives/flowrl.py", "def late():\n    import harness.trainers.objectives.grpo"),
        ("trainers/objectives/planted.py", "from harness.trainers.objectives.flowrl import FlowRL"),
        (
            "trainers/objectives/planted.py",
            "from harness.trainers.objectives.flowrl import FlowRL, Need\nclass A(FlowRL): ...",
        ),
    ],
)
def test_an_import_of_a_sibling_is_seen(copied_checkout, file, planted):
    path = copied_checkout / file
    path.write_text((path.read_text() if path.exists() else "") + f"\n{planted}\n")
    assert len(_sibling_imports(copied_checkout)) == 1


def test_a_private_helper_stays_in_its_room(checkout):
    assert {visit for visit in _visits(checkout) - SHARED_HELPERS if not _is_handing_over(*visit)} == set()


def test_a_visit_to_a_private_helper_is_seen(copied_checkout):
    (copied_checkout / "tasks/planted.py").write_text("from harness.graders import _countdown_rules\n")
    (copied_checkout / "harness/metrics/planted.py").write_text("from harness.engines._cache import new_cache\n")
    assert {visit for visit in _visits(copied_checkout) - SHARED_HELPERS if not _is_handing_over(*visit)} == {
        ("harness.tasks.planted", "harness.graders.countdown.rules"),
        ("harness.metrics.planted", "harness.engines._cache"),
    }


# --- the imports of the plug-ins, read from their sources ---------------------------------------------------------


def _sibling_imports(checkout):
    """(importer, imported) within one room, private helpers excepted, and siblings that the importer subclasses.

    A variant of a published method is its class with a method or two overridden. That is not a hidden dependency: the
    variant is defined by its difference from the sibling.
    """
    return sorted(
        (importer, imported)
        for room, members in _rooms(checkout).items()
        for importer, path in members.items()
        for imported in (_imports(importer, path) & set(members)) - _subclassed(path)
        if imported != importer and not imported.removeprefix(f"{room}.").startswith("_")
    )


def _subclassed(path):
    """Modules of which a file imports nothing but classes that it subclasses."""
    tree = ast.parse(path.read_text())
    bases = {
        base.id for node in tree.body if isinstance(node, ast.ClassDef) for base in node.bases if hasattr(base, "id")
    }
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {node.module for node in imports if {alias.asname or alias.name for alias in node.names} <= bases}


def _visits(checkout):
    """(importer, imported) where a plug-in imports a private helper of another room."""
    rooms = _rooms(checkout)
    helpers = {name: room for room, members in rooms.items() for name in members if name.startswith(f"{room}._")}
    return {
        (importer, imported)
        for room, members in rooms.items()
        for importer, path in members.items()
        for imported in _imports(importer, path) & set(helpers)
        if helpers[imported] != room
    }


def _is_handing_over(importer, imported):
    return importer.startswith("harness.tasks.") and re.fullmatch(r"harness\.graders\._\w+_reference", imported)


def _rooms(checkout):
    """Room -> module -> file."""
    return {
        (package := room.replace("/", ".")): {
            f"{package}.{path.stem}": path for path in sorted((checkout / room).glob("*.py")) if path.stem != "__init__"
        }
        for room in ROOMS
    }


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
