"""Base classes of the seven kinds of plug-in: what each must have, and what each may have.

A plug-in is a subclass in a file of its own, assigned to the constant of its kind (`TASK`, `ENGINE`, `GRADER`,
`METRIC`, `ADVANTAGE`, `OBJECTIVE`, `TABLE`). Abstract methods and annotated attributes must be there; the registry
checks them when it loads the file. Every other method is an optional ability with a default, and callers call it
without asking. Where an ability has to be known before it is used, a class attribute states it.

Plug-ins are passed as arguments and never imported: code depends on this module alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from harness.core.errors import ConfigError, PluginError
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

    from harness.core.progress import Progress

Split = Literal["train", "validation", "test"]
R = TypeVar("R")
"""The reference of a task, which only its grader reads."""
Run = TypeVar("Run")
"""A run folder as tables read it; this module does not import the reader."""

Need = Literal[
    "reference_logp",
    "prompt_hidden",
    "prompt_last_hidden",
    "completion_hidden",
    "entropy",
    "greedy_reward",
    "logp_old",
    "solution_classes",
    "answer_classes",
]
Requirement = Literal["group", "several_updates", "on_policy", "unit_rewards"]


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The `Config` of a plug-in without options."""


class Plugin(ABC):
    """Base of every plug-in."""

    Config: ClassVar[Any] = NoOptions
    """A frozen dataclass of the options, nested in a plug-in that has some."""
    plugin_id: ClassVar[str] = ""
    """The name that configs and records know it by: its file's, or the entry point's, which the registry sets."""
    removed_options: ClassVar[Mapping[str, str]] = {}
    """Options of earlier versions, each with what to write in its place."""

    config: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.plugin_id = cls.__module__.rpartition(".")[2]

    def __init__(self, config: Any = None) -> None:
        self.config = config if config is not None else self.Config()

    @classmethod
    def member(cls, name: str) -> type[Plugin]:
        """Return the class of one member of a family, such as `gsm8k` of `lm_eval:gsm8k`."""
        raise PluginError(f"{cls.plugin_id!r} is not a family of plug-ins, so there is no {cls.plugin_id}:{name}")

    @classmethod
    def explain_unknown(cls, plugin_id: str) -> str | None:  # noqa: ARG003
        """Return what to use instead of an id that no plug-in of this kind has, or None."""
        return None


class Task(Plugin, Generic[R]):
    """A benchmark or training set: problems, and the grader of their completions."""

    grader: Grader[R]
    sampling: Sampling
    """How completions are drawn unless a config says otherwise."""
    card: DatasetCard
    has_demonstrations: ClassVar[bool] = False
    """Whether `demonstrate` shows how its problems are solved, for supervised training."""
    is_external: ClassVar[bool] = False
    """Whether it belongs to another evaluator, whose own tools run it too."""

    @abstractmethod
    def problems(self, split: Split, seed: int) -> Iterator[Problem[R]]:
        """Yield problems in the order of `seed`. `train` may be endless; ids are unique within one pass."""

    def demonstrate(self, problem: Problem[R], seed: int) -> str:  # noqa: ARG002
        """Return the text of one demonstration; the seed decides which."""
        raise ConfigError(f"the task {self.plugin_id!r} has no demonstrations")

    def golden_completions(self, problem: Problem[R]) -> Sequence[GoldenCompletion]:  # noqa: ARG002
        """Return completions whose verdict is known, to check grader and data."""
        return ()

    def prompts(self) -> Sequence[str]:
        """Return the ids that the option `prompt` may have; empty for a task with one prompt."""
        return ()

    # --- tasks whose every right answer is known

    def right_texts(self, problem: Problem[R]) -> Sequence[str]:  # noqa: ARG002
        """Return every right answer, written without spaces; empty for a task that doesn't enumerate them."""
        return ()

    def canonical(self, text: str) -> str:  # noqa: ARG002
        """Return the solution of a right answer, as the grader names it in `details["solution"]`."""
        raise ConfigError(f"the task {self.plugin_id!r} doesn't enumerate its right answers")

    # --- tasks that read published files

    def files(self) -> Mapping[Split, tuple[DataFile, ...]]:
        """Return the files of each split, without reading them. Empty for a task that makes its problems itself."""
        return {}

    def statements(self, split: Split) -> Iterator[tuple[str, str]]:  # noqa: ARG002
        """Yield each problem's id and text, without the prompt around it. Only tasks with files have them."""
        return iter(())

    def loaded(self, split: Split) -> LoadedData | None:  # noqa: ARG002
        """Read a split and describe it; None for a task without files. Raise DataError if it can't be read."""
        return None

    def answers(self, split: Split) -> Mapping[str, str]:  # noqa: ARG002
        """Return how the grader reads the answers of a split, for `harness show`; empty if that is known."""
        return {}

    def test_facts(self, split: Split) -> Mapping[str, str]:  # noqa: ARG002
        """Return `tests`, what the tests of programs cover, and `undecided`, the problems that they can't decide."""
        return {}

    # --- tasks of another evaluator

    def has_right_and_wrong(self) -> bool:
        """Return whether verdicts mean right or wrong; if not, only `own_estimates` mean something."""
        return True

    def n_samples(self, n: int, sampling: Sampling) -> int:  # noqa: ARG002
        """Return how many completions of each problem to generate when n are asked for."""
        return n

    def own_estimates(self, graded: Sequence[Graded[Any]]) -> Mapping[str, Sequence[Estimate]]:  # noqa: ARG002
        """Return the other evaluator's numbers by task id: this task's, and those of its parts."""
        return {}


