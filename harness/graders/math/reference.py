"""The typed gold answer of a maths problem; its type is decided once, when the row is read.

Tolerances. An integer is exact. A decimal is exact unless the task sets a tolerance: AMC's 27.0 and MATH's 1.25 are
not measurements. A gold in e-notation is a measured quantity with a relative tolerance of 1e-4, that of the
Qwen2.5-Math grader, which produced most published Minerva numbers; a task of measured decimals passes the same. A
difference within it is never a factor of 100, a sign, or a wrong digit among the first four.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from harness.core.errors import DataError
from harness.graders.math.notation import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_DIGITS,
    canonical_unit,
    currency,
    depth,
    enclosed,
    listed,
    longest_digits,
    plain,
    split,
    without_unit,
)

Kind = Literal["integer", "decimal", "scientific", "set", "tuple", "interval", "expression", "text"]

SCIENTIFIC_TOLERANCE = 1e-4
MAX_EXPONENT = 10_000
MAX_ITEMS = 64


@dataclass(frozen=True, slots=True)
class MathReference:
    """One answer with its type. Candidates are read into the same form, so that like is compared with like."""

    text: str
    """The text exactly as in the source."""
    kind: Kind
    value: Fraction | None = None
    """The exact value of an integer, a decimal, or a number in scientific notation."""
    relative_tolerance: float = 0.0
    absolute_tolerance: float = 0.0
    unit: str = ""
    """The normalised unit; `base 8` for a number written in another base."""
    items: tuple[MathReference, ...] = ()
    """The members of a set or tuple in the order written, the two ends of an interval, or the parts of a union."""
    brackets: str = ""
    """The delimiters as written: `()` tuple, `[)` interval, `{}` or empty for a set, `union`, `column`, `matrix`."""
    body: str = ""
    """The text without notation that has no meaning."""


class UnreadableAnswerError(Exception):
    """The text exceeds a limit, which the message names. Nothing of it was interpreted."""


def typed_reference(
    gold: str,
    *,
    unit: str = "",
    is_multiple: bool = False,
    absolute_tolerance: float = 0.0,
    relative_tolerance: float = 0.0,
) -> MathReference:
    """Return the typed gold of a data row. `is_multiple`: commas separate answers, never thousands.

    Raises DataError for a gold that is empty or over the limits.
    """
    try:
        found = read(gold, is_multiple=is_multiple)
    except UnreadableAnswerError as error:
        raise DataError(f"the reference answer {gold[:60]!r} can't be used: {error}") from None
    if unit and not found.unit:
        found = replace(found, unit=canonical_unit(plain(unit)))
    return _tolerant(found, absolute_tolerance, relative_tolerance)


def read(text: str, *, is_multiple: bool = False, letters_are_units: bool = False) -> MathReference:
    """Return an answer with its type, by its form only: nothing is evaluated. Raises UnreadableAnswerError.

    `letters_are_units` reads the m of `5 m` as metres, which is correct where a number is expected.
    """
    if len(text) > MAX_CHARACTERS:
        raise UnreadableAnswerError(f"longer than {MAX_CHARACTERS} characters")
    body = plain(text)
    if letters_are_units and body[:1] in _BEGINS_CHOICE:
        body = _CHOICE_LETTER.sub("", body, count=1)
    if not body:
        raise UnreadableAnswerError("empty")
    if depth(body) > MAX_DEPTH:
        raise UnreadableAnswerError(f"brackets nested deeper than {MAX_DEPTH}")
    if longest_digits(body) > MAX_DIGITS:
        raise UnreadableAnswerError(f"a number of more than {MAX_DIGITS} digits")
    found = _typed(body, is_multiple, letters_are_units)
    unit = found.unit if found.unit else currency(text)
    return found if (found.text, found.unit) == (text, unit) else replace(found, text=text, unit=unit)


def without_percent(answer: MathReference) -> MathReference:
    """Return an answer in percent as the number of hundredths: 62.5% as 0.625."""
    if answer.unit != "%":
        return answer
    value = answer.value / 100 if answer.value is not None else None
    body = f"({answer.body})/100"
    kind: Kind = "decimal" if value is not None else answer.kind
    return replace(answer, kind=kind, value=value, body=body, text=body, unit="")


def gold_text(reference: object) -> str | None:
    """Return the text of a maths reference or of a text reference, and None for any other."""
    if isinstance(reference, MathReference):
        return reference.text
    return reference if isinstance(reference, str) else None


def _tolerant(reference: MathReference, absolute: float, relative: float) -> MathReference:
    """Return the reference with the tolerances, also in its items."""
    default = SCIENTIFIC_TOLERANCE if reference.kind == "scientific" else 0.0
    return replace(
        reference,
        absolute_tolerance=absolute,
        relative_tolerance=relative if relative or absolute else default,
        items=tuple(_tolerant(item, absolute, relative) for item in reference.items),
    )


# --- the types -----------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)$")
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(?:(?:,| )[0-9]{3})+(?:\.[0-9]*)?$")
_E_NOTATION = re.compile(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[eE]([-+]?[0-9]{1,5})$")
_TIMES_TEN = re.compile(
    r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)) ?(?:\\times|\\cdot|\*|x|X) ?10 ?(?:\^|\*\*) ?[{(]? ?([-+]?[0-9]{1,5}) ?[)}]?$"
)
_BEGINS_CHOICE = frozenset("\\(ABCDEFGH")
_CHOICE_LETTER = re.compile(r"^(?:\\text ?\{ ?)?(?:\([A-H]\)|[A-H][).:])(?: ?\} ?| ?)(?=[^ ,;}])")
_LABEL = re.compile(
    r"^(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|varphi|omega)(?![a-z]))"
    r"(?: ?_ ?(?:[A-Za-z0-9]|\{[^{}]*\})|')?(?: ?\( ?[A-Za-z](?: ?, ?[A-Za-z])* ?\))?"
    r" ?(?:=|:=|\\in(?![a-z])|\\equiv|\\approx) ?(?!=)"
)
_POINT_LABEL = re.compile(r"^\( ?\\?[A-Za-z]+(?: ?, ?\\?[A-Za-z]+)+ ?\) ?= ?(?=\()")
_FUNCTION_LABEL = re.compile(r"^([A-Za-z]) ?\( ?[A-Za-z] ?\) ?=")
_REPEATING = re.compile(
    r"([-+]?[0-9]*)\.(?:([0-9]*) ?\\(?:overline|bar|dot) ?\{ ?([0-9]+) ?\}|([0-9]*?)(([0-9])\6\6+) ?(?:\\dots|\.\.\.))$"
)
_WORDED = re.compile(r"^\(?\\text ?\{([^{}]*)\}\)?$")
_PLAIN_WORDS = re.compile(r"^\(?[A-Za-z]{2,}(?:[ -][A-Za-z]+)*\)?$|^\([A-Z]\)$")
_MATRIX = re.compile(
    r"^(?P<open>[(\[|]?) ?\\begin ?\{(?P<name>[pbvBV]?matrix|array)\} ?(?:\{[lcr| ]*\})?"
    r"(?P<rows>.*)\\end ?\{(?P=name)\} ?(?P<close>[)\]|]?)$"
)
_MATRIX_LABEL = re.compile(
    r"^(?:\\(?:vec|overrightarrow|hat|bar|overline|underline|text) ?)?\{? ?[A-Za-z]{1,2} ?\}?(?: ?_ ?(?:\w|\{\w+\}))?"
    r"(?: ?\^ ?(?:T|\{ ?(?:-1|T) ?\}))? ?= ?(?=[(\[|]? ?\\begin)"
)
_ROW_END = re.compile(r"\\\\(?: ?\[ ?-?[0-9.]+ ?[a-z]{2} ?\])?")
_MATRIX_BRACKETS = (("", ""), ("(", ")"), ("[", "]"), ("|", "|"))
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])")
_MINUS_PLUS = re.compile(r"\\mp(?![a-z])")


def _typed(body: str, is_multiple: bool, letters_are_units: bool = False) -> MathReference:
    if not is_multiple and (number := _number(body)) is not None:
        return number
    if (words := _text(body)) is not None:
        return words
    bare, unit = without_unit(body, letters_are_units=letters_are_units)
    if unit and not is_multiple and bare:
        return replace(_typed(bare, is_multiple), unit=unit)
    body = body if unit else bare  # an angle in degrees is written out
    if (named := _functions(body)) is not None:
        return named
    bare = body if _is_list_of_equations(body) else _POINT_LABEL.sub("", _LABEL.sub("", body, count=1))
    found = _structured(bare, is_multiple)
    return replace(found, text=body) if found.kind == "expression" else found


def _functions(body: str) -> MathReference | None:
    """Split answers that are distinguished by function names, such as `f(n)=n, g(n)=1`."""
    parts = sorted(listed(body)) if "," in body or " and " in body else []
    names = [found.group(1) for part in parts if (found := _FUNCTION_LABEL.match(part)) is not None]
    if len(names) < 2 or len(names) != len(parts) or len(set(names)) != len(names):
        return None
    return _collection("set", "named " + ",".join(names), parts)


def _structured(body: str, is_multiple: bool) -> MathReference:
    """Read everything but plain numbers and words."""
    if not is_multiple and (number := _number(body)) is not None:
        return number
    for form in (_union, _matrix, _bracketed, _inequality):
        if (found := form(body)) is not None:
            return found
    parts = [body] if _is_relation_with_commas(body) else listed(body)
    if len(parts) > 1 or is_multiple:
        return _collection("set", "", parts)
    if _PLUS_MINUS.search(body) is not None or _MINUS_PLUS.search(body) is not None:
        return MathReference(body, "set", items=_both_signs(body), body=body)
    return MathReference(body, "expression", body=body)


def _number(body: str) -> MathReference | None:
    if not body or body[0] not in "+-.0123456789":
        return None
    body = body.replace("- ", "-")
    if _NUMBER.match(body) is not None:
        return _exact(body, body)
    if ("," in body or " " in body) and _THOUSANDS.match(body) is not None:
        return _exact(body, re.sub("[, ]+", "", body))
    if (repeating := _REPEATING.match(body)) is not None:
        return MathReference(body, "decimal", _repeated(repeating), body=body)
    for notation in (_E_NOTATION, _TIMES_TEN):
        found = notation.match(body)
        if found is not None and abs(int(found.group(2))) <= MAX_EXPONENT:
            value = Fraction(found.group(1)) * Fraction(10) ** int(found.group(2))
            return MathReference(body, "scientific", value, body=body)
    return None


def _repeated(found: re.Match[str]) -> Fraction:
    r"""Return the value of `0.1\overline{6}` and of `0.1666\ldots`."""
    whole = found.group(1)
    first, again = found.group(2, 3) if found.group(3) is not None else found.group(4, 6)
    digits = Fraction(int(first + again) - int(first or "0"), 10 ** len(first) * (10 ** len(again) - 1))
    return (-1 if whole.startswith("-") else 1) * (abs(int(whole if whole.strip("+-") else "0")) + digits)


def _exact(body: str, digits: str) -> MathReference:
    value = Fraction(digits) if "." in digits else Fraction(int(digits))
    is_integer = "." not in digits or not digits.partition(".")[2].strip("0")
    return MathReference(body, "integer" if is_integer else "decimal", value, body=body)


def _text(body: str) -> MathReference | None:
    """Read words: `\text{Evelyn}`, `even`, `(C)`."""
    found = _WORDED.match(body)
    if found is not None:
        words = found.group(1).strip()
        number = _number(words) if words else None
        return number if number is not None else MathReference(body, "text", body=words.strip("()., "))
    if (_PLAIN_WORDS.match(body) is not None and not body.isupper()) or re.match(r"^\([A-Z]\)$", body) is not None:
        return MathReference(body, "text", body=body.strip("()"))
    return None


def _union(body: str) -> MathReference | None:
    r"""Read `(0,9) \cup (9,36)`, and inequalities joined by `or`."""
    if "\\cup" in body:
        return _collection("interval", "union", re.split(r"\\cup(?![a-z])", body))
    if " or " in body and re.search(r"[<>]|\\[lg]e(?![a-z])", body) is not None:
        return _collection("interval", "union", body.split(" or "))
    if body == "\\R":
        return _interval("()", ("-\\infty", "\\infty"))
    return MathReference(body, "set", brackets="{}", body=body) if body == "\\varnothing" else None


def _matrix(body: str) -> MathReference | None:
    if "\\begin" not in body:
        return None
    found = _MATRIX.match(_MATRIX_LABEL.sub("", body, count=1))
    if found is None or found.group("open", "close") not in _MATRIX_BRACKETS:
        return None
    text = found.group("rows").replace("\\hline", "")
    rows = [[cell.strip() for cell in row.split("&")] for row in _ROW_END.split(text) if row.strip()]
    is_determinant = found.group("open") == "|" or found.group("name") in ("vmatrix", "Vmatrix")
    if all(len(row) == 1 for row in rows) and not is_determinant:
        return _collection("tuple", "column", [row[0] for row in rows])
    items = tuple(_collection("tuple", "row", row) for row in rows)
    return MathReference(body, "tuple", items=items, brackets="determinant" if is_determinant else "matrix", body=body)


def _bracketed(body: str) -> MathReference | None:
    r"""Read `(3,4]`, `(1,2,3)`, `\{1,2\}`."""
    if body.startswith("\\{") and body.endswith("\\}") and enclosed(body[1:]):
        if any(mark in body for mark in ("|", ":")):
            return _inequality(re.sub(r"^[^|:]*[|:]", "", body[2:-2].strip()).strip())
        return _collection("set", "{}", listed(body[2:-2].strip()))
    if body[:1].isalpha() and body.endswith("]"):  # the name of a variable before its interval
        body = body[1:].strip()
    if (turned := _REVERSED.match(body)) is not None:
        left, low, high, right = turned.groups()
        return _interval(("(" if left == "]" else left) + (")" if right == "[" else right), (low, high))
    if not enclosed(body) or body[0] == "{":
        return None
    parts = split(body[1:-1], ",;")
    if len(parts) == 2 and (body[0] == "[" or body[-1] == "]" or "\\infty" in body):
        return _interval(body[0] + body[-1], (parts[0], parts[1]))
    return _collection("tuple", "()", parts) if len(parts) > 1 and all(parts) else None


# `]a, b[` is the open interval; a bracket between the ends would be part of something else.
_REVERSED = re.compile(r"^(?:(?=\])|(?=.*\[$))([\[\](]) ?([^\[\],;]+) ?[,;] ?([^\[\],;]+) ?([\[\])])$")
_ABSOLUTE = re.compile(r"\| ?[A-Za-z] ?\| ?(<|\\le)(?![a-z]) ?([^<>|,=]+)$")
_RELATION = re.compile(r" ?(<|>|\\le(?![a-z])|\\ge(?![a-z])) ?")


def _inequality(body: str) -> MathReference | None:
    r"""Read `-2 \le x \le 7` and `x > 3` as intervals; any other relation stays an expression."""
    if (absolute := _ABSOLUTE.match(body)) is not None:
        closed = absolute.group(1) == "\\le"
        return _interval("[]" if closed else "()", (f"-({absolute.group(2)})", absolute.group(2)))
    if not body or len(parts := _RELATION.split(body)) not in (3, 5):
        return None
    if len(parts) == 3:
        left, relation, right = parts
        if re.fullmatch(r"[A-Za-z]", right.strip()):
            left, relation, right = right, _turned(relation), left
        if not re.fullmatch(r"[A-Za-z]", left.strip()) or "=" in right or "," in right:
            return None
        closed = "]" if relation.startswith("\\") else ")"
        if relation in ("<", "\\le"):
            return _interval("(" + closed, ("-\\infty", right))
        return _interval(("[" if closed == "]" else "(") + ")", (right, "\\infty"))
    low, first, name, second, high = parts
    if not re.fullmatch(r"[A-Za-z]", name.strip()) or (first in (">", "\\ge")) != (second in (">", "\\ge")):
        return None
    if first in (">", "\\ge"):
        low, first, second, high = high, second, first, low
    return _interval(("[" if first.startswith("\\") else "(") + ("]" if second.startswith("\\") else ")"), (low, high))


def _turned(relation: str) -> str:
    return {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}[relation]


def _interval(brackets: str, ends: tuple[str, str]) -> MathReference:
    body = f"{brackets[0]}{ends[0]},{ends[1]}{brackets[1]}"
    return MathReference(body, "interval", items=tuple(map(_item, ends)), brackets=brackets, body=body)


def as_interval(answer: MathReference) -> MathReference:
    """Read `(2,4)`, which could be a pair, as the open interval; return anything else unchanged."""
    if answer.kind != "tuple" or answer.brackets != "()" or len(answer.items) != 2:
        return answer
    return replace(answer, kind="interval")


def _is_relation_with_commas(body: str) -> bool:
    """Return whether this is one statement with commas, such as `f(x)=a x+b, where b is ...`, and not a list."""
    return re.search(r"\b(?:where|for all|such that|if)\b", body) is not None


def _is_list_of_equations(body: str) -> bool:
    """Return whether each part of a list has a left side of its own, so that the first is not a label of all."""
    if body.count("=") < 2 or _is_relation_with_commas(body):
        return False
    return sum("=" in part for part in listed(body)) > 1


def _collection(kind: Literal["set", "tuple", "interval"], brackets: str, parts: list[str]) -> MathReference:
    if len(parts) > MAX_ITEMS:
        raise UnreadableAnswerError(f"more than {MAX_ITEMS} answers")
    items: list[MathReference] = []
    for part in parts:
        found = _item(part)
        if brackets == "union":
            found = as_interval(found)
        is_pair = kind == "set" and found.kind == "set" and not found.brackets
        items += found.items if is_pair else [found]
    return MathReference(",".join(parts), kind, items=tuple(items), brackets=brackets, body=",".join(parts))


def _item(part: str) -> MathReference:
    part = part.strip()
    if not part:
        raise UnreadableAnswerError("a list with nothing between two commas")
    return _typed(part, is_multiple=False)


def _both_signs(body: str) -> tuple[MathReference, ...]:
    upper = _MINUS_PLUS.sub("-", _PLUS_MINUS.sub("+", body))
    lower = _MINUS_PLUS.sub("+", _PLUS_MINUS.sub("-", body))
    return tuple(_item(signed.strip().removeprefix("+")) for signed in (upper, lower))
