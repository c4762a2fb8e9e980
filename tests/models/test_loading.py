"""Resolving model names, loading, checkpoints and fingerprints."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from harness.core.errors import ModelError
from harness.core.protocols import ModelSource
from harness.models import loading
from harness.models.loading import (
    bundled_models,
    checkpoint_folders,
    context_of,
    fingerprint,
    load_module,
    load_tokenizer,
    newest_checkpoint,
    resolve,
)


def make_model(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"config.json": "{}", "model.safetensors": "weights", **files}.items():
        (folder / name).write_text(text)
    return folder


def make_run(folder, *steps):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    for step in steps:
        make_model(folder / "checkpoints" / step)
    return folder


def refusal(name):
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the order --------------------------------------------------------------------------------------------------


def test_a_train_run_means_its_newest_checkpoint(tmp_path):
    run = make_run(tmp_path / "run", "step-000009", "step-000010", "step-000002")
    assert resolve(str(run)) == str(run / "checkpoints" / "step-000010")


def test_a_train_run_comes_before_the_model_directory_that_it_also_is(tmp_path):
    run = make_model(make_run(tmp_path / "run", "step-000001"))
    assert resolve(str(run)) == str(run / "checkpoints" / "step-000001")


def test_model_directory_resolves_to_itself(tmp_path):
    model = make_model(tmp_path / "model")
    assert resolve(str(model)) == str(model)


def test_a_directory_comes_before_the_bundled_model_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = bundled_models()[0]
    assert resolve(name) == str(loading.BUNDLED / name)
    make_model(Path(name))
    assert resolve(name) == name


def test_a_bundled_model_is_a_directory_with_weights():
    for name in bundled_models():
        assert (Path(resolve(name)) / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-7B", "a/b"])
def test_an_owner_and_a_name_may_be_a_hub_id(name):
    assert resolve(name) == name


# --- refusals ---------------------------------------------------------------------------------------------------


def test_unknown_model_name_error_has_the_nearest_name_and_the_accepted_forms():
    message = refusal("countdwn-tiny")
    assert "no model is called 'countdwn-tiny'; did you mean 'countdown-tiny'?" in message
    assert "hub id such as" in message


@pytest.mark.parametrize(
    "name", ["nothing-near", "/absent/absolute", "./absent", "../absent", "a/b/c", "x/", "x" * 5000]
)
def test_name_that_cannot_be_a_hub_id_is_refused(name):
    assert "no model is called" in refusal(name)


@pytest.mark.parametrize("name", ["", ".", "folder"])
def test_folder_without_a_model_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    message = refusal(name)
    assert "holds no model" in message
    assert "config.json" in message
    assert not message.startswith(" ")


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    assert "has no checkpoint; only a train run has one" in refusal(str(make_run(tmp_path / "run")))


def test_a_run_whose_only_checkpoint_is_unfinished_has_none(tmp_path):
    assert "has no checkpoint" in refusal(str(make_run(tmp_path / "run", "step-000003.tmp")))


def without_a_weight(model):
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def with_another_shape(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "intermediate_size": 8}))


def with_pickled_rubbish(model):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"rubbish")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_a_weight, "it needs model.layers.1.mlp.up_proj.weight, which is not there; its files are damaged"),
        (with_another_shape, r"mlp.\w+.weight, which is in the shape \(.*256.*\), not \(.*8.*\) \(and 8 more weights"),
        (with_pickled_rubbish, "can't be loaded: IndexError: list index out of range"),
        (lambda m: (m / "model.safetensors").write_bytes(b"no weights"), "header"),
        (lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:-9]), "incomplete"),
        (lambda m: (m / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda m: (m / "config.json").write_text("{"), "not a valid JSON file"),
    ],
)
def test_damaged_weights_are_refused_in_one_line_and_never_drawn_at_random(damage, reason, tmp_path, caplog):
    model = shutil.copytree(loading.BUNDLED / "countdown-tiny", tmp_path / "model")
    damage(model)
    with pytest.raises(ModelError, match=reason) as caught:
        load_module(ModelSource(str(model)))
    assert str(caught.value).startswith(f"the model {model} can't be loaded: ")
    assert "\n" not in str(caught.value)
    assert "LOAD REPORT" not in caplog.text


@pytest.mark.parametrize(("name", "text"), [("tokenizer_config.json", "[]"), ("tokenizer.json", "{}")])
def test_a_damaged_tokenizer_is_refused_in_one_line(name, text, tmp_path):
    model = shutil.copytree(loading.BUNDLED / "countdown-tiny", tmp_path / "model")
    (model / name).write_text(text)
    with pytest.raises(ModelError, match=r"the tokenizer of .* can't be loaded") as caught:
        load_tokenizer(ModelSource(str(model)))
    assert "\n" not in str(caught.value)


# --- checkpoints ------------------------------------------------------------------------------------------------


def test_unfinished_checkpoints_and_strange_names_are_passed_over(tmp_path):
    names = ["step-000003", "step-000004.tmp", "step-000005-mine", "step-", "step-x", "step-²", "best", "step-6.5"]
    run = make_run(tmp_path / "run", *names)
    assert [path.name for path in checkpoint_folders(run)] == ["step-000003"]
    assert newest_checkpoint(run).name == "step-000003"


def test_checkpoints_are_in_the_order_of_their_steps_not_of_their_names(tmp_path):
    run = make_run(tmp_path / "run", "step-999999", "step-1000000", "step-000001")
    assert [loading.step_of(path) for path in checkpoint_folders(run)] == [1, 999999, 1000000]


# --- fingerprints -----------------------------------------------------------------------------------------------


def test_a_fingerprint_is_the_same_for_the_same_files_wherever_they_are(tmp_path):
    one, other = make_model(tmp_path / "here" / "m"), make_model(tmp_path / "there" / "m")
    os.utime(other / "config.json", (0, 0))
    assert fingerprint(str(one)) == fingerprint(str(other))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.safetensors", "Weights"),
        ("model.safetensors", "weights and more"),
        ("config.json", '{"a": 1}'),
        ("tokenizer.json", "{}"),
        ("chat_template.jinja", "{{ messages }}"),
        ("merges.txt", "a b"),
        ("spiece.model", "pieces"),
        ("model-00002-of-00002.safetensors", "weights"),
        ("pytorch_model.bin", "weights"),
    ],
)
def test_a_fingerprint_changes_with_weights_tokenizer_and_template(tmp_path, name, text):
    model = make_model(tmp_path / "m")
    before = fingerprint(str(model))
    (model / name).write_text(text)
    assert fingerprint(str(model)) != before


def test_a_fingerprint_sees_both_ends_of_large_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_ENDS_BYTES", 4)
    model = make_model(tmp_path / "m")
    found = set()
    for weights in ("0123456789", "X123456789", "012345678X", "01234567890", "0123XX456789"):
        (model / "model.safetensors").write_text(weights)
        found.add(fingerprint(str(model))["fingerprint"])
    assert len(found) == 5


def test_fingerprint_ignores_training_state_next_to_the_weights(tmp_path):
    model = make_model(tmp_path / "m")
    before = fingerprint(str(model))
    (model / "training_state.pt").write_text("state")
    assert fingerprint(str(model)) == before


def test_the_fingerprint_of_a_hub_id_is_the_id():
    assert fingerprint("Qwen/Qwen2.5-7B") == {"name": "Qwen/Qwen2.5-7B"}


# --- code in a model's own files --------------------------------------------------------------------------------------

CODE = """
import pathlib
pathlib.Path(__file__).parents[0].joinpath("ran").touch()
pathlib.Path({mark!r}).touch()
from transformers import PretrainedConfig, LlamaForCausalLM, LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(tmp_path):
    """Return a model folder that needs its own code, and a file that the code creates when it runs."""
    folder, mark = tmp_path / "own", tmp_path / "the code ran"
    shutil.copytree(resolve("countdown-tiny"), folder)
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": classes}))
    (folder / "own_code.py").write_text(CODE.format(mark=str(mark)))
    return folder, mark


