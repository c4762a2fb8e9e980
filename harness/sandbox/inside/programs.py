"""Run one untrusted program in a process that is already sealed. Whatever happens here is the program's own doing."""

from __future__ import annotations

import builtins
import json
import marshal
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import IO, Any, NamedTuple, NoReturn

from . import codec, shutdown, syscalls
from .caller import ANSWER_HEAD, LOADED, OPAQUE, PACKED, QUESTION_HEAD, RAISED, VALUE

DID_NOT_COMPILE = 120
"""Exit code of a program that does not compile. A program that uses it is treated as such."""
ANSWERS_FD, QUESTIONS_FD = 3, 4
_FILE_NAME = "main.py"
_SCRIPT, _FUNCTION = b"s", b"f"
_THREAD_STACK_BYTES = 16 << 20
_READ_BYTES = 1 << 16
_read_fd, _write_fd = os.read, os.write  # kept here, since programs may replace them


class Main(NamedTuple):
    """The module in which a program runs, with preloaded code. Made once, used by many processes."""

    module: types.ModuleType
    recursion_limit: int
    n_names: int
    """Number of names in the module before the program runs."""


def prepared(prelude: str) -> Main:
    """Return the module with the prelude executed. Raises whatever the prelude raises."""
    module, usual_limit = types.ModuleType("main"), sys.getrecursionlimit()
    module.__dict__.update({"__builtins__": builtins, "__file__": _FILE_NAME})
    try:
        exec(compile(prelude, "prelude.py", "exec", dont_inherit=True), module.__dict__)
        return Main(module, sys.getrecursionlimit(), len(module.__dict__))
    finally:
        sys.setrecursionlimit(usual_limit)


def script_payload(source: str) -> bytes:
    """Return a program as bytes; a lone surrogate, which can't be encoded, becomes a syntax error."""
    return _SCRIPT + source.encode("utf-8", "surrogatepass")


def function_payload(source: str, name: str, *, packs: bool) -> bytes:
    """Return the payload of a function; `packs`: whether large answers may use `codec.packed`."""
    return _FUNCTION + json.dumps({"source": source, "function": name, "packs": packs}).encode()


def run(payload: bytes, main: Main) -> NoReturn:
    sys.setrecursionlimit(main.recursion_limit)
    if payload.startswith(_SCRIPT):
        status = _ending_of(lambda: _run_main(payload[1:], main.module))
        shutdown.leave(status, main.module.__dict__, main.n_names)
    shutdown.leave(_ending_of(lambda: _call_function(json.loads(payload[1:]), main.module)))


def set_up_interpreter() -> None:
    """Prepare once for all programs: 0, 1 and 2 must be files of the kind they will be, and empty."""
    for name, file in (
        ("stdin", _text_file(0, "r")),
        ("stdout", _text_file(1, "w")),
        ("stderr", _text_file(2, "w", 1)),
    ):
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    # `site` would define these, and it is not loaded.
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    sys.argv = [_FILE_NAME]
    threading.stack_size(_THREAD_STACK_BYTES)


def _text_file(fd: int, mode: str, buffering: int = -1) -> IO[Any]:
    # Use open(): programs access .buffer, .fileno(), .mode and .name.
    return open(fd, mode, buffering, encoding="utf-8", errors="surrogateescape", closefd=False)


def _namespace(module: types.ModuleType, name: str) -> dict[str, Any]:
    module.__name__ = name
    sys.modules[name] = module
    return module.__dict__


def _compiled(source: bytes) -> types.CodeType:
    try:
        # Decoded text: an encoding declared in a reply no longer applies.
        text = source.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
        return compile(text, _FILE_NAME, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(DID_NOT_COMPILE)


def _run_main(source: bytes, module: types.ModuleType) -> None:
    code = _compiled(source)
    exec(code, _namespace(module, "__main__"))


def _ending_of(work: Callable[[], None]) -> int:
    """Return the exit status with which Python itself would end."""
    try:
        work()
    except SystemExit as leaving:
        if leaving.code is None:
            return 0
        if isinstance(leaving.code, int):
            return leaving.code & 0xFF
        sys.stderr.write(f"{leaving.code}\n")
        return 1
    except BaseException as error:
        error = error.with_traceback(_own_frames(error.__traceback__))
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _own_frames(frames: types.TracebackType | None) -> types.TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename != _FILE_NAME:
        frames = frames.tb_next
    return frames


# --- functions --------------------------------------------------------------------------------------------------


def _call_function(job: dict[str, Any], module: types.ModuleType) -> None:
    code = _compiled(job["source"].encode("utf-8", "surrogatepass"))
    # Not __main__: the program's main guard would run, and read an empty stdin.
    exec(code, _namespace(module, "solution"))
    function = _found(module, job["function"])
    _say(LOADED, syscalls.current_core().to_bytes(4, "little"))
    while True:
        _answer(function, marshal.loads(_asked()), packs=job["packs"])


def _asked() -> bytes:
    """Yield the arguments of the next call. After the last one, wait for the end."""
    pieces = [_read(_READ_BYTES)]
    n_missing = QUESTION_HEAD.size + QUESTION_HEAD.unpack_from(pieces[0])[0] - len(pieces[0])
    while n_missing:
        pieces.append(_read(n_missing))
        n_missing -= len(pieces[-1])
    return b"".join(pieces)[QUESTION_HEAD.size :]


def _read(n_bytes: int) -> bytes:
    data = _read_fd(QUESTIONS_FD, n_bytes)
    if not data:
        raise EOFError("nobody asks any more")
    return data


def _found(module: types.ModuleType, name: str) -> Callable[..., Any]:
    solution = module.__dict__.get("Solution")
    # A method comes before a name of the prelude, such as `count`.
    if isinstance(solution, type) and (hasattr(solution, name) or name not in module.__dict__):
        method: Callable[..., Any] = getattr(solution(), name)
        return method
    function: Callable[..., Any] = module.__dict__[name]
    return function


def _answer(function: Callable[..., Any], arguments: Any, *, packs: bool) -> None:
    """Make one call and report its result. A forged report is no more than a wrong answer."""
    try:
        value = function(*arguments)
    except BaseException as error:
        _say(RAISED, type(error).__name__.encode("utf-8", "replace"))
        return
    try:
        packed = codec.packed(value) if packs else None
        body = packed if packed is not None else codec.encode(value).encode()
    except MemoryError:  # there is a value, but no room to write it
        _say(RAISED, b"MemoryError")
    except BaseException as error:
        _say(OPAQUE, f"{type(value).__name__}: {error}".encode("utf-8", "replace"))
    else:
        _say(VALUE if packed is None else PACKED, body)


def _say(kind: bytes, body: bytes) -> None:
    frame = memoryview(ANSWER_HEAD.pack(kind, len(body)) + body)
    while frame:
        frame = frame[_write_fd(ANSWERS_FD, frame) :]
