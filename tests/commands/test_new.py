"""`harness new`: every skeleton is written, passes its own test, and is listed and used, as a package and as a file."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_output import output

from harness.commands.new import NOUNS, SKELETONS, write_package
from harness.core.registry import KINDS
from harness.runs.folder import RunReader

EVAL = ("eval", "countdown-tiny", "--n", "2", "--limit", "2", "--quiet", "--out", "run")
SCRIPTED = ("--engine", "scripted", "--set", "engine.replies=['3','no']")
TRAIN = ("train", "countdown-grpo", "--quiet", "--out", "run", "--set", "loop.minibatches_per_step=1", "--set")
SMALL = (*TRAIN, "loop={steps=1,prompts_per_step=2,samples_per_prompt=4,minibatches_per_step=1}", "--set")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(folder: Path, site: Path) -> dict[str, str]:
    """Put a package's folder and its entry points on the path of new interpreters, as an editable install does."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
             for group, points in project["entry-points"].items()]  # fmt: skip
    (info / "entry_points.txt").write_text("".join(lines))
    paths = [str(folder.resolve()), str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def call(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: the grader of sums can't read countdown's answers
    return done.stdout


def use(noun: str, name: str) -> list[tuple[str, ...]]:
    """Return the commands that use a plug-in, by its id or by the path of its file."""
    countdown = (*EVAL, *SCRIPTED, "--tasks", "countdown")
    return {
        "task": [(*EVAL, *SCRIPTED, "--tasks", name)],
        "grader": [(*countdown, "--grader", name)],
        "metric": [(*countdown, "--metrics", name)],
        "engine": [(*EVAL, "--tasks", "countdown", "--engine", name)],
        "objective": [(*SMALL, f"objective.id={name}")],
        "advantage": [(*SMALL, f"objective.advantage={name}")],
        "table": [countdown, ("report", "run", "--table", name, "--out", "report")],
    }[noun]


def test_every_kind_has_a_skeleton_with_a_test():
    assert set(NOUNS.values()) == set(KINDS) - {"backends"}, "a backend is another project, not a file to begin with"
    names = {path.name for path in SKELETONS.iterdir()}
    kinds = NOUNS.values()
    assert names == {"pyproject.toml.txt", *(f"{p}{kind}.py.txt" for kind in kinds for p in ("", "test_"))}


@pytest.mark.slow  # `tox -e skeletons`
@pytest.mark.parametrize("noun", NOUNS)
def test_a_skeleton_is_installed_tested_listed_and_used(noun, capsys, workplace):
    name = f"my_{noun}"
    printed = output(capsys, "new", noun, name).out
    assert f"pip install -e ./{name}" in printed
    environment = install(Path(name), workplace / "site")
    assert " passed" in call(environment, "pytest", "-q", "-p", "no:cacheprovider", name)
    assert f"{name}  " in call(environment, "harness", "list", NOUNS[noun])
    assert f"{noun} {name}" in call(environment, "harness", "show", name)
    for command in use(noun, name):
        call(environment, "harness", *command)
    check_use(noun, name)


@pytest.mark.parametrize("noun", NOUNS)
def test_the_file_of_a_skeleton_is_used_by_its_path(noun, capsys):
    folder = Path("mine")
    write_package(NOUNS[noun], f"quick_{noun}", folder)
    path = f"./mine/quick_{noun}.py"
    for command in use(noun, path):
        call({**os.environ, "HF_HUB_OFFLINE": "1"}, "harness", *command)
    check_use(noun, path)
    assert f"{noun} {path}" in output(capsys, "show", path).out
    if noun != "table":
        assert f"plug-in {path}" in RunReader.read(Path("run")).record.environment


def check_use(noun: str, name: str) -> None:
    """Check that the run or the report in this folder was made with the plug-in."""
    run = RunReader.read(Path("run"))
    if noun == "table":
        assert Path(f"report/{Path(name).stem}.csv").read_text().startswith("run,task,completions")
    elif noun == "task":
        assert set(run.estimates()) == {name}
    elif noun == "grader":
        assert run.graders() == [name]
    elif noun == "metric":
        assert f"my_{noun}" in name or f"quick_{noun}" in [e.name for e in run.estimates()["countdown"]]
    elif noun == "engine":
        assert all(completion.text.startswith("I guess") for _, completion in run.completions())
    else:
        assert name in str(run.config()["objective"])
        assert len(run.steps()) == 1


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task", "My-Task"], "'My-Task' can't be a package's name"),
        (["task", "class"], "'class' can't be a package's name"),
        (["objective", "grpo"], "the objective 'grpo' exists already (`harness show objectives/grpo`)"),
        (["metric", "json"], "the Python module 'json' exists already"),
        (["metric", "numpy"], "the Python module 'numpy' exists already"),
        (["task", "mine", "--out", "taken"], "taken exists, and nothing is written over it"),
    ],
)
def test_new_writes_nothing_over_what_exists(capsys, workplace, arguments, message):
    (workplace / "taken").mkdir()
    assert message in output(capsys, "new", *arguments, code=2).err
    assert [path.name for path in workplace.rglob("*")] == ["taken"]


BROKEN = {
    "raises.py": ("import math\n\nmath.sqrt(-1)\n", "./raises.py:3 raises on import: ValueError: "),
    "syntax.py": ("x = 1\ndef f(:\n", "./syntax.py:2 raises on import: SyntaxError: invalid syntax"),
    "imports.py": ("import no_such_module\n", "./imports.py:1 raises on import: ModuleNotFoundError: No module named"),
    "empty.py": ("x = 1\n", "./empty.py does not end in the constant OBJECTIVE"),
    "other.py": (
        "class A: ...\nOBJECTIVE = A\n",
        "./other.py' must be a subclass of harness.core.protocols",
    ),
}


@pytest.mark.parametrize("file", BROKEN)
def test_a_file_that_cannot_be_used_is_one_line_with_its_place(capsys, workplace, file):
    text, message = BROKEN[file]
    (workplace / file).write_text(text)
    err = output(capsys, "train", "countdown-grpo", "--set", f"objective.id=./{file}", "--out", "run", code=2).err
    assert message in err
    assert err.count("\n") == 1
    assert not (workplace / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "countdown-grpo", "--set", "objective.id=./absent.py"),
        ("train", "countdown-grpo", "--set", "objective.advantage=./absent.py"),
        ("eval", "countdown-tiny", "--tasks", "./absent.py"),
        ("eval", "countdown-tiny", "--tasks", "countdown", "--metrics", "./absent.py"),
        ("eval", "countdown-tiny", "--tasks", "countdown", "--engine", "./absent.py"),
        ("eval", "countdown-tiny", "--tasks", "countdown", "--grader", "./absent.py"),
    ],
    ids=" ".join,
)
def test_a_file_that_does_not_exist_is_named(capsys, arguments):
    assert "there is no file ./absent.py" in output(capsys, *arguments, code=2).err
