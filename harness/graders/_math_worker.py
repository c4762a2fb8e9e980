"""The program of one algebra worker: pairs of LaTeX on stdin, true or false on stdout, one JSON line each.

Run as a file, so that it imports nothing of the harness and nothing of the main module of its parent.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable


def main() -> None:
    memory_bytes = int(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may write among the answers
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    equal = _equality()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            verdict: bool | str = equal(gold, answer)
        except MemoryError:
            os._exit(1)  # what is left of the heap is not to be trusted
        except Exception as error:
            verdict = f"{type(error).__name__}: {error}"[:500]
        print(json.dumps(verdict), file=answers, flush=True)


def _equality() -> Callable[[str, str], bool]:
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    configs = (LatexExtractionConfig(),)

    def equal(gold: str, answer: str) -> bool:
        sides = [parse(f"${text}$", configs, parsing_timeout=None) for text in (gold, answer)]
        return all(sides) and bool(verify(*sides, timeout_seconds=None))

    equal("x + 1", "1 + x")
    return equal


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
