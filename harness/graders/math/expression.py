"""Parse the arithmetic of an answer into a function of its symbols.

Nothing is rewritten or simplified, so evaluation is as cheap as on a pocket calculator.
"""

from __future__ import annotations

import functools
import math
import re
from fractions import Fraction

from harness.graders.math.arithmetic import (
    FUNCTIONS,
    LimitError,
    Node,
    Symbols,
    Value,
    binomial,
    call,
    factorial,
    measured,
    over,
    power,
    product,
    rounded,
    square_root,
    total,
)

MAX_NESTING = 80


class UnreadableError(Exception):
    """Not arithmetic that this parser supports; a computer algebra system may read it."""


_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega hbar ell odot mho partial"
)
_SYMBOLS = frozenset(_GREEK.split(" "))
_DECORATIONS = frozenset(("dot", "ddot", "hat", "bar", "vec", "overline", "tilde", "text", "widehat", "underline"))
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "|": "|"}
_TIMES = frozenset(("*", "\\cdot", "\\times", "\\ast"))
_OVER = frozenset(("/", "\\div"))
WORDS = "|".join(sorted([*FUNCTIONS, "sqrt", "pi"], key=len, reverse=True))
_TOKEN = re.compile(
    r" *(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,5}(?![0-9A-Za-z{.]))?)"
    rf"|(?:(?:np|math)\.)?(?P<word>{WORDS})(?![a-z])|(?P<command>\\(?:[A-Za-z]+|[{{}}]))|(?P<sign>\*\*|[^ ]))"
)


@functools.lru_cache(maxsize=1024)
def compiled(text: str) -> tuple[Node, frozenset[str]]:
    """Return the value of an expression as a function of its symbols, and their names.

    Raises UnreadableError and LimitError.
    """
    reader = _Reader(text)
    node = reader.sum()
    if reader.token != "":
        raise UnreadableError(reader.token)
    return node, frozenset(reader.names)


