"""Div-Equ: the share of different equations among all equations of a problem's samples (Yao et al. 2025)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from harness.metrics.base.diversity import Diversity, texts_of
from harness.metrics.base.grouping import ProblemSamples

# Possessive, so that a long run costs time linear in its length.
_RUN = re.compile(r"(?:\\[a-zA-Z]+|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])|[-+*/^_(){}\[\]|!.%×·÷√π 0-9=])++")
_BREAK = re.compile(r"\\(?:begin|end)\{\w+\*?\}|\\\\")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "{": "(", "}": ")", "[": "(", "]": ")"})
_SPELLINGS = (
    (re.compile(r"\\(left|right|displaystyle|quad|qquad)(?![a-zA-Z])"), ""),
    (re.compile(r"\\(times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\s+"), ""),
    (re.compile(r"^[.\\]+|[.\\]+$"), ""),
)


class DivEqu(Diversity):
    """The number of different equations over that of all equations, pooled over m samples.

    An equation is `a = b` in plain text or LaTeX; a chain `a = b = c` is two. Equal means equal without spacing and
    after a few spellings (`\\times` and `*`) are made one. It falls as texts get longer, and another order of
    the same steps changes nothing. Undefined where no sample has an equation.
    """

    name = "div_equ"

    def features(self, problem: ProblemSamples) -> Sequence[Sequence[str]]:
        return [equations(text) for text in texts_of(problem)]

    def value(self, features: Sequence[Any]) -> float | None:
        found = [equation for of_text in features for equation in of_text]
        return len(set(found)) / len(found) if found else None


def equations(text: str) -> list[str]:
    """Return the normal forms of the equations in a text, in order."""
    chains = (match.group().split("=") for match in _RUN.finditer(_BREAK.sub("\n", text).replace("&=", "=")))
    sides = ([_normal(side) for side in chain] for chain in chains)
    pairs = (pair for chain in sides for pair in itertools.pairwise(chain))
    return [f"{left}={right}" for left, right in pairs if left and right]


def _normal(side: str) -> str:
    for pattern, replacement in _SPELLINGS:
        side = pattern.sub(replacement, side)
    return side.translate(_SIGNS)


METRIC = DivEqu
