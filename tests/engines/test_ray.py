"""The ray engine beyond the contract of all engines: replicas may die without any effect on the completions."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mortal_engine
import pytest
import stub_engine
from training_parts import tiny_source

import harness.engines.ray as ours
from harness.cli import main
from harness.core.config import parse_plugin
from harness.core.errors import ClusterError, ConfigError, EngineError, ModelError
from harness.core.protocols import ModelSource
from harness.core.types import Completion, Message, Request, Sampling
from harness.runs.folder import RunReader

ray = pytest.importorskip("ray", reason="ray is not installed; `tox -e ray` runs this")
for module in (mortal_engine, stub_engine):  # an actor can't import the modules of the tests
    ray.cloudpickle.register_pickle_by_value(module)

PROMPTS = ["1 2 4 5 7 9 = 38 :", "1 1 2 3 5 8 = 24 :", "2 3 4 6 7 8 = 50 :"]
Told = dict[tuple[str, int], Completion]


@pytest.fixture(scope="module")
def running() -> Iterator[None]:
    """A Ray that is there already, so that not every test waits for one."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def requests(n: int, max_tokens: int = 14) -> list[Request]:
    how = Sampling(max_tokens)
    return [
        Request(f"p{p}", i, (Message("user", prompt),), 1000 * p + i, how)
        for p, prompt in enumerate(PROMPTS)
        for i in range(n)
    ]


def built(name: str = "ray", **options: Any) -> Any:
    return parse_plugin("engines", {"id": name, **options}).build()


def opened(name: str = "ray", **options: Any) -> Any:
    engine = built(name, **options)
    engine.open(tiny_source(random_seed=None))
    return engine


def mortal(folder: Path, replicas: int = 2, max_deaths: int = 3, chunk: int = 8, **how: Any) -> Any:
    inner: Any = mortal_engine.Mortal(str(folder), **how)
    engine = ours.RayEngine(ours.RayEngine.Config(inner, replicas=replicas, max_deaths=max_deaths, chunk=chunk))
    engine.open(tiny_source(random_seed=None))
    return engine


def once_each(completions: list[Completion]) -> Told:
    told = {(c.problem_id, c.index): c for c in completions}
    assert len(told) == len(completions)
    return told


def pids(engine: Any) -> list[int]:
    """Of the actors, as they are now."""
    calls = [actor.__ray_call__.options(max_task_retries=-1) for actor in engine._actors]
    asked = [call.remote(lambda _: os.getpid()) for call in calls]
    return list(ray.get(asked))


@pytest.fixture(scope="module")
def unbroken() -> Told:
    return once_each(list(opened("hf").generate(requests(40))))


# --- the same completions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("replicas", "chunk"), [(1, 256), (3, 7)])
def test_ray_completions_equal_those_of_the_inner_engine(
    running: None, unbroken: Told, replicas: int, chunk: int
) -> None:
    engine = opened(replicas=replicas, chunk=chunk)
    told = once_each(list(engine.generate(requests(40))))
    assert {key: (c.seed, c.text, c.finish_reason, c.tokens.completion_ids) for key, c in told.items()} == {
        key: (c.seed, c.text, c.finish_reason, c.tokens.completion_ids) for key, c in unbroken.items()
    }
    engine.close()


def test_every_replica_gets_requests(running: None) -> None:
    engine = opened(replicas=3, chunk=10)
    deadline = time.monotonic() + 60
    while engine._placing or engine._opening:
        assert time.monotonic() < deadline
        engine._next_answer()
    stream = engine.generate(requests(40))
    next(stream)
    assert sorted(len(job.owed) for job in engine._jobs) == [9, 10, 10]
    stream.close()
    engine.close()


def test_ray_chunks_are_even_hold_each_request_once_and_cut_few_prompts() -> None:
    asked = requests(20)
    expected = [
        (1, 256, [60]),
        (2, 256, [30, 30]),
        (2, 20, [20, 20, 10, 10]),
        (1, 45, [45, 15]),
        (7, 256, [9] * 6 + [6]),
    ]
    for replicas, chunk, sizes in expected:
        chunks = list(ours._all_chunks(iter(asked), built(replicas=replicas, chunk=chunk).config))
        assert [len(each) for each in chunks] == sizes
        assert Counter(r for each in chunks for r in each) == Counter(asked)
        assert sum(len({r.problem_id for r in each}) for each in chunks) <= 3 + len(chunks) - 1
    mixed = list(ours._all_chunks(asked[::2] + asked[1::2], built(replicas=3).config))
    assert [{r.problem_id for r in each} for each in mixed] == [{"p0"}, {"p1"}, {"p2"}]
    assert list(ours._all_chunks([], built().config)) == []


