"""Values that modules pass to one another: frozen, slotted dataclasses.

`Problem` -> `Request` -> `Completion` -> `Verdict` -> `Graded` -> `Estimate`. A failure is never scored: a completion
that could not be graded has the outcome `ungraded` and no reward, and is counted as such everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar, get_args

R = TypeVar("R")

CLUSTER_TAG = "cluster"
"""Tag of a problem from a family such as a contest or a passage. Problems of one family are alike, so intervals do not
treat them as independent."""

Outcome = Literal["correct", "incorrect", "ungraded"]
Status = Literal["running", "done", "failed", "interrupted"]
FinishReason = Literal["stop", "length", "failed"]
Language = Literal["python", "cpp"]
ExecutionStatus = Literal[
    "exited", "signalled", "not_compiled", "cpu_limit", "wall_limit", "memory_limit", "output_limit"
]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to score after a prompt, or as a document on its own if there are no messages."""

    messages: tuple[Message, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The log-likelihood of a passage, summed over its tokens, and whether greedy decoding would write it."""

    logp: float
    is_greedy: bool
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """The range of a number in a config, as the `GroupedMetadata` that pydantic reads from an annotation.

    `annotated_types` has the same, but importing this module must load nothing outside the standard library.
    """

    __is_annotated_types_grouped_metadata__: ClassVar[Literal[True]] = True

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __iter__(self) -> Iterator[Any]:
        import annotated_types

        kinds = {"ge": annotated_types.Ge, "gt": annotated_types.Gt, "le": annotated_types.Le, "lt": annotated_types.Lt}
        return (kind(bound) for name, kind in kinds.items() if (bound := getattr(self, name)) is not None)

    def __str__(self) -> str:
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        bounds = ((word, getattr(self, name)) for name, word in words.items())
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


MaxTokens = Annotated[int, Bounds(ge=1)]
Temperature = Annotated[float, Bounds(ge=0), "0 is greedy"]
TopP = Annotated[float, Bounds(gt=0, le=1), "1 is off"]
TopK = Annotated[int, Bounds(ge=0), "0 is off"]
MinP = Annotated[float, Bounds(ge=0, le=1), "0 is off"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an engine draws tokens.

    This class is the list of sampling options. Configs, requests to vLLM and to servers, records, reports, presets and
    exports all take their fields from it; the hf engine implements each option itself.
    """

    max_tokens: MaxTokens
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    """Leave out tokens less likely than this share of the likeliest one, at the temperature, before top_k and top_p."""
    stop: tuple[str, ...] = ()

    def truncation(self) -> dict[str, Any]:
        """Return the options that leave out unlikely tokens, by name."""
        others = ("max_tokens", "temperature", "stop")
        return {option.name: getattr(self, option.name) for option in fields(self) if option.name not in others}

    def truncating(self) -> list[str]:
        """Return the names of the truncation options that are on, over whose kept tokens the sampler renormalises."""
        return [name for name in self.truncation() if name in self.changed()]

    def changed(self) -> dict[str, Any]:
        """Return the options that are not at their defaults, by name."""
        optional = (option for option in fields(self) if option.default is not MISSING)
        return {o.name: value for o in optional if (value := getattr(self, o.name)) != o.default}


@dataclass(frozen=True, slots=True)
class Problem(Generic[R]):
    """One exercise. Only the grader reads its reference."""

    id: str
    task: str
    messages: tuple[Message, ...]
    reference: R
    tags: Mapping[str, str] = field(default_factory=dict)
    passages: tuple[Passage, ...] = ()
    """If there are any, they are scored and no text is generated."""
    sampling: Sampling | None = None
    """Set if it is drawn differently from the task's other problems."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one completion. Its randomness depends on the seed alone, not on the batch."""

    problem_id: str
    index: int
    messages: tuple[Message, ...]
    seed: int
    sampling: Sampling
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of a completion, with ids and the engine's log-probabilities if it returns them.

    `completion_ids` includes the end-of-sequence token if there is one. `logp_behaviour` is the log-probability
    under the distribution that was sampled from, one per completion id.
    """

    n_prompt: int
    n_completion: int
    prompt_ids: Sequence[int] | None = None
    completion_ids: Sequence[int] | None = None
    logp_behaviour: Sequence[float] | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One model output. `finish_reason` is `length` if the token budget cut it off.

    `failed` is a placeholder for a completion that the engine could not generate. It is never returned by an engine,
    never stored, and always `ungraded`.
    """

    problem_id: str
    index: int
    seed: int
    text: str
    finish_reason: FinishReason
    tokens: Tokens
    likelihoods: Sequence[Likelihood] = ()
    """One for each scored passage; the text is then empty."""
    engine_s: float | None = field(default=None, compare=False)
    """Wall time spent waiting for the engine since the previous completion. The sum over completions is the time that
    generating them took, over all sessions of a run. None if it was not measured."""

    def load(self) -> Completion:
        """Return itself: there is nothing to read, unlike for a `StoredCompletion`."""
        return self


class CompletionReader(Protocol):
    """The file of a run folder that completions are read back from."""

    def read(self, offset: int) -> Completion:
        """Read the completion whose line begins at this byte."""
        ...


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """A completion in a run folder, without its text and likelihoods. `load` reads the whole of it from the file."""

    problem_id: str
    index: int
    seed: int
    finish_reason: FinishReason
    tokens: Tokens
    """Counts and cost, without ids and log-probabilities."""
    engine_s: float | None = field(compare=False)
    reader: CompletionReader = field(repr=False)
    offset: int = field(repr=False)

    def load(self) -> Completion:
        return self.reader.read(self.offset)


@dataclass(frozen=True, slots=True)
class Failure:
    """A completion that the engine could not generate, after all its attempts."""

    problem_id: str
    index: int
    seed: int
    reason: str


OUTCOMES: tuple[str, ...] = get_args(Outcome)


def is_finite_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


NO_COMPLETION = "no_completion"
"""Key in a verdict's details: the engine failed, there was nothing to grade, and the next run asks again."""
NO_VERDICT = "no_verdict"
"""Key in a verdict's details: what grades did not answer, such as a judge's server, and the next run grades again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one completion. `ungraded` has no reward; the other outcomes always have one."""

    outcome: Outcome
    reward: float | None
    extracted: str | None = None
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"a verdict is {', '.join(OUTCOMES)}, not {self.outcome!r}")
        if (self.outcome == "ungraded") != (self.reward is None):
            raise ValueError(f"a verdict has a reward exactly when it is graded: {self.outcome}, {self.reward}")
        if self.reward is not None and not is_finite_number(self.reward):
            raise ValueError(f"a reward is a finite number, not {self.reward!r}")


