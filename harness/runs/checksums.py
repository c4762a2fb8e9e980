"""Checksums of lines, chosen so that a whole file is checked by one pass of CRC-32.

A line ends in `"crc":"` and nine letters, which are chosen so that the CRC-32 of the line with its newline is 0. The
CRC-32 of lines one after the other is 0 then as well, whatever their number: a file is checked in large blocks, at
several GB a second, and only a file that fails is searched for the line. Lines of earlier versions have no checksum.

It is a checksum and not a signature: it shows accidents and edits by hand, and not a forger who computes it again.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence

FIELD = "crc"
MARK = f'"{FIELD}":"'.encode()
"""It is in no text of a line, in which each quotation mark has a backslash before it."""
_LETTERS = 9  # 4 bits each; 8 of them do not reach every CRC
_BASE = 0x60  # of the letters ` and a to o
_TAIL = b'"}\n'
_FROM_END = len(MARK) + _LETTERS + len(_TAIL)


def sealed(text: bytes) -> bytes:
    """Return the line of a JSON object: its text with a checksum as the last field, and a newline."""
    separator = b"" if text == b"{}" else b","
    start = text[:-1] + separator + MARK
    remainder = zlib.crc32(start + bytes([_BASE]) * _LETTERS + _TAIL)
    letters = int.from_bytes(bytes([_BASE]) * _LETTERS, "big")
    for table in _tables():
        letters ^= table[remainder & 255]
        remainder >>= 8
    return start + letters.to_bytes(_LETTERS, "big") + _TAIL


def is_altered(line: bytes) -> bool:
    """Return whether a line has a checksum that does not fit. A line of an earlier version has none."""
    return zlib.crc32(line) != 0 and MARK in line[-_FROM_END - 1 :]


@functools.cache
def _tables() -> Sequence[Sequence[int]]:
    """Return, for each byte of a CRC, the bits of the letters that change the CRC by that byte."""
    single = _bits_that_change()
    return [
        [
            functools.reduce(int.__xor__, (single[8 * place + i] for i in range(8) if byte >> i & 1), 0)
            for byte in range(256)
        ]
        for place in range(4)
    ]


def _bits_that_change() -> list[int]:
    """Return, for each bit of a CRC, the bits of the letters that change it and no other (Gaussian elimination)."""
    plain = bytes([_BASE]) * _LETTERS
    basis: dict[int, tuple[int, int]] = {}  # highest bit of a change -> the change, and the letters' bits that make it
    for bit in (8 * place + i for place in range(_LETTERS) for i in range(4)):
        letters = 1 << bit
        flipped = (int.from_bytes(plain, "big") ^ letters).to_bytes(_LETTERS, "big")
        change = zlib.crc32(flipped + _TAIL) ^ zlib.crc32(plain + _TAIL)
        while change and change.bit_length() in basis:
            other, others_letters = basis[change.bit_length()]
            change, letters = change ^ other, letters ^ others_letters
        if change:
            basis[change.bit_length()] = change, letters
    return [_reduced(1 << bit, basis) for bit in range(32)]


def _reduced(change: int, basis: dict[int, tuple[int, int]]) -> int:
    letters = 0
    while change:
        other, others_letters = basis[change.bit_length()]
        change, letters = change ^ other, letters ^ others_letters
    return letters
