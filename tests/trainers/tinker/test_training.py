"""Training on a Tinker server from the recipe to the checkpoints, with a fake one in this process."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from training import figures, recipe, run, training_state, weights

from harness.core.errors import ConfigError, ModelError, RunError, UsageError
from harness.core.protocols import ModelSource
from harness.models import tinker_server as server_module
from harness.models.loading import checkpoint_folders, load_module
from harness.runs.folder import RunReader
from harness.trainers.loop import Trainer

SMALL = {"steps": 4, "prompts_per_step": 2, "samples_per_prompt": 3, "minibatches_per_step": 2}


def tinker_recipe(fake, name="countdown-vargrad_tb", **changes):
    backend = {"id": "tinker", "base_url": fake.url, "is_unclipped": True, "base_model": "countdown-tiny"}
    backend |= {"dead_after_s": 2.0}
    backend |= {"timeout_s": 120.0, **changes.pop("backend", {})}
    optimizer = {"lr": 3e-3, "warmup_steps": 0, **changes.pop("optimizer", {})}
    loop = {**SMALL, **changes.pop("loop", {})}
    tree = {"backend": backend, "lora": {"rank": 2}, "optimizer": optimizer, "loop": loop, **changes}
    return recipe(name, **tree)


def test_a_run_trains_evaluates_and_saves_hugging_face_folders(fake, tmp_path):
    held = {"every_steps": 2, "limit": 4, "n": 2}
    run(tinker_recipe(fake, held_out=held, checkpoint={"every_steps": 2}), tmp_path)
    rows = figures(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["grad_norm"] > 0 and row["logp_gap"] < 1e-5 for row in rows)
    assert rows[1]["kl_to_reference"] != 0, "the adapters have moved, and the reference has not"
    for name in ("step-000002", "step-000004"):
        evaluation = RunReader.read(tmp_path / "evals" / name)
        assert evaluation.record.status == "done"
        assert 'id = "tinker"' in (evaluation.folder / "config.toml").read_text(), "the record states what sampled"
        assert sum(1 for _ in evaluation.completions()) == 8
    assert (tmp_path / "groups.jsonl").read_text().count("\n") > 0, "a few groups are kept for the report"
    assert "[backend]" in (tmp_path / "config.toml").read_text()
    assert RunReader.read(tmp_path).record.environment["tinker"].startswith("0.25")
    assert not fake.loaded, "every place on the server is free again"


def test_a_checkpoint_is_the_model_that_the_server_trained(fake, tmp_path, monkeypatch):
    trained = {}
    monkeypatch.setattr(fake, "unload", lambda client: trained.update({client.model_id: client}))
    monkeypatch.setattr(server_module, "_unload", fake.unload)
    run(tinker_recipe(fake), tmp_path)
    policy = next(c for c in trained.values() if any(p.abs().max() > 0 for n, p in c._own.items() if "lora_B" in n))
    merged = load_module(ModelSource(str(checkpoint_folders(tmp_path)[-1]), device="cpu"))
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(merged(ids).logits, policy.module(ids).logits, rtol=1e-4, atol=1e-5)
    settings = json.loads((checkpoint_folders(tmp_path)[-1] / "adapter" / "adapter_config.json").read_text())
    assert len(settings["target_modules"]) == 7, "without them peft adapts fewer layers, without a word"


def test_a_base_that_is_not_here_leaves_the_adapters_alone(fake, tmp_path):
    run(tinker_recipe(fake, backend={"is_merged": False}), tmp_path)
    checkpoint = checkpoint_folders(tmp_path)[-1]
    assert not (checkpoint / "model.safetensors").exists()
    settings = json.loads((checkpoint / "adapter" / "adapter_config.json").read_text())
    assert len(settings["target_modules"]) == 7
    assert "adapters alone" in (tmp_path / "log.txt").read_text() or (checkpoint / "config.json").exists()


OBJECTIVES = {
    "countdown-flowrl": {"backend": {"log_z": "bag_of_tokens"}},
    "countdown-vargrad_tb": {"reference": {"reset_every_steps": 2}},
    "countdown-remax": {"kl": {"place": "loss", "estimator": "k2"}},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_killed_run_goes_on_as_if_it_had_not_been(name, fake, tmp_path, monkeypatch):
    config = tinker_recipe(fake, name, checkpoint={"every_steps": 2}, **OBJECTIVES[name])
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    run(config, unbroken)
    step = Trainer._step

    def killed_at_4(self, number, learner):
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number, learner)

    monkeypatch.setattr(Trainer, "_step", killed_at_4)
    with pytest.raises(KeyboardInterrupt):
        run(config, broken)
    monkeypatch.setattr(Trainer, "_step", step)
    fake.forget_clients()
    run(config, broken)
    assert figures(broken) == figures(unbroken)
    assert all(torch.equal(weights(broken)[name], value) for name, value in weights(unbroken).items())
    one, other = (training_state(folder)["training_state"] for folder in (broken, unbroken))
    for state in (one, other):
        state["optimizer"].pop("server")  # a path, of another client
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_server_that_goes_away_ends_the_run_soon_and_it_can_be_resumed(fake, tmp_path, monkeypatch):
    config = tinker_recipe(fake, checkpoint={"every_steps": 1})
    run(config, tmp_path / "unbroken")
    step = Trainer._step

    def away_at_3(self, number, learner):
        fake.is_away = number == 3
        return step(self, number, learner)

    monkeypatch.setattr(Trainer, "_step", away_at_3)
    with pytest.raises(RunError, match=r"has not answered for .* same command"):
        run(config, tmp_path / "broken")
    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(UsageError, match="no Tinker server answers"):
        run(config, tmp_path / "broken")
    fake.is_away = False
    fake.forget_clients()
    run(config, tmp_path / "broken")
    assert figures(tmp_path / "broken") == figures(tmp_path / "unbroken")


def test_a_server_that_is_up_and_does_not_answer_has_a_limit(fake):
    server = server_module.Server(fake.url, timeout_s=0.3, dead_after_s=60.0)
    with pytest.raises(RunError, match=r"is up, and a gradient took more than 0\.3 s"):
        server.wait(server_module.Future(), "a gradient")


def test_the_adapters_lost_by_a_restart_are_explained(fake, tmp_path, monkeypatch):
    step = Trainer._step

    def restarted_at_2(self, number, learner):
        if number == 2:
            fake.forget_clients()
        return step(self, number, learner)

    monkeypatch.setattr(Trainer, "_step", restarted_at_2)
    with pytest.raises(RunError, match="was started again"):
        run(tinker_recipe(fake), tmp_path)


def test_an_update_right_after_the_pass_before_it_costs_one_pass(fake, tmp_path):
    loop = {"steps": 1, "minibatches_per_step": 1}
    run(tinker_recipe(fake, "countdown-flowrl", backend={"log_z": "bag_of_tokens"}, loop=loop), tmp_path)
    after_probe = fake.calls[fake.calls.index("unload") :]
    assert after_probe.count("forward") == 2, "one of the policy and one of the reference"
    assert after_probe.count("forward_backward") == after_probe.count("optim_step") == 1


def test_old_states_on_the_server_are_deleted(fake, tmp_path):
    run(tinker_recipe(fake, checkpoint={"every_steps": 1, "keep": 1}), tmp_path)
    assert len(fake.states) == 2, "the newest, and the one before it in case its folder is not complete"
    assert not fake.archives


def test_optimiser_settings_reach_the_server(fake, tmp_path):
    settings = {"betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.1, "warmup_steps": 3, "grad_clip": 0.7}
    run(tinker_recipe(fake, optimizer=settings, loop={"steps": 1}), tmp_path)
    sent = fake.params[-1]
    assert (sent.beta1, sent.beta2, sent.eps, sent.weight_decay) == (0.8, 0.9, 1e-6, 0.1)
    assert sent.learning_rate == pytest.approx(3e-3 / 4)
    assert sent.grad_clip_norm == 0.7


# --- refusals


REFUSED = {
    "no rank": ({"lora": {"rank": 0}}, "lora.rank is 0"),
    "alpha": ({"lora": {"rank": 2, "alpha": 16.0}}, "uses 32"),
    "targets": ({"lora": {"rank": 2, "target_modules": ["q_proj"]}}, "seven projections"),
    "temperature": ({"sampling": {"temperature": 0.7}}, r"temperature is 0\.7"),
    "critic": ({"name": "countdown-ppo"}, "need no critic"),
    "log Z": ({"name": "countdown-flowrl"}, "bag_of_tokens"),
    "released log Z": ({"name": "countdown-flowrl_release", "backend": {"log_z": "bag_of_tokens"}}, "last hidden"),
    "entropy": ({"loop": {"entropy_bonus": 0.1}}, "entropy of whole"),
    "random weights": ({"model": {"weights": "random"}}, "weights of its own"),
    "rollouts": ({"rollouts": {"save": True}}, "rollouts can't be kept"),
    "moments": ({"reference": {"reset_every_steps": 2, "reset_optimizer": True}}, "moments are on the server"),
    "clip": ({"optimizer": {"grad_clip": 1.0}, "backend": {"is_unclipped": False}}, "ignores optimizer.grad_clip"),
    "reduction": ({"backend": {"reduction": "token_mean"}}, "reduces by 'sum'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_carried_is_refused_before_anything_is_written(case, fake, tmp_path):
    changes, message = REFUSED[case]
    changes = dict(changes)
    config = tinker_recipe(fake, changes.pop("name", "countdown-vargrad_tb"), **changes)
    with pytest.raises(ConfigError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not fake.loaded


def test_a_server_without_a_norm_needs_its_reduction_stated(make_fake, tmp_path):
    fake = make_fake(gives_norm=False)
    with pytest.raises(ConfigError, match=r"backend\.reduction = 'sum'"):
        run(tinker_recipe(fake), tmp_path)
    run(tinker_recipe(fake, backend={"reduction": "sum", "is_unclipped": False}), tmp_path)
    assert all(row["grad_norm"] > 0 for row in figures(tmp_path)), "of the log-probs' gradient"


def test_errors_of_the_server_are_explained(fake, tmp_path):
    cases = {
        "Maximum number of LoRA adapters (4) reached": (ConfigError, "max_lora_adapters"),
        "None of the architectures ['Qwen2ForCausalLM'] is currently supported": (ModelError, "Qwen3"),
        "something else": (RunError, "other versions do not understand each other"),
    }
    for text, (kind, message) in cases.items():
        fake.errors["create"] = RuntimeError(text)
        with pytest.raises(kind, match=message):
            run(tinker_recipe(fake), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    refused = RuntimeError("nobody")
    refused.status_code = 401
    fake.errors["create"] = refused
    with pytest.raises(ConfigError, match="refuses the key"):
        run(tinker_recipe(fake), tmp_path / "run")


def test_a_model_that_the_server_does_not_list_is_refused_with_the_nearest(fake, tmp_path):
    with pytest.raises(ModelError, match="Qwen/Qwen3-8B"):
        run(tinker_recipe(fake, backend={"base_model": "Qwen/Qwen3-88B"}), tmp_path)


def test_a_key_is_needed_away_from_this_machine(monkeypatch):
    monkeypatch.delenv(server_module.KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="TINKER_API_KEY is not set"):
        server_module.api_key("https://example.org")
    monkeypatch.setenv(server_module.KEY_VARIABLE, "sk-1")
    with pytest.raises(ConfigError, match="does not begin with 'tml-'"):
        server_module.api_key("https://example.org")
    monkeypatch.setenv(server_module.KEY_VARIABLE, "tml-1")
    assert server_module.api_key("https://example.org") == "tml-1"


def test_an_address_has_to_be_given_and_holds_no_secret(fake):
    with pytest.raises(ConfigError, match="base_url"):
        recipe("countdown-grpo", backend={"id": "tinker"})
    with pytest.raises(ConfigError, match="must not hold a user or password"):
        tinker_recipe(fake, backend={"base_url": "http://me:secret@example.org"})


def test_another_version_of_the_client_is_refused(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(server_module.importlib.metadata, "version", lambda package: "0.38.0")
    with pytest.raises(UsageError, match=r"tinker 0\.38\.0 is installed"):
        run(tinker_recipe(fake), tmp_path)


def test_a_run_may_go_on_at_another_address(fake, tmp_path):
    config = tinker_recipe(fake)
    moved = tinker_recipe(fake, backend={"base_url": fake.url.replace("127.0.0.1", "localhost")}, loop={"steps": 5})
    run(config, tmp_path)
    fake.url = fake.url.replace("127.0.0.1", "localhost")
    run(moved, tmp_path)
    assert len(figures(tmp_path)) == 5


def test_settings_that_the_server_decides_are_named(fake, tmp_path):
    from harness.trainers.setup import build_setup

    config = tinker_recipe(fake, loop={"precision": "bfloat16", "gradient_checkpointing": True})
    setup = build_setup(config, tmp_path)
    lines = setup.backend.estimate(setup).lines()
    assert any("loop.precision, loop.gradient_checkpointing" in line for line in lines)
    assert dataclasses.asdict(setup.backend.estimate(setup))["memory"] == {}