# --- deaths -------------------------------------------------------------------------------------------------------


def test_killed_replica_loses_no_completion(running: None, unbroken: Told) -> None:
    engine = opened(replicas=2, chunk=8)
    before = pids(engine)
    stream = engine.generate(requests(40))
    had = [next(stream)]
    os.kill(before[0], signal.SIGKILL)
    had += stream
    assert engine._n_deaths == 1
    after = pids(engine)
    assert before[0] not in after and before[1] in after
    told = once_each(had)
    assert told.keys() == unbroken.keys()
    assert {key: c.text for key, c in told.items()} == {key: c.text for key, c in unbroken.items()}
    engine.close()


def test_requests_open_at_a_dead_replica_alone_are_sent_again(running: None, tmp_path: Path) -> None:
    engine = mortal(tmp_path, end_at=5, lives=2)
    told = once_each(list(engine.generate(requests(24))))
    assert {key: c.text for key, c in told.items()} == {(r.problem_id, r.index): str(r.seed) for r in requests(24)}
    assert engine._n_deaths == 2
    engine.close()


def test_more_replica_deaths_than_allowed_stop_the_run(running: None, tmp_path: Path) -> None:
    engine = mortal(tmp_path, replicas=1, end_at=5, lives=99, max_deaths=2)
    with pytest.raises(
        EngineError, match=r"replicas of the engine mortal died more than 2 times \(engine\.max_deaths\)"
    ):
        list(engine.generate(requests(24)))
    assert len(list(tmp_path.glob("died-*"))) == 3
    engine.close()


def test_deaths_that_hold_nothing_up_never_stop_the_run(running: None, tmp_path: Path) -> None:
    engine = mortal(tmp_path, end_at=5, lives=3, once_each=True, max_deaths=1)
    assert len(once_each(list(engine.generate(requests(24))))) == 72
    assert engine._n_deaths == 3
    engine.close()


def test_replicas_that_die_opening_cost_no_completion(running: None, tmp_path: Path) -> None:
    engine = mortal(tmp_path, lives=2, dies_opening=True)
    told = once_each(list(engine.generate(requests(24))))
    assert {key: c.text for key, c in told.items()} == {(r.problem_id, r.index): str(r.seed) for r in requests(24)}
    assert len(list(tmp_path.glob("died-*"))) == 2
    engine.close()


def test_replicas_that_die_while_idle_open_their_engine_when_next_used(running: None, tmp_path: Path) -> None:
    engine = mortal(tmp_path)
    before = pids(engine)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert not set(before) & set(pids(engine))  # restarted, and not opened by anyone
    told = once_each(list(engine.generate(requests(24))))
    assert len(told) == 72
    assert engine._n_deaths == 0
    engine.close()


def test_replicas_that_die_whenever_they_open_stop_the_run(running: None, tmp_path: Path) -> None:
    opening = r"a replica of the engine mortal died more than 1 times \(engine\.max_deaths\) over opening the model"
    with pytest.raises(EngineError, match=opening):
        mortal(tmp_path, lives=99, dies_opening=True, max_deaths=1)
    assert 2 <= len(list(tmp_path.glob("died-*"))) <= 4  # each of the two opens twice


def test_missing_completions_of_the_inner_engine_are_an_error(running: None, tmp_path: Path) -> None:
    engine = mortal(tmp_path, replicas=1, end_at=5, leaves_out=True)
    with pytest.raises(EngineError, match="left 1 completions out"):
        list(engine.generate(requests(8)))
    engine.close()


# --- errors -------------------------------------------------------------------------------------------------------


def test_harness_error_in_a_replica_is_raised_unchanged(running: None) -> None:
    engine = opened(replicas=2)
    with pytest.raises(ModelError, match="context of 64") as raised:
        list(engine.generate(requests(4, max_tokens=60)))
    assert type(raised.value) is ModelError
    assert len(list(engine.generate(requests(2)))) == 6  # and it can be asked for others
    engine.close()


