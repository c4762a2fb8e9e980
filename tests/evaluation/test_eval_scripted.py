"""The evaluation loop on countdown with the scripted engine: resumed, extended, refused, stopped, killed."""

import contextlib
import functools
import io
import json
import random
import re
import resource
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace

import pytest
from stub_engine import StubEngine

from harness.cli import main
from harness.core import config as configs
from harness.core.errors import ConfigError, EngineError, ModelError, RunFolderError
from harness.core.progress import Progress
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import evaluate, evaluate_opened
from harness.evaluation.setup import resolve
from harness.runs.folder import RunReader

# Few of them solve anything: what matters here is that they differ and that grading is real.
REPLIES = ["4*9=36;36+2=38", "1+1=2;2+2=4", "nonsense", "5*7=35;35+2=37", "9*8=72;72-4=68"]


class RecordingEngine(StubEngine):
    """An engine around another that keeps the requests, and may return wrong completions in one way."""

    def __init__(self, config, *, breaks=None, after=10**9):
        self._engine = config.engine.build()
        self._breaks, self._after = breaks, after
        self.requests = []

    def generate(self, requests):
        asked = list(requests)
        self.requests += asked
        for number, completion in enumerate(self._engine.generate(asked)):
            if number >= self._after:
                if self._breaks == "leaves out":
                    return
                if self._breaks == "stops":
                    raise KeyboardInterrupt
                if self._breaks == "makes up":
                    completion = replace(completion, problem_id="unknown")
                if self._breaks == "reseeds":
                    completion = replace(completion, seed=completion.seed + 1)
            yield completion
            if number >= self._after and self._breaks == "repeats":
                yield completion


def config_of(**changes):
    tree = {
        "model": {"path": "countdown-tiny"},
        "tasks": ["countdown"],
        "engine": {"id": "scripted", "replies": REPLIES, "pick": "seed"},
        "n": 3,
        "limit": 4,
        "metrics": [],
    }
    return configs.parse(EvalConfig, configs.merge(tree, changes))


@functools.cache  # its fingerprint takes as long as everything else here
def task_of(choice):
    return choice.build()


def run(config, folder, engine=None, stream=None):
    engine = engine if engine is not None else RecordingEngine(config)
    progress = Progress(quiet=stream is None, stream=stream)
    tasks = {choice.id: task_of(choice) for choice in config.tasks}
    return evaluate_opened(resolve(config, folder, progress, engine=engine, tasks=tasks), progress), engine


def keys_of(requests):
    return [(request.problem_id, request.index) for request in requests]


def contents(folder):
    """Return completions and verdicts by key; each key may occur once."""
    view = RunReader.read(folder)
    completions = [((task, c.problem_id, c.index), c) for task, c in view.completions()]
    assert len(completions) == len(dict(completions)), "a completion is stored twice"
    verdicts = view.verdicts("countdown")
    assert verdicts.keys() == dict(completions).keys()
    return dict(completions), verdicts


# --- resuming and extending -------------------------------------------------------------------------------------


def test_every_completion_is_generated_once_and_graded(tmp_path):
    done, engine = run(config_of(), tmp_path / "run")
    completions, verdicts = contents(tmp_path / "run")
    assert len(completions) == 12
    assert Counter(keys_of(engine.requests)) == Counter(key[1:] for key in completions)
    assert {verdict.outcome for verdict in verdicts.values()} == {"incorrect"}
    assert len({verdict.reason for verdict in verdicts.values()}) > 1
    assert done.run.record.status == "done"


def test_repeated_run_generates_nothing_and_writes_no_row(tmp_path):
    run(config_of(), tmp_path / "run")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("completions.jsonl", "verdicts.jsonl")}
    _, engine = run(config_of(), tmp_path / "run")
    assert engine.requests == []
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}


