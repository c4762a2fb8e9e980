"""The type of a gold is decided by looking, once a row."""

from __future__ import annotations

from fractions import Fraction

import pytest

from harness.core.errors import DataError
from harness.graders.math.reference import SCIENTIFIC_TOLERANCE, typed_reference


@pytest.mark.parametrize(
    ("gold", "kind", "value"),
    [
        ("025", "integer", Fraction(25)),
        ("27.0", "integer", Fraction(27)),
        ("336^\\circ", "integer", Fraction(336)),
        ("1,234", "integer", Fraction(1234)),
        ("11,\\! 111,\\! 111,\\! 100", "integer", Fraction(11_111_111_100)),
        ("\\$32,\\!348", "integer", Fraction(32_348)),
        ("-8", "integer", Fraction(-8)),
        (".0000672", "decimal", Fraction(672, 10**7)),
        ("5.4 \\text{ cents}", "decimal", Fraction(27, 5)),
        ("4.5e33", "scientific", Fraction(45 * 10**32)),
        ("2.7778e-6", "scientific", Fraction(27778, 10**10)),
        ("4.5 \\times 10^{33}", "scientific", Fraction(45 * 10**32)),
    ],
)
def test_numeric_references_have_an_exact_value(gold, kind, value):
    reference = typed_reference(gold)
    assert (reference.text, reference.kind, reference.value) == (gold, kind, value)


@pytest.mark.parametrize(
    ("gold", "kind", "brackets", "n_items"),
    [
        ("1,-2", "set", "", 2),
        ("1 \\pm \\sqrt{19}", "set", "", 2),
        ("\\{1\\pm\\sqrt{5},-2\\}", "set", "{}", 3),
        ("(6,31,-1)", "tuple", "()", 3),
        ("(3,4]", "interval", "(]", 2),
        ("(2,\\infty)", "interval", "()", 2),
        ("x \\in [-2,7]", "interval", "[]", 2),
        ("k \\geqslant 2", "interval", "[)", 2),
        ("(0,9) \\cup (9,36)", "interval", "union", 2),
        ("\\begin{pmatrix} -1/3 \\\\ 2/3 \\\\ 5/3 \\end{pmatrix}", "tuple", "column", 3),
        ("\\frac{14}{3}", "expression", "", 0),
        ("y = 2x + 3", "expression", "", 0),
        ("\\text{Evelyn}", "text", "", 0),
        ("\\text{(C)}", "text", "", 0),
        ("m", "expression", "", 0),
        ("E_{1},E_{2}", "set", "", 2),
    ],
)
def test_other_references_have_a_kind_and_items(gold, kind, brackets, n_items):
    reference = typed_reference(gold)
    assert (reference.kind, reference.brackets, len(reference.items)) == (kind, brackets, n_items)


def test_commas_separate_answers_if_the_row_is_marked_so():
    assert typed_reference("100,101").value == 100_101
    assert [item.value for item in typed_reference("100,101", is_multiple=True).items] == [100, 101]


def test_units_have_one_spelling():
    units = [typed_reference(gold).unit for gold in ("15\\mbox{ cm}^2", "864 \\mbox{ inches}^2", "62.5\\%", "52_8")]
    assert units == ["cm^2", "inch^2", "%", "base 8"]
    assert [typed_reference("7", unit=unit).unit for unit in ("$cm^2$", "^{\\circ}", "km/h", "")] == [
        "cm^2",
        "°",
        "km/hour",
        "",
    ]


def test_only_measured_quantities_have_a_tolerance_of_their_own():
    assert [typed_reference(gold).relative_tolerance for gold in ("27.0", "1.25", "4.5e33")] == [
        0,
        0,
        SCIENTIFIC_TOLERANCE,
    ]
    row = typed_reference("4.2, 5", absolute_tolerance=0.1)
    assert [item.absolute_tolerance for item in row.items] == [0.1, 0.1]


@pytest.mark.parametrize("gold", ["", "  ", "(" * 65 + "1" + ")" * 65, "9" * 1_001, "x" * 4_097])
def test_unusable_reference_is_refused(gold):
    with pytest.raises(DataError):
        typed_reference(gold)
