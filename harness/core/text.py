"""Text of models, servers and foreign files, made safe to show.

A completion may hold escape sequences that a terminal obeys (they move the cursor, change the title or the clipboard),
and marks that reverse the direction of a line. `printable` writes each of them as an escape that can be read.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls other than tab and newline: ESC, CSI, carriage return, backspace ...
    "\xad\u061c\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb"  # direction, invisible, separators
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    """Return the text with a visible escape for each character that a terminal obeys or does not show."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "surrogatepass").decode("ascii")
