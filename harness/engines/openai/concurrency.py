"""How many requests may be open at a server: more while it answers, half when it is overloaded (AIMD)."""

from __future__ import annotations

import asyncio

_FIRST_LIMIT = 8


class Gate:
    """Limit the open requests of one server.

    The limit doubles in each round of replies until the first sign of overload. After it, the limit grows by one a
    round and is halved by each new sign. A pause, which servers request by headers, holds back all requests.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit: float = min(_FIRST_LIMIT, most)
        self._n_open = 0
        self._is_found = False  # whether the limit has once been too high
        self._reduced_at = self._open_at = float("-inf")
        self._changed = asyncio.Condition()

    async def enter(self) -> float:
        """Wait for a place. Return the time it was given, for `leave`."""
        clock = asyncio.get_running_loop()
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._n_open < int(self.limit))
                pause_s = self._open_at - clock.time()
                if pause_s <= 0:
                    self._n_open += 1
                    return clock.time()
            await asyncio.sleep(pause_s)

    async def leave(self, entered_at: float, *, is_overloaded: bool) -> None:
        """Give the place back and adapt the limit to what the request found."""
        async with self._changed:
            self._n_open -= 1
            if not is_overloaded:
                self.limit = min(self.most, self.limit + (1 / self.limit if self._is_found else 1))
            elif entered_at > self._reduced_at:  # a request older than the last cut says nothing about the new limit
                self.limit = max(1.0, self.limit / 2)
                self._is_found = True
                self._reduced_at = asyncio.get_running_loop().time()
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Let no request in for so long from now."""
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + seconds)