@dataclass(frozen=True, slots=True)
class KeptSample:
    """A completion of a training step as groups.jsonl has it."""

    index: int
    text: str
    finish_reason: str
    n_tokens: int
    outcome: Outcome
    reward: float | None
    """Of the grader."""
    extracted: str | None = None
    reason: str = ""
    is_trained: bool = False
    """Whether it was in the batch of the step: ungraded ones and whole groups may be left out."""
    shaped_reward: float | None = None
    """The reward with penalties and a KL in it, as it was trained on."""
    advantage: float | None = None
    """Its advantage, or the mean over its tokens where each token has one; None if it is not a finite number."""
    token_ids: Sequence[int] | None = None
    logp: Sequence[float | None] | None = None
    """The log-probability of each token under the distribution that was sampled from."""


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """The completions of one prompt in a training step, as groups.jsonl has them."""

    step: int
    task: str
    problem_id: str
    prompt: str
    """The texts of its messages."""
    samples: list[KeptSample]


@dataclass(frozen=True, slots=True)
class Graded(Generic[R]):
    """A completion with its problem and its verdict. Its text is at `completion.load().text`."""

    problem: Problem[R]
    completion: Completion | StoredCompletion
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Estimate:
    """An aggregate with its interval, and the counts it was computed from."""

    name: str
    value: float
    low: float
    high: float
    n_problems: int
    n_completions: int
    n_ungraded: int
    method: str

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            raise ValueError(f"an estimate is a number with an interval: {self.name} = {self.value}")


Mark = Literal["", "best", "tied", "significant"]
"""`best` of its column, `tied` with the best (not significantly worse), a `significant` difference, or nothing."""


