"""Kept groups: which a step keeps, their size over a run, and what a resumed run keeps."""

import json
from dataclasses import dataclass

import pytest

from harness.core.errors import RunFolderError
from harness.core.types import Completion, Graded, Message, Problem, Tokens, Verdict
from harness.runs.folder import RunIdentity, RunReader, RunWriter
from harness.runs.groups import GroupKeeper, kept_sample


@dataclass(frozen=True)
class Config:
    seed: int = 0


def opened(folder):
    return RunWriter.open(folder, RunIdentity.of("train", Config(), seeds={}, data={}))


def keeper(store, n_steps, **options):
    settings = {"every_steps": 1, "per_step": 2, "most_bytes": 10**6, **options}
    return GroupKeeper(store=store, decode=lambda ids: f"decoded {ids}", n_steps=n_steps, **settings)


def graded(problem, index, text="text", *, logp=(-0.123456, -0.00001), reward=0.5, messages=("question",)):
    tokens = Tokens(1, 2, (5,), (6, 7), logp)
    messages = tuple(Message("user", message) for message in messages)
    outcome = "incorrect" if reward is not None else "ungraded"
    return Graded(
        Problem(problem, "sums", messages, None),
        Completion(problem, index, 0, text, "stop", tokens),
        Verdict(outcome, reward, None, "why"),
    )


def step_of(size, n_groups=4):
    return [graded(f"p{group}", index, "x" * size) for group in range(n_groups) for index in range(2)]


def kept(folder):
    return list(RunReader.read(folder).groups())


@pytest.mark.parametrize(
    ("n_steps", "every", "due"),
    [(1, 1, [1]), (3, 1, [1, 2, 3]), (7, 3, [1, 3, 6, 7]), (6, 3, [1, 3, 6]), (5, 9, [1, 5])],
)
def test_the_first_the_last_and_every_nth_step_are_due(tmp_path, n_steps, every, due):
    store = opened(tmp_path / "run")
    groups = keeper(store, n_steps, every_steps=every)
    assert [step for step in range(1, n_steps + 1) if groups.is_due(step)] == due
    for step in due:
        groups.keep(step, step_of(1), {})
    store.close()
    assert [group.step for group in kept(tmp_path / "run")] == [step for step in due for _ in range(2)]


def test_a_group_is_read_back_as_it_was_written(tmp_path):
    store = opened(tmp_path / "run")
    items = [graded("p", 0, "half \ud83d"), graded("p", 1, logp=None, reward=None), graded("q", 0)]
    keeper(store, 1, per_step=1).keep(1, items, {("p", 0): (0.25, float("nan"))})
    store.finish("done")
    [group] = kept(tmp_path / "run")
    assert (group.step, group.task, group.problem_id, group.prompt) == (1, "sums", "p", "question")
    first, second = group.samples
    assert (first.text, first.token_ids, first.logp) == ("half \ud83d", [6, 7], [-0.1235, 0.0])
    assert (first.is_trained, first.reward, first.shaped_reward, first.advantage) == (True, 0.5, 0.25, None)
    assert (second.is_trained, second.outcome, second.reward, second.logp) == (False, "ungraded", None, None)
    assert b"-0.0" not in (tmp_path / "run/groups.jsonl").read_bytes()


def test_the_prompt_of_rollouts_from_a_file_is_decoded(tmp_path):
    store = opened(tmp_path / "run")
    keeper(store, 1).keep(1, [graded("p", 0, messages=())], {})
    store.close()
    assert kept(tmp_path / "run")[0].prompt == "decoded (5,)"


def test_groups_stay_below_their_size_and_are_spread_over_the_run(tmp_path):
    store = opened(tmp_path / "run")
    groups = keeper(store, 20, most_bytes=30_000)
    for step in range(1, 21):
        groups.keep(step, step_of(2_000), {})
    store.close()
    steps = [group.step for group in kept(tmp_path / "run")]
    assert (tmp_path / "run/groups.jsonl").stat().st_size == groups.n_bytes
    assert 20_000 < groups.n_bytes <= 30_000 and steps == [1, 5, 8, 11, 14, 17]
    assert "step 1 kept 1 of 2 groups" in (tmp_path / "run/log.txt").read_text()
    assert (tmp_path / "run/log.txt").read_text().count("groups_mb") == 1


def test_a_group_above_the_size_is_not_kept(tmp_path):
    store = opened(tmp_path / "run")
    groups = keeper(store, 2, most_bytes=1000)
    groups.keep(1, step_of(2_000), {})
    groups.keep(2, step_of(1), {})
    store.close()
    assert [group.step for group in kept(tmp_path / "run")] == [2]


def test_a_resumed_run_keeps_the_same_groups(tmp_path):
    def whole(folder, broken_after=None):
        store = opened(folder)
        groups = keeper(store, 9, most_bytes=25_000)
        for step in range(1, 10):
            groups.keep(step, step_of(700 * step), {})
            if step == broken_after:
                store.close()
                assert kept(folder)[-1].step > 4
                store = opened(folder)
                groups = keeper(store, 9, most_bytes=25_000, n_bytes=store.rewind_groups(4))
                assert kept(folder)[-1].step <= 4
                for again in range(5, step + 1):
                    groups.keep(again, step_of(700 * again), {})
        store.finish("done")
        return (folder / "groups.jsonl").read_bytes()

    assert whole(tmp_path / "unbroken") == whole(tmp_path / "broken", broken_after=7)
    assert len(kept(tmp_path / "broken")) > 3


@pytest.mark.parametrize(
    "change",
    [
        {"step": "1"},
        {"step": -1},
        {"samples": None},
        {"samples": [None]},
        {"samples": [{"index": 0}]},
        {"unknown": 1},
        {"sample": {"unknown": 1}},
        {"sample": {"reward": "high"}},
        {"sample": {"index": -1}},
        {"sample": {"outcome": "good"}},
        {"sample": {"logp": [0.5]}},
        {"sample": {"token_ids": [0.5, 1]}},
    ],
)
def test_a_damaged_group_is_one_clear_error(tmp_path, change):
    store = opened(tmp_path / "run")
    keeper(store, 1, per_step=1).keep(1, step_of(1), {})
    store.close()
    path = tmp_path / "run/groups.jsonl"
    row = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "crc"}
    sample = change.pop("sample", {})
    row = {**row, "samples": [{**row["samples"][0], **sample}], **change}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(RunFolderError, match=r"groups\.jsonl, line 1"):
        kept(tmp_path / "run")


def test_numbers_are_rounded():
    sample = kept_sample(graded("p", 3), (0.1 + 0.2, -1e-9))
    assert (sample.index, sample.n_tokens, sample.finish_reason, sample.reason) == (3, 2, "stop", "why")
    assert (sample.shaped_reward, sample.advantage) == (0.3, 0.0)
