"""Every recipe parses, multiplies to whole batches, and says where its lines come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.core import config as configs
from harness.core.errors import ConfigError, UsageError
from harness.core.recipes import methods_of_settings
from harness.core.registry import entries, load
from harness.core.types import Completion, Problem, Tokens
from harness.evaluation.setup import with_grader
from harness.graders.math.reference import typed_reference
from harness.trainers.config import TrainConfig

FOLDER = Path(__file__).parents[3] / "trainers" / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))
PUBLISHED = [path for path in RECIPES if not path.stem.startswith(("countdown-", "steps-"))]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses(path: Path) -> None:
    tree = configs.read_toml(path)
    if tree["task"]["id"] not in entries("tasks"):  # everything else can be looked at without it
        tree["task"] = {"id": "countdown"}
    config = configs.parse(TrainConfig, tree)
    config.objective.build()
    assert config.loop.prompts_per_step % config.loop.minibatches_per_step == 0


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_line_of_a_published_run_cites_its_source(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    silent = [line for line in lines if " # " not in line and not line.startswith(("id = ", "extends = "))]
    assert silent == []


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_an_overlong_penalty_is_half_of_the_range_of_rewards(path: Path) -> None:
    """DAPO's, whose rewards are -1 and 1 and whose penalty is 1, whatever the rewards of the task are."""
    config = configs.parse(TrainConfig, configs.read_toml(path))
    if config.overlong.buffer_tokens > 0:
        problem = Problem("p", config.task.id, (), typed_reference("7"))
        grader = with_grader(config.task.build(), config.grader).grader
        right, wrong = (grader.grade(problem, answer(text)).reward for text in ("Answer: 7", "Answer: 8"))
        assert config.overlong.penalty == (right - wrong) / 2


def answer(text: str) -> Completion:
    return Completion("p", 0, 0, text, "stop", Tokens(1, 1))


def test_recipes_exist_for_the_papers_runs_and_baselines() -> None:
    names = {path.stem for path in PUBLISHED}
    assert {"flowrl-math-7b", "flowrl-math-32b", "flowrl-code-7b"} <= names
    assert {f"{method}-{of}" for method in PAPERS_BASELINES for of in ("math-7b", "math-32b", "code-7b")} <= names


PAPERS_BASELINES = ("grpo", "ppo", "reinforce_pp")


@pytest.mark.parametrize("of", ["math-7b", "math-32b", "code-7b"])
@pytest.mark.parametrize("method", PAPERS_BASELINES)
def test_a_baseline_of_the_paper_differs_from_flowrl_s_run_by_its_method_alone(method: str, of: str) -> None:
    """Same data, batch, learning rate and steps; and the method is set as in its other runs."""
    tree, flowrl, other = (
        configs.read_toml(FOLDER / f"{name}.toml") for name in (f"{method}-{of}", f"flowrl-{of}", f"{method}-math-7b")
    )
    methods = ("objective", "kl")
    assert {k: v for k, v in tree.items() if k not in methods} == {k: v for k, v in flowrl.items() if k != "objective"}
    assert {k: tree.get(k) for k in methods} == {k: other.get(k) for k in methods}


# --- methods that are another's file with other settings -------------------------------------------------------

OF_SETTINGS = {
    "dapo": "grpo",
    "dr_grpo": "grpo",
    "prorl": "grpo",
    "mara": "grpo",
    "reinforce_pp_baseline": "reinforce_pp",
    "flowrl_no_log_z": "flowrl_ablation",
    "flowrl_random_z": "flowrl_ablation",
    "flowrl_vargrad": "flowrl_ablation",
    "gflowrl_printed": "gflowrl",
    "gflowrl_sums": "gflowrl",
    "for": "vargrad_tb",
    "tba": "vargrad_tb",
}
BY_ADVANTAGE = {
    "maxrl": "maxrl",
    "pkpo": "pkpo",
    "pass_at_k": "pass_at_k",
    "risk_sensitive": "risk_sensitive",
    "ucpo": "ucpo",
    "ucpo_release": "ucpo",
    "unlikeliness": "unlikeliness",
    "uarl": "rarity",
    "uarl_shuffled": "rarity",
    "darling": "rarity",
}
"""Methods that are GRPO with another advantage, and the file that names their recipe."""
OF_SETTINGS |= dict.fromkeys(BY_ADVANTAGE, "grpo")


def test_methods_without_an_objective_are_found_by_their_recipes() -> None:
    methods = methods_of_settings()
    assert {name: method.objective for name, method in methods.items()} == OF_SETTINGS
    assert methods["dapo"].recipes == ("countdown-dapo", "dapo-math-32b", "dapo-math-7b", "verl-dapo-math-7b")
    assert methods["for"].recipes == ("countdown-for",)


@pytest.mark.parametrize(("name", "objective_id"), OF_SETTINGS.items())
def test_methods_without_an_objective_name_their_recipe(name: str, objective_id: str) -> None:
    kind, plugin_id = ("advantages", BY_ADVANTAGE[name]) if name in BY_ADVANTAGE else ("objectives", objective_id)
    source = Path(entries(kind)[plugin_id].module.replace(".", "/") + ".py")
    docstring = (Path(__file__).parents[3] / source).read_text(encoding="utf-8").split('"""')[1]
    assert f"`countdown-{name}`" in docstring


