"""Imports that accepted programs on LiveCodeBench and LeetCode rely on, and the checker that data may include."""

from __future__ import annotations

from collections.abc import Sequence

_STAR_IMPORTED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json"),
)


def _prelude(last: Sequence[str]) -> str:
    stars = [f"from {name} import *" for name in (*_STAR_IMPORTED, *last)]
    return "\n".join([*stars, *(f"import {name}" for name in _STAR_IMPORTED), "sys.setrecursionlimit(50000)"])


PRELUDE = _prelude(("typing", "builtins"))  # builtins last: math has its own pow
OFFICIAL_PRELUDE = _prelude(("builtins", "typing"))


def with_files(checker: str, stdin: str, expected: str, output: str) -> str:
    """Return a checker with its three files, which exist in memory only, and their names as its arguments."""
    files = {"input.txt": stdin, "correct_output.txt": expected, "solution_output.txt": output}
    return (
        f"import builtins, io, sys\n_files = {files!r}\n"
        f"def _open(name, *_, **__): return io.StringIO(_files[name])\n"
        f"builtins.open = _open\nsys.argv = ['checker.py', *_files]\n"
        f"exec(compile({checker!r}, 'checker.py', 'exec'))\n"
    )
