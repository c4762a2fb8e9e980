"""How many requests may be under way at a server: more while it answers, half when it is too much."""

from __future__ import annotations

import asyncio

_FIRST_LIMIT = 8


class Gate:
    """The limit doubles in each round of answers until the first sign of overload; after it, it grows by one a round
    and is halved by each new sign. A pause, which servers ask for by headers, holds everyone back."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit: float = min(_FIRST_LIMIT, most)
        self._under_way = 0
        self._is_found = False  # whether the limit has once been too high
        self._reduced_at = self._open_at = float("-inf")
        self._changed = asyncio.Condition()

    async def enter(self) -> float:
        """Wait for a place; the time it was given, for `leave`."""
        clock = asyncio.get_running_loop()
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._under_way < int(self.limit))
                pause_s = self._open_at - clock.time()
                if pause_s <= 0:
                    self._under_way += 1
                    return clock.time()
            await asyncio.sleep(pause_s)

    async def leave(self, entered_at: float, *, is_overloaded: bool) -> None:
        async with self._changed:
            self._under_way -= 1
            if not is_overloaded:
                self.limit = min(self.most, self.limit + (1 / self.limit if self._is_found else 1))
            elif entered_at > self._reduced_at:  # what began before the last cut says nothing about the new limit
                self.limit = max(1.0, self.limit / 2)
                self._is_found = True
                self._reduced_at = asyncio.get_running_loop().time()
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + seconds)
