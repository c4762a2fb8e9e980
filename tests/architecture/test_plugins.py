"""A plug-in is one file: a new task, engine, metric, objective, table and command work, and no other file changes."""

from __future__ import annotations

import hashlib
import json
import textwrap

import pytest

NEW_FILES = {
    "tasks/doubling.py": '''
        """Doubling a number: a task that came as one file."""

        from dataclasses import dataclass

        from harness.core.protocols import Task
        from harness.core.types import DatasetCard, Message, Problem, Sampling
        from harness.graders.exact import ExactGrader


        class Doubling(Task):
            @dataclass(frozen=True, slots=True)
            class Config:
                size: int = 4

            def __init__(self, config):
                super().__init__(config)
                self.grader = ExactGrader()
                self.sampling = Sampling(max_tokens=4)
                self.card = DatasetCard("Doubling", "generated", "CC0-1.0", "", {"test": str(config.size)}, "0")

            grader: ExactGrader
            sampling: Sampling
            card: DatasetCard

            def problems(self, split, seed):
                for number in range(self.config.size):
                    yield Problem(str(number), "doubling", (Message("user", str(number)),), str(2 * number))


        TASK = Doubling
        ''',
    "harness/engines/parrot.py": '''
        """Says the prompt twice over, as a number: an engine that came as one file."""

        from dataclasses import dataclass

        from harness.core.protocols import Engine
        from harness.core.types import Completion, Tokens


        class Parrot(Engine):
            @dataclass(frozen=True, slots=True)
            class Config:
                add: int = 0

            def open(self, source):
                pass

            def close(self):
                pass

            def generate(self, requests):
                for r in requests:
                    # right for even problems alone
                    number = int(r.messages[-1].content)
                    text = str(2 * number + number % 2 + self.config.add)
                    yield Completion(r.problem_id, r.index, r.seed, text, "stop", Tokens(1, 1))


        ENGINE = Parrot
        ''',
    "harness/metrics/count_correct.py": '''
        """How many completions are correct: a metric that came as one file."""

        from harness.core.protocols import Metric
        from harness.core.types import Estimate


        class CountCorrect(Metric):
            def estimate(self, graded):
                n = sum(item.verdict.outcome == "correct" for item in graded)
                return [Estimate("count_correct", n, n, n, len(graded), len(graded), 0, "counted")]


        METRIC = CountCorrect
        ''',
    "trainers/advantages/doubled.py": '''
        """Twice the reward less the mean of the step: an advantage that came as one file."""

        from harness.core.protocols import Advantage


        class Doubled(Advantage):
            def compute(self, batch, old):
                return 2 * (batch.rewards - batch.rewards.mean())


        ADVANTAGE = Doubled
        ''',
    "trainers/objectives/reward_weighted.py": '''
        """Log-likelihood weighted by the reward: an objective that came as one file."""

        from dataclasses import dataclass

        from harness.core.protocols import Objective
        from harness.core.tensors import Advantages, LossResult


        class RewardWeighted(Objective):
            @dataclass(frozen=True, slots=True)
            class Config:
                scale: float = 1.0

            needs = frozenset({"entropy"})

            def advantages(self, batch, old):
                return Advantages(batch.rewards + self.config.scale, {})

            def loss(self, batch, current, old, advantages):
                weighted = advantages.values[:, None] * current.logp * batch.completion_mask
                entropy = (current.entropy * batch.completion_mask).sum().item()
                loss = -weighted.sum() / batch.totals.n_tokens
                return LossResult(loss, {"planted_entropy": (entropy, batch.totals.n_tokens)})


        OBJECTIVE = RewardWeighted
        ''',
    "reports/tables/run_kinds.py": '''
        """Which kind each run is of: a table that came as one file."""

        from harness.core.protocols import TableBuilder
        from harness.core.types import Table


        class RunKinds(TableBuilder):
            def build(self, runs):
                return [Table("Kinds of runs", ("run", "kind"), tuple((r.folder.name, r.record.kind) for r in runs))]


        TABLE = RunKinds
        ''',
    "harness/commands/parrots.py": '''
        """Count parrots: a command that came as one file."""

        from harness.commands import DONE
        from harness.commands.base.arguments import JsonArguments, add_json, positive
        from harness.commands.base.output import print_result

        EXAMPLE = "harness parrots 3"


        class Arguments(JsonArguments):
            n: int


        def add_arguments(parser):
            parser.add_argument("n", type=positive)
            add_json(parser)


        def run(args):
            print_result(args, args.n, f"{args.n} parrots")
            return DONE
        ''',
}

