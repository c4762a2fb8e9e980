"""Compare our judges of programs with the official ones on modified solutions, and write every disagreement to a file.

    python bench/judge_differential.py evalplus DATA_DIR --forms
    python bench/judge_differential.py evalplus DATA_DIR --mutants 1 --every 5
    python bench/judge_differential.py lcb DATA_DIR --lcb CHECKOUT --mutants 1 --every 2

`evalplus` uses the reference solutions of HumanEval+ and MBPP+, and needs that package. `lcb` uses accepted programs
that read stdin, and LeetCode's solutions, and needs a checkout of LiveCodeBench. Both official judges run programs with
only their own guards, so use a disposable machine.
"""

from __future__ import annotations

import argparse
import ast
import collections
import gzip
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.core.types import Completion, Problem, Tokens
from harness.graders.code import CodeGrader
from harness.graders.code.reference import EvalPlusReference, HeldTests, ProgramReference, ProgramTest
from harness.graders.published.lcb_official import LcbOfficialGrader
from harness.tasks._base.mbpp_inputs import python_values

Case = tuple[str, str, Any, str]
"""Name, modification, reference, and source of a program."""

# --- changed programs -------------------------------------------------------------------------------------------

_SWAPPED: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Div, ast.Div: ast.FloorDiv},
    **{ast.And: ast.Or, ast.Or: ast.And, ast.Mod: ast.FloorDiv},
}
# A function's result in other forms: rules of comparison differ on these.
RETURNS = {
    "as a tuple": "tuple(v) if isinstance(v, list) else v",
    "as a list": "list(v) if isinstance(v, (tuple, set, str)) else v",
    "as a float": "float(v) if type(v) is int else v",
    "as an int": "int(v) if type(v) in (bool, float) else v",
    "as text": "str(v)",
    "a bit more": "v + 1e-7 if type(v) is float else [x + 1e-7 if type(x) is float else x for x in v] "
    "if type(v) is list else v",
    "rounded": "round(v, 4) if type(v) is float else v",
    "in a list": "[v]",
    "sorted": "sorted(v) if type(v) is list else v",
    "a bool for None": "v is not None",
    "of a subclass": "type('T', (type(v),), {})(v) if type(v) in (int, float, str, list) else v",
    "numpy's": "__import__('numpy').array(v) if type(v) in (int, float, list) else v",
    "a little more": "v + 1e-5 if type(v) is float else v",
    "always equal": "type('E', (), {'__eq__': lambda *_: True, '__ne__': lambda *_: False})()",
    "a generator": "(x for x in v) if type(v) is list else v",
    "an ordered dict": "__import__('collections').OrderedDict(v) if type(v) is dict else v",
    "frozen": "frozenset(v) if type(v) is set else v",
    "a Decimal": "__import__('decimal').Decimal(v) if type(v) in (int, float) else v",
    "a Fraction": "__import__('fractions').Fraction(v) if type(v) is int or v == 0.5 else v",
    "complex": "complex(v) if type(v) in (int, float) else v",
    "a deque": "__import__('collections').deque(v) if type(v) is list else v",
    "tuples inside": "[tuple(x) if type(x) is list else x for x in v] if type(v) is list else v",
    "an exit": "__import__('os')._exit(0)",
}
# What a reference returns, to combine with every form.
VALUES = (
    *(
        "[3, 1]",
        "[7]",
        "(3, 1)",
        "[(1, 2), (3, 4)]",
        "[[1], [2]]",
        "[]",
        "7",
        "10**30",
        "0.5",
        "[0.5, 1.5]",
        "(0.5, 2.5)",
    ),
    *("{'a': 0.5}", "{'a': [1, 2]}", "{1, 2}", "True", "None", "'ab'", "float('inf')", "float('nan')"),
)


def changed(source: str, n: int, seed: int) -> Iterator[tuple[str, str]]:
    """Return `n` programs with one operator, constant or statement changed."""
    places = [place for place, node in enumerate(ast.walk(ast.parse(source))) if _is_changeable(node)]
    chosen = random.Random(seed).sample(places, min(n, len(places)))
    for place in chosen:
        tree = ast.parse(source)
        node = next(node for number, node in enumerate(ast.walk(tree)) if number == place)
        yield type(node).__name__, _unparsed(tree, node)


