"""Remove notation without meaning from an answer: spacing, sizes, dollar signs, degree and percent signs, units.

Everything is linear in the length of the text.
"""

from __future__ import annotations

import functools
import re

MAX_CHARACTERS = 4_096
MAX_DEPTH = 64
MAX_DIGITS = 1_000

# Fullwidth characters are converted to ASCII. Letters of other alphabets that look alike are kept.
_PARTS = ("121234151357", "335555668888")
_CHARACTERS = {
    **{chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94)},
    **dict.fromkeys("\u2212\u2012\u2013\u2014\u2010\u2011", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u200a\u2002\u2003\u3000\t\n\r", " "),
    **dict.fromkeys("\u200b\u2060\ufeff", ""),
    "\u00d7": "\\times ",
    "\u00b7": "\\cdot ",
    "\u22c5": "\\cdot ",
    "\u00f7": "/",
    "\u2044": "/",
    "\u03c0": "\\pi ",
    "\u221a": "\\sqrt ",
    "\u221e": "\\infty ",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u00b1": "\\pm ",
    "\u2213": "\\mp ",
    "\u222a": "\\cup ",
    "\u2208": "\\in ",
    "\u2205": "\\varnothing ",
    "\u211d": "\\R ",
    **dict.fromkeys("\u00b0\u00ba", "^\\circ "),
    "\u3001": ",",
    "\u2032": "'",
    **dict.fromkeys("\u20ac\u00a3\u00a5\u20b9", "\\$"),  # `currency` reads which of them it is
    "\u00bd": "\\frac{1}{2}",
    "\u00bc": "\\frac{1}{4}",
    "\u00be": "\\frac{3}{4}",
    "\u2248": "\\approx ",
    "\u00a2": "\\text{ cents}",
    **{sign: f"\\frac{{{upper}}}{{{lower}}}" for sign, upper, lower in zip("⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", *_PARTS, strict=True)},
}
_TABLE = str.maketrans(_CHARACTERS)

