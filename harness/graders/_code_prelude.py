"""The imports that programs accepted on LiveCodeBench and LeetCode rely on, and the checker that data may bring."""

from __future__ import annotations

_STAR_IMPORTED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "typing", "builtins"),  # builtins last: math has a pow
)
_IMPORTED = _STAR_IMPORTED[:-2]

PRELUDE = "\n".join(
    [
        *(f"from {name} import *" for name in _STAR_IMPORTED),
        *(f"import {name}" for name in _IMPORTED),
        "sys.setrecursionlimit(50000)",
    ]
)


def checker_prelude(stdin: str, expected: str, output: str) -> str:
    """What a checker runs in: three files that exist in memory alone, and their names as its arguments."""
    files = {"input.txt": stdin, "correct_output.txt": expected, "solution_output.txt": output}
    return (
        f"import builtins, io, sys\n_files = {files!r}\n"
        f"def _open(name, *_, **__): return io.StringIO(_files[name])\n"
        f"builtins.open = _open\nsys.argv = ['checker.py', *_files]\n"
    )
