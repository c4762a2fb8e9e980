"""The settings that reports read from configs of any version."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.core.errors import RunFolderError
from harness.reports.run_config import PluginSettings, run_config


def config_of(text: str, kind: str = "eval"):
    """Return the parsed config of a run whose config.toml has this text."""
    return run_config(
        SimpleNamespace(folder=Path("run"), record=SimpleNamespace(kind=kind), config=lambda: tomllib.loads(text))
    )


def test_an_empty_config_has_no_settings():
    config = config_of("")
    assert config.tasks == config.metrics == config.deviations == config.problems == []
    assert {config.model, config.engine, config.objective, config.n, config.split, config.n_steps} == {None}
    assert config.task("sums") is None and config.sampling_of("sums", "temperature") is None


def test_a_plugin_is_an_id_or_a_table_with_options():
    config = config_of('tasks = ["sums", {id = "products", digits = 3}]\nengine = "hf"\n')
    assert config.tasks == [PluginSettings("sums", {}), PluginSettings("products", {"digits": 3})]
    assert config.task("products").options_text() == "digits=3"
    assert config.task("products").settings() == {"id": "products", "digits": 3}
    assert [str(task) for task in config.tasks] == ["sums", "products (digits=3)"]
    assert config.engine == PluginSettings("hf", {})


def test_sampling_of_one_task_overrides_that_of_all():
    text = "[sampling]\ntemperature = 1.0\ntop_k = 5\n[per_task.sums]\ntemperature = 0.0\n"
    config = config_of(text)
    assert [config.sampling_of("sums", key) for key in ("temperature", "top_k", "top_p")] == [0.0, 5, None]
    assert config.sampling_of("products", "temperature") == 1.0


@pytest.mark.parametrize("table", ["model", "sampling", "loop"])
def test_config_key_that_is_not_a_table_is_read_as_absent(table):
    config = config_of(f'{table} = "something"\n')
    assert (config.model, config.sampling, config.n_steps) == (None, {}, None)


def test_a_training_run_has_one_task():
    text = 'seed = 4\n[model]\npath = "m"\ndtype = "auto"\n[task]\nid = "sums"\n[loop]\nsteps = 7\n'
    config = config_of(text, "train")
    assert config.tasks == [PluginSettings("sums", {})]
    assert (config.model, config.model_options, config.seed, config.n_steps) == ("m", {"dtype": "auto"}, 4, 7)


@pytest.mark.parametrize("text", ["n = [4]", 'seed = "a"', "tasks = 3", "split = true", "[model]\npath = 5"])
def test_a_setting_of_another_type_is_refused_with_its_file(text):
    with pytest.raises(RunFolderError, match=r"config\.toml: \w+ has the wrong type"):
        config_of(text)
