"""Run the programs of tests/programs against a sandbox and report the results. Standard library and harness only.

As a script it does so as another user: `python attacks.py LEVEL GROUP...` prints a JSON object of what went wrong.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import tomllib
from pathlib import Path

from harness.core.errors import SandboxError
from harness.core.types import Limits, Program
from harness.graders.code.equality import ExpectedAnswer
from harness.graders.code.isolated_compare import is_right_answer
from harness.graders.code.judge import Allowance, FunctionTest, ScriptTest, judge_function, judge_script
from harness.graders.code.prelude import PRELUDE
from harness.sandbox import Level, Pool

PROGRAMS = Path(__file__).resolve().parents[1] / "sandbox" / "programs"
ALLOWED = Allowance(cpu_s=0.3, memory_bytes=256 << 20, retries_timeouts=False)
SMALL = Allowance(cpu_s=1.0, memory_bytes=64 << 20, retries_timeouts=False)
USUAL = ("WA", "RE")
RULES = [
    *(("mbpp", name) for name in ("Diff", "check_str", "sum_div", "digit_distance_nums", "surface_Area", "f")),
    ("humaneval", "f"),
]


def attacks():
    return tomllib.loads((PROGRAMS / "attacks.toml").read_text())


def native():
    return tomllib.loads((PROGRAMS / "native.toml").read_text())


def benign():
    return tomllib.loads((PROGRAMS / "benign.toml").read_text())


class Recording:
    """A pool that keeps what its last program wrote."""

    def __init__(self, pool, wall_s=1.0):
        self.pool, self.execution, self.wall_s, self.answers = pool, None, wall_s, b""
        self.is_crowded = False

    def run(self, program, stdin, limits):
        short = Limits(limits.cpu_s, self.wall_s, limits.memory_bytes, 2 << 20, 1 << 20)
        self.execution = self.pool.run(program, stdin, short)
        return self.execution

    def call(self, program, function, calls, limits, look):
        def listen(place, answer):
            self.answers += answer.body
            return look(place, answer)

        short = Limits(1.0, 1.0, limits.memory_bytes, 2 << 20)
        self.execution = self.pool.call(program, function, calls, short, listen)
        return self.execution


class Surroundings:
    """Canaries around the sandbox: what an attack must not reach."""

    def __init__(self, stack):
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.folder.chmod(0o777)
        self.secret = f"SECRET-{random.randrange(10**11, 10**12)}"
        os.environ["HARNESS_TEST_SECRET"] = self.secret
        for name in ("secret", "spare"):
            (self.folder / name).write_text(self.secret)
        (self.folder / "secret_module.py").write_text(f"x = {self.secret!r}")
        self.name = f"harness-test-{os.getpid()}"
        self.servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))),
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
            *(stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)),
        ]
        tcp, udp, by_path, abstract = self.servers
        udp.bind(("127.0.0.1", 0))
        by_path.bind(str(self.folder / "socket"))
        abstract.bind(f"\0{self.name}")
        by_path.listen(), abstract.listen()
        for server in self.servers:
            server.setblocking(False)
        self.dummy = subprocess.Popen(["sleep", "600"])
        stack.callback(self.dummy.wait)
        stack.callback(self.dummy.kill)
        stack.callback(self._tidy)
        self.before = self._state()
        self.filled = {
            "SECRET_FILE": self.folder / "secret",
            "SECRET_FOLDER": self.folder,
            "SPARE_FILE": self.folder / "spare",
            "CANARY": self.folder / "canary",
            "NAME": self.name,
            "JUDGE": os.getpid(),
            "PID": self.dummy.pid,
            "TCP": tcp.getsockname()[1],
            "UDP": udp.getsockname()[1],
            "UNIX": self.folder / "socket",
            "SITE_PACKAGES": sysconfig.get_path("purelib"),
        }

    def _state(self):
        stat = Path(f"/proc/{self.dummy.pid}/stat").read_text().split()
        files = {path.name: (path.stat().st_mode, path.stat().st_size) for path in self.folder.iterdir()}
        return files, stat[2] in "SDR", stat[18], os.sched_getaffinity(self.dummy.pid)

    def _tidy(self):
        """Where nothing holds them, attacks leave files."""
        for folder in ("/dev/shm", "/tmp", "/"):
            Path(folder, self.name).unlink(missing_ok=True)
        Path("/tmp/left").unlink(missing_ok=True)

    def fill(self, source):
        for name, value in self.filled.items():
            source = source.replace(f"@{name}@", str(value))
        return source

    def damage(self):
        """Yield the changes that an attack made to them."""
        if self._state() != self.before:
            yield f"the surroundings changed: {self._state()}"
        for server in self.servers:
            with contextlib.suppress(OSError):
                server.recv(10) if server.type == socket.SOCK_DGRAM else server.accept()
                yield f"{server} was reached"
        for folder in ("/dev/shm", "/tmp", "/"):
            if os.path.exists(f"{folder}/{self.name}"):
                yield f"a file in {folder}"


def source_of(attack, group, around):
    if "generated" in attack:
        return eval(attack["generated"])
    source = around.fill(attack["source"])
    if attack.get("raw_surrogate"):
        source = source.encode().decode("unicode_escape")
    return attacks()["prelude"] + source if group == "peek" else source


def breaches_of(pool, group, attack, around):
    """Yield the faults of the end of one attack."""
    yield from breaches_of_program(pool, group, attack, around, Program(source_of(attack, group, around)), b"3 4\n")


def breaches_of_program(pool, group, attack, around, program, stdin, allowed=ALLOWED, wall_s=1.0):
    recording = Recording(pool, wall_s)
    if group == "functions":
        expected = str(int(around.secret[7:])).encode()
        answer = ExpectedAnswer(expected)
        test = FunctionTest((3, 4), ALLOWED.cpu_s, answer.room_bytes, lambda got: looked_at(got, answer))
        report = judge_function(recording, program, "f", [test], allowed)
        written = recording.answers
    else:
        expected = around.secret.encode()
        test = ScriptTest(stdin, expected, lambda output: output.strip() == expected)
        report = judge_script(recording, program, [test], allowed)
        written = recording.execution.stdout
    code = report.outcomes[0].code
    if code not in attack.get("why", USUAL):
        yield f"{code} ({report.outcomes[0].cause})"
    if around.secret in report.outcomes[0].cause:
        yield f"it was told {report.outcomes[0].cause}"
    if b"escaped" in written or expected in written:
        yield f"it wrote {written[:100]!r}"
    yield from around.damage()


def looked_at(got, expected):
    """As graders look: every rule reads what a program claims."""
    for dataset, name in RULES:  # some of them take anything for right; none may fail
        is_right_answer(("evalplus", dataset, name, [3, 4], 1e-6), expected, got)
    return is_right_answer(("plain", 1e-6), expected, got)


def failures_of_attacks(level, groups, *, prime=True):
    """Attack -> what went wrong, for all attacks of some groups against one worker."""
    found = {}
    with contextlib.ExitStack() as stack:
        around = Surroundings(stack)
        pool = Pool(level, 1)
        stack.callback(pool.close)
        for group in groups:
            for name, attack in attacks()[group].items():
                if prime:
                    leave_a_secret(pool, around)
                for _ in range(attack.get("runs", 1)):
                    found.setdefault(f"{group}.{name}", []).extend(breaches_of(pool, group, attack, around))
    return {name: problems for name, problems in found.items() if problems}


def leave_a_secret(pool, around):
    """Return the traces of an earlier program that a later one might find, in memory and in files."""
    secret = repr(around.secret)
    leave = f"for name in 'left', '/tmp/left':\n    try: open(name, 'w').write({secret})\n    except OSError: pass"
    pool.run(Program(f"x = [{secret}] * 3\nprint(x[0])\n{leave}"), b"", Limits(1, 3, 1 << 28))


def failures_of_native(level):
    """As `failures_of_attacks` and `failures_of_benign`, of programs in C++."""
    found, cases = {}, native()
    allowed = Allowance(cpu_s=5.0, memory_bytes=128 << 20, retries_timeouts=False)
    with contextlib.ExitStack() as stack:
        around = Surroundings(stack)
        pool = Pool(level, 1)
        stack.callback(pool.close)
        for name, case in cases["benign"].items():
            if case.get("needs") == "files" and level == Level.SEALED:
                continue
            test = ScriptTest(b"3 4\n", b"7\n", lambda output: output == b"7\n")
            report = judge_script(pool, Program(case["source"], language="cpp"), [test], allowed)
            found[f"benign.{name}"] = [] if report.n_passed else [str(report.outcomes)]
        every = Program(around.fill(all_in_one(cases)), language="cpp")
        for place, (name, attack) in enumerate(cases["attacks"].items()):
            if level > Level.LIMITS or name == "read_a_file":
                leave_a_secret(pool, around)
                stdin = b"%d\n3 4\n" % place
                found[name] = list(breaches_of_program(pool, "", attack, around, every, stdin, SMALL, 3.0))
    return {name: problems for name, problems in found.items() if problems}


def all_in_one(cases):
    """Every attack, chosen by the first number of stdin: it is compiling that takes time."""
    bodies = [attack["body"] for attack in cases["attacks"].values()]
    functions = "".join(f"static void attack_{place}() {{ {body} }}\n" for place, body in enumerate(bodies))
    switch = "".join(f"case {place}: attack_{place}(); break; " for place in range(len(bodies)))
    return f'{cases["prelude"]}{functions}int main() {{ int n; scanf("%d", &n); switch (n) {{ {switch} }} }}'


def failures_of_compiling():
    """Source -> what went wrong, for what a compiler should refuse."""
    found = {}
    with contextlib.ExitStack() as stack:
        around = Surroundings(stack)
        pool = Pool(Level.SEALED, 1)
        stack.callback(pool.close)
        for name, attack in native()["sources"].items():
            program = Program(around.fill(attack["source"]), language="cpp")
            found[name] = list(breaches_of_program(pool, "", attack, around, program, b"3 4\n"))
    return {name: problems for name, problems in found.items() if problems}


def failures_of_benign(level):
    """Program -> its finding, for honest programs that were not accepted."""
    found = {}
    pool = Pool(level, 1)
    allowed = Allowance(cpu_s=10.0, memory_bytes=1 << 30, retries_timeouts=False)
    for name, case in benign()["scripts"].items():
        if not _runs_here(case, level):
            continue
        text = "3 4\n" * case.get("stdin_repeated", 1)
        expected = "\n".join(text.split()) if case.get("copies") else "7"
        test = ScriptTest(text.encode(), expected.encode(), lambda out, e=expected: out.strip().decode() == e)
        found[name] = judge_script(pool, Program(case["source"], PRELUDE), [test], allowed)
    for name, case in benign()["functions"].items():
        if not _runs_here(case, level):
            continue
        tests = [FunctionTest((a, 4), 5.0, 4096, lambda got, a=a: json.loads(got.body) == a + 4) for a in (3, 500, 3)]
        found[name] = judge_function(pool, Program(case["source"], PRELUDE), "f", tests, allowed)
    pool.close()
    return {name: str(r.outcomes) for name, r in found.items() if r.n_passed < r.n_tests}


def _runs_here(case, level):
    if case.get("needs") and (level == Level.SEALED or not _is_there(case["needs"])):
        return False
    return sys.version_info[:2] <= tuple(case.get("up_to_python", (3, 99)))


def _is_there(need):
    import importlib.util

    return need in ("files", "folder") or importlib.util.find_spec(need) is not None


CHAOS = {
    "import time; time.sleep(0.05); print(sum(map(int, input().split())))": "AC",
    "print(sum(map(int, input().split())))": "AC",
    "print(8)": "WA",
    "1 / 0": "RE",
    "while True: pass": "TLE",
    "x = bytearray(1 << 30)": "MLE",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def failures_of_chaos(level, n_programs=60):
    """Verdicts that a signal changed, where programs, workers and the processes around them get any at any time."""
    pool, is_over = Pool(level, 2), threading.Event()
    allowed = Allowance(cpu_s=0.15, memory_bytes=256 << 20, retries_timeouts=False)
    test = ScriptTest(b"3 4\n", b"7\n", lambda output: output == b"7\n")
    cases = list(CHAOS.items()) * n_programs

    def verdict(case):
        try:
            return judge_script(pool, Program(case[0]), [test], allowed).outcomes[0].code
        except SandboxError:
            return "ungraded"

    def disturb():
        draw = random.Random(0)
        while not is_over.wait(draw.uniform(0.005, 0.1)):
            if family := descendants():
                with contextlib.suppress(ProcessLookupError):
                    newest = max(family, key=began)  # usually a program; its number is not the largest after a wrap
                    os.kill(draw.choice((newest, draw.choice(family))), draw.choice(SIGNALS))

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        disturbed = list(threads.map(verdict, cases[:n_programs]))
    is_over.set()
    disturbing.join()
    after = list(map(verdict, cases[: len(CHAOS)]))
    pool.close()
    wrong = [(case, found) for case, found in zip(cases, disturbed, strict=False) if found not in (case[1], "ungraded")]
    wrong += [(case, found) for case, found in zip(cases, after, strict=False) if found != case[1]]
    return [*wrong, *([] if "ungraded" in disturbed else [("nothing was disturbed", len(disturbed))])]


def began(pid):
    """Return when a process began, in ticks since boot; -1 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return -1


def descendants():
    """Return the processes below this one."""
    found, waiting = [], [os.getpid()]
    while waiting:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
                children = [int(pid) for pid in (task / "children").read_text().split()]
                found += children
                waiting += children
    return found


def everything(level, groups):
    if groups == ["chaos"]:
        return failures_of_chaos(level)
    return {**failures_of_attacks(level, groups), **failures_of_benign(level)}


if __name__ == "__main__":
    print(json.dumps(everything(Level[sys.argv[1]], sys.argv[2:])))
