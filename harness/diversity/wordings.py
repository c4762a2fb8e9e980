"""Countdown solutions written out as prose in many wordings, to attack measures that should see the solution alone."""

from __future__ import annotations

import re
from random import Random

OPENINGS = (
    "We look for two steps that end at the target.",
    "Let me try to combine three of the numbers.",
    "Here is one way to do it.",
    "The idea is to get close to the target first.",
    "To hit the target, I proceed as follows.",
    "After some trial and error this works.",
    "One can reach the goal in two moves.",
    "Consider the numbers that are given.",
)
STEPS = {
    "+": (
        "we have {a}+{b}={c}", "add {b} to {a}, which gives {c}", "the sum of {a} and {b} is {c}",
        "{a} and {b} together make {c}", "{a} increased by {b} yields {c}", "adding {a} and {b} leads to {c}",
    ),
    "-": (
        "we have {a}-{b}={c}", "subtract {b} from {a}, which gives {c}", "the difference of {a} and {b} is {c}",
        "{a} without {b} leaves {c}", "{a} reduced by {b} yields {c}", "taking {b} away from {a} leads to {c}",
    ),
    "*": (
        "we have {a}*{b}={c}", "multiply {a} by {b}, which gives {c}", "the product of {a} and {b} is {c}",
        "{a} times {b} makes {c}", "{a} taken {b} times yields {c}", "multiplying {a} and {b} leads to {c}",
    ),
    "/": (
        "we have {a}/{b}={c}", "divide {a} by {b}, which gives {c}", "the quotient of {a} and {b} is {c}",
        "{a} over {b} makes {c}", "{a} split into {b} parts yields {c}", "dividing {a} by {b} leads to {c}",
    ),
}  # fmt: skip
FIRSTS = ("First, ", "To begin with, ", "Step 1: ", "Note that ", "Start like this: ", "In the first move, ")
SECONDS = ("Then ", "After that, ", "Step 2: ", "Next, ", "With this, ", "In the second move, ")
ENDINGS = (
    "That is the target.",
    "So we are done.",
    "This is what was asked for.",
    "Hence the target is reached.",
    "The result equals the target.",
    "And that solves it.",
)
FILLER = "Let us keep the goal in mind and check everything carefully once more before we go on."


def written(chain: str, wording: Random | None = None) -> str:
    """Return a chain such as `4*9=36;36+2=38` as prose: in one fixed wording, or in a random one."""
    steps = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", chain)

    def pick(options: tuple[str, ...]) -> str:
        return options[0] if wording is None else wording.choice(options)

    parts = [pick(OPENINGS)]
    for starts, (a, operation, b, c) in zip((FIRSTS, SECONDS), steps, strict=False):
        parts.append(f"{pick(starts)}{pick(STEPS[operation]).format(a=a, b=b, c=c)}.")
    return " ".join([*parts, pick(ENDINGS)])