class Grader(Plugin, Generic[R]):
    """Judges completions."""

    n_at_once: int = 1
    """How many threads may call `grade` at the same time."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """The smallest and the largest reward that it gives."""
    names_solutions: bool = False
    """Whether `details["solution"]` of a right verdict is equal for completions that solve a problem in one way."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to another process: all but cached properties, such as an open sandbox."""
        attributes = {name: value for kind in type(self).__mro__ for name, value in vars(kind).items()}
        cached = {name for name, value in attributes.items() if isinstance(value, cached_property)}
        return {name: value for name, value in vars(self).items() if name not in cached}

    @abstractmethod
    def grade(self, problem: Problem[R], completion: Completion) -> Verdict:
        """Return a verdict for any text, in bounded time and memory; never raise."""

    def are_equal(self, first: str, second: str) -> bool:
        """Return whether two extracted answers are one answer: by default, equal without regard to white space."""
        return "".join(first.split()) == "".join(second.split())

    def facts(self) -> Mapping[str, str]:
        """Return what the judging depends on, for the run record. Raise UsageError if nothing can be judged here."""
        return {}

    def check(self) -> None:
        """Raise UsageError where nothing could be judged. Called before anything is generated."""


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
    trust_remote_code: bool = False
    """Run the Python code that the model's files bring along, if they need it."""
    chat_template_of: str | None = None
    """The folder or hub id of another model whose chat template the prompts are written with."""


