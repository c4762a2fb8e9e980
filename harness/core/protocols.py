"""The seams, one method each. Everyone may be handed a plug-in; nobody imports one.

Every plug-in is a class with a nested frozen dataclass `Config`, made as `Plugin(config)`. `discovery` checks the
class against the protocol here when it loads the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from harness.core.tensors import Advantages, Batch, LossResult, ModelShape, ParameterGroup, PolicyOutputs
from harness.core.types import (
    Call,
    Completion,
    DataFile,
    DatasetCard,
    Estimate,
    Execution,
    Failure,
    GoldenCompletion,
    Graded,
    Limits,
    LoadedData,
    Problem,
    Program,
    Request,
    Sampling,
    Table,
    Verdict,
)

if TYPE_CHECKING:
    import torch

    from harness.runs.folder import RunReader

Split = Literal["train", "validation", "test"]
R = TypeVar("R")

Need = Literal[
    "reference_logp",
    "prompt_hidden",
    "prompt_last_hidden",
    "completion_hidden",
    "entropy",
    "greedy_reward",
    "logp_old",
    "group",
    "several_updates",
    "on_policy",
]


class Task(Protocol[R]):
    """A benchmark or training set: problems, and who grades them."""

    @property
    def grader(self) -> Grader[R]: ...

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn unless a config says otherwise."""
        ...

    @property
    def card(self) -> DatasetCard: ...

    def problems(self, split: Split, seed: int) -> Iterator[Problem[R]]:
        """Problems in the order of `seed`. `train` may be endless; ids are unique within one pass."""
        ...


class SupervisedTask(Protocol[R]):
    """A task that can also show how its problems are solved, for supervised training."""

    def demonstrate(self, problem: Problem[R], seed: int) -> str:
        """The text of one demonstration; the seed decides which."""
        ...


@runtime_checkable
class DatasetTask(Protocol):
    """A task whose problems are read from published files."""

    def files(self) -> Mapping[Split, tuple[DataFile, ...]]:
        """Every split there is, with its files; nothing is read or downloaded."""
        ...

    def statements(self, split: Split) -> Iterator[tuple[str, str]]:
        """Every problem's id and text, without the prompt around it."""
        ...

    def loaded(self, split: Split) -> LoadedData:
        """Read a split, and say what was read. Raises DataError when it can't be had."""
        ...


@runtime_checkable
class CodeTask(Protocol):
    """A task whose problems are judged by tests that may not be all there are."""

    def tests_told(self, split: Split) -> Mapping[str, str]:
        """`tests`: what they cover; `undecided`: the problems they can't decide. For the reader of a report."""
        ...


@runtime_checkable
class SelfCheckingTask(Protocol[R]):
    """A task that can write completions whose verdict is known."""

    def golden_completions(self, problem: Problem[R]) -> Sequence[GoldenCompletion]: ...


@runtime_checkable
class ExternalTask(Protocol):
    """A task of another evaluator, which has numbers of its own."""

    def has_right_and_wrong(self) -> bool:
        """Whether its verdicts are of right or wrong; if not, only its own numbers say anything."""
        ...

    def n_samples(self, n: int, sampling: Sampling) -> int:
        """How many completions of each problem there are to be, when n are asked for."""
        ...

    def own_estimates(self, graded: Sequence[Graded[Any]]) -> Mapping[str, Sequence[Estimate]]:
        """That evaluator's numbers, by task id: this one's, and those of its parts."""
        ...


