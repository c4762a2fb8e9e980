"""Presets: every value has a source and is valid, flags override them, and deviations are reported."""

from __future__ import annotations

import tomllib

import pytest

from harness.core import config as configs
from harness.core.errors import ConfigError, UnknownNameError
from harness.evaluation import presets
from harness.evaluation.config import EvalConfig

NAMES = ("deepseek-r1", "flowrl", "lcb-official", "lm-eval", "matharena", "olymmath", "qwen-math")
EVERY = [
    (name, task)
    for name in NAMES
    for part in presets.read_preset(name).parts.values()
    for task in (*part.tasks, *part.also)
]
# From the sources that the presets name, independent of their files: n, temperature, top_p, tokens a completion.
PUBLISHED = {
    ("flowrl", "aime24"): (16, 0.6, 0.95, 8192),
    ("flowrl", "livecodebench"): (16, 0.6, 0.95, 8192),
    ("qwen-math", "math"): (1, 0.0, 1.0, 2048),
    ("deepseek-r1", "aime24"): (64, 0.6, 0.95, 32768),
    ("lcb-official", "livecodebench"): (10, 0.2, 0.95, 2000),
    ("matharena", "matharena:smt_2025"): (4, 0.6, 1.0, 16000),
    ("olymmath", "olymmath"): (10, 0.6, 0.95, 32768),
    ("lm-eval", "aime25"): (1, 0.0, 1.0, 32768),
    ("lm-eval", "math500"): (1, 0.0, 1.0, 256),
}


def given(name: str, *tasks: object, **more: object) -> configs.Tree:
    return configs.merge({"model": {"path": "countdown-tiny"}, "tasks": list(tasks), "preset": name}, more)


