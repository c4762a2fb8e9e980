"""Golden completions made from a maths reference: the reference, no answer, and the nearest wrong answers."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from harness.core.types import GoldenCompletion
from harness.graders.math.reference import MathReference


def golden_completions(reference: MathReference) -> list[GoldenCompletion]:
    """Return completions whose verdict against the reference is known."""
    right = [("the reference", reference.text), *_other_notations(reference)]
    return [
        *(GoldenCompletion(what, _reply(answer), "correct") for what, answer in right),
        GoldenCompletion("an empty reply", "", "incorrect"),
        GoldenCompletion("no answer", "I could not solve this problem.", "incorrect"),
        *(GoldenCompletion(what, _reply(answer), "incorrect") for what, answer in _near_misses(reference)),
    ]


def _reply(answer: str) -> str:
    return f"So we are done.\n\nThe final answer is $\\boxed{{{answer}}}$."


def _other_notations(reference: MathReference) -> Iterator[tuple[str, str]]:
    if reference.kind == "scientific" and reference.value is not None:
        mantissa, _, exponent = f"{_decimal(reference.value):.9E}".partition("E")
        yield "written a times ten to the b", f"{Decimal(mantissa).normalize()} \\times 10^{{{int(exponent)}}}"


def _near_misses(reference: MathReference) -> Iterator[tuple[str, str]]:
    """Yield wrong answers close to the reference."""
    if reference.value is not None:
        value = reference.value
        tolerated = Fraction(reference.relative_tolerance) * abs(value) + Fraction(reference.absolute_tolerance)
        yield "one more", _plain(value + max(Fraction(1), 10 * tolerated))
        if value:
            yield "a hundred times", _plain(value * 100)
            yield "a hundredth", _plain(value / 100)
            yield "the other sign", _plain(-value)
    elif "\\infty" in reference.text and reference.kind == "expression":
        yield "the other sign", f"-\\left({reference.text}\\right)"
    elif reference.kind == "expression" and "\\approx" not in reference.text:
        yield "one more", f"\\left({reference.text}\\right)+1"
    elif reference.kind == "set" and len(reference.items) > 1:
        yield "one answer short", ", ".join(item.text for item in reference.items[:-1])
    elif reference.kind == "tuple" and _reversed(reference) != reference.items:
        yield "in another order", "(" + ", ".join(item.text for item in _reversed(reference)) + ")"


def _reversed(reference: MathReference) -> tuple[MathReference, ...]:
    return reference.items[::-1]


def _plain(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return f"{_decimal(value):.12g}"


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)