def test_code_of_a_model_is_refused_and_a_yes_on_stdin_changes_nothing(own_code, tmp_path):
    folder, mark = own_code
    command = ["eval", str(folder), "--tasks", "countdown", "--limit", "1", "--n", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *command], input="y\n" * 50, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and not mark.exists(), done.stderr
    assert "auto_map" in done.stderr and "model.trust_remote_code = true" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_trusted_code_of_a_model_is_run(own_code, monkeypatch, tmp_path):
    folder, mark = own_code
    with pytest.raises(ModelError, match="auto_map"):
        context_of(ModelSource(str(folder)))
    assert not mark.exists()
    assert context_of(ModelSource(str(folder), trust_remote_code=True)) is not None
    assert mark.exists()


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_an_unreachable_hub_is_one_error_within_ten_seconds(kind, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if kind == "silent":
            silent.listen(5)
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "HF_HUB_OFFLINE": "0",
        }
        environment |= {"HF_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "no_proxy": "*"}
        code = """
import time
from concurrent.futures import ThreadPoolExecutor
from harness.core.errors import ModelError, DataError
from harness.core.protocols import ModelSource
from harness.core.types import DataFile
from harness.data.download import download, listing
from harness.models.loading import context_of, load_tokenizer
from transformers import AutoTokenizer  # which takes a while
def refusal(ask):
    began_s = time.monotonic()
    try:
        ask()
    except (ModelError, DataError) as error:
        return f"{round(time.monotonic() - began_s)} {error}"
asks = [
    lambda: load_tokenizer(ModelSource("owner/name")),
    lambda: download(DataFile("a.json", "owner/name")),
    lambda: listing("owner/name"),
]
print(*ThreadPoolExecutor().map(refusal, asks), sep="\\n")
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
        )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line in lines:
        assert int(line.partition(" ")[0]) <= 10 and "with a network" in line
        assert "the hub can't be reached" in line or "the hub did not list" in line


def test_a_model_in_the_hubs_cache_is_loaded_without_asking_the_hub(tmp_path):
    """As the client caches it: a reference, and a snapshot."""
    cache = tmp_path / "hub" / "models--owner--name"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.copytree(resolve("countdown-tiny"), cache / "snapshots" / ("0" * 40))
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    code = """
from harness.core.protocols import ModelSource
from harness.models.loading import load_module, load_tokenizer
source = ModelSource("owner/name")
print(len(load_tokenizer(source)), sum(p.numel() for p in load_module(source).parameters()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0 and int(done.stdout.split()[1]) > 1000, done.stderr
    assert "Retry" not in done.stderr
