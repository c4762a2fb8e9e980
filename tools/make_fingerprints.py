"""Write the row digests of a dataset, once its rows were checked by hand.

    python tools/make_fingerprints.py TASK key=value ...

Every later load of the dataset is compared with these digests.
"""

from __future__ import annotations

import sys
from typing import Any

from harness.core import config
from harness.data import fingerprints
from harness.tasks._base.dataset import FINGERPRINTS, Dataset


def main(task_id: str, *settings: str) -> None:
    options = config.merge(*map(config.parse_override, settings))
    task: Dataset[Any] = config.parse_plugin("tasks", {"id": task_id, **options}).build()
    for split in task.sources():
        path = FINGERPRINTS / f"{task.edition(split)}.tsv"
        fingerprints.write_digests(path, task.digests(split))
        print(f"{path}: {task.loaded(split).n_rows} rows, {task.loaded(split).fingerprint}")


if __name__ == "__main__":
    main(*sys.argv[1:])