class Engine(Plugin):
    """Text generation."""

    follows_policy: ClassVar[bool] = False
    """Whether `load_weights` works: only then can it sample in training."""
    can_score: ClassVar[bool] = False
    """Whether `score` works."""
    extra: ClassVar[str | None] = None
    """The extra that it needs where it runs."""
    is_remote: ClassVar[bool] = False
    """Whether a server holds the model, so that its name is the server's and its files are not on this machine."""

    logp_is_exact: bool = False
    """Whether its log-probabilities equal the trainer's own to float precision."""
    n_at_once: int | None = None
    """How many completions it decodes at once in the trainer's memory; None if its memory is its own."""
    copies_policy: ClassVar[bool] = False
    """Whether it holds weights of its own on the trainer's device, next to those of the policy."""
    version: int = 0
    """The steps that its weights were trained."""

    @abstractmethod
    def open(self, source: ModelSource) -> None:
        """Load the model. Raise ModelError before anything is generated."""

    @abstractmethod
    def generate(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield completions as they finish, in any order, one for each request.

        An engine that may lose one, such as a server's, yields a Failure in its place and never an invented text.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the model."""

    def score(self, requests: Iterable[Request]) -> Iterator[Completion]:  # noqa: ARG002
        """Yield for each request a completion without text, with the likelihood of each of its passages."""
        raise ConfigError(
            f"the engine {self.plugin_id!r} gives no log-likelihoods, which this task asks for; use --engine hf or vllm"
        )

    def check_prompts(self, source: ModelSource, requests: Iterable[Request]) -> None:
        """Raise ModelError for a prompt that does not fit the model or can't be written for it, before it is loaded."""

    def describe_model(self, model: str) -> Mapping[str, str]:  # noqa: ARG002
        """Return facts about a remote model for the run record, once it is open.

        A run is not resumed with another `name` or `fingerprint`.
        """
        return {}

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:  # noqa: ARG002
        """Sample from these weights from now on."""
        raise ConfigError(f"the engine {self.plugin_id!r} can't load new weights during training; use hf or vllm")

    def sleep(self) -> None:
        """Release memory until the next `load_weights`, before which nothing is generated."""


class Sandbox(Protocol):
    """Runs untrusted programs. Judges nothing."""

    def run(self, program: Program, stdin: bytes, limits: Limits) -> Execution:
        """Run a program. Raise SandboxError only for a failure that the program did not cause."""
        ...

    def call(self, program: Program, function: str, calls: Sequence[Call], limits: Limits) -> Execution:
        """Load a program in one process and call a function of it until an answer is missing. The limits hold for all
        calls together."""
        ...


class Metric(Plugin):
    """Numbers of one task, computed from its verdicts."""

    loads_model: ClassVar[bool] = False
    """Whether computing it loads a model, so that it is computed only when named."""
    measures_diversity: ClassVar[bool] = False
    """Whether it measures how much the samples of a problem differ, and has the options `samples` and `correct`."""

    @abstractmethod
    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        """Return the estimates of one task: one, or a family such as pass@1, pass@2, pass@4."""

    def applies_to(self, grader: Grader[Any], graded: Sequence[Graded[Any]]) -> bool:  # noqa: ARG002
        """Return whether the estimates mean something for this grader's verdicts. If not, they are left out."""
        return True

    def check(self) -> None:
        """Raise UsageError for what would fail once the completions are there. Called before they are generated."""

    def per_problem(self, graded: Sequence[Graded[Any]]) -> Mapping[str, Mapping[str, float]]:  # noqa: ARG002
        """Return by estimate and problem id the values, at least 0, that an estimate is the mean of.

        Empty unless the estimates are means over problems; with values they can be compared problem by problem.
        """
        return {}

    def cards(self) -> Mapping[str, Mapping[str, Any]]:
        """Return by kind the models that values depend on, such as an `encoder`, each with facts to print below them.

        They are complete once values were computed.
        """
        return {}

    @classmethod
    def samples_needed(cls, options: Any) -> int:  # noqa: ARG003
        """Return how many samples of a problem these options need."""
        return 1


class TableBuilder(Plugin, Generic[Run]):
    """A table of a report."""

    @abstractmethod
    def build(self, runs: Sequence[Run]) -> Sequence[Table]:
        """Return the same rows for the same runs, to the byte."""


class Advantage(Plugin):
    """Turns the rewards of a step into advantages. It goes with any objective that has the option `advantage`."""

    needs: frozenset[Need] = frozenset()
    """Its inputs besides rewards, as those of an objective: `logp_old`, `reference_logp`, or classes of completions."""
    requires: frozenset[Requirement] = frozenset({"group"})
    """Conditions on the loop, as those of an objective."""
    least_group: int = 2
    """How many completions of a prompt it takes, for those that require a group."""
    per_token: bool = False
    """Whether it gives an advantage to each token, which losses with one ratio for a completion can't take."""

    @abstractmethod
    def compute(self, batch: Batch, old: PolicyOutputs) -> torch.Tensor:
        """Return an advantage for each completion, (B,), or token, (B, T): once a batch, with whole groups in view."""

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class Objective(Plugin):
    """A loss, with what it reads and the parameters that it owns. Anything else is a setting of the loop."""

    needs: frozenset[Need] = frozenset()
    """Its inputs besides log-probs: outputs of a pass, the reward of a greedy completion (`greedy_reward`), old
    log-probs before the update (`logp_old`), and which completions are alike: those with one solution
    (`solution_classes`, where the grader names it) or one answer (`answer_classes`)."""
    requires: frozenset[Requirement] = frozenset()
    """Conditions on the loop: several completions of a prompt (`group`), several updates a step (`several_updates`),
    completions of the current policy (`on_policy`: a second update would be biased), or rewards in [0, 1]
    (`unit_rewards`)."""
    advantage: Advantage | None = None
    """How it turns rewards into advantages, where that is a plug-in of its own."""
    source: Literal["policy", "demonstrations"] = "policy"
    """Whose completions it learns from."""

    @classmethod
    def explain_unknown(cls, plugin_id: str) -> str | None:
        from harness.core.recipes import methods_of_settings

        method = methods_of_settings().get(plugin_id)
        if method is None:
            return None
        return (
            f"{plugin_id!r} is {method.description}, and not an objective of its own: start from that recipe, or set "
            f"objective.id = {method.objective!r} and the rest of what `harness show {plugin_id}` prints"
        )

    @abstractmethod
    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        """Return the advantage of each completion or token: detached, once a batch, with whole groups in view."""

    @abstractmethod
    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        """Return the loss of one micro-batch, divided by the totals of its minibatch (`batch.totals`).

        The sum over micro-batches is then the loss of the minibatch, however it is cut.
        """

    def warnings(self) -> Sequence[str]:
        """Return warnings about the options, such as one without effect. Impossible options are refused instead."""
        return ()

    # --- parameters of its own

    def prepare(self, shape: ModelShape, seed: int) -> None:
        """Create the parameters of its own, such as a log Z head or a value head."""

    def parameters(self) -> Sequence[ParameterGroup]:
        return ()

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def values(self, outputs: PolicyOutputs) -> torch.Tensor | None:  # noqa: ARG002
        """Return a critic's value of each state from `completion_hidden`, (B, T); None without a critic.

        The loop calls it for each piece of the pass before the updates, so that the states need not be kept.
        """
        return None


class PolicyGradient(Objective):
    """Base of objectives whose advantages are a plug-in's, chosen by the option `advantage`.

    In the config class: `advantage: PluginChoice = plugin("advantages", default="group")`.
    """

    advantage: Advantage

    def __init__(self, config: Any, advantage: Advantage | None = None) -> None:
        """Build the advantage that the config's option `advantage` chose, unless one is given."""
        self.config = config
        self.advantage = advantage if advantage is not None else config.advantage.build()
        self.needs = self.advantage.needs
        self.requires = self.advantage.requires

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        return Advantages(self.advantage.compute(batch, old), {})

    def state_dict(self) -> Mapping[str, Any]:
        return self.advantage.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.advantage.load_state_dict(state)


class Backend(Plugin):
    """A trainer that runs the steps of `harness train`: our own loop, or another project's with our objective.

    `setup` is a `harness.trainers.setup.TrainSetup`. Only options that change the numbers belong to a run's identity:
    addresses and other places are declared with `incidental()`.
    """

    @abstractmethod
    def check(self, setup: Any) -> None:
        """Raise ConfigError for an objective or setting that it can't carry, with the nearest that can.

        Nothing is loaded or connected yet.
        """

    @abstractmethod
    def estimate(self, setup: Any) -> Any:
        """Return the `harness.trainers.dry_run.DryRun` that `--dry-run` prints and `train` consults."""

    @abstractmethod
    def train(self, setup: Any, folder: Path, progress: Progress, *, ignore_memory: bool) -> Any:
        """Open or resume the run folder, train to the last step, and return the run's `RunReader`."""
