"""The process of a worker that stays outside of its jail. It waits for the one inside, and calls functions of programs.

The arguments of a call are sent when the call before it is answered, so a program never holds what it is not asked
yet. It could write into the channel of answers whatever it likes. All that gains it is to have claimed an answer,
which is what a program may do. Nothing is judged here: what came is passed on. It is no ancestor of a program, which
therefore finds nothing of it in what it inherits, and it imports little, as there is one for each worker.
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
TOLD_HEAD = struct.Struct("<6sId")
LOADED, VALUE, PACKED, RAISED, OPAQUE = b"loaded", b"value_", b"packed", b"raised", b"opaque"
TOO_LARGE, MALFORMED, ENDED = b"large_", b"malfor", b"ended_"
"""What a program says, the first with the core it is on, and what is said of it instead."""

_VERSION = 2  # of marshal: in this one, no part of a value is another part of it as well
_FDS, _CORE_BYTES = struct.Struct("4i"), 4
_CHUNK_BYTES, _PIPE_BYTES = 1 << 16, 1 << 16
_SHORT_S = 0.002
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import inside.caller as caller; del sys.path[0]; "
    "caller.main(int(sys.argv[2]))"
)
_BEGINNING_FD, _REQUESTS_FD = 0, 1


def packed(calls: Sequence[tuple[int, Sequence[object]]]) -> bytes:
    """For each call how long an answer may be, and the arguments. For the other side."""
    return marshal.dumps([(most_bytes, marshal.dumps(arguments, _VERSION)) for most_bytes, arguments in calls])  # type: ignore[arg-type]


def stay_outside(child: int, beginning: int, requests: int) -> NoReturn:
    """Go on as this process. It starts again, since what was loaded so far would take room here as well; when it has,
    it closes `beginning`."""
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
        except BrokenPipeError:  # the judge has heard enough
            pass
        finally:
            for fd in fds:
                os.close(fd)
            _move_to(cores)
    os.waitpid(child, 0)
    os._exit(0)


def _received(requests: _socket.socket) -> Sequence[int]:
    """The calls, and where to tell of them, to hear answers, and to ask; nothing when there are no more requests."""
    message, parts, _, _ = requests.recvmsg(1, _socket.CMSG_SPACE(_FDS.size))
    return _FDS.unpack(parts[0][2]) if message else ()


def _move_to(cores: set[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except OSError:  # not allowed: then it is slower
        return


class _OverError(Exception):
    """There is nothing more to ask."""


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
        """Go where the program says it is: they take turns, and to wake a process on another core takes longer than
        many a call."""
        if core in self._cores:
            _move_to({core})

    def _ask(self, arguments: bytes) -> None:
        question = memoryview(QUESTION_HEAD.pack(len(arguments)) + arguments)
        if len(question) > _PIPE_BYTES:  # it may have to wait
            self._pass_on()
        try:
            while question:
                question = question[os.write(self._questions, question) :]
        except BrokenPipeError:  # who does not listen is asked nothing, and may answer all the same
            pass

    def _hear(self, kinds: Sequence[bytes], most_bytes: int) -> bytes:
        began = time.monotonic()
        while (frame := self._frame(kinds, most_bytes)) is None:
            self._read()
        kind, body = frame
        now = time.monotonic()
        self._untold += TOLD_HEAD.pack(kind, len(body), now - began) + body
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
            self._untold += TOLD_HEAD.pack(ENDED, 0, 0.0)
            raise _OverError
        self._heard += data

    def _pass_on(self) -> None:
        """Not one by one: to wake the judge takes longer than many a call."""
        with memoryview(self._untold) as view:
            n_told = 0
            while n_told < len(view):
                n_told += os.write(self._judge, view[n_told:])
        self._untold.clear()
        self._told_at = time.monotonic()
