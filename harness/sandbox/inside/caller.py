"""The process of a worker that stays outside its jail: it waits for the inner process, and calls functions of programs.

The arguments of a call are sent after the previous call was answered, so a program never holds later arguments. It may
write anything into the channel of answers; that is no more than giving a wrong answer, since answers are not judged
here but passed on. This process is not an ancestor of a program, which therefore inherits nothing of it. It imports
little, since there is one for each worker.
"""

from __future__ import annotations

import _socket
import marshal
import os
import select
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

QUESTION_HEAD = struct.Struct("<I")
ANSWER_HEAD = struct.Struct("<6sI")
REPORT_HEAD = struct.Struct("<6sId")
LOADED, VALUE, PACKED, RAISED, OPAQUE = b"loaded", b"value_", b"packed", b"raised", b"opaque"
TOO_LARGE, MALFORMED, ENDED = b"large_", b"malfor", b"ended_"
"""Frames of a program, the first with the core it runs on, and the frames passed on in their place."""

_VERSION = 2  # marshal version: in this one, no part of a value refers to another part
_FDS, _CORE_BYTES = struct.Struct("4i"), 4
_CHUNK_BYTES, _PIPE_BYTES = 1 << 16, 1 << 16
_SHORT_S = 0.002
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import inside.caller as caller; del sys.path[0]; "
    "caller.main(int(sys.argv[2]))"
)
_BEGINNING_FD, _REQUESTS_FD = 0, 1


def packed(calls: Sequence[tuple[int, Sequence[object]]]) -> bytes:
    """Return the limit of each call's answer and its arguments as bytes. Used by the parent."""
    return marshal.dumps([(most_bytes, marshal.dumps(arguments, _VERSION)) for most_bytes, arguments in calls])  # type: ignore[arg-type]


def stay_outside(child: int, beginning: int, requests: int) -> NoReturn:
    """Continue as this process. It re-executes itself to free the memory of loaded modules, then closes `beginning`."""
    os.dup2(beginning, _BEGINNING_FD)
    os.dup2(requests, _REQUESTS_FD)
    os.closerange(3, 1024)
    folder = os.path.dirname(os.path.dirname(__file__))
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _START, folder, str(child)])


def main(child: int) -> NoReturn:
    requests = _socket.socket(fileno=_REQUESTS_FD)
    cores = os.sched_getaffinity(0)
    poll = select.poll()
    poll.register(os.pidfd_open(child), select.POLLIN)
    poll.register(requests, select.POLLIN)
    os.close(_BEGINNING_FD)
    while all(fd == _REQUESTS_FD for fd, _ in poll.poll()) and (fds := _received(requests)):
        try:
            _Conversation(cores, *fds).hold()
        except BrokenPipeError:  # the judge has stopped reading
            pass
        finally:
            for fd in fds:
                os.close(fd)
            _move_to(cores)
    os.waitpid(child, 0)
    os._exit(0)


def _received(requests: _socket.socket) -> Sequence[int]:
    """Return the calls and the descriptors for results, answers and questions, or None after the last request."""
    message, parts, _, _ = requests.recvmsg(1, _socket.CMSG_SPACE(_FDS.size))
    return _FDS.unpack(parts[0][2]) if message else ()


def _move_to(cores: set[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except OSError:  # not permitted: only slower
        return


class _OverError(Exception):
    """There are no more calls."""


class _Conversation:
    def __init__(self, cores: set[int], calls: int, judge: int, answers: int, questions: int) -> None:
        self._cores, self._calls, self._judge = cores, calls, judge
        self._answers, self._questions = answers, questions
        self._heard, self._untold, self._told_at = bytearray(), bytearray(), time.monotonic()
        self._poll = select.poll()
        self._poll.register(answers, select.POLLIN)

    def hold(self) -> None:
        calls = marshal.loads(os.pread(self._calls, os.fstat(self._calls).st_size, 0))
        try:
            self._join(int.from_bytes(self._hear((LOADED,), _CORE_BYTES), "little"))
            for most_bytes, arguments in calls:
                self._ask(arguments)
                self._hear((VALUE, PACKED, RAISED, OPAQUE), most_bytes)
        except _OverError:
            pass
        self._pass_on()

    def _join(self, core: int) -> None:
        """Move to the program's core: the two take turns, and waking a process on another core takes longer than many a
        call.
        """
        if core in self._cores:
            _move_to({core})

    def _ask(self, arguments: bytes) -> None:
        question = memoryview(QUESTION_HEAD.pack(len(arguments)) + arguments)
        if len(question) > _PIPE_BYTES:  # it may have to wait
            self._pass_on()
        try:
            while question:
                question = question[os.write(self._questions, question) :]
        except BrokenPipeError:  # a program that does not read gets no questions, but may still answer
            pass

    def _hear(self, kinds: Sequence[bytes], most_bytes: int) -> bytes:
        began = time.monotonic()
        while (frame := self._frame(kinds, most_bytes)) is None:
            self._read()
        kind, body = frame
        now = time.monotonic()
        self._untold += REPORT_HEAD.pack(kind, len(body), now - began) + body
        if kind not in kinds:
            raise _OverError
        if now - self._told_at >= _SHORT_S or len(self._untold) >= _CHUNK_BYTES:
            self._pass_on()
        return body

    def _frame(self, kinds: Sequence[bytes], most_bytes: int) -> tuple[bytes, bytes] | None:
        if len(self._heard) < ANSWER_HEAD.size:
            return None
        kind, length = ANSWER_HEAD.unpack_from(self._heard)
        if kind not in kinds:
            return MALFORMED, b""
        if length > most_bytes:
            return TOO_LARGE, b""
        end = ANSWER_HEAD.size + length
        if len(self._heard) < end:
            return None
        body = bytes(memoryview(self._heard)[ANSWER_HEAD.size : end])
        del self._heard[:end]
        return kind, body

    def _read(self) -> None:
        if self._untold and not self._poll.poll(_SHORT_S * 1000):
            self._pass_on()
        data = os.read(self._answers, _CHUNK_BYTES)
        if not data:
            self._untold += REPORT_HEAD.pack(ENDED, 0, 0.0)
            raise _OverError
        self._heard += data

    def _pass_on(self) -> None:
        """Pass answers on in batches: waking the judge takes longer than many a call."""
        with memoryview(self._untold) as view:
            n_told = 0
            while n_told < len(view):
                n_told += os.write(self._judge, view[n_told:])
        self._untold.clear()
        self._told_at = time.monotonic()
