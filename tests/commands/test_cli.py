"""The command line: exit codes, one line for every error, results on stdout, nothing written when refused."""

import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import harness
from harness.cli import command_parser, commands, load_command, main
from harness.core import extras, registry
from harness.core.errors import MissingExtraError
from harness.core.recipes import methods_of_settings

EVAL = ["eval", "countdown-tiny", "--tasks", "countdown", "--engine", "scripted", "--n", "2", "--limit", "2"]
EVAL += ["--set", "engine.replies=['no']"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder of somebody's own, in which every command runs."""
    (tmp_path / "mine.txt").write_text("precious")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    assert main([*EVAL, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def finished(made_once, workplace):
    """The finished evaluation EVAL, in the folder `run`."""
    shutil.copytree(made_once, workplace / "run")


def tree(root):
    return {
        str(path.relative_to(root)): (path.read_bytes() if path.is_file() else None, path.lstat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
    }


def done(capsys, *command):
    assert main(command) == 0
    return capsys.readouterr()


def refused(capsys, *command, code=2):
    """The one line of a refusal. Nothing is on stdout, nothing was written."""
    before = tree(Path())
    assert main(command) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("harness: ")
    assert captured.err.count("\n") == 1
    assert tree(Path()) == before
    return captured.err


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["eval", "countdown-tiny", "--tasks", "countdwn"], "no task is called 'countdwn'; did you mean 'countdown'"),
        (["eval", "countdown-tiny", "--tasks", ""], "no task is called ''; there is "),
        ([*EVAL, "--engine", "scriptd"], "no engine is called 'scriptd'; did you mean 'scripted'?"),
        (["eval", "countdwn-tiny", *EVAL[2:]], "no model is called 'countdwn-tiny'; did you mean 'countdown-tiny'?"),
        (["eval", ".", *EVAL[2:]], "holds no model"),
        (["train", "countdown-flowlr"], "no recipe or config file is called 'countdown-flowlr'; did you mean"),
        (["train", "absent.toml"], "there is no config file absent.toml"),
        (["train", "mine.txt"], "mine.txt is not TOML"),
        (
            ["train", "countdown-grpo", "--set", "objective.id=grppo"],
            "no objective is called 'grppo'; did you mean 'grpo'",
        ),
        (["train", "countdown-grpo", "--set", "loop.stepz=3"], "unknown key 'loop.stepz'; did you mean 'steps'"),
        (["train", "countdown-grpo", "--set", "lop.steps=3"], "unknown key 'lop'; did you mean 'loop'"),
        (
            ["train", "countdown-grpo", "--set", "objective.clip_hi=3"],
            "unknown key 'objective.clip_hi'; did you mean 'clip_high'",
        ),
        (
            ["train", "countdown-grpo", "--set", "loop.steps=many"],
            "'loop.steps': a whole number, such as 8, is expected, not 'many'",
        ),
        (["train", "countdown-grpo", "--set", "loop.steps=0"], "'loop.steps' must be at least 1 (such as 160), not 0"),
        ([*EVAL, "--set", "engine.replie=['a']"], "unknown key 'engine.replie'; did you mean 'replies'"),
        ([*EVAL, "--set", "sampling.temperatur=1"], "unknown key 'sampling.temperatur'; did you mean 'temperature'"),
        ([*EVAL, "--set", "split=tests"], "'split': input should be 'train', 'validation' or 'test', not 'tests'"),
        ([*EVAL, "--set", "n"], "--set takes section.key=value, not 'n'"),
        ([*EVAL, "--set", "n=[1"], "--set n: '[1' is not a TOML value"),
        ([*EVAL, "--set", "tasks=countdown"], "'tasks' is a list of ids or tables"),
        ([*EVAL, "--tasks", "countdown,countdown"], "tasks names a task twice"),
        ([*EVAL, "--temperature", "-1"], "temperature' must be at least 0 (0 is greedy)"),
        ([*EVAL, "--temperature", "nan"], "'sampling.temperature': a finite number is expected, not nan"),
        ([*EVAL, "--n", "0"], "'n' must be at least 1 (such as 16), not 0"),
        ([*EVAL, "--config", "absent.toml"], "there is no config file absent.toml"),
        ([*EVAL, "--config", "."], "the config file . can't be read: Is a directory"),
        ([*EVAL, "--out", "mine.txt"], "mine.txt exists and is not a run folder (no run.json); choose another --out"),
        ([*EVAL, "--out", "mine.txt/run"], "mine.txt/run would be inside a file; choose another --out"),
        ([*EVAL, "--out", "."], ". exists and is not a run folder (no run.json); choose another --out"),
        (
            ["eval", "--tasks", "countdown"],
            "the key 'model' is missing; give it in the config file or on the command line",
        ),
        (["eval", "countdown-tiny"], "the key 'tasks' is missing"),
        (["report", "absent"], "absent is not a run folder: it has no run.json"),
        (["report", "."], ". is not a run folder: it has no run.json"),
        (["show", "countdwn"], "is called 'countdwn'; did you mean 'countdown'"),
        ([*EVAL, "--set", "strict_data=1"], "'strict_data': true or false is expected, not 1"),
        ([*EVAL, "--set", "sampling.temperature='hot'"], "a number, such as 0.5, is expected, not 'hot'"),
        ([*EVAL, "--set", "model.path=true"], "'model.path': a text, such as \"a\", is expected, not true"),
        ([*EVAL, "--set", "sampling.stop=a"], "'sampling.stop': a list is expected, such as [\"a\", \"b\"], not 'a'"),
        ([*EVAL, "--set", "sampling=3"], "'sampling' is a table, not 3: set its keys (sampling.max_tokens, "),
        (
            ["show", "countdown", "--set", "numbers=3"],
            "'countdown' is the name of several: to set options, name tasks/countdown or graders/countdown",
        ),
        (["show", "countdown-grpo", "--problem", "1"], "countdown-grpo is a recipe: it has no options to set"),
        (["show", "tasks/countdwn"], "no task is called 'countdwn'; did you mean 'countdown'"),
        (["show", "."], ". is not a run folder: it has no run.json"),
        (["show", "countdown", "--problem", "-1"], "problems are counted from 0"),
        (["show", "countdown", "--problem", "1000000"], "has no problem number 1000000"),
        (["show", "grpo", "--problem", "1"], "no task is called 'grpo'"),
        (["doctor", "--explain", "vlm"], "no extra is called 'vlm'; did you mean 'vllm'"),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, list) else "",
)
def test_wrong_request_is_one_line_with_exit_code_2_and_writes_nothing(capsys, command, message):
    assert message in refused(capsys, *command)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["evl"],
        ["list", "task"],
        ["list"],
        ["eval", "--n", "three"],
        ["eval", "--nonsense"],
        ["demo", "--steps", "0"],
    ],
    ids=" ".join,
)
def test_a_command_that_does_not_parse_is_exit_code_2_and_writes_nothing(capsys, command):
    before = tree(Path())
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "harness" in captured.err
    assert tree(Path()) == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["eval", "m", "--task", "countdown"], "no option is called '--task'; did you mean '--tasks'?"),
        (["eval", "m", "--tasks=a", "--temp=1"], "no option is called '--temp'; did you mean '--temperature'?"),
        (["train", "--dryrun"], "no option is called '--dryrun'; did you mean '--dry-run'?"),
        (["compare", "a", "b", "--metrik", "x"], "did you mean '--metric'?"),
        (["--vers"], "no option is called '--vers'; did you mean '--version'?"),
        (["eval", "--n", "three"], "argument --n: a whole number is expected, such as 16, not 'three'"),
        (["eval", "--temperature", "0.6,hot"], "argument --temperature: a number is expected, such as 0.6, not 'hot'"),
        (["export", "verl", "x", "--temperature", "hot"], "a number is expected, such as 0.6, not 'hot'"),
        (["demo", "--steps", "few"], "a whole number is expected, such as 16, not 'few'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_or_value_is_named_with_a_right_one(capsys, command, message):
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("name", commands())
def test_no_command_abbreviates_an_option(capsys, name):
    parser = command_parser(name, load_command(name))
    for option in [option for option in parser._option_string_actions if len(option) > 4]:
        with pytest.raises(SystemExit):
            parser.parse_args([option[:-1]])
        assert f"no option is called '{option[:-1]}'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99}'])
@pytest.mark.parametrize("verb", ["eval", "report", "show"])
@pytest.mark.usefixtures("finished")
def test_an_unreadable_run_folder_is_named_by_every_command(capsys, verb, text):
    Path("run/run.json").write_text(text)
    command = {"eval": [*EVAL, "--out", "run"], "report": ["report", "run"], "show": ["show", "run"]}[verb]
    message = refused(capsys, *command)
    assert "run/run.json" in message or "run has run format 99" in message


@pytest.mark.usefixtures("finished")
def test_an_altered_journal_is_named_with_its_line(capsys):
    with Path("run/completions.jsonl").open("a") as file:
        file.write("{}\n")
    assert main([*EVAL, "--out", "run"]) == 2
    assert "run/completions.jsonl, line 5 " in capsys.readouterr().err


@pytest.mark.usefixtures("finished")
def test_eval_with_another_config_in_the_folder_is_refused_with_its_keys(capsys):
    message = refused(capsys, *EVAL, "--out", "run", "--temperature", "0.5", "--seed", "3")
    assert "sampling.temperature: not set there, 0.5 now" in message
    assert "seed: 0 there, 3 now" in message


def test_the_users_own_config_is_not_overwritten_by_a_run_in_its_folder(capsys):
    Path("exp").mkdir()
    Path("exp/config.toml").write_text("n = 2 # my favourite\n")
    assert "not a run folder" in refused(capsys, *EVAL, "--config", "exp/config.toml", "--out", "exp")


# --- extras -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_missing_extra_is_one_line_with_the_command_that_installs_it(extra, capsys):
    if extras.is_installed(extra):
        pytest.skip(f"{extra} is installed here")
    with pytest.raises(MissingExtraError) as caught:
        extras.require(extra, "this feature")
    assert str(caught.value).startswith(f"this feature needs the extra {extra!r}: pip install 'flowrl-harness[{extra}]")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert f"pip install 'flowrl-harness[{extra}]" in done(capsys, "doctor", "--explain", extra).out


def test_a_folder_named_like_an_extra_is_not_that_extra(workplace, monkeypatch):
    missing = next(name for name in extras.EXTRAS if not extras.is_installed(name))
    (workplace / extras.EXTRAS[missing].module).mkdir()  # a clone of its repository, say
    monkeypatch.syspath_prepend(workplace)
    assert not extras.is_installed(missing)


def test_an_installed_extra_is_imported(monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "json", extras.Extra("json", "json", "nothing new"))
    assert extras.is_installed("json")
    assert extras.require("json", "this feature") is json


def test_the_extras_are_those_of_the_distribution():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.EXTRAS) == set(declared) - {"all"}
    for name, extra in extras.EXTRAS.items():
        assert re.split(r"[\[<>=]", declared[name][0])[0] == extra.package


