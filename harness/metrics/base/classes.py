"""Classes of samples: the final answer of each, and the solution of each right one where the task identifies it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from harness.core.types import Graded
from harness.metrics.base.grouping import ProblemSamples

NO_ANSWER = "no answer"
RIGHT = "right"
STRATEGY = "strategy"
"""Key in the details of a right verdict: the label of its strategy, which a judge gave it."""

_MACROS = re.compile(r"\\(left|right|displaystyle|,|;|!|:| |quad|qquad)(?![a-zA-Z])|[$\s]|\\[()\[\]]")
_FRACTION = re.compile(r"\\frac\{(-?\d+)\}\{(\d+)\}")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}")


def answer_classes(problem: ProblemSamples) -> list[str] | None:
    """Return the class of each sample's final answer; None where the grader does not record answers.

    Right answers are equivalent by the grader, unless the task identifies solutions. Wrong ones are equal when their
    normal forms are, and wrong programs when they did the same on the tests that were run. Samples without an answer
    are one class.
    """
    found = [_answer_class(item) for item in problem.graded]
    return None if None in found else [name for name in found if name is not None]


def _answer_class(item: Graded[Any]) -> str | None:
    verdict = item.verdict
    if verdict.outcome == "correct":
        return f"{RIGHT} {verdict.details.get('solution', '')}"
    if "behaviour" in verdict.details:
        return f"wrong program {verdict.details['behaviour']}"
    if verdict.extracted is not None:
        return f"wrong {normal_answer(verdict.extracted)}"
    return None if verdict.reason == "wrong" else NO_ANSWER


@functools.lru_cache(maxsize=65536)
def normal_answer(text: str) -> str:
    """Return the normal form of an answer: without spacing and text marks, and a number as a fraction."""
    plain = _TEXT.sub(r"\1", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    plain = _MACROS.sub("", plain).rstrip(".").casefold()
    number = _FRACTION.sub(r"\1/\2", plain).replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+", plain) else plain
    number = _FRACTION.sub(r"\1/\2", number)
    if re.fullmatch(r"-?\d{1,400}(\.\d{1,400}|/\d{1,400})?", number):
        try:
            return str(Fraction(number))
        except ZeroDivisionError:
            return plain
    return plain


def solution_classes(problem: ProblemSamples, key: str = "solution") -> Sequence[str | None] | None:
    """Return the solution of each right sample, and None for others; None as a whole where right ones have none.

    It is the task's own canonical form, or, of a program, its syntax tree without names, comments and docstrings.
    """
    found = [_solution(item, key) for item in problem.graded]
    right = [item.verdict.outcome == "correct" for item in problem.graded]
    if any(is_right and name is None for is_right, name in zip(right, found, strict=True)):
        return None
    return found


def _solution(item: Graded[Any], key: str) -> str | None:
    verdict = item.verdict
    if verdict.outcome != "correct":
        return None
    if key in verdict.details:
        return str(verdict.details[key])
    if key == "solution" and verdict.details.get("verdict") == "AC" and verdict.extracted is not None:
        return normal_program(verdict.extracted)
    return None


@functools.lru_cache(maxsize=4096)
def normal_program(source: str) -> str:
    """Return the syntax tree of a Python program with its names numbered in order of appearance.

    Programs that differ in names, comments, docstrings, annotations and layout are equal. A source that is not Python
    is itself without white space.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "".join(source.split())
    return ast.dump(_Renamer(tree).visit(tree))


class _Renamer(ast.NodeTransformer):
    """Numbers the names that a program defines itself; those of the language and of modules stay."""

    def __init__(self, tree: ast.AST) -> None:
        self._own = {
            *(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)),
            *(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)),
            *(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)),
        }
        self._numbers: dict[str, str] = {}

    def _number(self, name: str) -> str:
        return self._numbers.setdefault(name, f"v{len(self._numbers)}") if name in self._own else name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._number(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self._number(node.arg), None)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        self.generic_visit(node)
        node.arg = self._number(node.arg) if node.arg is not None else None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns, node.body = self._number(node.name), None, _without_docstring(node.body)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name, node.body = self._number(node.name), _without_docstring(node.body)
        return self.generic_visit(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = _without_docstring(node.body)
        return self.generic_visit(node)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    is_text = bool(body) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    return body[1:] if is_text and len(body) > 1 else body


def novelty_classes(problem: ProblemSamples) -> list[str] | None:
    """Return the class of each sample: its answer and, where it is right and known, its solution."""
    answers, solutions = answer_classes(problem), solution_classes(problem)
    if answers is None or solutions is None:
        return answers
    return [f"{answer} {solution}" for answer, solution in zip(answers, solutions, strict=True)]