def test_a_run_that_was_interrupted_generates_only_the_rest(tmp_path):
    run(config_of(), tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        run(config_of(), tmp_path / "run", RecordingEngine(config_of(), breaks="stops", after=5))
    assert RunReader.read(tmp_path / "run").record.status == "interrupted"
    done = {(c.problem_id, c.index) for _, c in RunReader.read(tmp_path / "run").completions()}
    assert len(done) == 5
    _, engine = run(config_of(), tmp_path / "run")
    assert len(engine.requests) == 7
    assert done.isdisjoint(keys_of(engine.requests))
    assert contents(tmp_path / "run") == contents(tmp_path / "unbroken")


@pytest.mark.parametrize(("key", "larger"), [("n", 5), ("limit", 7)])
def test_larger_n_or_limit_extends_a_run_as_if_set_from_the_start(tmp_path, key, larger):
    run(config_of(), tmp_path / "run")
    _, engine = run(config_of(**{key: larger}), tmp_path / "run")
    assert len(engine.requests) == {"n": 4 * 2, "limit": 3 * 3}[key]
    run(config_of(**{key: larger}), tmp_path / "at once")
    assert contents(tmp_path / "run") == contents(tmp_path / "at once")


def test_smaller_n_removes_no_completions(tmp_path):
    run(config_of(), tmp_path / "run")
    before = contents(tmp_path / "run")
    _, engine = run(config_of(n=1, limit=1), tmp_path / "run")
    assert engine.requests == []
    assert contents(tmp_path / "run") == before


def test_resuming_with_another_seed_is_refused(tmp_path):
    run(config_of(), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(RunFolderError, match="seed: 0 there, 1 now"):
        run(config_of(seed=1), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_a_completion_on_record_under_another_seed_is_refused(tmp_path):
    run(config_of(), tmp_path / "run")
    path = tmp_path / "run" / "completions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["seed"] += 1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunFolderError, match=r"made with another seed.*choose another --out") as caught:
        run(config_of(), tmp_path / "run")
    assert f"{rows[3]['problem_id']}[{rows[3]['index']}]" in str(caught.value)


def test_completions_without_a_verdict_are_graded_on_resuming(tmp_path):
    run(config_of(), tmp_path / "run")
    before = contents(tmp_path / "run")
    path = tmp_path / "run" / "verdicts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    _, engine = run(config_of(), tmp_path / "run")
    assert engine.requests == []
    assert contents(tmp_path / "run") == before


def test_a_verdict_whose_completion_was_lost_does_not_judge_the_new_one(tmp_path):
    # A power cut may keep the later file and lose the earlier; the completion is then generated again, perhaps another.
    run(config_of(), tmp_path / "run")
    before = contents(tmp_path / "run")
    verdicts = tmp_path / "run" / "verdicts.jsonl"
    rows = [json.loads(line) for line in verdicts.read_text().splitlines()]
    stale = [{**row, "outcome": "correct", "reward": 1.0} for row in rows]
    verdicts.write_text("".join(json.dumps(row) + "\n" for row in stale))
    (tmp_path / "run" / "completions.jsonl").write_text("")
    run(config_of(), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_the_order_of_requests_does_not_change_a_completion(tmp_path):
    class Backwards(RecordingEngine):
        def generate(self, requests):
            yield from super().generate(reversed(list(requests)))

    run(config_of(), tmp_path / "forwards")
    run(config_of(), tmp_path / "backwards", Backwards(config_of()))
    assert contents(tmp_path / "forwards") == contents(tmp_path / "backwards")


def test_progress_counts_recorded_completions_once_and_not_in_its_rate(tmp_path):
    run(config_of(), tmp_path / "run")
    stream = io.StringIO()
    run(config_of(), tmp_path / "run", stream=stream)
    assert stream.getvalue() == "eval countdown 12/12  -  solved 0\n"
    run(config_of(n=5), tmp_path / "run", stream=stream)
    assert re.fullmatch(r"eval countdown 20/20  [\d.]+/s  solved 0", stream.getvalue().splitlines()[-1])


def test_error_message_follows_a_finished_progress_line(tmp_path):
    stream = io.StringIO()
    with pytest.raises(EngineError):
        run(config_of(), tmp_path / "run", RecordingEngine(config_of(), breaks="repeats", after=5), stream)
    assert re.fullmatch(r"eval countdown \d+/12 .*\n", stream.getvalue())


# --- engines that break their promise ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("repeats", "was not requested, or returned it twice"),
        ("makes up", "was not requested, or returned it twice"),
        ("leaves out", "stopped with 7 completions missing"),
        ("reseeds", "another seed than requested"),
    ],
)
def test_engine_that_violates_its_contract_stops_the_run_which_can_be_resumed(tmp_path, breaks, message):
    with pytest.raises(EngineError, match=message):
        run(config_of(), tmp_path / "run", RecordingEngine(config_of(), breaks=breaks, after=5))
    record = RunReader.read(tmp_path / "run").record
    assert record.status == "failed"
    assert message in record.error
    run(config_of(), tmp_path / "run")
    run(config_of(), tmp_path / "unbroken")
    assert contents(tmp_path / "run") == contents(tmp_path / "unbroken")
    assert RunReader.read(tmp_path / "run").record.status == "done"


# --- what is refused before anything is written -----------------------------------------------------------------


@pytest.fixture
def few_problems(monkeypatch):
    """Replace the training problems by a few: one pass over all takes seconds."""
    from harness.tasks import countdown

    few = {split: numbers[50:59] for split, numbers in countdown.multisets().items()}
    monkeypatch.setattr(countdown, "multisets", lambda: few)
    countdown._pool.cache_clear()
    yield
    countdown._pool.cache_clear()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"split": "train", "limit": None}, ConfigError, "train split may be endless: set a limit"),
        ({"split": "train", "limit": 5000}, ConfigError, "repeats itself.*lower limit"),
        ({"tasks": [{"id": "countdown", "min_solutions": 10**6}]}, ConfigError, "lower min_solutions"),
        ({"model": {"path": "countdwn-tiny"}}, ModelError, "did you mean 'countdown-tiny'"),
    ],
    ids=["endless", "repeating", "empty", "no model"],
)
@pytest.mark.usefixtures("few_problems")
def test_impossible_evaluation_is_refused_before_anything_is_written(tmp_path, changes, error, match):
    limit = changes.get("limit", 4)
    config = replace(config_of(**{key: value for key, value in changes.items() if key != "limit"}), limit=limit)
    with pytest.raises(error, match=match):
        evaluate(config, tmp_path / "run", Progress(quiet=True))
    assert list(tmp_path.iterdir()) == []