class _Reader:
    """Recursive descent parser; `token` is the current token, empty at the end."""

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        self._tokens = [
            (found.lastgroup, found.group(found.lastgroup)) for found in _TOKEN.finditer(text) if found.lastgroup
        ]
        self._at = self._nesting = 0
        self._closers: list[str] = []

    @property
    def token(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    @property
    def _kind(self) -> str:
        return str(self._tokens[self._at][0]) if self._at < len(self._tokens) else "end"

    def _take(self) -> str:
        token = self.token
        self._at += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise UnreadableError(f"{token} is missing")

    # --- sums, products, powers

    def sum(self) -> Node:
        terms = [(1, self._product())]
        while self.token in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            terms.append((sign, self._product()))
        return terms[0][1] if len(terms) == 1 else lambda symbols: total(terms, symbols)

    def _product(self) -> Node:
        is_negative = False
        while self.token in ("+", "-"):
            is_negative ^= self._take() == "-"
        factors = [(False, self._power())]
        while True:
            if self.token in _TIMES or self.token in _OVER:
                is_divisor = self._take() in _OVER
                factors.append((is_divisor, self._signed_power()))
            elif self._begins_factor():
                if self._kind == "number" and self._tokens[self._at - 1][0] == "number":
                    raise UnreadableError("two numbers side by side")
                factors.append((False, self._mixed(factors.pop()[1]) if self._is_mixed() else self._power()))
            else:
                break
        if len(factors) == 1 and not is_negative:
            return factors[0][1]
        return lambda symbols: product(factors, is_negative, symbols)

    def _begins_factor(self) -> bool:
        token = self.token
        if token in self._closers[-1:] or token in (
            "",
            ")",
            "]",
            "}",
            "\\}",
            "\\rfloor",
            "\\rceil",
            ",",
            "=",
            "<",
            ">",
        ):
            return False
        return self._kind in ("number", "word", "command") or token.isalpha() or token in "([{|"

    def _is_mixed(self) -> bool:
        """Return whether this is a mixed number such as `1\frac{4}{5}`: an integer before a proper fraction of
        integers.
        """
        before, this = self._tokens[self._at - 1], self.token
        if before[0] != "number" or not before[1].isdigit() or this != "\\frac":
            return False
        if self._at >= 2 and self._tokens[self._at - 2][1] in ("^", "_", "**", "/"):
            return False
        shape = "".join(token for _, token in self._tokens[self._at + 1 : self._at + 7])
        found = re.match(r"\{([0-9]+)\}\{([0-9]+)\}|([0-9])([0-9])(?![0-9])", shape)
        if found is None:
            return False
        upper, lower = (int(part) for part in found.groups() if part is not None)
        return upper < lower

    def _mixed(self, whole: Node) -> Node:
        part = self._power()
        return lambda symbols: total([(1, whole), (1, part)], symbols)

    def _signed_power(self) -> Node:
        is_negative = False
        while self.token in ("+", "-"):
            is_negative ^= self._take() == "-"
        node = self._power()
        return (lambda symbols: product([(False, node)], True, symbols)) if is_negative else node

    def _power(self) -> Node:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise LimitError("nested too deeply")
        node = self._factorials(self._atom())
        if self.token in ("^", "**"):
            self._take()
            base, exponent = node, self._exponent()
            node = self._factorials(lambda symbols: power(base(symbols), exponent(symbols)))
        self._nesting -= 1
        return node

    def _factorials(self, node: Node) -> Node:
        if self.token != "!":
            return node
        self._take()
        if self.token == "!":
            raise UnreadableError("a double factorial")
        return lambda symbols: factorial(node(symbols))

    def _exponent(self) -> Node:
        if self.token == "{":
            return self._group()
        return self._signed_power()

    # --- atoms

    def _atom(self) -> Node:
        kind, token = self._kind, self._take()
        if kind == "number":
            return _constant(measured(Fraction(token)))
        if kind == "word" or (kind == "command" and token[1:] in FUNCTIONS):
            return self._named(token.lstrip("\\"))
        if token in ("(", "[", "{", "\\{", "|"):
            self._at -= 1
            node = self._group()
            return _absolute(node) if token == "|" else node
        if kind == "command":
            return self._command(token[1:])
        if token.isalpha() and token.isascii():
            return self._symbol(token)
        raise UnreadableError(token if token else "nothing where a value should be")

    def _group(self) -> Node:
        opening = self._take()
        closing = _CLOSING[opening]
        self._closers.append(closing)
        node = self.sum()
        self._closers.pop()
        self._expect(closing)
        return node

    def _argument(self, *, one_digit: bool = False) -> Node:
        """Parse the argument of a command: a group or the next token; in `\frac43` one digit each."""
        if self.token == "{":
            return self._group()
        if one_digit and self._kind == "number":
            first, rest = self.token[0], self.token[1:]
            if not first.isdigit() or (rest and not rest.isdigit()):
                raise UnreadableError("half a number")
            self._tokens[self._at : self._at + 1] = [("number", first)] + [("number", rest)] * bool(rest)
            return _constant(Fraction(self._take()))
        return self._atom()

    def _named(self, name: str) -> Node:
        if name == "pi":
            return _constant(complex(math.pi))
        if name == "sqrt":
            return self._root()
        base = exponent = None
        if self.token == "_" and name == "log":
            self._take()
            base = self._argument()
        if self.token == "^":
            self._take()
            start = self._at
            exponent = self._exponent()
            if "".join(token for _, token in self._tokens[start : self._at]) in ("{-1}", "-1") and name in _INVERSE:
                name, exponent = _INVERSE[name], None
        argument = self._function_argument()
        apply: Node = lambda symbols: call(name, argument(symbols), None if base is None else base(symbols))  # noqa: E731
        return apply if exponent is None else lambda symbols: power(apply(symbols), exponent(symbols))

    def _function_argument(self) -> Node:
        r"""Parse a function's argument: in brackets, or the product that follows, as in `\sin 2 t`."""
        if self.token in ("(", "[", "{", "|"):
            return self._power() if self.token != "{" else self._group()
        is_negative = self.token == "-" and bool(self._take())
        factors = [(False, self._power())]
        while (self._kind == "command" and self.token[1:] in {"pi", *_SYMBOLS}) or (
            self._kind == "sign" and self.token.isalpha()
        ):
            factors.append((False, self._power()))
        if self.token == "/" and self._at + 1 < len(self._tokens) and self._tokens[self._at + 1][0] == "number":
            self._take()
            factors.append((True, self._power()))
        return lambda symbols: product(factors, is_negative, symbols)

    def _root(self) -> Node:
        degree: Node | None = None
        if self.token == "[":
            degree = self._group()
        radicand = self._argument()
        if degree is None:
            return lambda symbols: square_root(radicand(symbols))
        index = degree
        return lambda symbols: power(radicand(symbols), over(Fraction(1), index(symbols)))

    def _command(self, name: str) -> Node:
        if name == "pi":
            return _constant(complex(math.pi))
        if name == "frac":
            upper, lower = self._argument(one_digit=True), self._argument(one_digit=True)
            return lambda symbols: over(upper(symbols), lower(symbols))
        if name == "sqrt":
            return self._root()
        if name == "binom":
            upper, lower = self._argument(one_digit=True), self._argument(one_digit=True)
            return lambda symbols: binomial(upper(symbols), lower(symbols))
        if name in ("lfloor", "lceil"):
            self._at -= 1
            node = self._group()
            rounding = math.floor if name == "lfloor" else math.ceil
            return lambda symbols: rounded(node(symbols), rounding)
        if name in _DECORATIONS:
            return self._symbol(name + self._raw())
        if name in _SYMBOLS:
            return self._symbol("\\" + name)
        raise UnreadableError("\\" + name)

    def _raw(self) -> str:
        """Return the next token or group as text."""
        start, level = self._at, 0
        while self.token:
            level += {"{": 1, "}": -1}.get(self._take(), 0)
            if level <= 0:
                break
        return "".join(token for _, token in self._tokens[start : self._at]).strip("{}")

    def _symbol(self, name: str) -> Node:
        """Parse a symbol with its index and primes; `I(0)` with a number is one name."""
        if self.token == "_":
            self._take()
            name += "_" + self._raw()
        while self.token == "'" or (
            self.token == "^" and "".join(t for _, t in self._tokens[self._at + 1 : self._at + 4]) == "{\\prime}"
        ):
            self._at += 1 if self.token == "'" else 4
            name += "'"
        following = [token for _, token in self._tokens[self._at : self._at + 3]]
        if len(following) == 3 and following[0] == "(" and following[1].isdigit() and following[2] == ")":
            self._at += 3
            name += f"({following[1]})"
        if name == "e":
            return _constant(complex(math.e))
        if name == "i":
            return _constant(1j)
        self.names.add(name)
        return lambda symbols: symbols[name]


def _constant(value: Value) -> Node:
    return lambda symbols: value  # noqa: ARG005


def _absolute(node: Node) -> Node:
    def absolute(symbols: Symbols) -> Value:
        value = node(symbols)
        return abs(value) if isinstance(value, Fraction) else complex(abs(value))

    return absolute