@dataclass(frozen=True, slots=True)
class MarkedEstimate(Estimate):
    """An estimate in a table that ranks its rows. Its value is a share; renderers may show it in percent."""

    mark: Mark = ""
    in_percent: bool = True


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a dataset: where it is published, and its path in a local mirror."""

    path: str
    """The path inside `repo`, or the name to cache it under if there is only a `url`."""
    repo: str | None = None
    """A dataset id on the Hugging Face hub."""
    revision: str = "main"
    url: str | None = None
    """Its address if it is not on the hub."""
    sha256: str | None = None
    mirrored_as: str | None = None
    """Its path under HARNESS_DATA_DIR if that differs from `repo/path`."""
    is_gated: bool = False

    def __str__(self) -> str:
        if self.url is not None:
            return self.url
        if self.repo is None:
            return f"{self.mirrored_as} (only in a local mirror)"
        return f"{self.repo}/{self.path}" + (f" at {self.revision}" if self.revision != "main" else "")


@dataclass(frozen=True, slots=True)
class Erratum:
    """A row of a dataset that is known to be wrong, and the reason."""

    problem_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """The dataset of a task, described for the reader of a report."""

    title: str
    source: str
    licence: str
    paper: str
    sizes: Mapping[str, str]
    fingerprint: str
    """The recorded fingerprint of the rows, all splits together."""
    notes: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The meaning of each field of a row."""
    errata: tuple[Erratum, ...] = ()
    exclusions: tuple[Erratum, ...] = ()
    """Problems that tests alone can't decide, and the reasons."""
    several_approaches: float | None = None
    """Share of the problems that are known to admit more than one approach; None where that is not known."""
    released: str = ""
    """When the problems became public, as YYYY-MM or YYYY-MM-DD; empty if not known."""


@dataclass(frozen=True, slots=True)
class LoadedData:
    """The rows read for one split of a task, and how they differ from the recorded ones."""

    split: str
    n_rows: int
    fingerprint: str
    expected: str
    """The recorded fingerprint; empty if this project has never seen the rows."""
    differing: tuple[str, ...] = ()
    """One line for each altered, new or missing row."""
    files: tuple[str, ...] = ()

    @property
    def is_as_expected(self) -> bool:
        return self.fingerprint == self.expected


@dataclass(frozen=True, slots=True)
class GoldenCompletion:
    """A completion whose verdict is known, to validate data and grader without a model."""

    what: str
    text: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The header of a run folder, written as `run.json`."""

    id: str
    kind: Literal["eval", "train", "rollouts"]
    created: str
    config_digest: str
    code: str
    environment: Mapping[str, str]
    data: Mapping[str, Mapping[str, Any]]
    seeds: Mapping[str, int]
    status: Status
    format: int = 1
    error: str | None = None
    regraded: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    """By task and by grader that graded it again: the version of the code, and the grader's facts."""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Digests of config.toml and of the JSON files: the current one, and the one before it. Earlier ones have none."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the files of lines when the run ended, which only grow from then on. Empty while it runs."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for a renderer. A cell is text, a number, an estimate or None."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | Estimate | None, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """The source of an untrusted program, and the imports it may rely on.

    Only Python programs have a prelude. Many share one, so it holds nothing that a program must not see.
    """

    source: str
    prelude: str = ""
    language: Language = "python"


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits of one untrusted program. At most `keep_bytes` + 1 bytes of its output are kept."""

    cpu_s: float
    wall_s: float
    memory_bytes: int
    output_bytes: int = 16 << 20
    keep_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function: its arguments as plain data, and its limits."""

    arguments: Sequence[object]
    cpu_s: float
    answer_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one call: plain data, still encoded and untrusted, or the reason why there is none."""

    kind: Literal["value", "packed", "raised", "opaque", "too_large"]
    body: bytes
    wall_s: float


@dataclass(frozen=True, slots=True)
class Execution:
    """How one untrusted program ran. Whether it is correct is for a grader to decide."""

    status: ExecutionStatus
    exit_code: int
    """The exit code, or the number of the signal."""
    stdout: bytes
    stderr: bytes
    cpu_s: float
    wall_s: float
    memory_bytes: int
    answers: tuple[Answer, ...] = ()
    waited_s: float = 0.0
    """The part of the wall time in which the program was ready to run and had no core."""
