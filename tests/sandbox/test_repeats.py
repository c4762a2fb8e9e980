"""Verdicts are the same each time, and by any number of workers."""

from __future__ import annotations

import collections
import sys

import pytest

from harness.core.types import Completion, Problem, Tokens
from harness.graders.code import GRADER
from harness.graders.code.reference import HeldTests, ProgramReference, ProgramTest
from harness.sandbox import Pool, strongest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

TESTS = HeldTests(tuple(ProgramTest(f"{a} {b}\n", f"{a + b}\n", "sample") for a, b in ((1, 2), (30, 40))))
# What each ends with, and how often it is there; `@` is another number each time, so that no two texts are the same.
SUM = "print(sum(map(int, input().split())))"
LUCK = "import random\nx = sorted(range(50), key=lambda _: random.random())[0]\n"
SHARES = {
    f"{SUM}  # @": ("AC", 60),
    f"{LUCK}{SUM}  # @": ("AC", 20),
    "open('@', 'w').write(input())\nprint(sum(map(int, open('@').read().split())))": ("AC", 10),
    "print(@)": ("WA", 40),
    "print(sum(map(int, input().split())) % 5)  # @": ("WA", 20),
    f"{LUCK}print(x, @)": ("WA", 10),
    "1 / (@ - @)": ("RE", 15),
    "import ctypes\nctypes.string_at(0)  # @": ("RE", 5),
    "import sys\nsys.exit(1 + @ % 9)": ("RE", 5),
    "def f(:  # @": ("CE", 15),
    "while True: pass  # @": ("TLE", 6),
    "x = bytearray(1 << 30)  # @": ("MLE", 4),
    "print('x' * (20 << 20))  # @": ("OLE", 4),
}


def programs():
    return [
        (source.replace("@", str(1000 + n)), code) for source, (code, times) in SHARES.items() for n in range(times)
    ]


def items():
    reference = ProgramReference(TESTS, "samples", memory_limit_bytes=128 << 20)
    return [
        (Problem(str(n), "t", (), reference), Completion(str(n), 0, 0, f"```\n{source}\n```", "stop", Tokens(1, 1)))
        for n, (source, _) in enumerate(programs())
    ]


def graded(n_workers):
    """Verdict, failing test, cause and what was shown of the output, of each program."""
    grader = GRADER(GRADER.Config(cpu_s=0.2, n_workers=n_workers))
    grader.__dict__["_pool"] = made = Pool(strongest()[0], n_workers)
    found = list(grader.grade_many(items()))
    told = [(v.details["verdict"], v.details.get("test"), v.details.get("cause"), v.details.get("got")) for v in found]
    made.close()
    return told


@pytest.mark.slow
def test_verdicts_are_the_same_over_repetitions_and_numbers_of_workers():
    assert sum(times for _, times in SHARES.values()) >= 200
    first = graded(1)
    differing = collections.Counter(
        (programs()[place][0], told, again)
        for n_workers in (1, 1, 2, 2, 2, 4, 4, 4)
        for place, (told, again) in enumerate(zip(first, graded(n_workers), strict=True))
        if told != again
    )
    assert differing == {}
    assert [told[0] for told in first] == [code for _, code in programs()]