# --- help -------------------------------------------------------------------------------------------------------


def helped(capsys, *command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_the_help_lists_every_command_and_where_to_begin(capsys):
    text = helped(capsys)
    assert all(re.search(rf"^    {name}\s+{purpose[:20]}", text, re.MULTILINE) for name, purpose in commands().items())
    assert "harness demo" in text


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help_with_an_example_that_parses(capsys, name):
    example = " ".join(helped(capsys, name).partition("example: ")[2].split())
    assert example.startswith(f"harness {name} ")
    command_parser(name, load_command(name)).parse_args(example.split()[2:])


@pytest.mark.parametrize("name", commands())
def test_the_typed_arguments_of_a_command_are_those_it_parses(name):
    command = load_command(name)
    parsed = command_parser(name, command).parse_args(command.EXAMPLE.split()[2:])
    annotated = {attribute for base in command.Arguments.__mro__ for attribute in inspect.get_annotations(base)}
    assert vars(parsed).keys() == annotated


def test_the_commands_of_the_help_are_the_files(capsys):
    assert set(commands()) == {path.stem.removesuffix("_") for path in (ROOT / "harness" / "commands").glob("[!_]*.py")}
    assert list(commands())[:2] == ["train", "eval"]


@pytest.mark.parametrize("verb", ["list", "show", "doctor"])
def test_the_example_of_a_command_that_only_reads_works(capsys, verb):
    example = " ".join(helped(capsys, verb).partition("example: ")[2].split())
    assert done(capsys, *example.split()[1:]).out


@pytest.mark.parametrize("verb", ["train", "eval"])
def test_the_example_of_a_command_that_runs_is_a_valid_config(capsys, verb):
    example = " ".join(helped(capsys, verb).partition("example: ")[2].split())
    assert done(capsys, *example.split()[1:], "--dry-run").out


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"harness {harness.__version__}\n"


# --- dry runs and settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [EVAL, ["train", "countdown-flowrl"], ["train", "countdown-grpo", "--out", "run"]])
def test_a_dry_run_prints_a_config_that_parses_and_writes_nothing(capsys, command):
    before = tree(Path())
    captured = done(capsys, *command, "--dry-run")
    assert tree(Path()) == before
    assert captured.out.startswith("# would run in ")
    config = tomllib.loads(captured.out)
    assert config["model"]["path"] == "countdown-tiny"
    assert captured.err == ""


def test_a_dry_run_as_json_has_the_folder_and_the_config(capsys):
    printed = json.loads(done(capsys, *EVAL, "--out", "run", "--dry-run", "--json").out)
    assert printed["folder"] == "run"
    assert printed["config"]["n"] == 2


def dry(capsys, *command):
    return json.loads(done(capsys, *command, "--dry-run", "--json").out)


def test_flags_override_the_config_file_and_set_overrides_both(capsys):
    Path("c.toml").write_text(
        "n = 3\nlimit = 3\nseed = 3\n[model]\npath = 'x'\n[sampling]\ntemperature = 0.3\ntop_k = 3\n"
    )
    command = ["eval", "countdown-tiny", "--config", "c.toml", "--tasks", "countdown", "--n", "4", "--temperature", "0"]
    config = dry(capsys, *command, "--limit", "4", "--set", "limit=5")["config"]
    assert (config["model"]["path"], config["n"], config["limit"], config["seed"]) == ("countdown-tiny", 4, 5, 3)
    assert config["sampling"] == {"temperature": 0.0, "top_k": 3}


@pytest.mark.parametrize("turn", [1, -1])
def test_the_order_of_an_id_and_its_options_does_not_matter(capsys, turn):
    settings = ["engine.id=scripted", "engine.replies=['a', 'b']"][::turn]
    command = ["eval", "countdown-tiny", "--tasks", "countdown"]
    config = dry(capsys, *command, *[word for setting in settings for word in ("--set", setting)])["config"]
    assert config["engine"] == {"id": "scripted", "replies": ["a", "b"], "pick": "index"}


@pytest.mark.parametrize("command", [["train", "countdown-grpo"], ["eval", "countdown-tiny", "--tasks", "countdown"]])
def test_the_engine_is_a_flag_whose_options_are_settings(capsys, command):
    config = dry(capsys, *command, "--engine", "vllm", "--set", "engine.enforce_eager=true")["config"]
    assert (config["engine"]["id"], config["engine"]["enforce_eager"]) == ("vllm", True)


def test_tasks_may_be_separated_with_spaces(capsys):
    assert "no task is called 'x'" in refused(capsys, "eval", "countdown-tiny", "--tasks", "countdown, x")


def test_the_same_command_means_the_same_folder_and_another_config_another(capsys):
    one = dry(capsys, *EVAL)["folder"]
    assert one.startswith("runs/eval-countdown-tiny-")
    assert dry(capsys, *EVAL)["folder"] == one
    assert dry(capsys, *EVAL, "--n", "5", "--limit", "7")["folder"] == one
    assert dry(capsys, *EVAL, "--seed", "5")["folder"] != one


# --- results ----------------------------------------------------------------------------------------------------


def test_stdout_is_the_result_and_stderr_the_progress(capsys):
    captured = done(capsys, *EVAL, "--out", "run")
    assert captured.out.splitlines()[0] == "Results"
    assert captured.out.splitlines()[-1] == "run: run"
    assert "eval countdown 4/4" not in captured.out
    assert captured.err.startswith("eval countdown 4/4")


def test_quiet_prints_nothing_on_stderr_and_the_same_on_stdout(capsys):
    loud = done(capsys, *EVAL, "--out", "run")
    quiet = done(capsys, *EVAL, "--out", "run", "--quiet")
    assert quiet.err == ""
    assert quiet.out == loud.out


@pytest.mark.parametrize(
    "command",
    [
        [*EVAL, "--out", "run"],
        ["list", "tasks"],
        ["list", "objectives"],
        ["doctor"],
        ["doctor", "--explain", "vllm"],
        ["report", "run", "--out", "report"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
@pytest.mark.usefixtures("finished")
def test_json_output_is_strict_json_alone(capsys, command):
    assert json.loads(done(capsys, *command, "--json").out)


def test_list_has_every_id_with_its_description(capsys):
    for kind in registry.KINDS:
        lines = done(capsys, "list", kind).out.splitlines()
        methods = methods_of_settings() if kind == "objectives" else {}
        assert [line.split()[0] for line in lines] == sorted([*registry.entries(kind), *methods])


def test_show_prints_a_problem_as_a_model_gets_it(capsys):
    out = done(capsys, "show", "countdown", "--problem", "0").out
    assert out == done(capsys, "show", "tasks/countdown", "--problem", "0").out
    assert re.search(r"^problem [-\d]+=\d+ \(n_solutions \d+\)\n\n\[user\]\n[\d ]+ = \d+ :\n\n\[reference\]\n", out)


def test_show_prints_a_task_with_its_options_and_its_card(capsys):
    out = done(capsys, "show", "tasks/countdown").out
    assert "min_solutions = 6" in out
    assert "licence: Apache-2.0" in out


def test_show_prints_resolved_options(capsys):
    out = done(capsys, "show", "flowrl_release").out
    assert "  beta = 15.0\n" in out and "  log_z_dropout = 0.1\n  log_z_lr = 'policy'\n" in out


def test_show_prints_set_options_and_refuses_unknown_ones(capsys):
    out = done(capsys, "show", "livecodebench", "--set", 'window="flowrl"').out
    assert "  release = 'release_v5'\n  window = 'flowrl'\n  start = '2024-08-01'\n" in out
    assert "  log_z = 'none'\n" in done(capsys, "show", "flowrl_ablation", "--set", "log_z=none").out
    assert "unknown key 'colour'" in refused(capsys, "show", "flowrl", "--set", "colour=1")


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (["countdown-grpo", "--problem", "0"], "countdown-grpo is a recipe"),
        (["countdown-grpo", "--preset", "simple"], "countdown-grpo is a recipe"),
        (["run", "--set", "a=1"], "run is a run"),
        (["countdown", "--model", "countdown-tiny"], "choose one with --problem"),
    ],
)
@pytest.mark.usefixtures("finished")
def test_show_refuses_options_that_would_have_no_effect(capsys, asked, match):
    assert match in refused(capsys, "show", *asked)


def test_show_prints_a_recipe_with_its_values_and_comments_in_order(capsys):
    recipe = (ROOT / "trainers" / "recipes" / "countdown-grpo.toml").read_text()
    shown = done(capsys, "show", "countdown-grpo").out
    assert tomllib.loads(shown) == tomllib.loads(recipe)
    without_values = [re.sub(r" = [^#\n]*", " = ", text.strip()) for text in (shown, recipe)]
    assert without_values[0] == without_values[1]


@pytest.mark.usefixtures("finished")
def test_show_prints_a_run_with_status_estimates_and_config(capsys):
    out = done(capsys, "show", "run").out
    assert out.startswith("run run: eval, done\n")
    assert "countdown: avg@2 0.0000 [" in out
    assert 'path = "countdown-tiny"' in out


@pytest.mark.usefixtures("finished")
def test_show_of_a_run_without_its_config_names_the_file(capsys):
    Path("run/config.toml").unlink()
    assert "run/config.toml can't be read" in refused(capsys, "show", "run")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evall"], "no command is called 'evall'; did you mean 'eval'? (see `harness --help`)"),
        (["list", "objectivs"], "invalid choice: 'objectivs'; did you mean 'objectives'? (see `harness list --help`)"),
        (
            ["list", "x"],
            "invalid choice: 'x'; there is advantages, backends, engines, graders, metrics, objectives, presets, ",
        ),
        (["compare"], "the following arguments are required: runs (see `harness compare --help`)"),
        (["demo", "--steps", "0"], "argument --steps: must be at least 1, not 0"),
        ([*EVAL, "--temprature", "1"], "no option is called '--temprature'; did you mean '--temperature'?"),
        ([], "the following arguments are required: COMMAND (see `harness --help`)"),
        (
            ["--quiet", "list", "tasks"],
            "no option is called '--quiet'; there is --help, --version (see",
        ),
        (["show", "x", "--split", "tests"], "argument --split: invalid choice: 'tests'; did you mean 'test'?"),
    ],
)
def test_wrong_usage_is_one_line_with_the_nearest_name(capsys, command, message):
    with pytest.raises(SystemExit, match="2"):
        main(command)
    printed = capsys.readouterr().err
    assert printed.startswith("harness: ") and printed.count("\n") == 1
    assert message in printed


