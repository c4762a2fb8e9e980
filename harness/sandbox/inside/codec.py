"""Encode plain data as text, for arguments and answers. No pickle, no code, exact types.

JSON values stand for themselves; anything else is an object with one key that names its type. An instance of a
subclass is encoded as its base class, through the base class's own methods.
"""

from __future__ import annotations

import functools
import json
import marshal
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

try:  # not from hashlib: it loads OpenSSL, which slows every fork
    from _sha256 import sha256  # type: ignore[import-not-found]
except ImportError:  # since Python 3.12
    from _sha2 import sha256  # type: ignore[import-not-found]

MOST_LEVELS = 64
_LONG_BITS = 13_000  # below the 4300 digits that Python parses at once
_MOST_DIGITS = 4300  # digits of a decimal when written out; longer ones take long to compare
_GIANT_BYTES, LEAST_PACKED = 16 << 20, 20_000
_PACKED_KINDS = frozenset((str, list, tuple))
_NUMBERS = (int, float)
# What `json.JSONEncoder` would create for each text. Cycles are found by their depth.
_write = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
)
_SMALL_KINDS = frozenset((float, bool, type(None)))
_JSON_KINDS = frozenset((int, float, str, bool, type(None)))

_SEQUENCES: tuple[Any, ...] = (list, tuple, set, frozenset)

Builder = Callable[[str, Any], Any]


class NotPlainError(ValueError):
    """A value that is not plain data, or a text that does not encode any."""


def encode(value: object) -> str:
    """Encode a value. Raises NotPlainError. A giant value becomes its digest, which can only be compared."""
    digest = _digest_of_giant(value)
    if digest is not None:
        return json.dumps({"digest": digest})
    try:
        try:
            return _text(_simple(value, 0, exact=False))
        except ValueError:  # an infinity, nan or a number of thousands of digits, which JSON can't represent
            return _text(_simple(value, 0, exact=True))
    except (RecursionError, ValueError) as error:
        raise NotPlainError(str(error)) from None


def packed(value: object) -> bytes | None:
    """Return a large str, list or tuple of JSON values as marshal bytes, or None for other values.

    It takes a tenth of the time, and equal values have equal bytes. Anyone may compare them; only a sandbox may read
    them.
    """
    kind = type(value)
    if kind not in _PACKED_KINDS or len(value) < LEAST_PACKED:  # type: ignore[arg-type]
        return None
    if kind is not str and not _JSON_KINDS.issuperset(map(type, value)):  # type: ignore[call-overload]
        return None
    try:
        written = marshal.dumps(value, 2)  # type: ignore[arg-type]
    except ValueError:  # marshal's error for such a value where memory runs out
        raise MemoryError from None
    return written if len(written) <= _GIANT_BYTES else None


def _digest_of_giant(value: object) -> str | None:
    if type(value) in _SMALL_KINDS:
        return None
    try:
        # Version 2 is the last whose output depends on the value alone. It is never read again.
        written = marshal.dumps(value, 2)  # type: ignore[arg-type]
    except ValueError:
        return None
    return sha256(written).hexdigest() if len(written) > _GIANT_BYTES else None


def _text(simple: object) -> str:
    return "".join(_write(simple, 0))


def decode(text: str | bytes, build: Builder) -> Any:
    """Decode a text. Containers that JSON does not have are made by `build(tag, content)`."""
    try:
        return _decoder(build).decode(text if isinstance(text, str) else text.decode())
    except NotPlainError:
        raise
    except (RecursionError, ValueError, TypeError, ArithmeticError) as error:
        raise NotPlainError(f"{type(error).__name__}: {error}") from None


@functools.cache
def _decoder(build: Builder) -> json.JSONDecoder:
    """Return the decoder, created once: `json.loads` with a hook would create one per call."""

    def untagged(pairs: list[tuple[str, Any]]) -> Any:
        if len(pairs) != 1:
            raise NotPlainError(f"an object with {len(pairs)} keys")
        return build(*pairs[0])

    return json.JSONDecoder(object_pairs_hook=untagged, parse_constant=_refuse)


def _refuse(name: str) -> Any:
    raise NotPlainError(name)


def number(tag: str, content: Any) -> Any:
    """Return the value of a tagged number or bytes."""
    if type(content) is str:
        if tag == "int":
            return int(content, 16)
        if tag == "float" and content in ("inf", "-inf", "nan"):
            return float(content)
        if tag == "bytes":
            return bytes.fromhex(content)
        if tag == "decimal" and len(content) <= _MOST_DIGITS:
            return _fraction_of(Decimal(content))
    if type(content) is list and len(content) == 2:
        if tag == "complex" and all(type(x) is float for x in content):
            return complex(*content)
        if tag == "fraction" and all(type(x) is int and x.bit_length() <= _LONG_BITS for x in content):
            return Fraction(*content)
    raise NotPlainError(f"unknown: {tag[:20]}")


def _fraction_of(value: Decimal) -> Fraction | float:
    """Return the same number as a fraction; an infinity or nan as a float."""
    if not value.is_finite():
        return float(value)
    if value and abs(value.adjusted()) > _MOST_DIGITS:
        raise NotPlainError(f"an exponent of {value.adjusted()}")
    return Fraction(value)


def _simple(value: Any, level: int, *, exact: bool) -> Any:
    """Return a value of JSON's types; `exact` if a number in it may be one that JSON can't represent."""
    kind = type(value)
    if value is None or kind is bool or kind is str or (kind in _NUMBERS and not exact):
        return value
    if kind is list and not exact and _JSON_KINDS.issuperset(map(type, value)):
        return value
    if level > MOST_LEVELS:
        raise NotPlainError(f"more than {MOST_LEVELS} levels deep")
    if issubclass(kind, dict):
        pairs = dict.items(value)
        return {"dict": [[_simple(one, level + 1, exact=exact) for one in pair] for pair in pairs]}
    for base in _SEQUENCES:
        if issubclass(kind, base):
            items = [_simple(item, level + 1, exact=exact) for item in base.__iter__(value)]
            return items if base is list else {base.__name__: items}
    return _atom(value, kind)


def _atom(value: Any, kind: type) -> Any:
    if issubclass(kind, int):
        integer = int.__pos__(value)
        return integer if integer.bit_length() < _LONG_BITS else {"int": hex(integer)}
    if issubclass(kind, float):
        real_number = float.__pos__(value)
        return real_number if math.isfinite(real_number) else {"float": repr(real_number)}
    if issubclass(kind, complex):
        return {"complex": [_atom(complex.__dict__[part].__get__(value), float) for part in ("real", "imag")]}
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    if kind.__module__ == "numpy" and getattr(value, "ndim", 1) == 0 and type(value.item()).__module__ == "builtins":
        return _atom(value.item(), type(value.item()))
    if issubclass(kind, Decimal):
        return {"decimal": Decimal.__str__(value)}
    if issubclass(kind, Fraction):
        return {"fraction": [_atom(int(part), int) for part in (value.numerator, value.denominator)]}
    raise NotPlainError(kind.__name__)
