"""The program of an algebra worker: pairs of LaTeX on stdin, true or false on stdout, one JSON line each.

Executed as a file, so that it imports neither this package nor the main module of its parent.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


def main() -> None:
    memory_bytes = int(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may write to this stream
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    readings = _readings()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        reading, gold, answer = json.loads(line)
        try:
            verdict: bool | str = readings[reading](gold, answer)
        except MemoryError:
            os._exit(1)  # the heap is no longer reliable
        except Exception as error:
            verdict = f"{type(error).__name__}: {error}"[:500]
        if verdict is not True and _peak_bytes() > memory_bytes // 4:
            os._exit(1)
        print(json.dumps(verdict), file=answers, flush=True)


def _peak_bytes() -> int:
    """Return the peak memory of this process, where the kernel reports it.

    math-verify catches its own MemoryErrors and returns that the two sides differ. A failed allocation is smaller than
    the memory in use, so a process that was never near the limit had no such error; a usual question leaves it at 170
    MB.
    """
    if not _STATUS.exists():
        return 0
    return next(int(line.split()[1]) * 1024 for line in _STATUS.open() if line.startswith("VmPeak:"))


def _readings() -> dict[str, Callable[[str, str], bool]]:
    """Return the two texts parsed for comparison: as two expressions, or as a peer parses a whole completion."""
    import logging

    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    latex, both = (LatexExtractionConfig(),), (ExprExtractionConfig(), LatexExtractionConfig())

    def same(gold: list[Any], answer: list[Any]) -> bool:
        return bool(verify(gold, answer, timeout_seconds=None))

    def expression(gold: str, answer: str) -> bool:
        sides = [parse(f"${text}$", latex, parsing_timeout=None) for text in (gold, answer)]
        return all(sides) and same(*sides)

    def flowrl(gold: str, answer: str) -> bool:
        return same(parse(gold, latex, parsing_timeout=None), parse(answer, both, parsing_timeout=None))

    def lm_eval(gold: str, answer: str) -> bool:
        return same(parse(gold, parsing_timeout=None), parse(answer, parsing_timeout=None))

    expression("x + 1", "1 + x")  # load everything before the first question
    return {"expression": expression, "flowrl": flowrl, "lm-eval": lm_eval}


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
