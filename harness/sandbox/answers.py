"""Reads what a function answers while it runs, and holds each call to its own limit.

A program could write into this channel whatever it likes. All that gains it is to have claimed an answer, which is
what a program may do. Times are taken here, where it can't touch them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from harness.core.types import Answer, Call
from harness.sandbox.inside.zygote import CLOCK, KILL, read_reply

_HEAD = struct.Struct("<6sI")
_KINDS: dict[bytes, Literal["value", "raised", "opaque"]] = {
    b"value_": "value",
    b"raised": "raised",
    b"opaque": "opaque",
}
_LOADED = b"loaded"
_CHUNK_BYTES, _PIPE_BYTES = 1 << 18, 1 << 18
_FIRST_LOOK_S = 0.05

Look = Callable[[int, Answer], bool]
"""Is told the place of a call and what it gave, while the program goes on, and says whether to hear more."""


def wall_limit_s(cpu_s: float) -> float:
    """A safety net: what sleeps is over the limit as well, what only waits for its turn is not."""
    return max(2 * cpu_s, cpu_s + 2)


class AnswerWatch:
    """A pipe for one run. `collect` ends when the last answer came, the program did, or a limit is reached."""

    def __init__(self, calls: Sequence[Call], look: Look | None = None) -> None:
        """Answers are kept where nobody looks at them as they come."""
        self._calls = calls
        self._look = look if look is not None else self._keep
        self._buffer = bytearray()
        self._has_loaded = False
        self._n_answers = 0
        self.is_complete = False
        self.answers: list[Answer] = []
        self.cause: Literal["cpu", "wall", "malformed"] | None = None
        self._our_end, self.their_end = os.pipe()
        with contextlib.suppress(OSError):  # a user has only so much of it
            fcntl.fcntl(self._our_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._restart_clock()

    def __enter__(self) -> AnswerWatch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._our_end)
        self.close_their_end()

    def close_their_end(self) -> None:
        if self.their_end >= 0:
            os.close(self.their_end)
            self.their_end = -1

    def _keep(self, _place: int, answer: Answer) -> bool:
        self.answers.append(answer)
        return True

    def collect(self, control: socket.socket) -> dict[str, Any] | None:
        """The worker's reply if the program ended by itself, None if it was told to end the run. Raises OSError when
        the worker is gone."""
        poll = select.poll()
        poll.register(self._our_end, select.POLLIN)
        poll.register(control, select.POLLIN)
        self._restart_clock()
        while not self.is_complete and self.cause is None:
            ready = {fd for fd, _ in poll.poll(self._patience_s() * 1000 + 1)}
            if self._our_end in ready:
                if not self._read():
                    poll.unregister(self._our_end)
            elif control.fileno() in ready:
                message = control.recv(_CHUNK_BYTES)
                if not message:
                    raise ConnectionResetError("it ended")
                reply = read_reply(message)
                if "clock" not in reply:
                    return reply
                self._note_clock(reply["clock"])
            self._check(control)
        with contextlib.suppress(BrokenPipeError):
            control.send(KILL)
        return None

    def _restart_clock(self) -> None:
        self._began = time.monotonic()
        self._cpu_at_start: float | None = None
        self._next_look = self._began + _FIRST_LOOK_S
        self._asked_for: int | None = None

    @property
    def _limit_s(self) -> float:
        # Loading may take as long as the longest call.
        return self._calls[self._n_answers].cpu_s if self._has_loaded else max(call.cpu_s for call in self._calls)

    def _patience_s(self) -> float:
        wall_end = self._began + wall_limit_s(self._limit_s)
        next_event = wall_end if self._asked_for is not None else min(self._next_look, wall_end)
        return max(next_event - time.monotonic(), 0.0)

    def _check(self, control: socket.socket) -> None:
        """Ask for the CPU clock when it may have run out; give up when the wall clock has."""
        if self.is_complete:
            return
        now = time.monotonic()
        if now - self._began >= wall_limit_s(self._limit_s):
            self.cause = "wall"
        elif now >= self._next_look and self._asked_for is None:
            self._asked_for = self._n_answers
            control.send(CLOCK)

    def _note_clock(self, cpu_s: float) -> None:
        asked_for, self._asked_for = self._asked_for, None
        if asked_for != self._n_answers:
            return  # the call it was asked for is over
        if self._cpu_at_start is None:
            self._cpu_at_start = max(cpu_s - (time.monotonic() - self._began), 0.0)
        left = self._limit_s - (cpu_s - self._cpu_at_start)
        if left <= 0:
            self.cause = "cpu"
        self._next_look = time.monotonic() + max(left, 0.005)

    def _read(self) -> bool:
        """Take what is there. False at the end."""
        data = os.read(self._our_end, _CHUNK_BYTES)
        self._buffer += data
        while not self.is_complete and self.cause is None and len(self._buffer) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._buffer)
            if kind not in _KINDS and (kind != _LOADED or length or self._has_loaded):
                self.cause = "malformed"
            elif kind in _KINDS and length > self._calls[self._n_answers].answer_bytes:
                self._hear("too_large", b"")
            elif len(self._buffer) < _HEAD.size + length:
                break
            else:
                self._take(kind, length)
        return bool(data)

    def _take(self, kind: bytes, length: int) -> None:
        with memoryview(self._buffer) as view:
            body = bytes(view[_HEAD.size : _HEAD.size + length])
        del self._buffer[: _HEAD.size + length]
        if kind == _LOADED:
            self._has_loaded = True
        else:
            self._hear(_KINDS[kind], body)
        asked_for = self._asked_for
        self._restart_clock()
        self._asked_for = asked_for

    def _hear(self, kind: Literal["value", "raised", "opaque", "too_large"], body: bytes) -> None:
        answer = Answer(kind, body, time.monotonic() - self._began)
        hears_more = self._look(self._n_answers, answer)
        self._n_answers += 1
        self.is_complete = not hears_more or kind == "too_large" or self._n_answers == len(self._calls)