def test_other_error_in_a_replica_keeps_its_type_and_is_not_a_death(running: None, tmp_path: Path) -> None:
    engine = mortal(tmp_path, end_at=3, raises=ZeroDivisionError("inside"))
    with pytest.raises(ZeroDivisionError, match="inside"):
        list(engine.generate(requests(4)))
    assert engine._n_deaths == 0
    engine.close()


def test_model_that_cannot_be_opened_is_reported_once(running: None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    engine = built(replicas=2)
    with pytest.raises(ModelError, match="can't be loaded"):
        engine.open(ModelSource(str(tmp_path)))
    assert engine._actors == []


def test_replica_with_another_model_is_refused(running: None, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"the package": "0", "the model": {"name": "countdown-tiny", "fingerprint": "0"}}
    monkeypatch.setattr(ours, "_facts", lambda source: facts)  # here alone: an actor imports the module again
    with pytest.raises(ModelError, match=r"the replica on .* differs: the model\.fingerprint: .* there, '0' now"):
        opened()


def test_settings_refused_by_the_inner_engine_are_refused_before_ray_starts() -> None:
    with pytest.raises(ModelError, match="context of 64"):
        built().check_prompts(tiny_source(), requests(1, max_tokens=60))
    built(inner={"id": "scripted"}).check_prompts(tiny_source(), requests(1, max_tokens=60))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"inner": "ray"}, "holds a model, such as hf or vllm, not ray"),
        ({"inner": {"id": "openai", "base_url": "http://127.0.0.1:1/v1"}}, "not openai"),
        ({"inner": {"batch_row": 1}}, "did you mean 'batch_rows'"),
        ({"replicas": 0}, "at least 1"),
        ({"address": "ray://10.0.0.1:10001"}, "address is that of the cluster's head"),
        ({"num_gpus": -1}, "not be negative"),
    ],
)
def test_impossible_ray_config_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        built(**options)


# --- Ray itself, without the one that is running ------------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[None]:
    ray.shutdown()
    yield
    assert not ray.is_initialized()


def evaluate(folder: Path, *more: str) -> int:
    command = ["eval", "countdown-tiny", "--tasks", "countdown", "--n", "4", "--limit", "8", "--out", str(folder)]
    return main([*command, "--quiet", *more])


def texts(folder: Path) -> dict[tuple[str, str, int], str]:
    return {(task, c.problem_id, c.index): c.text for task, c in RunReader.read(folder).completions()}


def test_ray_evaluation_equals_that_of_the_inner_engine_and_prints_nothing(
    alone: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / "here") == 0
    expected = capfd.readouterr()
    assert evaluate(tmp_path / "rays", "--engine", "ray", "--set", "engine.num_cpus=0.5") == 0
    found = capfd.readouterr()
    assert found.out.replace("rays", "here") == expected.out
    assert found.err == expected.err
    assert texts(tmp_path / "rays") == texts(tmp_path / "here")
    assert (tmp_path / "rays" / "metrics.json").read_text() == (tmp_path / "here" / "metrics.json").read_text()


def test_more_replicas_than_the_machine_can_hold_are_refused(
    alone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / "run", "--engine", "ray", "--set", "engine.num_cpus=100000") == 2
    assert "lower engine.replicas or engine.num_cpus" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_unreachable_ray_cluster_is_one_line(alone: None) -> None:
    with pytest.raises(ClusterError, match=r"no Ray at engine\.address '127\.0\.0\.1:1'"):
        opened(address="127.0.0.1:1")  # nobody listens there


def test_running_ray_cluster_is_joined_and_left_running(alone: None, tmp_path: Path, unbroken: Told) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = ["start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *start]
    with (tmp_path / "log").open("w") as log:
        head = subprocess.Popen([*command, "--disable-usage-stats"], stdout=log, stderr=log)
    try:
        for _ in range(2):  # the second finds it as the first has left it
            engine = join(f"127.0.0.1:{port}", time.monotonic() + 60)
            assert once_each(list(engine.generate(requests(40)))) == unbroken
            engine.close()
        assert head.poll() is None
    finally:
        head.terminate()
        head.wait(60)


def join(address: str, deadline: float) -> Any:
    while True:
        try:
            return opened(address=address, replicas=2)
        except ClusterError:
            assert time.monotonic() < deadline