# --- ungraded ---------------------------------------------------------------------------------------------------

VAGUE = '''
"""A task whose grader leaves some completions ungraded."""
from harness.core.protocols import Grader, Task
from harness.core.types import DatasetCard, Message, Problem, Sampling, Verdict

class Undecided(Grader):
    def grade(self, problem, completion):
        if completion.index % 4 == 0:
            return Verdict("ungraded", None, reason="could not decide")
        return Verdict("incorrect", 0.0)

class Vague(Task):
    grader = Undecided()
    sampling = Sampling(max_tokens=5)
    card = DatasetCard("Vague", "nowhere", "none", "", {"test": "2 problems"}, "v1")

    def problems(self, split, seed):
        return iter([Problem(str(i), "vague", (Message("user", "?"),), None) for i in range(2)])

TASK = Vague
'''


@pytest.fixture
def vague(tmp_path, monkeypatch):
    """Install a task as another distribution."""
    site = tmp_path / "site"
    info = site / "vague_tasks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vague-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[harness.tasks]\nvague = vague_tasks\n")
    (site / "vague_tasks.py").write_text(VAGUE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("vague_tasks", None)


@pytest.mark.parametrize(("max_ungraded", "expected"), [(0.0, True), (0.24, True), (0.25, False), (1.0, False)])
@pytest.mark.usefixtures("vague")
def test_the_share_of_ungraded_completions_is_measured_whatever_the_metrics(tmp_path, max_ungraded, expected):
    config = config_of(tasks=["vague"], max_ungraded=max_ungraded, n=4)
    done, _ = run(config, tmp_path / "run")
    assert Counter(v.outcome for v in done.run.verdicts("vague_tasks").values()) == {"ungraded": 2, "incorrect": 6}
    assert (done.n_completions, done.n_ungraded, done.n_failed) == (8, 2, 0)
    assert (done.share_ungraded > config.max_ungraded) is expected


@pytest.mark.usefixtures("vague")
def test_the_share_of_ungraded_completions_is_that_of_the_samples_asked_for(tmp_path):
    run(config_of(tasks=["vague"], n=4), tmp_path / "run")
    config = config_of(tasks=["vague"], max_ungraded=0.9, n=1)  # the first sample of each is the ungraded one
    assert run(config, tmp_path / "run")[0].share_ungraded > config.max_ungraded


@pytest.mark.parametrize("metrics", [[], ["--set", "metrics=[]"]], ids=["all metrics", "no metrics"])
@pytest.mark.usefixtures("tmp_path", "vague")
def test_too_many_ungraded_completions_are_reported_with_exit_code_3(capsys, metrics):
    command = [
        "eval",
        "countdown-tiny",
        "--tasks",
        "vague",
        "--engine",
        "scripted",
        "--n",
        "4",
        "--out",
        "run",
        *metrics,
    ]
    assert main(command) == 3
    err = capsys.readouterr().err
    assert "harness: more than max_ungraded = 0.01 of the completions could not be graded" in err
    assert "run/verdicts.jsonl" in err
    assert main([*command, "--set", "max_ungraded=0.25"]) == 0
    assert main(command) == 3  # nor does resuming make it better


# --- kills and full disks ---------------------------------------------------------------------------------------

LARGE = ["--n", "16", "--limit", "150"]
SCRIPT = f"engine={{id='scripted', pick='seed', replies={json.dumps(REPLIES)}}}"
COMMAND = ["eval", "countdown-tiny", "--tasks", "countdown", *LARGE, "--set", SCRIPT, "--set", "metrics=[]", "--quiet"]
AS_COMMAND = [sys.executable, "-c", "import sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"]


def harness(folder, **options):
    return subprocess.run(
        [*AS_COMMAND, *COMMAND, "--out", str(folder)], capture_output=True, text=True, timeout=60, **options
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = harness(folder)
    assert done.returncode == 0, done.stderr
    return folder


def killed_at(folder, n_bytes):
    """Start or resume the run, and kill it once its completions have reached so many bytes."""
    path = folder / "completions.jsonl"
    command = [*AS_COMMAND, *COMMAND, "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not (path.exists() and path.stat().st_size >= n_bytes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.001)  # lets the other work meanwhile
                break
        process.kill()
        assert process.stderr.read() == b""
    return process.returncode


def test_evaluation_killed_five_times_equals_an_uninterrupted_one(tmp_path, unbroken):
    folder = tmp_path / "run"
    size = (unbroken / "completions.jsonl").stat().st_size
    rng = random.Random(20)
    codes = [killed_at(folder, int(size * (k + rng.random()) / 6)) for k in range(5)]
    assert codes == [-signal.SIGKILL] * 5
    assert RunReader.read(folder).record.status == "running"
    n_before = len(list(RunReader.read(folder).completions()))
    assert 0 < n_before < 16 * 150
    done = harness(folder)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(unbroken)
    assert len(contents(folder)[0]) == 16 * 150


def limit_files(n_bytes):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))

    return limit


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_run_that_met_a_full_disk_is_resumed_by_the_same_command_with_nothing_lost(tmp_path, unbroken, share):
    folder = tmp_path / "run"
    size = (unbroken / "completions.jsonl").stat().st_size
    stopped = harness(folder, preexec_fn=limit_files(int(size * share)))
    assert stopped.returncode == 1
    assert stopped.stderr.startswith(f"harness: could not write {folder}/")
    assert "free some space and run the same command again to resume" in stopped.stderr
    assert len(stopped.stderr.splitlines()) == 1
    assert RunReader.read(folder).record.status == "failed"
    assert 0 < len(list(RunReader.read(folder).completions())) < 16 * 150
    done = harness(folder)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(unbroken)


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
        mounted = subprocess.run(mount, capture_output=True, timeout=60).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this machine does not let us mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=60)