_RAISED = re.compile("[\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_SUNK = re.compile("[\u2080-\u2089]+")
_LIFTED = str.maketrans("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789")
_LOWERED = str.maketrans("\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "-0123456789")
_MIXED = re.compile(r"(?<![0-9./^_}])([0-9]+) ([0-9]+) ?/ ?([0-9]+)(?![0-9./])")
_JOINING_TEXT = re.compile(r"\\text ?\{ ?,? ?(and|or) ?\}")

_UPRIGHT = re.compile(r"\\text ?\{ ?([ie]) ?\}")
_INFINITY = re.compile(r"(?<![A-Za-z\\])(?:infinity|inf)(?![A-Za-z])")
_ZEROS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_LARGE_WORD = re.compile(rf"(?<=[0-9]) ?(?:\\text ?\{{ ?)?({'|'.join(_ZEROS)})(?: ?\}}|$)")
_MULTIPLIES = re.compile(rf"\b(?:{'|'.join(_ZEROS)}|hundred|dozen|squared|cubed|factorial|times|halves|thirds)s?\b")

# One spelling per meaning; an empty one has no meaning.
_COMMANDS = {
    **dict.fromkeys(("left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr"), ""),
    **dict.fromkeys(("displaystyle", "textstyle", "limits", "nolimits", "mathstrut", "boldmath"), ""),
    **dict.fromkeys(("tiny", "scriptsize", "footnotesize", "small", "normalsize"), ""),
    **dict.fromkeys(("large", "Large", "LARGE", "huge", "Huge"), ""),
    **dict.fromkeys(("quad", "qquad", "enspace", "thinspace", "space", "hfill", "allowbreak"), " "),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), "\\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), "\\binom"),
    **dict.fromkeys(("leq", "leqslant", "leqq"), "\\le"),
    **dict.fromkeys(("geq", "geqslant", "geqq"), "\\ge"),
    **dict.fromkeys(("lt",), "<"),
    **dict.fromkeys(("gt",), ">"),
    **dict.fromkeys(("neq",), "\\ne"),
    **dict.fromkeys(("emptyset",), "\\varnothing"),
    **dict.fromkeys(("lbrace",), "\\{"),
    **dict.fromkeys(("rbrace",), "\\}"),
    **dict.fromkeys(("langle",), "("),
    **dict.fromkeys(("rangle",), ")"),
    **dict.fromkeys(("lbrack",), "["),
    **dict.fromkeys(("rbrack",), "]"),
    **dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|"),
    **dict.fromkeys(("dots", "ldots", "cdots"), "\\dots"),
    **dict.fromkeys(("vee", "lor"), " or "),
    **dict.fromkeys(("land", "wedge"), " and "),
    **dict.fromkeys(("degree", "degrees"), "^\\circ"),
    **dict.fromkeys(("mathbf", "bm", "boldsymbol", "mathit", "mathsf", "mathtt", "mathcal", "mathnormal"), ""),
    **dict.fromkeys(("textbf", "textit", "textrm", "textnormal", "textsf", "mbox", "hbox", "mathrm"), "\\text"),
    **dict.fromkeys(("operatorname",), "\\text"),
    **dict.fromkeys(("euro", "pounds", "yen"), ""),
}
_COMMAND = re.compile(r"\\(?:([A-Za-z]+)\*?|([^A-Za-z]))")
# A backslash before one of these is spacing or a delimiter of mathematics without meaning.
_SILENT = {**dict.fromkeys("!,;:()[] ", ""), "$": "$", "%": "%", "&": "&", "#": "#", "-": ""}
_SILENT.update({",": " ", ";": " ", ":": " ", " ": " "})

_SPACES = re.compile(r" +")
_DEGREE = re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ)")
_TRIGONOMETRY = re.compile(r"(?<!arc)(?:sin|cos|tan|cot|sec|csc)")
_DEGREES_INSIDE = re.compile(rf"([0-9]+(?:\.[0-9]+)?) ?(?:{_DEGREE.pattern})")
_DEGREES_IN_TEXT = re.compile(r"(?<=[0-9)}]) ?\\text ?\{ ?(?:\^\\circ|deg(?:ree)?s?) ?\}")
_DEGREE_COMMAND = re.compile(r"(?<=[0-9)}]) ?\\deg(?![a-z])")
_COLOUR = re.compile(r"\\(?:text)?color ?\{[A-Za-z]+\}")
_REAL_LINE = re.compile(r"\\(?:R\b|mathbb ?\{ ?R ?\}|mathbb ?R)")
_INFIX = re.compile(r"\\(?:choose|over|atop|brace|brack)(?![a-z])")  # their braces are their operands' ends
_CURRENCIES = {
    "\\$": "$",
    **dict.fromkeys(("\u20ac", "\\euro"), "\u20ac"),
    **dict.fromkeys(("\u00a3", "\\pounds"), "\u00a3"),
    **dict.fromkeys(("\u00a5", "\uffe5", "\\yen"), "\u00a5"),
    "\u20b9": "\u20b9",
}
_CURRENCY = re.compile(r"\\\$|[\u20ac\u00a3\u00a5\uffe5\u20b9]|\\(?:euro|pounds|yen)(?![A-Za-z])")
_MARKDOWN = re.compile(r"^(\*{1,3}|_{2}|`{1,3})(.+)\1$")


@functools.lru_cache(maxsize=256)  # one comparison needs it several times
def plain(text: str) -> str:
    """Return the answer with one spelling per meaning, on one line, with single spaces."""
    if not (text.isascii() and text.isalnum()):
        if not text.isascii():
            text = _RAISED.sub(lambda run: f"^{{{run.group().translate(_LOWERED)}}}", text)
            text = _SUNK.sub(lambda run: f"_{{{run.group().translate(_LIFTED)}}}", text).translate(_TABLE)
        text = _COMMAND.sub(_one_spelling, text.replace("\\! ", "\\!"))
        text = text.replace("$", "").replace("\\text{}", "").replace("{,}", ",").replace("~", " ")
        if "color" in text:
            text = _COLOUR.sub("", text)
        text = _REAL_LINE.sub(r"\\R", text)
        if "\\text" in text:
            text = _UPRIGHT.sub(r"\1", _JOINING_TEXT.sub(r" \1 ", text))
            text = _DEGREES_IN_TEXT.sub(r"^\\circ ", text)
        if "\\deg" in text:
            text = _DEGREE_COMMAND.sub(r"^\\circ ", text)
        if "illion" in text or "thousand" in text:
            text = _LARGE_WORD.sub(lambda word: f" \\times 10^{{{_ZEROS[word.group(1)]}}}", text)
        if "<=" in text or ">=" in text:
            text = text.replace("<=", "\\le ").replace(">=", "\\ge ")
        if "inf" in text:
            text = _INFINITY.sub(r"\\infty ", text)
        if "/" in text:
            text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
        text = unwrapped(_SPACES.sub(" ", text)).removeprefix("\\approx").lstrip()
    return text


