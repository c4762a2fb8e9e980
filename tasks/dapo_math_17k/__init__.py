"""DAPO-Math-17k without repeats: 17,188 competition problems with integer answers, for training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.core.types import DataFile, DatasetCard, Erratum
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, content_id, splits, without_repeats
from harness.tasks._base.maths import TRAINING, Maths
from harness.tasks._base.prompts import MATHS, PLACEHOLDER
from harness.tasks.dapo_math_17k.contradictions import CONTRADICTIONS

HUB = "BytedTsinghua-SIA/DAPO-Math-17k"
_BEFORE, _, _AFTER = MATHS["flowrl"].user.partition(PLACEHOLDER)


def rows(path: Path) -> Iterator[Row]:
    columns = ["prompt.list.element.content", "reward_model.ground_truth"]
    for record in read_records(path, columns, skip_repeats=True):
        problem = record["prompt"][0]["content"].removeprefix(_BEFORE).removesuffix(_AFTER)
        yield Row(content_id(problem), problem, record["reward_model"]["ground_truth"])


class DapoMath17k(Maths):
    """Ids are hashes of the problems. If a problem occurs with two answers, the first is kept."""

    CARD = DatasetCard(
        title="DAPO-Math-17k, each problem once",
        source=f"{HUB} data/dapo-math-17k.parquet",
        licence="Apache-2.0",
        paper="Yu et al., arXiv 2503.14476",
        released="2025-03",
        sizes={"train": "17188 problems"},
        fingerprint="",
        notes="The hub's file has 1,791,700 rows, each prompt a hundred times or more: 17,917 distinct rows, 17,290 "
        "distinct prompts, 17,188 without regard to white space. Some problems are also in AMC23, MATH-500 and "
        "OlympiadBench: `harness overlap` lists them.",
        fields={"prompt": "the problem in DAPO's template, which is removed", "ground_truth": "an integer"},
        errata=tuple(
            Erratum(key, f"occurs with the answers {' and '.join(answers)}: at least one is wrong")
            for key, answers in CONTRADICTIONS.items()
        ),
    )
    SOURCES = splits(
        train=[
            Source((DataFile("data/dapo-math-17k.parquet", HUB),), without_repeats(rows)),
            Source(
                (DataFile("dapo-math-17k.parquet", mirrored_as="dapo_math_17k/svs_dapo_math_17k.parquet"),),
                without_repeats(rows),
            ),
        ]
    )
    SAMPLING = TRAINING


TASK = DapoMath17k
