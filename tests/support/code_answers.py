"""Grading of single program answers, and the growth of the memory of the process that grades them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.core.types import Completion, Problem, Tokens
from harness.graders.code import GRADER
from harness.graders.code.reference import HeldTests, ProgramReference, ProgramTest

GROWTH = """
import json, sys
sys.path.insert(0, {folder!r})
from code_answers import function_of, judged
from harness.core.types import Completion, Problem, Tokens
from harness.graders.code.reference import EvalPlusReference, HeldTests, ProgramReference, ProgramTest
from harness.graders.published.lcb_official import GRADER as LCB_OFFICIAL
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) >> 10
def reset():
    open("/proc/self/clear_refs", "w").write("5")
    return peak()
"""


def judged(source, reference, **options):
    grader = GRADER(GRADER.Config(retries_timeouts=False, **options))
    completion = Completion("p", 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
    return grader.grade(Problem("p", "t", (), reference), completion)


def function_of(*tests):
    return ProgramReference(HeldTests(tuple(ProgramTest(*test, "sample") for test in tests)), "samples", "f")


def growth_of(code):
    """Return the growth of the peak memory of a judge in MiB, measured by code in a process of its own."""
    script = GROWTH.format(folder=str(Path(__file__).parent)) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