def currency(text: str) -> str:
    """Return the sign of the currency that an answer states by a sign, or an empty text."""
    if "\\" not in text and text.isascii():
        return ""
    signs = {_CURRENCIES[sign] for sign in _CURRENCY.findall(text)}
    return signs.pop() if len(signs) == 1 else ""


def unwrapped(text: str) -> str:
    """Remove markdown and braces around the whole answer, and the full stop of its sentence."""
    text = text.strip()
    marked = _MARKDOWN.match(text)
    if marked is not None:
        text = marked.group(2).strip()
    while text[:1] == "{" and enclosed(text) and _INFIX.search(text) is None and (inside := text[1:-1].strip()):
        text = inside
    return text.rstrip(" ;:,").removesuffix(".").rstrip() if not text.endswith(("\\,", "..")) else text


def _one_spelling(command: re.Match[str]) -> str:
    name, sign = command.group(1), command.group(2)
    if name is not None:
        return _COMMANDS.get(name, "\\" + name)
    return _SILENT.get(sign, "\\" + sign)


def depth(text: str) -> int:
    """Return the depth of nested brackets."""
    deepest = level = 0
    for character in text:
        if character in "([{":
            level += 1
            deepest = max(deepest, level)
        elif character in ")]}":
            level -= 1
    return deepest


def longest_digits(text: str) -> int:
    """Return the length of the longest run of digits, which determines the cost of an integer."""
    return max(map(len, re.findall(r"[0-9]+", text)), default=0)


# --- pieces of an answer -------------------------------------------------------------------------------------------

_WORD_COMMA = re.compile(r"\\text ?\{ ?,? ?(?:and|or) ?\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")


def split(text: str, separators: str = ",") -> list[str]:
    """Split at separators outside of brackets; strip the parts."""
    if not any(separator in text for separator in separators):
        return [text.strip()]
    parts, level, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            level += 1
        elif character in ")]}":
            level -= 1
        elif level == 0 and character in separators:
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()]


def listed(text: str) -> list[str]:
    """Split a list at commas, semicolons, `and` and `or`."""
    if "nd" in text or "or" in text:
        text = _WORD_COMMA.sub(",", text)
    return [part for part in split(text, ",;") if part]


def enclosed(text: str) -> bool:
    """Return whether the last bracket closes the first one; their shapes may differ, as in `[0,1)`."""
    if len(text) < 2 or text[0] not in "([{" or text[-1] not in ")]}":
        return False
    level = 0
    for position, character in enumerate(text):
        if character in "([{":
            level += 1
        elif character in ")]}":
            level -= 1
            if level == 0:
                return position == len(text) - 1
    return False


# --- units ---------------------------------------------------------------------------------------------------------