def _is_changeable(node: ast.AST) -> bool:
    is_number = isinstance(node, ast.Constant) and type(node.value) is int
    has_operator = isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in _SWAPPED
    return is_number or has_operator or (isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPPED)


def _unparsed(tree: ast.AST, node: Any) -> str:
    if isinstance(node, ast.Constant):
        node.value = int(str(node.value)) + 1
    elif isinstance(node, ast.Compare):
        node.ops[0] = _SWAPPED[type(node.ops[0])]()
    else:
        node.op = _SWAPPED[type(node.op)]()
    return ast.unparse(ast.fix_missing_locations(tree))


def returning(source: str, name: str, how: str) -> str:
    """Return the program with its function's result in another form."""
    inner = f"_inner_{name}"
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            node.name = inner
        if isinstance(node, ast.Name) and node.id == name:
            node.id = inner
    return f"{ast.unparse(tree)}\ndef {name}(*a):\n    v = {inner}(*a)\n    return {RETURNS[how]}\n"


def idioms(source: str) -> Iterator[tuple[str, str]]:
    """Return the same program that reads stdin, written in other ways."""
    inside = "\n".join(f"    {line}" for line in source.split("\n"))
    if "'''" not in source and '"""' not in source:
        yield "in a main guard", f"if __name__ == '__main__':\n{inside}\n"
        yield "before a guard", f"{source}\nif __name__ == '__main__':\n    pass\nx_ = 1\n"
        yield "in exec", f"exec({source!r}, {{'__name__': '__main__'}})\n"
    if "input()" in source and "sys" not in source:
        yield "readline", f"import sys\ninput = sys.stdin.readline\n{source}\n"
        yield "buffer", f"import sys\ninput = lambda: sys.stdin.buffer.readline().decode().rstrip()\n{source}\n"
        yield "iterated", f"import sys\n_lines = iter(sys.stdin)\ninput = lambda: next(_lines).rstrip()\n{source}\n"
        yield "open(0)", f"_lines = open(0).read().split('\\n')[::-1]\ninput = _lines.pop\n{source}\n"
        yield "global", f"_n = 0\n_f = input\ndef input():\n    global _n\n    _n += 1\n    return _f()\n{source}\n"
    yield "more white space", _printing("_p(*a, **k)\n    _p()", source)
    yield "trailing blanks", _printing("_p(*a, '', **k)", source)
    yield "floats", _printing("_p(*[float(x) if type(x) is int else x for x in a], **k)", source)
    yield "builtin redefined", f"_p = print\ndef print(*a):\n    _p(*a)\n{source}\n"
    yield "exit at the end", f"{source}\nexit(0)\n"
    yield "exit 1 at the end", f"{source}\nimport sys\nsys.exit(1)\n"


def _printing(how: str, source: str) -> str:
    return f"from builtins import print as _p\ndef print(*a, **k):\n    {how}\n{source}\n"


# --- the programs -----------------------------------------------------------------------------------------------


def evalplus_cases(data: Path, n: int) -> Iterator[Case]:
    for dataset, name in (("humaneval", "humanevalplus/HumanEvalPlus"), ("mbpp", "mbppplus/MbppPlus")):
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            for number, row in enumerate(map(json.loads, file)):
                reference = _reference(dataset, row)
                source = row["prompt"] + row["canonical_solution"]
                yield row["task_id"], "as it is", reference, source
                for how, other in changed(source, n, number):
                    yield row["task_id"], how, reference, other
                hows = random.Random(number).sample(list(RETURNS), n)
                for how in hows:
                    yield row["task_id"], how, reference, returning(source, row["entry_point"], how)


def forms_cases() -> Iterator[Case]:
    """Yield every value in every form, under the rules of both datasets and two tolerances."""
    for dataset, tolerance, value in itertools.product(("humaneval", "mbpp"), (0.0, 1e-4), VALUES):
        source = f"def f(x):\n    return {value}\n"
        reference = EvalPlusReference("f", "", source, [[1], [2]], [[3]], tolerance, dataset)  # type: ignore[arg-type]
        for how in RETURNS:
            yield f"{dataset} {tolerance:g} {value}", how, reference, returning(source, "f", how)


