"""lm-eval's own tasks on data made here, as there may be no network: each includes its file and changes the data."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

WORDS = "a cat saw 3 red birds near an old wall while rain fell on 12 dry fields for 5 days".split()  # noqa: SIM905


def write_tasks(folder: Path) -> Path:
    """A folder for --include_path."""
    import lm_eval

    packaged = Path(lm_eval.__file__).parent / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, "own_gsm8k", packaged / "gsm8k/gsm8k.yaml", _sums, {"train": 12, "test": 40}, _REPLY)
    _write(folder, "own_gsm8k_cot", packaged / "gsm8k/gsm8k-cot-zeroshot.yaml", _sums, {"train": 1, "test": 20}, _REPLY)
    _write(folder, "own_drawn", packaged / "gsm8k/gsm8k.yaml", _sums, {"train": 6, "test": 12}, _DRAWN)
    _write(folder, "own_hellaswag", packaged / "hellaswag/hellaswag.yaml", _endings, {"train": 8, "validation": 30})
    _write(folder, "own_winogrande", packaged / "winogrande/default.yaml", _blanks, {"train": 8, "validation": 24})
    _write(folder, "own_cola", packaged / "glue/cola/default.yaml", _sentences, {"train": 8, "validation": 24})
    _write(
        folder, "own_wikitext", packaged / "wikitext/wikitext.yaml", _pages, {"train": 1, "validation": 1, "test": 5}
    )
    _write(folder, "own_lambada", packaged / "lambada/lambada_openai.yaml", _texts, {"test": 20})
    for number, (subject, size) in enumerate({"own_mmlu_birds": 17, "own_mmlu_rain": 6, "own_mmlu_walls": 11}.items()):
        base = packaged / "mmlu/default/_default_template_yaml"
        more = f'description: "The following are questions about {subject[9:]}.\\n\\n"\n'
        _write(folder, subject, base, _choices, {"dev": 5, "test": size}, more, seed=number)
    (folder / "own_mmlu.yaml").write_text(_GROUP)
    return folder


_REPLY = (
    "generation_kwargs: {until: ['question:', '</s>', '5'], do_sample: false, temperature: 0.0, max_gen_toks: 40}\n"
)
_DRAWN = """\
generation_kwargs: {until: ["question:"], do_sample: true, temperature: 0.8, max_gen_toks: 24}
repeats: 5
filter_list:
  - name: score-first
    filter: [{function: regex, regex_pattern: "(-?[0-9]+)"}, {function: take_first}]
  - name: maj@5
    filter: [{function: regex, regex_pattern: "(-?[0-9]+)"}, {function: majority_vote}, {function: take_first}]
"""
_GROUP = """\
group: own_mmlu
task:
  - group: own_mmlu_outdoors
    task: [own_mmlu_birds, own_mmlu_rain]
    aggregate_metric_list: [{metric: acc, weight_by_size: true}]
  - own_mmlu_walls
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
metadata: {version: 2}
"""


def _write(
    folder: Path,
    name: str,
    base: Path,
    row: Callable[[random.Random], dict[str, Any]],
    sizes: dict[str, int],
    more: str = "",
    seed: int = 0,
) -> None:
    draw, files = random.Random(f"{name} {seed}"), {}
    for split, size in sizes.items():
        files[split] = folder / f"{name}-{split}.jsonl"
        _write_rows(files[split], (row(draw) for _ in range(size)))
    data = ", ".join(f"{split}: {path}" for split, path in files.items())
    (folder / f"{name}.yaml").write_text(
        f"include: {base}\ntask: {name}\ntag: null\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{{data}}}}}\n{more}"
    )


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _some(draw: random.Random, n: int) -> str:
    return " ".join(draw.choices(WORDS, k=n))


def _sums(draw: random.Random) -> dict[str, Any]:
    first, second = draw.randint(0, 4), draw.randint(0, 5)
    question = f"{_some(draw, draw.randint(4, 9))}. what is {first}+{second}?"
    return {"question": question, "answer": f"{first}+{second} is that.\n#### {first + second}"}


def _choices(draw: random.Random) -> dict[str, Any]:
    return {
        "question": _some(draw, 7) + "?",
        "choices": [_some(draw, 2) for _ in range(4)],
        "answer": draw.randrange(4),
    }


def _endings(draw: random.Random) -> dict[str, Any]:
    return {
        "ctx_a": _some(draw, 6),
        "ctx_b": _some(draw, 2),
        "activity_label": _some(draw, 2),
        "endings": [_some(draw, draw.randint(2, 9)) for _ in range(4)],
        "label": str(draw.randrange(4)),
    }


def _blanks(draw: random.Random) -> dict[str, Any]:
    return {
        "sentence": f"{_some(draw, 4)} _ {_some(draw, 5)}",
        "option1": _some(draw, 1),
        "option2": _some(draw, 2),
        "answer": draw.choice("12"),
    }


def _sentences(draw: random.Random) -> dict[str, Any]:
    return {"sentence": _some(draw, 8), "label": draw.randrange(2), "idx": 0}


def _pages(draw: random.Random) -> dict[str, Any]:
    return {"page": _some(draw, draw.choice([20, 150, 600]))}


def _texts(draw: random.Random) -> dict[str, Any]:
    return {"text": _some(draw, 9)}
