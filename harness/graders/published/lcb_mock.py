"""LiveCodeBench's way of running a program, as functions that the sandbox calls.

Programs do not run this way for a user, but numbers published with that checker include its wrong rejections. The whole
program becomes the body of one function; stdin is a mock that is not a file; all tests share one process; the only
limit of a test is an alarm that a program can catch.
"""

from __future__ import annotations

from harness.graders.code.prelude import OFFICIAL_PRELUDE

_DRIVER = '''
import ast, builtins, io, os, shutil, signal, subprocess, sys, types
from unittest.mock import mock_open, patch

class TimeoutException(Exception): pass

def _ring(*_): raise TimeoutException

class _Bytes:
    def __init__(self, text): self._data = text.encode()
    def read(self, *_): return self._data
    def readline(self, *_): return self._data.split(b"\\n")[0] + b"\\n"

class _Stdin:
    def __init__(self, text):
        self._text, self._file, self.buffer = text, io.StringIO(text), _Bytes(text)
    def read(self, *_): return self._text
    def readline(self, *args): return self._file.readline(*args)
    def readlines(self, *_): return self._text.split("\\n")
    def __getattr__(self, name): return getattr(self._file, name)

def _without_guard(source):
    try:
        tree = ast.parse(source)
        last = tree.body[-1]
        if isinstance(last, ast.If) and ast.unparse(last.test).strip() == "__name__ == '__main__'":
            return ast.unparse(tree.body[:-1]) + "\\n" + ast.unparse(last.body)
    except BaseException:
        pass
    return source

def _as_function(source):
    try:
        tree = ast.parse(source)
        imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        body = [node for node in tree.body if node not in imports]
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        function = ast.FunctionDef(name="wrapped_function", args=nothing, body=body, decorator_list=[], lineno=-1)
        return _PRELUDE + "\\n" + ast.unparse(imports) + "\\n" + ast.unparse(function)
    except Exception:
        return source

def _disable():
    for owner, names in (
        (os, "kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames truncate"),
        (os, "replace unlink fchmod fchown chmod chown chroot lchflags lchmod lchown getcwd chdir"),
        (shutil, "rmtree move chown"), (subprocess, "Popen"), (builtins, "quit help"),
    ):
        for name in names.split():
            setattr(owner, name, None)
    for name in ("ipdb", "joblib", "resource", "psutil", "tkinter"):
        sys.modules[name] = None

def _load(source):
    module = types.ModuleType("tmp_sol", "")
    signal.alarm(_TIMEOUT)
    try:
        exec(source, module.__dict__)
    finally:
        signal.alarm(0)
    return module.Solution() if "class Solution" in source else module

def _run(text):
    """Return the stdout of one test, or the kind of failure."""
    lines = iter(text.split("\\n"))
    stdout, sys.stdout = sys.stdout, io.StringIO()
    signal.alarm(_TIMEOUT)
    try:
        with patch("builtins.open", mock_open(read_data=text)), patch("sys.stdin", _Stdin(text)), \\
             patch("sys.stdin.readline", lambda *_: next(lines)), \\
             patch("sys.stdin.readlines", lambda *_: text.split("\\n")), patch("sys.stdin.read", lambda *_: text):
            try:
                _METHOD()
            except SystemExit:
                pass
        return ["output", sys.stdout.getvalue()]
    except Exception as error:
        return ["timeout" if "timeoutexception" in repr(error).lower() else "error", repr(error)[:300]]
    finally:
        signal.alarm(0)
        sys.stdout = stdout

def _call(arguments):
    """Return the value of a function, an outer tuple as a list, or the kind of failure."""
    signal.alarm(_TIMEOUT)
    try:
        value = _METHOD(*arguments)
        return ["value", list(value) if isinstance(value, tuple) else value]
    except Exception as error:
        return ["timeout" if "timeoutexception" in repr(error).lower() else "error", repr(error)[:300]]
    finally:
        signal.alarm(0)

sys.set_int_max_str_digits(50000)
if "numpy" in _SOURCE:
    try:
        import numpy  # loaded before the functions it needs are disabled
    except ImportError:
        pass
signal.signal(signal.SIGALRM, _ring)
_disable()
if _NAME is None:
    _METHOD = getattr(_load(_as_function(_without_guard(_SOURCE))), "wrapped_function")
else:
    _METHOD = getattr(_load(_PRELUDE + "\\n\\n" + _SOURCE), _NAME)
'''


def driver(source: str, function_name: str | None, timeout_s: int) -> str:
    """Return a program whose `_run(stdin)` or `_call(arguments)` runs `source` as LiveCodeBench does."""
    values = {"_SOURCE": source, "_NAME": function_name, "_TIMEOUT": timeout_s, "_PRELUDE": OFFICIAL_PRELUDE}
    return "\n".join(f"{name} = {value!r}" for name, value in values.items()) + _DRIVER
