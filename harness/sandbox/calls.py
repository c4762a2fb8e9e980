"""Collect the answers of a function while its program runs, call by call, each with its own time limit.

The calls are made by `inside.caller`, which reports their results. Times are measured there and here, where a program
can't change them.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from harness.core.types import Answer, Call
from harness.sandbox.inside import caller
from harness.sandbox.inside.zygote import CLOCK, KILL, read_reply

_KINDS: dict[bytes, Literal["value", "packed", "raised", "opaque", "too_large"]] = {
    caller.VALUE: "value",
    caller.PACKED: "packed",
    caller.RAISED: "raised",
    caller.OPAQUE: "opaque",
    caller.TOO_LARGE: "too_large",
}
_CHUNK_BYTES, _PIPE_BYTES = 1 << 16, 1 << 18
_FIRST_LOOK_S, _LAST_WORD_S, _CLOCK_S = 0.05, 5.0, 60.0

Look = Callable[[int, Answer], bool]
"""Receives the index of a call and its result; returns whether to continue."""


def wall_limit_s(cpu_s: float) -> float:
    """Return the limit of wall time without that of waiting for a core: only a process that sleeps exceeds it."""
    return max(2 * cpu_s, cpu_s + 2)


class AnswerWatch:
    """The pipes of one run. `collect` ends after the last answer, when the program ends, or at a limit."""

    def __init__(self, calls: Sequence[Call], look: Look | None = None) -> None:
        """Without a `look`, answers are stored."""
        self.calls = calls
        self._look = look if look is not None else self._keep
        self._buffer = bytearray()
        self._has_loaded = self._has_ended = False
        self._n_answers = 0
        self.is_complete = False
        self.answers: list[Answer] = []
        self.cause: Literal["cpu", "wall", "malformed"] | None = None
        self._asked_for: int | None = None
        self._asked_at = 0.0
        (self._our_end, events), (answers, answering), (asked, questions) = _pipes(3)
        self.for_program: Sequence[int] = (answering, asked)
        self.for_asker: Sequence[int] = (events, answers, questions)
        for fd in (events, answers):
            with contextlib.suppress(OSError):  # the total size of pipe buffers per user is limited
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def __enter__(self) -> AnswerWatch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._our_end)
        self.close_their_ends()

    def close_their_ends(self) -> None:
        for fd in (*self.for_program, *self.for_asker):
            os.close(fd)
        self.for_program = self.for_asker = ()

    def _keep(self, _place: int, answer: Answer) -> bool:
        self.answers.append(answer)
        return True

    def collect(self, control: socket.socket) -> dict[str, Any] | None:
        """Return the worker's reply if the program ended by itself, None if the worker was asked to end it. Raises
        OSError if the worker is gone.
        """
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
                    raise ConnectionResetError("the worker ended")
                reply = read_reply(message)
                if "clock" not in reply:
                    self._hear_the_rest()
                    return reply
                self._note_clock(*reply["clock"])
            self._check(control)
        with contextlib.suppress(BrokenPipeError):
            control.send(KILL)
        return None

    def _hear_the_rest(self) -> None:
        """Read what is left after the program has ended. Raises OSError if that is incomplete: the caller process may
        have died with it.
        """
        poll = select.poll()
        poll.register(self._our_end, select.POLLIN)
        while not self.is_complete and poll.poll(_LAST_WORD_S * 1000) and self._read():
            pass
        if not (self.is_complete or self._has_ended or self.cause is not None):
            raise ConnectionResetError("some answers of a function were lost")

    def _restart_clock(self) -> None:
        self._began = time.monotonic()
        self._at_start: tuple[float, float] | None = None
        self._next_look = self._began + _FIRST_LOOK_S

    @property
    def _limit_s(self) -> float:
        # Loading may take as long as the longest call.
        return self.calls[self._n_answers].cpu_s if self._has_loaded else max(call.cpu_s for call in self.calls)

    def _patience_s(self) -> float:
        next_event = self._next_look if self._asked_for is None else self._asked_at + _CLOCK_S
        return max(next_event - time.monotonic(), 0.0)

    def _check(self, control: socket.socket) -> None:
        """Ask for the clocks when a limit may have been reached. Raises OSError if the worker does not answer."""
        now = time.monotonic()
        if self.is_complete or self.cause is not None:
            return
        if self._asked_for is None and now >= self._next_look:
            self._asked_for, self._asked_at = self._n_answers, now
            control.send(CLOCK)
        elif self._asked_for is not None and now >= self._asked_at + _CLOCK_S:
            raise TimeoutError("no clock")

    def _note_clock(self, cpu_s: float, waited_s: float) -> None:
        """Receive the CPU time of the program, and how long it waited for a core."""
        asked_for, self._asked_for = self._asked_for, None
        now = time.monotonic()
        if asked_for != self._n_answers:
            return  # the call in question is over
        wall_s = now - self._began
        if self._at_start is None:
            self._at_start = max(cpu_s - wall_s, 0.0), max(waited_s - wall_s, 0.0)
        left = self._limit_s - (cpu_s - self._at_start[0])
        wall_left = wall_limit_s(self._limit_s) - (wall_s - (waited_s - self._at_start[1]))
        if min(left, wall_left) <= 0:
            self.cause = "cpu" if left <= 0 else "wall"
        self._next_look = now + max(min(left, wall_left), 0.005)

    def _read(self) -> bool:
        """Read what is available. Return False at the end of the stream."""
        data = os.read(self._our_end, _CHUNK_BYTES)
        self._buffer += data
        for kind, body, wall_s in self._taken_frames():
            if self.is_complete or self.cause is not None:
                break
            self._take(kind, body, wall_s)
            self._restart_clock()
        return bool(data)

    def _taken_frames(self) -> list[tuple[bytes, bytes, float]]:
        """Yield complete frames, removed from the buffer at once: a large answer should not be in memory twice."""
        frames, begin, head_bytes = [], 0, caller.REPORT_HEAD.size
        with memoryview(self._buffer) as view:
            while begin + head_bytes <= len(view):
                kind, length, wall_s = caller.REPORT_HEAD.unpack_from(view, begin)
                end = begin + head_bytes + length
                if end > len(view):
                    break
                frames.append((kind, bytes(view[begin + head_bytes : end]), wall_s))
                begin = end
        del self._buffer[:begin]
        return frames

    def _take(self, kind: bytes, body: bytes, wall_s: float) -> None:
        if kind == caller.LOADED:
            self._has_loaded = True
        elif kind == caller.ENDED:
            self._has_ended = True
        elif kind == caller.MALFORMED:
            self.cause = "malformed"
        else:
            hears_more = self._look(self._n_answers, Answer(_KINDS[kind], body, wall_s))
            self._n_answers += 1
            self.is_complete = not hears_more or kind == caller.TOO_LARGE or self._n_answers == len(self.calls)


def _pipes(n: int) -> list[tuple[int, int]]:
    """Open all pipes or, with an OSError, none."""
    made: list[tuple[int, int]] = []
    try:
        for _ in range(n):
            made.append(os.pipe())
    except OSError:
        for fd in itertools.chain(*made):
            os.close(fd)
        raise
    return made
