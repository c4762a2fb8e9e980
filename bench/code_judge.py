"""The judge of programs against LiveCodeBench's checker and evalplus, alternating in one run.

    python bench/code_judge.py --rounds 3 --lcb CHECKOUT
    python bench/code_judge.py --humaneval DATA_DIR      every problem of HumanEval+ against evalplus
    python bench/code_judge.py --canonical DATA_DIR      all reference solutions of HumanEval+ and MBPP+
    python bench/code_judge.py --one-core 5000           programs per second and core, median, 99th percentile
    python bench/code_judge.py --many 100000             resources left behind

T1 reads two numbers from stdin and prints their sum; T3 is a function on 100 inputs of 20 numbers. The peer of T1 is
`check_correctness` of a checkout of LiveCodeBench (`--lcb`). The peer of T3 is evalplus' `untrusted_check`, if that
package is installed, from a small process and from one of 2 GiB.
Reported are the median wall time per program and the CPU time including children, which is stable on a shared machine.
"""

from __future__ import annotations

import argparse
import array
import collections
import concurrent.futures
import copy
import functools
import gzip
import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.core.types import Call, Completion, Limits, Problem, Program, Tokens
from harness.graders.code import CodeGrader
from harness.graders.code.equality import ExpectedAnswer
from harness.graders.code.evalplus_judge import judge_evalplus
from harness.graders.code.isolated_compare import is_right_answer
from harness.graders.code.judge import Allowance, FunctionTest, ScriptTest, judge_function, judge_script
from harness.graders.code.output_match import lines_equal
from harness.graders.code.reference import EvalPlusReference
from harness.graders.code.values import encode
from harness.sandbox import Pool, strongest

T1 = "a, b = map(int, input().split())\nprint(a + b)\n"
T3 = "def f(numbers):\n    return sorted(set(numbers))\n"
INPUTS = [[[(i * j * 7919) % 1000 for j in range(20)]] for i in range(100)]
EXPECTED = [sorted(set(numbers)) for (numbers,) in INPUTS]
EXPECTED_ANSWERS = [ExpectedAnswer(encode(value)) for value in EXPECTED]
ALLOWED = Allowance(cpu_s=6.0, memory_bytes=1 << 30, retries_timeouts=False)


def ours_on_t1(pool: Pool) -> bool:
    test = ScriptTest(b"3 4\n", b"7\n", lambda output: lines_equal(output.decode(), "7\n"))
    return judge_script(pool, Program(T1), [test], ALLOWED).n_passed == 1


def ours_on_t3(pool: Pool) -> bool:
    tests = [
        FunctionTest(arguments, 4.0, 4096, functools.partial(is_right_answer, ("plain", 0.0), expected))
        for arguments, expected in zip(INPUTS, EXPECTED_ANSWERS, strict=True)
    ]
    return judge_function(pool, Program(T3), "f", tests, ALLOWED).n_passed == len(INPUTS)


def lcb_on_t1() -> bool:
    from lcb_runner.evaluation.compute_code_generation_metrics import check_correctness

    sample = {"input_output": json.dumps({"inputs": ["3 4\n"], "outputs": ["7\n"]})}
    results, _ = check_correctness(sample, T1, timeout=6, debug=False)
    return bool(results == [True])


def evalplus_on_t3() -> bool:
    from evalplus.eval import untrusted_check

    status, _ = untrusted_check("humaneval", T3, INPUTS, "f", EXPECTED, 0, [0.0] * len(INPUTS), fast_check=True)
    return bool(status == "pass")


def measure(work: Callable[[], bool], seconds: float, pool: Pool | None = None) -> tuple[float, float, float, int]:
    """Return median, 99th percentile and CPU time of a call in milliseconds, and the number of calls."""
    assert work()
    times, cpu = [], _cpu_s(pool)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        assert work()
        times.append(time.perf_counter() - began)
    used = (_cpu_s(pool) - cpu) / len(times)
    ordered = sorted(times)
    return statistics.median(times) * 1e3, ordered[int(len(times) * 0.99)] * 1e3, used * 1e3, len(times)


