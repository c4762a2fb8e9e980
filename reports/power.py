"""The mark of sets on which no two runs can differ by much: nearly all is solved, or nearly nothing.

A module of its own because both the results and the comparison print it.
"""

from __future__ import annotations

NO_POWER = "NO POWER"
CEILING, FLOOR = 0.95, 0.02


def no_power(rate: float) -> str:
    """Return why a set with this rate of right samples has no power; empty if it has."""
    if rate > CEILING:
        return f"above {CEILING:.0%}: too little is left to gain"
    return f"below {FLOOR:.0%}: too little is solved to differ" if rate < FLOOR else ""
