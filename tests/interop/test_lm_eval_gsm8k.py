"""Our gsm8k under the preset lm-eval, against lm-eval's own task on the same rows: prompts, examples and verdicts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed; `tox -e interop` runs this")

from harness.core import config as configs
from harness.core.types import Completion, Tokens
from harness.evaluation.presets import resolve_config

pytestmark = pytest.mark.filterwarnings("default")  # those of lm-eval and datasets are not ours
REPLIES = [
    "#### {gold}",
    "so\n#### {gold}.",
    "#### ${gold}",
    "####{gold}",
    "The answer is {gold}.",
    "#### {gold} or #### 7",
    "#### 7, no, {gold}",
    "\\boxed{{{gold}}}",
    "{gold}.0",
    "none",
    "",
    "#### -{gold}",
    "#### .",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import lm_eval

    draw = random.Random(5)
    (tmp_path / "gsm8k").mkdir()
    for split, size in {"train": 30, "test": 20}.items():
        golds = [draw.choice(["5", "1,250", "-3", "18"]) for _ in range(size)]
        rows = [
            {"question": f"{split} {n}?", "answer": f"{n} is <<1+1=2>>2.\n#### {gold}"} for n, gold in enumerate(golds)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"gsm8k/openai_{split}.jsonl").write_text(text)
    base = Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml"
    files = ", ".join(f"{split}: {tmp_path}/gsm8k/openai_{split}.jsonl" for split in ("train", "test"))
    (tmp_path / "own_gsm8k.yaml").write_text(
        f"include: {base}\ntask: own_gsm8k\ntag: null\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{{files}}}}}\n"
    )
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    return tmp_path


def test_gsm8k_prompts_and_verdicts_equal_lm_evals(folder: Path) -> None:
    config = resolve_config({"model": {"path": "countdown-tiny"}, "tasks": ["gsm8k"], "preset": "lm-eval"})
    ours = {problem.id: problem for problem in config.tasks[0].build().problems("test", 0)}
    table = {"id": "lm_eval:own_gsm8k", "include_path": str(folder)}
    theirs = configs.parse_plugin("tasks", {**table, "apply_chat_template": True}).build()
    their_problems = list(theirs.problems("test", 0))
    assert [p.messages for p in their_problems] == [ours[f"test-{n}"].messages for n in range(20)]
    plan = config.plan("gsm8k", config.tasks[0].build())
    assert (plan.sampling.stop, plan.sampling.temperature) == (theirs.sampling.stop, theirs.sampling.temperature)
    assert plan.sampling.max_tokens == theirs.sampling.max_tokens
    for variant in ("strict-match", "flexible-extract"):
        grader = configs.parse_plugin("graders", {"id": "legacy_gsm8k", "variant": variant}).build()
        judge = configs.parse_plugin("tasks", {**table, "metric": f"exact_match,{variant}"}).build()
        for number, theirs_asked in enumerate(judge.problems("test", 0)):
            own = ours[f"test-{number}"]
            for reply in REPLIES:
                text = reply.format(gold=own.reference.text)
                completion = Completion(own.id, 0, 0, text, "stop", Tokens(1, 1))
                asked = Completion(theirs_asked.id, 0, 0, text, "stop", Tokens(1, 1))
                expected = judge.grader.grade(theirs_asked, asked).outcome
                assert grader.grade(own, completion).outcome == expected, (variant, text)
