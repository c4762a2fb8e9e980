"""The maths grader against math-verify: throughput and agreement on realistic outputs, latency, limits, memory.

    HARNESS_DATA_DIR=... python bench/math_grader.py [--rounds 3] [--gradings 100000]
    HARNESS_DATA_DIR=... python bench/math_grader.py --audit    # the table of docs/explanations/grading.md

Outputs are made from the real files: the reference solution of a row (without its boxes) as the reasoning, then a
final box with the reference answer in another notation, or with one digit changed. math-verify is called as in
FlowRL's evaluation, in one process, with its own timeouts. Times are CPU seconds including the algebra workers.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import resource
import statistics
import time
from collections import Counter
from pathlib import Path

from harness.core.types import Completion, Problem, Tokens
from harness.graders.math import MathGrader
from harness.graders.math.algebra import POOL
from harness.graders.math.reference import MathReference, typed_reference
from harness.graders.published.legacy_dapo import LegacyDapoGrader
from harness.graders.published.legacy_hendrycks import LegacyHendrycksGrader
from harness.graders.published.legacy_math_verify import LegacyMathVerifyGrader

DATA = Path(os.environ.get("HARNESS_DATA_DIR", "data"))
GRADER = MathGrader(MathGrader.Config())
Item = tuple[MathReference, str, bool]

INTEGER_FILES = {
    "AIME 2024": "aime24/qwen25math_aime24_test.jsonl",
    "AIME 2025": "aime25/areal_aime25_test.jsonl",
    "AMC 2023": "amc23/qwen25math_amc23_test.jsonl",
    "MATH-500": "math500/simplerl_math500_test.jsonl",
}

LIMITS = {
    "10^{10^{10}}": r"\boxed{10^{10^{10}}}",
    "9^{9^9}": r"\boxed{9^{9^9}}",
    "(10^9)!": r"\boxed{(10^9)!}",
    "binom(10^9, 5·10^8)": r"\boxed{\binom{10^9}{5\cdot10^8}}",
    "2,000 nested parentheses": r"\boxed{" + "(" * 2000 + "1" + ")" * 2000 + "}",
    "2^{10^9}+1": r"\boxed{2^{10^9}+1}",
    "20,000 dollar signs": "$" * 20_000,
    "nested logarithms": r"\boxed{\log(\log(\log(\log(\log(10^{10^{10}})))))}",
    "100,000 braces": r"\boxed{" + "{" * 100_000,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gradings", type=int, default=100_000)
    parser.add_argument("--audit", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.audit:
        audit()
        return
    items = [item for _, *item in outputs()]
    print(f"{len(items)} outputs, {statistics.mean(len(text) for _, text, _ in items):.0f} characters on average")
    throughput(items, options.rounds)
    integers(options.rounds)
    limits()
    memory(items, options.gradings)


# --- outputs -------------------------------------------------------------------------------------------------------


def outputs():
    """Yield benchmark, reference, text, and whether the text is correct."""
    for name, gold, solution, reference in rows():
        reasoning = re.sub(r"\\boxed|\\fbox", "", solution)
        yield name, reference, f"{reasoning}\n\nSo the final answer is $\\boxed{{{respelt(gold)}}}$.", True
        changed = with_another_digit(gold)
        if changed is not None:
            yield name, reference, f"<think>\n{reasoning}\n</think>\n\n**Answer:** $\\boxed{{{changed}}}$", False


def rows():
    for name, file in INTEGER_FILES.items():
        for row in lines(file):
            gold = str(row["answer"])
            yield name, gold, row.get("solution", row["problem"]), typed_reference(gold)
    golds = [row["answer"] for row in lines("minerva_math/limo_minerva_test.jsonl")]
    for gold, row in zip(golds, lines("minerva_math/qwen25math_minerva_test.jsonl"), strict=True):
        yield "Minerva", gold, row["solution"], typed_reference(gold, relative_tolerance=1e-4)
    for row in lines("olympiadbench/qwen25math_olympiadbench_test.jsonl"):
        gold, unit = row["final_answer"][0], row["unit"]
        reference = typed_reference(gold, is_multiple=row["is_multiple_answer"], unit=unit if unit is not None else "")
        yield "OlympiadBench", gold.replace("$", ""), row["solution"][0], reference


def lines(name):
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def respelt(gold):
    gold = re.sub(r"([0-9.])e(-?[0-9]+)", r"\1 \\times 10^{\2}", gold)
    return re.sub(r"(?<![0-9] )(?<![0-9])\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}$", r"\1/\2", gold).replace(", ", ",")


def with_another_digit(gold):
    digit = re.search("[1-9]", gold)
    if digit is None:
        return None
    at = digit.start()
    return gold[:at] + str(int(gold[at]) % 9 + 1) + gold[at + 1 :]


# --- measurements --------------------------------------------------------------------------------------------------


def grade(reference, text):
    completion = Completion("p", 0, 0, text, "stop", Tokens(1, 1))
    return GRADER.grade(Problem("p", "bench", (), reference), completion).outcome == "correct"


def math_verify(reference, text):
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    gold = parse(f"\\boxed{{{reference.text}}}", (LatexExtractionConfig(),))
    return bool(verify(gold, parse(text, (ExprExtractionConfig(), LatexExtractionConfig()))))


def audit():
    """Count how often each grader accepts the correct outputs, and the wrong ones."""
    graders = {
        "math": GRADER,
        "legacy_math_verify": LegacyMathVerifyGrader(LegacyMathVerifyGrader.Config()),
        "legacy_hendrycks": LegacyHendrycksGrader(LegacyHendrycksGrader.Config()),
        "legacy_dapo": LegacyDapoGrader(LegacyDapoGrader.Config()),
    }
    accepted, counts = Counter(), Counter()
    for name, reference, text, truth in outputs():
        counts[name, truth] += 1
        line = f"{text}\nAnswer: {text.rpartition('boxed{')[2].rpartition('}')[0]}"
        for grader_name, grader in graders.items():
            shown = line if grader_name == "legacy_dapo" else text
            completion = Completion("p", 0, 0, shown, "stop", Tokens(1, 1))
            verdict = grader.grade(Problem("p", "bench", (), reference), completion)
            accepted[name, truth, grader_name] += verdict.outcome == "correct"
    print("| benchmark | right, wrong outputs |", " | ".join(graders), "|")
    for name in dict.fromkeys(name for name, _ in counts):
        cells = [f"{accepted[name, True, g]}, {accepted[name, False, g]}" for g in graders]
        print(f"| {name} | {counts[name, True]}, {counts[name, False]} |", " | ".join(cells), "|")


def throughput(items, rounds):
    sides = {"harness": grade, "math-verify": math_verify}
    grade(typed_reference(r"\int_0^2 x dx"), r"\boxed{\int_0^2 t dt}")  # start a worker
    math_verify(items[0][0], items[0][1])
    ratios = []
    for number in range(rounds):
        spent, right = {}, {}
        for name, side in sides.items():
            start = cpu_s()
            right[name] = sum(side(reference, text) == truth for reference, text, truth in items)
            spent[name] = cpu_s() - start
        ratios.append(spent["math-verify"] / spent["harness"])
        printed = ", ".join(f"{name} {spent[name]:.2f} s, {right[name] / len(items):.2%} right" for name in sides)
        print(f"round {number + 1}: {printed}; ratio {ratios[-1]:.1f}", flush=True)
    print(f"throughput ratio to math-verify: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


def integers(rounds):
    reference, text = typed_reference("204"), "We add the two cases. " * 100 + r"So the answer is $\boxed{204}$."
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(2000):
            grade(reference, text)
        print(f"an integer answer of {len(text)} characters: {(time.process_time() - start) / 2:.3f} ms")


def limits():
    for name, text in LIMITS.items():
        start = time.process_time()
        grade(typed_reference("5"), text)
        print(f"{name}: {(time.process_time() - start) * 1000:.1f} ms")


def memory(items, n_gradings):
    """Measure after one pass over all outputs, which fills the caches, and after the rest."""
    decided = [(reference, text) for reference, text, _ in items]
    start, sizes = time.process_time(), []
    for number in range(n_gradings):
        grade(*decided[number % len(decided)])
        if number % (n_gradings // 10) == n_gradings // 10 - 1:
            sizes.append(resident_mb())
    print(f"{n_gradings} gradings in {time.process_time() - start:.0f} s; resident MB at each tenth: {sizes}")


def cpu_s():
    """Return the CPU time of this process and of the live workers."""
    ticks = 0
    for pid in POOL.pids():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK") + ended.ru_utime + ended.ru_stime


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


if __name__ == "__main__":
    main()