def lcb_forms_cases() -> Iterator[Case]:
    """Yield the same for values that JSON can represent."""
    for value in VALUES:
        try:
            wanted = json.dumps(ast.literal_eval(value))
        except (ValueError, TypeError):
            continue
        reference = ProgramReference(HeldTests((ProgramTest("1", wanted, "sample"),)), "samples", "f")
        for how in RETURNS:
            source = f"class Solution:\n    def f(self, x):\n        return {json.loads(wanted)!r}\n"
            yield f"lcb {value}", how, reference, _method_returning(source, "f", how)


def _reference(dataset: Any, row: dict[str, Any]) -> EvalPlusReference:
    inputs = [row["base_input"], row["plus_input"] if row["plus_input"] else []]
    if dataset == "mbpp":
        inputs = [python_values(row["task_id"], some) for some in inputs]
    named = (row["entry_point"], row["prompt"], row["canonical_solution"])
    return EvalPlusReference(*named, *inputs, float(row["atol"]), dataset)


def lcb_cases(data: Path, n: int) -> Iterator[Case]:
    with (data / "code_train/areal_deepcoder_sample.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            tests = json.loads(row["input_output"])
            pairs = zip(tests["inputs"][:12], tests["outputs"], strict=False)
            reference = ProgramReference(HeldTests(tuple(ProgramTest(*pair, "official") for pair in pairs)), "official")
            for number, source in enumerate(row["solutions"][: 4 * n]):
                yield f"{row['query_id'][-8:]}/{number}", "as it is", reference, source
                for how, other in [*_safely(changed, source, n, number), *_safely(idioms, source)]:
                    yield f"{row['query_id'][-8:]}/{number}", how, reference, other
    for number, row in enumerate(json.loads((data / "code_train/rllm_leetcode_test.json").read_text(encoding="utf-8"))):
        found = _leetcode(row["tests"])
        if found is None:
            continue
        name, tests = found
        reference = ProgramReference(HeldTests(tests), "official", name)
        yield f"leetcode/{number}", "as it is", reference, row["solutions"]
        for how, other in _safely(changed, row["solutions"], n, number):
            yield f"leetcode/{number}", how, reference, other
        for how in random.Random(number).sample(list(RETURNS), n):
            yield f"leetcode/{number}", how, reference, _method_returning(row["solutions"], name, how)


def _safely(make: Callable[..., Iterator[tuple[str, str]]], *arguments: Any) -> list[tuple[str, str]]:
    """Return None if the program is not in this version of Python."""
    try:
        return list(make(*arguments))
    except (SyntaxError, ValueError):
        return []


def _leetcode(tests: dict[str, str]) -> tuple[str, tuple[ProgramTest, ...]] | None:
    """Return the function and its tests, if they are asserts on plain values."""
    body = ast.parse(tests["functional"]).body
    name = ast.unparse(body[-1]).rstrip(")").rpartition(".")[2]
    found = []
    try:
        for statement in body[0].body:  # type: ignore[attr-defined]
            call, wanted = statement.test.left, statement.test.comparators[0]
            values = [ast.literal_eval(keyword.value) for keyword in call.keywords]
            inputs = "\n".join(map(json.dumps, values))
            found.append(ProgramTest(inputs, json.dumps(ast.literal_eval(wanted)), "official"))
    except (AttributeError, ValueError, TypeError):
        return None
    return name, tuple(found)


def _method_returning(source: str, name: str, how: str) -> str:
    return (
        f"{source}\n_f = Solution.{name}\ndef _g(self, *a):\n    v = _f(self, *a)\n    return {RETURNS[how]}\n"
        f"Solution.{name} = _g\n"
    )


# --- the judges -------------------------------------------------------------------------------------------------


def ours(grader: Any, case: Case) -> str:
    name, _, reference, source = case
    completion = Completion(name, 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
    verdict = grader.grade(Problem(name, "t", (), reference), completion)
    code = verdict.details.get("verdict", verdict.outcome)
    return f"{code} {verdict.details.get('cause') or ''}".strip() if verdict.outcome != "ungraded" else verdict.reason


def evalplus_says(case: Case) -> str:
    from harness.graders.published.legacy_evalplus import LegacyEvalPlusGrader

    config = LegacyEvalPlusGrader.Config(runs_untrusted_programs=True, least_s=4.0)
    name, _, reference, source = case
    completion = Completion(name, 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
    verdict = LegacyEvalPlusGrader(config).grade(Problem(name, "t", (), reference), completion)
    return "AC" if verdict.outcome == "correct" else f"{verdict.outcome}: {verdict.reason}"


def lcb_says(case: Case) -> str:
    from lcb_runner.evaluation.compute_code_generation_metrics import check_correctness

    _, _, reference, source = case
    tests = reference.tests.read()
    given: dict[str, Any] = {"inputs": [t.input for t in tests], "outputs": [t.output for t in tests]}
    if reference.function_name is not None:
        given["fn_name"] = reference.function_name
    try:
        results, metadata = check_correctness({"input_output": json.dumps(given)}, source, timeout=6, debug=False)
    except IndexError:
        return "it raised, as the program ended the process that was to report"
    plain = [result.item(0) if getattr(result, "size", 0) else result for result in results]  # as in LiveCodeBench
    if plain and all(type(result) in (bool, int) and result > 0 for result in plain):
        return "AC"
    return f"{results[-1]}: {str(metadata)[:300]}"


def compare(cases: Sequence[Case], judges: dict[str, Callable[[Case], str]], out: Path) -> None:
    """Judge every case by every judge; write disagreements to the file."""
    counts: collections.Counter[tuple[str, ...]] = collections.Counter()
    by_change: collections.Counter[tuple[str, ...]] = collections.Counter()
    began = time.perf_counter()
    with out.open("w", encoding="utf-8") as file:
        for number, case in enumerate(cases):
            verdicts = {name: judge(case) for name, judge in judges.items()}
            accepted = tuple(name for name, what in verdicts.items() if what == "AC")
            counts[accepted] += 1
            if 0 < len(accepted) < len(judges):
                by_change[(case[1], *accepted)] += 1
                row = {"case": case[0], "change": case[1], **verdicts, "source": case[3]}
                file.write(json.dumps(row) + "\n")
                file.flush()
            if number % 100 == 99:
                print(f"{number + 1} of {len(cases)}, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    for accepted, n in counts.most_common():
        print(f"{n:6} accepted by {' and '.join(accepted) if accepted else 'nobody'}")
    for (change, *accepted), n in by_change.most_common():
        print(f"{n:6} {change}: only {' and '.join(accepted)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("evalplus", "lcb"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--lcb", type=Path, help="a checkout of LiveCodeBench")
    parser.add_argument("--mutants", type=int, default=2, help="of each kind, of each solution")
    parser.add_argument("--forms", action="store_true", help="values in every form, instead of changed solutions")
    parser.add_argument("--every", type=int, default=1, help="take every n-th program only")
    parser.add_argument("--out", type=Path, default=Path("disagreements.jsonl"))
    options = parser.parse_args()
    strict = CodeGrader(CodeGrader.Config(n_workers=1))
    if options.peer == "evalplus":
        cases = list(forms_cases() if options.forms else evalplus_cases(options.data, options.mutants))
        judges = {"code": lambda case: ours(strict, case), "evalplus": evalplus_says}
    else:
        sys.path.insert(0, str(options.lcb))
        official = LcbOfficialGrader(LcbOfficialGrader.Config(n_workers=1))
        cases = list(lcb_forms_cases() if options.forms else lcb_cases(options.data, options.mutants))
        judges = {
            "code": lambda case: ours(strict, case),
            "lcb_official": lambda case: ours(official, case),
            "lcb_runner": lcb_says,
        }
    compare(cases[:: options.every], judges, options.out)


if __name__ == "__main__":
    main()