@pytest.mark.parametrize("share", [0.0, 0.005, 0.5])
def test_a_disk_that_is_really_full_stops_a_run_that_goes_on_when_there_is_space(tiny_disk, unbroken, share):
    ballast, folder = tiny_disk / "ballast", tiny_disk / "run"
    size = sum(path.stat().st_size for path in unbroken.iterdir())
    ballast.write_bytes(b"x" * (2 * 2**20 - 8192 - int(size * share)))
    stopped = harness(folder)
    assert stopped.returncode == 1
    assert "No space left on device" in stopped.stderr
    assert "free some space and run the same command again to resume" in stopped.stderr
    assert len(stopped.stderr.splitlines()) == 1
    ballast.unlink()
    done = harness(folder)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(unbroken)


def test_an_interrupt_is_exit_code_130_and_leaves_a_run_to_resume(tmp_path, unbroken):
    folder = tmp_path / "run"
    program = textwrap.dedent("""
        import os, signal, sys
        from harness.cli import main
        from harness.engines.scripted import ScriptedEngine

        def generate(self, requests, really=ScriptedEngine.generate):
            for number, completion in enumerate(really(self, requests)):
                if number == 100:
                    os.kill(os.getpid(), signal.SIGINT)
                yield completion

        ScriptedEngine.generate = generate
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what runs in the background
        sys.exit(main(sys.argv[1:]))
    """)
    command = [sys.executable, "-c", program, *COMMAND, "--out", str(folder)]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert stopped.returncode == 130
    assert stopped.stderr == "harness: interrupted; run the same command again to resume\n"
    assert stopped.stdout == ""
    assert RunReader.read(folder).record.status == "interrupted"
    assert harness(folder).returncode == 0
    assert contents(folder) == contents(unbroken)