@pytest.mark.parametrize(("name", "objective_id"), OF_SETTINGS.items())
def test_method_without_an_objective_is_listed_and_shown_with_its_recipe(
    name: str, objective_id: str, capsys: Any
) -> None:
    assert main(["list", "objectives", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[name].startswith(f"the objective {objective_id} with the settings of countdown-{name}")
    assert set(listed) == set(entries("objectives")) | set(OF_SETTINGS)
    has_a_file = name in entries("advantages")
    assert main(["show", f"advantages/{name}" if has_a_file else name]) == 0  # pass_at_k is a metric as well
    shown = capsys.readouterr().out
    if has_a_file:
        assert shown.startswith(f"advantage {name}") and f"`countdown-{name}`" in shown
    else:
        assert shown.startswith(f"{name}: the objective {objective_id}") and f'id = "{objective_id}"' in shown
    with pytest.raises(UsageError, match=f"start from that recipe, or set objective.id = '{objective_id}'"):
        load("objectives", name)
    assert main(["train", name, "--dry-run"]) == 2
    assert f"'countdown-{name}'" in capsys.readouterr().err


# --- extends ----------------------------------------------------------------------------------------------------


def written(folder: Path, **files: str) -> dict[str, Path]:
    """Write each text as NAME.toml."""
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.toml" for name in files}


def test_recipe_with_extends_overrides_the_extended_recipe(tmp_path: Path) -> None:
    files = written(
        tmp_path,
        mine='extends = "countdown-grpo"\n[objective]\nclip_high = 0.4\n[optimizer]\nlr = 1e-5\n',
        longer='extends = "mine.toml"\n[loop]\nsteps = 7\n',
    )
    grpo = configs.read_toml(FOLDER / "countdown-grpo.toml")
    own = {"objective": {"clip_high": 0.4}, "optimizer": {"lr": 1e-5}}
    assert configs.read_toml(files["mine"]) == configs.merge(grpo, own)
    assert configs.read_toml(files["longer"]) == configs.merge(grpo, own, {"loop": {"steps": 7}})


def test_changed_plugin_drops_the_options_of_the_extended_recipe(tmp_path: Path) -> None:
    (mine,) = written(tmp_path, mine='extends = "countdown-grpo"\n[objective]\nid = "rloo"\n').values()
    assert configs.read_toml(mine)["objective"] == {"id": "rloo"}


def test_extends_path_is_relative_to_the_extending_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    written(tmp_path, base="seed = 3\n")
    (child,) = written(tmp_path / "inner", child='extends = "../base.toml"\n').values()
    assert configs.read_toml(child) == {"seed": 3}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            'extends = "countdown-gropo"',
            r"mine.toml extends 'countdown-gropo', which is not .*'countdown-grpo'",
        ),
        ('extends = "lost.toml"', r"mine.toml extends lost.toml, and there is no file .*lost.toml"),
        ('extends = "mine.toml"', r"in a circle: .*mine.toml -> .*mine.toml$"),
        ('extends = "other.toml"', r"in a circle: .*mine.toml -> .*other.toml -> .*mine.toml$"),
        ("extends = 3", "mine.toml: extends is the name of a recipe or the path of a TOML file, not 3"),
    ],
)
def test_invalid_extends_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    files = written(tmp_path, mine=text + "\n", other='extends = "mine.toml"\n')
    with pytest.raises(ConfigError, match=complaint):
        configs.read_toml(files["mine"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_show_prints_a_recipe_resolved(path: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["show", path.stem]) == 0
    (shown,) = written(tmp_path, shown=capsys.readouterr().out).values()
    assert "extends =" not in shown.read_text()
    assert configs.read_toml(shown) == configs.read_toml(path)


def test_show_keeps_the_comment_of_each_line_from_the_file_that_set_it(tmp_path: Path, capsys: Any) -> None:
    base = '# Mine.\n[optimizer]\nlr = 1e-5 # tuned\nbetas = [0.9, 0.95]\n[model]\npath = "a # b" # a name\n'
    files = written(tmp_path, base=base, child='# Faster.\nextends = "base.toml"\n[optimizer]\nlr = 2e-5\n')
    assert main(["show", str(files["child"])]) == 0
    assert capsys.readouterr().out == (
        f"# Faster.\n#\n# extends {files['base']}:\n# Mine.\n\n"
        '[optimizer]\nlr = 2e-05\nbetas = [0.9, 0.95]\n\n[model]\npath = "a # b" # a name\n'
    )


def test_run_identity_is_that_of_the_resolved_recipe(tmp_path: Path, capsys: Any) -> None:
    assert main(["show", "countdown-flowrl"]) == 0
    files = written(tmp_path, whole=capsys.readouterr().out, short='extends = "countdown-flowrl"\n')
    whole, short = (configs.parse(TrainConfig, configs.read_toml(path)) for path in files.values())
    assert configs.to_toml(whole) == configs.to_toml(short)
    assert "extends" not in configs.to_toml(short)