def test_presets_exist_for_the_published_protocols():
    assert tuple(presets.preset_files()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_value_has_a_source(name):
    preset = presets.read_preset(name)
    parts = preset.parts.values()
    tables = [preset.run, *(part.options for part in parts), *(part.settings for part in parts)]
    assert all(value.source for values in tables for value in values.values())
    complete = {"n", "metrics", *(f"sampling.{key}" for key in ("temperature", "top_p", "top_k"))}
    assert preset.run.keys() >= complete
    assert all("prompt" in part.options for part in parts)
    assert all("sampling.max_tokens" in preset.run or "max_tokens" in part.settings for part in parts)
    tasks = [task for part in parts for task in (*part.tasks, *part.also)]
    assert len(set(tasks)) == len(tasks)


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_every_task_of_a_preset_accepts_its_settings(name, task):
    config = presets.resolve_config(given(name, task))
    built = config.tasks[0].build()
    plan = config.plan(task, built)
    preset = presets.read_preset(name)
    part = next(part for part in preset.parts.values() if task in (*part.tasks, *part.also))
    assert built.config.prompt == part.options["prompt"].value
    if "grader" in part.settings:
        assert config.judge(task).id == part.settings["grader"].value["id"]
        config.judge(task).build()
    if (name, task) in PUBLISHED:
        drawn = plan.sampling
        assert (plan.n, drawn.temperature, drawn.top_p, drawn.max_tokens) == PUBLISHED[name, task]
    # No setting was changed, so only the deviations of the preset itself are left.
    also = [f"the source of preset {name} does not have this task; it is asked like {part.tasks[0]}"]
    assert list(config.deviations) == [*(also if task in part.also else []), *part.deviations]


def test_flags_override_a_preset_and_each_deviation_has_both_values():
    config = presets.resolve_config(given("flowrl", "aime24", sampling={"temperature": 0.8}, n=4, metrics=["avg_at_k"]))
    assert (config.sampling.temperature, config.sampling.top_k, config.n) == (0.8, 50, 4)
    assert config.deviations[:3] == (
        "n 4, preset flowrl has 16",
        "temperature 0.8, preset flowrl has 0.6",
        "metrics avg_at_k, preset flowrl has avg_at_k, pass_at_k, truncated, no_answer",
    )


def test_repeating_a_preset_value_is_not_a_deviation():
    assert presets.resolve_config(given("flowrl", "aime24", n=16, sampling={"top_p": 0.95})) == presets.resolve_config(
        given("flowrl", "aime24")
    )


def test_setting_for_all_tasks_overrides_a_preset_value_of_one_task():
    config = presets.resolve_config(given("lm-eval", "aime24", "math500", sampling={"max_tokens": 100}))
    tasks = {chosen.id: chosen.build() for chosen in config.tasks}
    assert {config.plan(name, task).sampling.max_tokens for name, task in tasks.items()} == {100}
    assert "aime24: max_tokens 100, preset lm-eval has 32768" in config.deviations
    assert "math500: max_tokens 100, preset lm-eval has 256" in config.deviations


def test_changed_grader_or_prompt_of_a_task_is_a_deviation_of_that_task():
    options = {"id": "aime25", "prompt": "simple"}
    per_task = {"aime24": {"grader": {"id": "math"}}}
    deviations = presets.resolve_config(given("flowrl", "aime24", options, per_task=per_task)).deviations
    assert deviations[:2] == (
        "aime24: grader math, preset flowrl has legacy_math_verify",
        "aime25: prompt simple, preset flowrl has flowrl",
    )


def test_changed_grader_option_is_a_deviation_naming_the_option():
    per_task = {"aime24": {"grader": {"variant": "lm-eval"}}}
    (first, *_) = presets.resolve_config(given("flowrl", "aime24", per_task=per_task)).deviations
    assert first == (
        "grader legacy_math_verify(variant=lm-eval, timeout_s=15), preset flowrl has "
        "legacy_math_verify(variant=flowrl, timeout_s=15)"
    )


@pytest.mark.parametrize(
    ("more", "deviation"),
    [
        ({"limit": 3}, "only the first 3 problems are asked"),
        ({"problems": ["2024-I-1", "5"]}, "only the problems 2024-I-1, 5 are asked"),
    ],
)
def test_limit_on_problems_is_a_deviation(more, deviation):
    assert presets.resolve_config(given("flowrl", "aime24", **more)).deviations[-1] == deviation


def test_the_resolved_config_resolves_to_itself():
    config = presets.resolve_config(given("lm-eval", "aime24", "math500", n=4, limit=3))
    assert presets.resolve_config(tomllib.loads(configs.to_toml(config))) == config


def test_preset_in_a_config_file_equals_the_flag(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(presets.preset_files()["qwen-math"].read_text().replace("2048", "4096"))
    config = presets.resolve_config(given(str(file), "math"))
    assert config.sampling.max_tokens == 4096


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("lcb-official", "aime24", "does not state how aime24 is evaluated, only livecodebench"),
        ("flowrl", "countdown", "does not state how countdown is evaluated, only aime24, aime25"),
    ],
)
def test_a_preset_that_does_not_fit_a_task_is_refused(name, task, message):
    with pytest.raises(ConfigError, match=message):
        presets.resolve_config(given(name, task))


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="no preset is called 'flowlr'; did you mean 'flowrl'"):
        presets.resolve_config(given("flowlr", "aime24"))


def test_a_preset_file_with_an_unknown_key_is_refused(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(presets.preset_files()["qwen-math"].read_text() + "\n[part.more]\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: unknown key 'part'; did you mean 'parts'"):
        presets.resolve_config(given(str(file), "math"))


def test_grader_for_all_tasks_overrides_that_of_the_preset():
    config = presets.resolve_config(given("flowrl", "aime24", grader="exact"))
    judge = config.judge("aime24")
    assert judge is not None and judge.id == "exact"
    (first, *_) = config.deviations
    assert first == "grader exact, preset flowrl has legacy_math_verify"


def test_recorded_deviations_are_recomputed():
    assert presets.resolve_config({**given("qwen-math", "math"), "deviations": ["none"]}) == presets.resolve_config(
        given("qwen-math", "math")
    )
    plain = presets.resolve_config({"model": {"path": "countdown-tiny"}, "tasks": ["math"], "deviations": ["x"]})
    assert plain.deviations == ()
    assert plain == configs.parse(EvalConfig, {"model": {"path": "countdown-tiny"}, "tasks": ["math"]})


def test_a_preset_is_shown_with_its_sources():
    text = presets.describe("qwen-math")
    assert "sampling.max_tokens = 2048  (evaluation/math_eval.py: --max_tokens_per_call)" in text
    assert "also, though the source does not have them: aime25, math500" in text
    assert (presets.FOLDER / "qwen-math.toml").exists()