def _cpu_s(pool: Pool | None) -> float:
    """Return the CPU time of this process, its dead children, and the live workers with theirs."""
    own, dead = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    total = own.ru_utime + own.ru_stime + dead.ru_utime + dead.ru_stime
    for pid in _workers(pool):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def _workers(pool: Pool | None) -> list[int]:
    """Return the processes of a pool: outside and inside of the jail."""
    found = [worker.pid for worker in pool._idle] if pool is not None else []
    for pid in list(found):
        found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def compare(name: str, ours: Callable[[], bool], peer: Callable[[], bool], pool: Pool, rounds: int) -> None:
    rows = [(measure(ours, 3.0, pool), measure(peer, 3.0)) for _ in range(rounds)]
    for label, place in (("wall", 0), ("CPU", 2)):
        ratios = [peer_row[place] / our_row[place] for our_row, peer_row in rows]
        print(
            f"{name}: {label} harness {statistics.median(r[0][place] for r in rows):.2f} ms, "
            f"peer {statistics.median(r[1][place] for r in rows):.2f} ms, "
            f"peer / harness {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    print(f"{name}: 99th percentile {statistics.median(r[0][1] for r in rows):.2f} ms")


def humaneval_beside_evalplus(pool: Pool, data: Path) -> None:
    """Run the reference solution of every problem on all of its inputs; best of three, alternating."""
    from evalplus.eval import untrusted_check

    times, n_calls = [], []
    for line in gzip.decompress((data / "humanevalplus/HumanEvalPlus.jsonl.gz").read_bytes()).splitlines():
        row = json.loads(line)
        name, source = row["entry_point"], row["prompt"] + row["canonical_solution"]
        texts, all_inputs = (row["prompt"], row["canonical_solution"]), (row["base_input"], row["plus_input"])
        reference = EvalPlusReference(name, *texts, *all_inputs, row["atol"], "humaneval")
        inputs = [*itertools.chain(*all_inputs)]
        expected = _values(source, name, inputs)
        allowed = Allowance(4.0, 4 << 30, 60.0, retries_timeouts=False)
        peer = functools.partial(untrusted_check, "humaneval", source, inputs, name, expected, row["atol"])
        own, other = [], []
        for _ in range(3):
            began = time.perf_counter()
            report, _, _ = judge_evalplus(pool, row["task_id"], reference, source, allowed, 4.0, True)
            own.append(time.perf_counter() - began)
            assert report.first_failure is None
            began = time.perf_counter()
            peer([1.0] * len(inputs), fast_check=True)
            other.append(time.perf_counter() - began)
        times.append((min(own[1:]), min(other)))  # the first call runs the reference solution
        n_calls.append(len(inputs))
    ratios = sorted(theirs / ours for ours, theirs in times)
    ours, theirs = ([pair[side] * 1e3 for pair in times] for side in (0, 1))
    print(
        f"HumanEval+: {len(times)} problems, {statistics.median(n_calls):.0f} calls (median); wall harness "
        f"{statistics.median(ours):.1f} ms (median), {sum(ours) / len(ours):.1f} (mean), evalplus "
        f"{statistics.median(theirs):.1f} and {sum(theirs) / len(theirs):.1f}; evalplus / harness "
        f"{statistics.median(ratios):.2f} (median), {ratios[0]:.2f} to {ratios[-1]:.2f}"
    )


def _values(source: str, name: str, inputs: list[list[object]]) -> list[object]:
    scope: dict[str, Callable[..., object]] = {}
    exec(source, scope)
    return [scope[name](*copy.deepcopy(arguments)) for arguments in inputs]


def all_canonical(data: Path) -> None:
    """Judge every reference solution; evalplus converts the inputs of MBPP+ to tuples."""
    grader = CodeGrader(CodeGrader.Config())
    for dataset, file in (
        ("humaneval", "humanevalplus/HumanEvalPlus.jsonl.gz"),
        ("mbpp", "mbppplus/MbppPlus.jsonl.gz"),
    ):
        counts: collections.Counter[str] = collections.Counter()
        began = time.perf_counter()
        for line in gzip.decompress((data / file).read_bytes()).splitlines():
            row = json.loads(line)
            inputs = [list(row[key]) for key in ("base_input", "plus_input")]
            if dataset == "mbpp":
                from evalplus.data.mbpp import mbpp_deserialize_inputs

                inputs = [mbpp_deserialize_inputs(row["task_id"], some) for some in inputs]
            reference = EvalPlusReference(
                row["entry_point"], row["prompt"], row["canonical_solution"], *inputs, row["atol"], dataset
            )
            reply = f"```python\n{row['prompt']}{row['canonical_solution']}\n```"
            completion = Completion(row["task_id"], 0, 0, reply, "stop", Tokens(1, 1))
            verdict = grader.grade(Problem(row["task_id"], dataset, (), reference), completion)
            counts[verdict.details.get("verdict", "ungraded")] += 1
            if verdict.outcome != "correct":
                print(row["task_id"], verdict.reason)
        print(f"{dataset}: {dict(counts)} in {time.perf_counter() - began:.0f} s", flush=True)


def many(n: int) -> None:
    """Run through two workers at once, some programs writing a file, some functions; report leftovers and growth."""
    temporary, before_any = tempfile.gettempdir(), _things_on_the_machine()
    pool = Pool(strongest()[0], 2)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        halves = [n // 2, n - n // 2]
        list(threads.map(lambda _: _times(pool, 100), halves))
        before, began = _belongings(pool), time.perf_counter()
        times = sorted(itertools.chain(*threads.map(lambda half: _times(pool, half), halves)))
        took = time.perf_counter() - began
        after = _belongings(pool)
    per_core = n / took / min(2, len(os.sched_getaffinity(0)))
    print(f"{n} programs at level {pool.level.title}: {n / took:.0f} a second, {per_core:.0f} a second and core,")
    print(f"  median {times[n // 2] * 1e3:.2f} ms, 99th percentile {times[int(n * 0.99)] * 1e3:.2f} ms (two at a time)")
    for name, first, last in zip(
        ("descriptors", "processes", "KiB here", "KiB in workers"), before, after, strict=True
    ):
        print(f"  {name}: {first} before, {last} after, {last - first:+d}")
    pool.close()
    left = _things_on_the_machine() - before_any
    print(f"  left in {temporary}, /dev/shm and System V memory after the end: {sorted(left) if left else 'nothing'}")


def _times(pool: Pool, n: int) -> array.array[float]:
    return array.array("d", (_timed(pool, place) for place in range(n)))


def _timed(pool: Pool, place: int) -> float:
    start, limits = time.perf_counter(), Limits(6.0, 12.0, 1 << 30)
    if place % 20 == 1:
        ended = pool.call(Program("def f(n): return n"), "f", [Call([n], 6.0, 100) for n in range(3)], limits)
        assert [answer.body for answer in ended.answers] == [b"0", b"1", b"2"]
    else:
        source = T1 if place % 20 else f"open('note', 'w').write('x' * 5000)\n{T1}"
        assert pool.run(Program(source), b"3 4\n", limits).stdout == b"7\n"
    return time.perf_counter() - start


def one_core(n: int) -> None:
    """Return programs per second where judge, worker and programs share one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pool = Pool(strongest()[0], 1)
    times = sorted([_timed(pool, 2) for _ in range(n + 50)][50:])
    print(
        f"one core, {n} programs: {n / sum(times):.0f} a second, median {times[n // 2] * 1e3:.2f} ms, "
        f"99th percentile {times[int(n * 0.99)] * 1e3:.2f} ms"
    )
    _print_worker(pool)
    pool.close()


def _print_worker(pool: Pool) -> None:
    """Print the memory of the process that programs are forked from, and of the one outside its jail."""
    sizes = [(_kib(pid, "Pss:"), _kib(pid, "Private_Clean:") + _kib(pid, "Private_Dirty:")) for pid in _workers(pool)]
    own = ", ".join(f"{pss / 1024:.1f} MiB ({private / 1024:.1f} MiB)" for pss, private in sizes)
    print(f"processes of the workers, proportional and (private): {own}")


def _things_on_the_machine() -> set[str]:
    folders = [Path(tempfile.gettempdir()), Path("/dev/shm")]
    files = {str(path) for folder in folders for path in folder.iterdir() if path.name.startswith("harness-")}
    return files | set(Path("/proc/sysvipc/shm").read_text().splitlines()[1:])


def _belongings(pool: Pool) -> tuple[int, int, int, int]:
    pids = [os.getpid(), *_workers(pool)]
    descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return descriptors, len(pids), *(sum(_kib(pid, "Pss:") for pid in group) for group in (pids[:1], pids[1:]))


def _kib(pid: int, kind: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lcb", type=Path)
    parser.add_argument("--humaneval", type=Path)
    parser.add_argument("--canonical", type=Path)
    parser.add_argument("--many", type=int)
    parser.add_argument("--one-core", type=int)
    options = parser.parse_args()
    if options.canonical is not None:
        return all_canonical(options.canonical)
    if options.many is not None:
        return many(options.many)
    if options.one_core is not None:
        return one_core(options.one_core)
    pool = Pool(strongest()[0], 2)
    print(f"level {pool.level.title}")
    if options.humaneval is not None:
        humaneval_beside_evalplus(pool, options.humaneval)
        ballast = bytearray(os.urandom(1 << 20)) * 2048
        print("from 2 GiB:")
        humaneval_beside_evalplus(pool, options.humaneval)
        del ballast
        return pool.close()
    if options.lcb is not None:
        sys.path.insert(0, str(options.lcb))
        compare("T1 against LiveCodeBench", lambda: ours_on_t1(pool), lcb_on_t1, pool, options.rounds)
    try:
        import evalplus.eval  # noqa: F401
    except ImportError:
        print("evalplus is not installed, so there is no T3")
    else:
        compare("T3 against evalplus", lambda: ours_on_t3(pool), evalplus_on_t3, pool, options.rounds)
        ballast = bytearray(os.urandom(1 << 20)) * 2048
        compare("T3 from 2 GiB against evalplus", lambda: ours_on_t3(pool), evalplus_on_t3, pool, options.rounds)
        del ballast
    _print_worker(pool)
    pool.close()
    return None


if __name__ == "__main__":
    main()