TRAIN_CONFIG = """
[model]
path = "countdown-tiny"

[task]
id = "countdown"

[objective]
id = "reward_weighted"
scale = 0.5

[loop]
steps = 2
prompts_per_step = 2
samples_per_prompt = 2

[optimizer]
lr = 1e-4
"""


def _digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def extended(copied_checkout, python):
    """The command `harness` of a copy with one new file of each kind; nothing else in the copy may change."""
    before = _digests(copied_checkout)
    for name, source in NEW_FILES.items():
        (copied_checkout / name).write_text(textwrap.dedent(source).lstrip())

    def harness(*arguments, status=0):
        done = python("-m", "harness", *arguments, cwd=copied_checkout.parent, on_path=copied_checkout)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    yield harness
    after = _digests(copied_checkout)
    assert {name for name in before | after if before.get(name) != after.get(name)} == set(NEW_FILES)


@pytest.mark.parametrize(
    ("kind", "plugin_id", "description"),
    [
        ("tasks", "doubling", "Doubling a number: a task that came as one file."),
        ("engines", "parrot", "Says the prompt twice over, as a number: an engine that came as one file."),
        ("metrics", "count_correct", "How many completions are correct: a metric that came as one file."),
        ("advantages", "doubled", "Twice the reward less the mean of the step: an advantage that came as one file."),
        ("objectives", "reward_weighted", "Log-likelihood weighted by the reward: an objective that came as one file."),
        ("tables", "run_kinds", "Which kind each run is of: a table that came as one file."),
    ],
)
def test_new_plugin_file_is_listed(extended, kind, plugin_id, description):
    assert json.loads(extended("list", kind, "--json"))[plugin_id] == description


def test_a_new_task_engine_metric_and_table_work_together(extended, tmp_path):
    run, page = tmp_path / "run", tmp_path / "page"
    settings = ["--tasks", "doubling", "--engine", "parrot", "--n", "3", "--set", 'metrics=["count_correct"]']
    extended("eval", "countdown-tiny", *settings, "--out", run, "--quiet")
    # four problems, 0 to 3, three samples each: the parrot is right on 0 and 2
    (estimate,) = json.loads((run / "metrics.json").read_text())["doubling"]
    assert (estimate["name"], estimate["value"], estimate["n_completions"]) == ("count_correct", 6, 12)
    extended("report", run, "--table", "run_kinds", "--out", page)
    assert (page / "run_kinds.csv").read_text().splitlines() == ["run,kind", "run,eval"]


def test_the_options_of_new_plugins_come_from_the_config(extended, tmp_path):
    settings = ["--tasks", "doubling", "--n", "1", "--set", 'metrics=["count_correct"]', "--engine", "parrot"]
    extended("eval", "countdown-tiny", *settings, "--set", "engine.add=1", "--out", tmp_path / "run", "--quiet")
    (estimate,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["doubling"]
    assert estimate["value"] == 0
    misspelt = [*settings, "--set", "engine.ad=1", "--out", tmp_path / "other"]
    extended("eval", "countdown-tiny", *misspelt, status=2)


def test_a_new_command_is_listed_and_runs(extended):
    assert "    parrots   Count parrots: a command that came as one file\n" in extended("--help")
    assert extended("parrots", "3") == "3 parrots\n"
    assert extended("parrots", "3", "--json") == "3\n"
    extended("parrots", "0", status=2)


def test_a_new_objective_trains(extended, tmp_path):
    config = tmp_path / "new.toml"
    config.write_text(TRAIN_CONFIG)
    extended("train", config, "--out", tmp_path / "run", "--quiet")
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    # below the entropy of a uniform choice among 128 tokens at the most, and not of a policy that has only one word
    assert all(0 < step["planted_entropy"] < 4.9 for step in steps)


def test_a_new_advantage_trains_under_an_objective_of_the_package(extended, tmp_path):
    config = tmp_path / "new.toml"
    config.write_text(TRAIN_CONFIG.replace('"reward_weighted"\nscale = 0.5', '"cispo"\nadvantage = "doubled"'))
    extended("train", config, "--out", tmp_path / "run", "--quiet")
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
