"""Programs in C++: compiled once, judged by the grader as Python ones are, and refused where they can't be held."""

from __future__ import annotations

import sys

import pytest

from harness.core.errors import UsageError
from harness.core.types import Completion, Limits, Problem, Program, Tokens
from harness.graders.code import GRADER
from harness.graders.code.extraction import program_in
from harness.graders.code.reference import HeldTests, ProgramReference, ProgramTest
from harness.sandbox import Level, Pool, compiler, open_pool, pool, strongest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

LIMITS = Limits(cpu_s=2.0, wall_s=8.0, memory_bytes=256 << 20)
SUM = '#include <cstdio>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }'


@pytest.fixture(scope="module")
def sandbox():
    made = open_pool(n_workers=1)
    try:
        made.check("cpp")
    except UsageError as error:
        pytest.skip(str(error))
    return made


def run(sandbox, body, stdin=b"", limits=LIMITS):
    return sandbox.run(
        Program(f"#include <cstdlib>\n#include <cstring>\nint main() {{ {body} }}", language="cpp"), stdin, limits
    )


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("return 0;", "exited", 0),
        ("return 7;", "exited", 7),
        ("*(volatile int *)0 = 1;", "signalled", 11),
        ("for (volatile int i = 0;; i++);", "cpu_limit", 9),
        ("for (;;) memset(malloc(1 << 20), 1, 1 << 20);", "memory_limit", 11),
        ("this is not C++", "not_compiled", 1),
    ],
)
def test_native_program_ending_is_reported(sandbox, body, status, code):
    ended = run(sandbox, body, limits=Limits(cpu_s=1.5, wall_s=8.0, memory_bytes=64 << 20))
    assert (ended.status, ended.exit_code) == (status, code)


def test_a_compiler_s_message_is_bounded_and_ends_with_the_first_error(sandbox):
    ended = run(sandbox, " ".join(f"a{n};" for n in range(1000)))
    assert len(ended.stderr) < 6000
    assert ended.stderr.rpartition(b"\n")[2].startswith(b"main.cpp:3:14: error: 'a0' was not declared")


def test_cpp_source_is_compiled_once(sandbox, monkeypatch):
    run(sandbox, "return 3;")
    monkeypatch.setattr(compiler.Builder, "_compiled", lambda *_: pytest.fail("compiled again"))
    assert run(sandbox, "return 3;").exit_code == 3


def test_most_recent_executables_are_cached():
    asked = []

    def compiled(job, _limits):
        asked.append(job.stdin)
        return pool.Execution("exited", 0, job.stdin, b"", 0.0, 0.0, 0)

    builder = compiler.Builder(compiled)
    for n in [*range(20), 19, 0]:
        assert builder.build(str(n)) == str(n).encode()
    assert asked == [str(n).encode() for n in [*range(20), 0]]


def test_memory_and_time_are_those_of_the_cpp_program(sandbox):
    ended = run(
        sandbox, "volatile char *x = (char *)malloc(100 << 20); for (int i = 0; i < 100 << 20; i += 4096) x[i] = 1;"
    )
    assert 100 << 20 <= ended.memory_bytes < 125 << 20
    assert ended.cpu_s < 2.0


def grade(source, language="cpp", function_name=None):
    tests = HeldTests((ProgramTest("3 4\n", "7\n", "sample"), ProgramTest("5 6\n", "11\n", "sample")))
    reference = ProgramReference(tests, "samples", function_name)
    grader = GRADER(GRADER.Config(language=language, comparison="tokens"))
    reply = f"First in Python:\n```python\nprint(7)\n```\nand in C++:\n```cpp\n{source}\n```"
    return grader.grade(Problem("p", "t", (), reference), Completion("p", 0, 0, reply, "stop", Tokens(1, 1)))


@pytest.mark.parametrize(
    ("source", "code"), [(SUM, "AC"), (SUM.replace("a + b", "7"), "WA"), ("int main() { x; }", "CE"), ("\n", "CE")]
)
@pytest.mark.usefixtures("sandbox")
def test_the_grader_judges_cpp(source, code):
    assert grade(source).details["verdict"] == code


@pytest.mark.usefixtures("sandbox")
def test_verdict_reason_contains_the_compiler_error():
    assert grade("int main() { x; }").reason == (
        "CE on test 1 (main.cpp:1:14: error: 'x' was not declared in this scope)"
    )


def test_functions_are_judged_in_python_alone():
    assert grade(SUM, function_name="f").outcome == "ungraded"
    with pytest.raises(UsageError, match="only Python functions"):
        open_pool(n_workers=1).call(Program(SUM, language="cpp"), "f", [pool.Call([1], 1.0, 100)], LIMITS)


def test_code_block_in_the_requested_language_is_extracted():
    reply = "```cpp\nA\n```\n```python\nB\n```\n```text\nC\n```"
    assert (program_in(reply, "cpp"), program_in(reply), program_in("```\nD\n```", "cpp")) == ("A", "B", "D")


def test_missing_compiler_and_too_weak_level_are_reported(monkeypatch):
    monkeypatch.setattr(compiler, "_COMPILERS", ("no-such-compiler",))
    with pytest.raises(UsageError, match=r"no-such-compiler.*install"):
        compiler.compiler()
    with pytest.raises(UsageError, match=r"'landlock' or better.*'sealed'"):
        compiler.refuse_weak_level(Level.SEALED)


def test_machine_where_the_trial_cpp_program_fails_is_refused(sandbox, monkeypatch):
    monkeypatch.setattr(pool.compiler, "HELLO", "int main() { return 1; }")
    with pytest.raises(UsageError, match=r"C\+\+ can't be run here.*exited"):
        sandbox.check("cpp")


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.title)
@pytest.mark.usefixtures("sandbox")
def test_cpp_program_runs_at_every_level(level):
    if level > strongest()[0]:
        pytest.skip(f"this machine has no {level.title}")
    made = Pool(level, 1)
    assert made.run(Program(SUM, language="cpp"), b"3 4\n", LIMITS).stdout == b"7\n"
    made.close()


@pytest.mark.parametrize("source", ["", "x = '\udcff'", "//" + "x" * (8 << 20), "int x[] = {" + "1," * 500_000 + "};"])
def test_malformed_cpp_sources_do_not_compile(sandbox, source):
    ended = sandbox.run(Program(source, language="cpp"), b"", LIMITS)
    assert ended.status == "not_compiled"
    assert len(ended.stderr) < 6000