def test_an_error_lists_only_some_of_very_many_names(capsys):
    printed = refused(capsys, "show", "zzzzzzzz")
    assert printed.count(", ") < 30
    assert re.search(r" and \d+ more$", printed.strip())


# --- the shell --------------------------------------------------------------------------------------------------


def in_shell(command, **options):
    return subprocess.run([sys.executable, "-m", "harness", *command], capture_output=True, timeout=60, **options)


def test_python_m_harness_runs_the_command():
    assert in_shell(["--version"]).stdout.decode() == f"harness {harness.__version__}\n"
    assert in_shell(["show", "nothing"]).returncode == 2
    assert importlib.util.find_spec("harness.__main__") is not None


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_gives_no_traceback(unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "harness", "list", "tasks"]
    with os.fdopen(writing, "wb") as stdout:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        stopped = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=environment, timeout=60)
    assert stopped.stderr == b""
    assert stopped.returncode == 1


def test_an_option_that_names_a_plugin_is_shown_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "engines/ray"]) == 0
    assert "  inner = hf\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flag", ["--n=2", "--grader=exact", "--split=train", "--limit=3", "--temperature=0", "--set=a.b=1"]
)
def test_export_inspect_log_refuses_flags_that_the_run_determines(flag, tmp_path, capsys):
    assert main(["export", "inspect-log", str(tmp_path / "log"), "--run", str(tmp_path), flag]) == 2
    assert f"takes no {flag.partition('=')[0]}: a log has what its run has" in capsys.readouterr().err


@pytest.mark.usefixtures("finished")
def test_report_searches_folders_and_skips_what_is_not_a_run_with_one_line(capsys):
    shutil.copytree("run", "study/arm/run")
    Path("empty").mkdir()
    captured = done(capsys, "report", "run", "study", "empty", "mine.txt", "--out", "out")
    assert captured.err == "harness: skipped, as no run is in it: empty, mine.txt\n"
    page = Path("out/report.md").read_text()
    assert page.count("| eval | done |") == 2