class Grader(Protocol[R]):
    """Judges completions. One that can judge several side by side, from threads, says so by `n_at_once: int`."""

    def grade(self, problem: Problem[R], completion: Completion) -> Verdict:
        """Total: a verdict for any text, in bounded time and memory; it never raises."""
        ...


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which model an engine opens: a folder or hub id, and, in training, the policy's module already in memory.

    With a `random_seed` the weights are drawn from it instead of read. An engine either samples from the module, or
    gets weights of its own by `load_weights`.
    """

    path: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    random_seed: int | None = None
    module: Any = None
    tokenizer: Any = None


class Engine(Protocol):
    """Text generation."""

    def open(self, source: ModelSource) -> None:
        """Load the model. Raises ModelError before anything is generated."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Completions as they finish, in any order, each for exactly one request.

        An engine that can lose one (a server's) gives a Failure in its place, never an invented text.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Scorer(Protocol):
    """What an engine is too that can say how probable given texts are."""

    def score(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """For each request a completion without text: the likelihood of each of its passages."""
        ...


@runtime_checkable
class Served(Protocol):
    """What an engine is too whose model is not files on this machine: the name is for whoever serves it."""

    def facts(self, model: str) -> Mapping[str, str]:
        """What the run record keeps of the model, once it is open. A run is not resumed with another `name` or
        `fingerprint`."""
        ...


@runtime_checkable
class PromptChecker(Protocol):
    """What an engine is too that can tell which requests it would refuse before it holds the model."""

    def vet(self, source: ModelSource, requests: Iterable[Request]) -> None:
        """Raises ModelError where no prompt can be written for this model, or one does not fit into it."""
        ...


class PolicyEngine(Engine, Protocol):
    """An engine that can follow a policy in training.

    `logp_is_exact` promises that its log-probabilities equal the trainer's own to float precision. `n_at_once` is the
    number of completions it decodes at once in the trainer's memory, None where its memory is its own.
    """

    logp_is_exact: bool
    n_at_once: int | None
    version: int  # of the weights it samples from: the steps they were trained

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]: ...

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Sample from these weights from now on."""
        ...


@runtime_checkable
class SleepingEngine(Protocol):
    """A policy engine that can give its memory back until `load_weights`; nothing is generated before that."""

    def rest(self) -> None: ...


class Sandbox(Protocol):
    def run(self, program: Program, stdin: bytes, limits: Limits) -> Execution:
        """Run one untrusted program. Judges nothing. Raises SandboxError only for what is not the program's doing."""
        ...

    def call(self, program: Program, function: str, calls: Sequence[Call], limits: Limits) -> Execution:
        """Load it in one process and call a function of it, as often as answers come. The limits hold for all."""
        ...


class Metric(Protocol):
    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        """The estimates of one task: one, or a family such as pass@1, pass@2, pass@4."""
        ...


@runtime_checkable
class PerProblem(Protocol):
    """What a metric is too whose estimates are means over problems: they can be compared problem by problem."""

    def per_problem(self, graded: Sequence[Graded[Any]]) -> Mapping[str, Mapping[str, float]]:
        """The values, at least 0, that each estimate is the mean of: its name, then problem id to value."""
        ...


class TableBuilder(Protocol):
    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        """The same runs give the same rows, to the byte."""
        ...


# --- training: tensors of one batch -----------------------------------------------------------------------------


class Objective(Protocol):
    """A loss, with what it needs and what it owns. Anything else is a setting of the loop."""

    needs: frozenset[Need]
    """What it reads beside the log-probabilities: outputs of a pass, a greedy completion's reward, in its credit the
    log-probabilities before the step (`logp_old`). And what it makes no sense without: several completions of a prompt
    (`group`), several updates a step, completions of the policy as it is: a second update would be biased."""
    source: Literal["policy", "demonstrations"]
    """Whose completions it learns from."""

    def prepare(self, shape: ModelShape, seed: int) -> None:
        """Make the parameters of its own (a log Z head, a value head), if it has any."""
        ...

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        """What each completion (or token) earned: detached, once per batch, with whole groups in view."""
        ...

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        """The loss of one micro-batch, divided by the totals of its minibatch (`batch.totals`), so that the sum
        over micro-batches is the loss of the minibatch however it was cut."""
        ...

    def parameters(self) -> Sequence[ParameterGroup]: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Adviser(Protocol):
    """What an objective is too that has something to say of its options."""

    def advice(self) -> Sequence[str]:
        """Told before a run: options that do nothing, and the like. What can't be meant is refused instead."""
        ...


@runtime_checkable
class Critic(Protocol):
    """What an objective is too that reads one number from each state of a completion: it is asked for them with every
    piece of the pass before the updates, so that the states themselves are kept for no longer than that."""

    def values(self, outputs: PolicyOutputs) -> torch.Tensor:
        """(B, T), from `completion_hidden`."""
        ...