_ALIASES = {
    "°": "degree degrees deg",
    "%": "% percent pct",
    "$": "dollar dollars usd USD",
    "cent": "cent cents",
    "\u20ac": "euro euros eur EUR",
    "\u00a3": "gbp GBP sterling",
    "\u00a5": "yen jpy JPY yuan rmb",
    "\u20b9": "rupee rupees inr",
    "m": "m meter meters metre metres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters",
    "km": "km kilometer kilometers kilometre kilometres",
    "inch": "inch inches",
    "foot": "ft foot feet",
    "yard": "yd yard yards",
    "mile": "mi mile miles",
    "second": "s sec secs second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "lb": "lb lbs pound pounds",
    "radian": "rad radian radians",
    "unit": "unit units",
    "N": "N newton newtons",
    "J": "J joule joules",
    "W": "W watt watts",
    "V": "V volt volts",
    "K": "K kelvin kelvins",
    "Hz": "Hz hertz",
    "eV": "eV",
    "Pa": "Pa pascal pascals",
    "mol": "mol mole moles",
}
_UNITS = {alias: unit for unit, aliases in _ALIASES.items() for alias in aliases.split()}
_NEUTRAL = frozenset(("", "unit", "unit^2", "unit^3"))
_POWER = r"(?: ?\^ ?(?:[0-9]|\{ ?-?[0-9] ?\}))?"
_WORDS = r"\\text ?\{[^{}0-9,;]*\}"  # without a number: `\text{or 6}` is not a unit
_TEXT_UNIT = re.compile(
    rf"^(.*[0-9)}}\]a-z!]) ?\\text ?\{{([^{{}}0-9,;]*)\}}({_POWER}(?: ?(?:/|\\cdot)? ?{_WORDS}{_POWER})*)$"
)
# A unit whose exponents are inside: `\text{m s^{-2}}`.
_POWERS_INSIDE = re.compile(
    r"\\text ?\{((?:[A-Za-z /.]|\\cdot|\^ ?(?:[0-9]|\{ ?-?[0-9] ?\}))*\^[^{}]*(?:\{[^{}]*\})?)\}$"
)
_UNIT_WORD = re.compile(r"(?<!\\)\b([A-Za-z]+)( ?\^ ?(?:[0-9]|\{ ?-?[0-9] ?\}))?")
_WORD_UNIT = re.compile(
    r"^(.*[0-9)}\].]) ?(square |cubic |sq\.? )?([A-Za-z]{1,12})((?: ?/ ?[A-Za-z]+)?(?: ?\^ ?\{?-?[0-9]\}?)?)$"
)
_BASE_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_BASE = re.compile(
    r"^(?P<open>\()?(-?[0-9][0-9A-F]*(?:\.[0-9A-F]+)?)(?(open)\))"
    r"(?: ?_ ?\{? ?(?:\\text ?\{)?| ?\\text ?\{ ?\(?(?=base)) ?(?:base ?\}? ?)?\(?"
    rf"([0-9]{{1,2}}|{'|'.join(_BASE_WORDS)})\)? ?\}}{{0,2}}$"
)


def without_unit(text: str, *, letters_are_units: bool = False) -> tuple[str, str]:
    """Return the answer and its normalised unit: `%`, `°`, `cm^2`, `base 8`, or an empty text.

    A plain word that is not a known unit is kept, and so is a single letter unless `letters_are_units`: it may be a
    variable.
    """
    if text.isdigit():
        return text, ""
    unit = ""
    if "\\circ" in text and _TRIGONOMETRY.search(text) is not None:
        text = _DEGREES_INSIDE.sub(r"(\1\\pi/180)", text)
    elif "\\circ" in text:
        text, unit = _DEGREE.sub("", text).strip(), "°"
    if text.endswith("%"):
        return text[:-1].strip(), "%"
    if ("_" in text or "base" in text) and (based := _BASE.match(text)) is not None:
        digits, base = based.group(2, 3)
        return digits, f"base {_BASE_WORDS.index(base) if base in _BASE_WORDS else base}"
    if not (text[-1:].isalnum() or text.endswith("}")):
        return text, unit
    return _worded(text, unit, 1 if letters_are_units else 2)


def _worded(text: str, unit: str, fewest_letters: int) -> tuple[str, str]:
    if "^" in text and (inside := _POWERS_INSIDE.search(text)) is not None:
        text = text[: inside.start()] + _UNIT_WORD.sub(r"\\text{\1}\2", inside.group(1))
    found = _TEXT_UNIT.match(text) if "\\text" in text else None
    if found is not None and (_WORD_COMMA.match(found.group(2).strip()) or _MULTIPLIES.search(found.group(2))) is None:
        return found.group(1), canonical_unit(found.group(2) + found.group(3))
    found = _WORD_UNIT.match(text)
    if found is not None and found.group(3) in _UNITS and len(found.group(3)) >= fewest_letters:
        return found.group(1), canonical_unit("".join(part for part in found.groups()[1:] if part is not None))
    return text, unit


def canonical_unit(text: str) -> str:
    """Normalise a unit; an unknown one is returned unchanged."""
    if "\\circ" in text:
        return "°"
    power = {"square": "^2", "sq": "^2", "cubic": "^3"}
    parts = re.sub(r"\\text|\\cdot|[{} ~.]+", " ", text).replace("per ", "/ ")
    words = re.findall(r"[A-Za-z]+|[^A-Za-z ]+", parts)
    suffix = "".join(power[word] for word in words if word in power)
    return "".join(_UNITS.get(word, word) for word in words if word not in power) + suffix


def known_unit(unit: str) -> bool:
    """Return whether a normalised unit is one that another could contradict."""
    if unit in _NEUTRAL:
        return False
    return unit.startswith("base ") or all(
        word in _ALIASES for word in re.findall(r"[A-Za-z]+|[°%$\u20ac\u00a3\u00a5\u20b9]", unit)
    )
