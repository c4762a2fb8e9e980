"""Runs for tests of the page: two evaluations with texts that attack a page, and readers of what is in it."""

import base64
import json
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.types import Completion, Estimate, KeptGroup, KeptSample, Table, Tokens, Verdict
from harness.reports.page.build import Page
from harness.reports.report import read_runs
from harness.runs.folder import RunIdentity, RunWriter
from harness.runs.jsonl import JsonlFile

ATTACKS = {
    "script": "<script>window.attacked = 1</script>",
    "end of the element": "</script><script>window.attacked = 1</script><style>* { display: none }</style>",
    "image": '<img src=x onerror="window.attacked = 1"><a href="javascript:window.attacked = 1">link</a>',
    "comment": "<!-- <script> ]]> -->",
    "direction": "abc \u202etxet\u202c \u2066x\u2069 \u200b end",
    "controls": "a\x1b[31mred\x07\x00b\rc\x85",
    "half a pair": "left \ud83d right \udc00",
    "template": "${window.attacked = 1} {{window.attacked = 1}}",
    "formula of a spreadsheet": "=HYPERLINK(A1)",
    "right to left": "שלום עולם 123",
}


@dataclass(frozen=True)
class Model:
    path: str


@dataclass(frozen=True)
class EvalConfig:
    model: Model = Model("tiny")
    tasks: Any = field(default_factory=lambda: ["sums"])
    engine: Any = field(default_factory=lambda: {"id": "scripted"})
    sampling: Any = field(default_factory=lambda: {"temperature": 1.0})
    metrics: Any = field(default_factory=list)
    split: str = "test"
    n: int = 4
    seed: int = 0


@dataclass(frozen=True)
class TrainConfig:
    model: Model = Model("tiny")
    task: Any = field(default_factory=lambda: {"id": "sums"})
    objective: Any = field(default_factory=lambda: {"id": "grpo"})
    loop: Any = field(default_factory=lambda: {"steps": 3})
    seed: int = 4


def sample(store, problem, index, text, outcome, *, extracted=None, solution=None, finish="stop", reason="", **details):
    store.append_completion("sums", Completion(problem, index, index, text, finish, Tokens(3, len(text) % 50)))
    reward = {"correct": 1.0, "incorrect": 0.0, "ungraded": None}[outcome]
    named = {"solution": solution} if solution is not None else {}
    store.append_verdict(
        "sums", problem, index, "exact", Verdict(outcome, reward, extracted, reason, {**named, **details})
    )


def open_run(folder, *, temperature=1.0, n=4):
    config = EvalConfig(sampling={"temperature": temperature}, n=n)
    data = {"sums": {"fingerprint": "f00d", "grader": "exact"}, "model": {"name": "tiny"}}
    return RunWriter.open(folder, RunIdentity.of("eval", config, seeds={"run": 0}, data=data))


def make_run(folder, samples, *, temperature=1.0, n=4, others=()):
    """Write an evaluation: `samples` are tuples of problem, index, text, outcome and keywords."""
    store = open_run(folder, temperature=temperature, n=n)
    for problem, index, text, outcome, keywords in samples:
        sample(store, problem, index, text, outcome, **keywords)
    for problem, index, grader, outcome in others:
        reward = {"correct": 1.0, "incorrect": 0.0, "ungraded": None}[outcome]
        store.append_verdict("sums", problem, index, grader, Verdict(outcome, reward, None, "another view"))
    store.finish("done")
    return folder


def make_training(folder):
    """A train run of three steps; step 2 saved two groups of four, one of equal rewards, and step 3 kept one group."""
    config = TrainConfig()
    store = RunWriter.open(folder, RunIdentity.of("train", config, seeds={"run": 0}, data={}))
    store.append_group(kept_group(3), 10**6)
    for step in (1, 2, 3):
        store.append_step({"step": step, "reward": step / 4, "loss": -0.5, "sample_s": 1.5})
    store.append_warning({"step": 3, "name": "entropy", "text": "entropy fell"})
    store.finish("done")
    rollouts = JsonlFile(folder / "rollouts.jsonl")
    rollouts.append({"format": 1, "facts": {}})
    rollouts.append({"begin": 2, "weights": "0"})
    for problem, rewards in (("first", (0.0, 1.0, 0.25, 0.0)), ("second", (1.0,) * 4)):
        for index, reward in enumerate(rewards):
            tokens = {"n_prompt": 1, "n_completion": 2, "completion_ids": [7, 8], "logp_behaviour": [-0.01, -3.0]}
            completion = {"problem_id": problem, "index": index, "text": f"{problem} {index}", "finish_reason": "stop"}
            outcome = "correct" if reward == 1 else "incorrect"
            verdict = {"outcome": outcome, "reward": reward, "extracted": None, "reason": "", "details": {}}
            rollouts.append(
                {"part": "chosen", "task": "sums", "completion": {**completion, "tokens": tokens}, "verdict": verdict}
            )
    rollouts.append({"end": 2, "n_problems_drawn": 2, "n_rounds": 1})
    rollouts.close()
    return folder


def kept_group(step):
    """Return a group of two completions, with texts that attack a page."""
    texts = list(ATTACKS.values())
    shared = {"finish_reason": "stop", "n_tokens": 2, "is_trained": True, "token_ids": [7, 8]}
    samples = [
        KeptSample(0, texts[0], outcome="incorrect", reward=0.0, advantage=-0.5, logp=[-0.25, None], **shared),
        KeptSample(1, texts[1], outcome="correct", reward=1.0, shaped_reward=0.75, advantage=1.5, logp=None, **shared),
    ]
    return KeptGroup(step, "sums", "third", texts[2], samples)


def make_pair(folder):
    """Two runs of four problems: `strong` is right where `weak` is wrong, and `p3` is solved in other ways."""
    strong = [("p0", i, f"answer {i}", "correct", {"extracted": "1", "solution": "a"}) for i in range(4)]
    strong += [("p1", i, "cut here", "incorrect", {"finish": "length"}) for i in range(4)]
    strong += [("p2", i, text, "incorrect", {"extracted": text}) for i, text in enumerate(list(ATTACKS.values())[:4])]
    strong += [("p3", i, "same words but one", "correct", {"solution": "x"}) for i in range(4)]
    weak = [("p0", i, "no idea", "incorrect", {"extracted": "2"}) for i in range(4)]
    weak += [("p1", i, r"so $\frac{1}{2}$ and \[x^2 = \alpha\]", "correct", {"solution": "f"}) for i in range(4)]
    weak += [("p2", i, text, "incorrect", {"reason": text}) for i, text in enumerate(list(ATTACKS.values())[4:8])]
    weak += [("p3", i, "same words except one", "correct", {"solution": "y"}) for i in range(4)]
    return (
        make_run(folder / "strong", strong),
        make_run(folder / "weak", weak, temperature=0.5, others=[("p0", 0, "legacy", "correct")]),
    )


def many_samples(folder, name, *, n_problems, n, characters=300, right=0.5):
    """Write a run of texts of random words, as a quick benchmark of large reports needs it."""
    import random

    generator = random.Random(name)
    words = [
        " ".join(generator.choices("abcdefghijklmnop", k=generator.randint(2, 8))).replace(" ", "") for _ in range(4000)
    ]
    samples = []
    for problem in range(n_problems):
        for index in range(n):
            text = ""
            while len(text) < characters:
                text += generator.choice(words) + " "
            outcome = "correct" if generator.random() < right else "incorrect"
            keywords = {"extracted": str(generator.randint(0, 50)), "solution": str(generator.randint(0, 9))}
            samples.append((f"problem-{problem}", index, text[:characters], outcome, keywords))
    return make_run(folder / name, samples, n=n)


def read_page(html: Path) -> dict[str, Any]:
    """Decode what a page holds: its main values and all chunks, by number."""
    text = html.read_text(encoding="utf-8")
    main = int(re.search(r'data-main="(\d+)"', text).group(1))
    if 'data-folder="' in text:
        files = (html.parent / "report-data").glob("*.js")
        found = [
            re.fullmatch(r'harnessChunk\((\d+),"([A-Za-z0-9+/=]*)"\)\n', file.read_text()).groups() for file in files
        ]
    else:
        found = re.findall(r'<script type="text/plain" id="c(\d+)">([A-Za-z0-9+/=]*)</script>', text)
    chunks = {int(number): json.loads(zlib.decompress(base64.b64decode(packed))) for number, packed in found}
    return {"main": chunks[main], "chunks": chunks, "text": text}


RESULT = Estimate("avg@4", 0.5, 0.25, 0.75, 4, 16, 0, "made up")
TABLES = [
    ("results", Table("Results", ("run", "avg@4"), (("strong", RESULT), ("weak", None)), ("a note",))),
    ("empty", Table("Results", ("run", "avg@4"), (), ("why it is empty",))),
]


@dataclass(frozen=True)
class Drawing:
    id: str
    title: str
    svg: str


def write_page(folder, runs, **options):
    limit = {"most_in_one_file": options.pop("most")} if "most" in options else {}
    folder.mkdir(exist_ok=True)
    with Page(read_runs(runs), TABLES, **options) as page:
        return page.write(folder, **limit)
