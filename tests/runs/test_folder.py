"""Run folders: created, resumed, refused, locked by one process, read while they grow."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from altered_runs import replace_text

from harness.core import config as configs
from harness.core.config import PluginChoice, incidental, plugin
from harness.core.errors import DiskError, RunError, RunFolderError
from harness.core.types import Completion, Estimate, Tokens, Verdict
from harness.runs.folder import RunIdentity, RunReader, RunWriter, finishing

DATA = {"countdown": {"fingerprint": "f00d", "source": "generated"}, "model": {"name": "m", "fingerprint": "beef"}}


@dataclass(frozen=True)
class Settings:
    rate: float = 0.5
    name: str = "a"
    n: int = incidental(default=1)


@dataclass(frozen=True)
class NewerSettings(Settings):
    added: int = 3


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "one"


def identity_of(config, kind="eval", data=DATA):
    return RunIdentity.of(kind, config, seeds={"run": 0}, data=data)


def open_writer(folder, config=Settings(), kind="eval", data=DATA):
    return RunWriter.open(folder, identity_of(config, kind, data))


def make(folder, config=Settings(), **options):
    open_writer(folder, config, **options).finish("done")


def completion(problem_id="p", index=0, text="4*9=36"):
    return Completion(problem_id, index, 12345, text, "stop", Tokens(3, 2, [1, 2, 3], [4, 5], [-0.5, -0.25]))


def tree(root):
    """Return every path below with its bytes and its modification time."""
    return {
        str(path.relative_to(root)): (path.read_bytes() if path.is_file() else None, path.lstat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
    }


def assert_refused_untouched(root, match, action, error=RunFolderError):
    before = tree(root)
    with pytest.raises(error, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert tree(root) == before
    return str(caught.value)


# --- making and resuming ----------------------------------------------------------------------------------------


def test_a_new_run_is_made_with_its_record_and_its_resolved_config(folder):
    make(folder)
    record = RunReader.read(folder).record
    assert (record.id, record.kind, record.status, record.error) == ("one", "eval", "done", None)
    assert record.data == DATA
    assert record.seeds == {"run": 0}
    assert record.environment["python"]
    assert RunReader.read(folder).config() == {"rate": 0.5, "name": "a", "n": 1}


def test_a_run_is_running_until_it_has_ended(folder):
    writer = open_writer(folder)
    assert RunReader.read(folder).record.status == "running"
    writer.finish("failed", "why it failed")
    assert RunReader.read(folder).record.status == "failed"
    assert RunReader.read(folder).record.error == "why it failed"
    assert "failed: why it failed" in (folder / "log.txt").read_text()


def test_a_resumed_run_keeps_its_record_and_forgets_the_error(folder):
    writer = open_writer(folder)
    writer.finish("failed", "why it failed")
    first = RunReader.read(folder).record
    writer = open_writer(folder)
    assert RunReader.read(folder).record == dataclasses.replace(first, status="running", error=None)
    writer.finish("done")
    assert RunReader.read(folder).record == dataclasses.replace(first, status="done", error=None)


def test_a_run_made_in_the_working_folder_has_its_name(folder, monkeypatch):
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    make(Path("."))
    assert RunReader.read(folder).record.id == "one"


def test_incidental_config_keys_may_change_and_the_newest_are_stored(folder):
    make(folder, Settings(n=1))
    make(folder, Settings(n=5))
    assert RunReader.read(folder).config()["n"] == 5


def test_an_error_with_any_text_ends_a_run(folder):
    with pytest.raises(RuntimeError), finishing(open_writer(folder)):
        raise RuntimeError("bytes \udcff of a file name")
    assert "\udcff" in RunReader.read(folder).record.error
    assert "\\udcff" in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (RunError("it stopped"), "failed"), (SystemExit(1), "failed")],
)
def test_run_folder_ends_with_a_status_and_is_released_after_any_error(folder, error, status):
    with pytest.raises(type(error)) as caught, finishing(open_writer(folder)):
        raise error
    assert caught.value is error
    assert RunReader.read(folder).record.status == status
    make(folder)  # it is not held any more


def test_run_without_an_error_is_done_and_released(folder):
    with finishing(open_writer(folder)):
        pass
    assert RunReader.read(folder).record.status == "done"
    make(folder)


def test_first_error_is_raised_if_the_disk_fails_too(folder):
    first = DiskError("the disk is full")
    writer = open_writer(folder)
    (folder / "run.json.tmp").mkdir()  # so that run.json can't be written
    with pytest.raises(DiskError) as caught, finishing(writer):
        raise first
    assert caught.value is first


# --- refusals ---------------------------------------------------------------------------------------------------


def test_resuming_with_another_config_is_refused_with_every_key_and_both_values(folder, tmp_path):
    make(folder)
    message = assert_refused_untouched(
        tmp_path, "another config", lambda: open_writer(folder, Settings(rate=0.25, name="b"))
    )
    assert "rate: 0.5 there, 0.25 now" in message
    assert "name: 'a' there, 'b' now" in message
    assert str(folder) in message
    assert "--out" in message


def test_run_of_another_kind_is_refused(folder, tmp_path):
    make(folder)
    assert_refused_untouched(tmp_path, "kind 'eval', not 'train'", lambda: open_writer(folder, kind="train"))


def test_a_run_of_another_version_with_other_settings_is_refused_by_version(folder, tmp_path):
    make(folder)
    version = RunReader.read(folder).record.code
    message = assert_refused_untouched(tmp_path, "another version", lambda: open_writer(folder, NewerSettings()))
    assert version in message


def test_a_run_whose_config_this_version_can_not_read_is_refused_by_folder(folder, tmp_path):
    make(folder, NewerSettings())
    message = assert_refused_untouched(
        tmp_path, "does not have the key 'added'.*choose another --out", lambda: open_writer(folder)
    )
    assert str(folder) in message
    (folder / "config.toml").unlink()
    message = assert_refused_untouched(tmp_path, "config.toml", lambda: open_writer(folder))
    assert str(folder) in message


@dataclass(frozen=True)
class Inner:
    kept: int = 1


@dataclass(frozen=True)
class OldInner(Inner):
    cache_bytes: int = incidental(default=7)


@dataclass(frozen=True, kw_only=True)
class Nested:
    loop: Inner = Inner()
    engine: PluginChoice = plugin("engines", default="hf")


@dataclass(frozen=True, kw_only=True)
class OldNested(Nested):
    loop: Inner = OldInner()
    speed: int = incidental(default=2)


def test_a_run_with_removed_keys_is_refused_with_every_one_of_them(folder, tmp_path):
    config = Nested(engine=configs.parse_plugin("engines", "hf"))
    make(folder, OldNested(engine=config.engine))
    replace_text(folder, "config.toml", (folder / "config.toml").read_text().replace("batch_rows", "rows_of_old"))
    # The digest does not cover keys that may change on resuming: it is the same.
    assert RunReader.read(folder).record.config_digest == configs.digest(configs.to_tree(config, identity_only=True))
    for action in (lambda: open_writer(folder, config), lambda: RunWriter.check(folder, identity_of(config))):
        message = assert_refused_untouched(tmp_path, "choose another --out", action)
        assert "does not have the keys 'speed', 'loop.cache_bytes', 'engine.rows_of_old' of its config" in message


@pytest.mark.parametrize(
    ("part", "key"),
    [("model", "model.fingerprint: 'beef' there"), ("countdown", "countdown.fingerprint: 'f00d' there")],
)
def test_resuming_with_another_model_or_data_is_refused_with_both_fingerprints(folder, tmp_path, part, key):
    make(folder)
    data = {**DATA, part: {**DATA[part], "fingerprint": "cafe"}}
    assert_refused_untouched(tmp_path, f"{key}, 'cafe' now", lambda: open_writer(folder, data=data))


def test_a_sampling_field_that_an_older_record_lacks_has_its_default(folder, tmp_path):
    sampling = {"max_tokens": 5, "temperature": 1.0, "stop": []}
    make(folder, data={"countdown": {"sampling": sampling}})
    make(folder, data={"countdown": {"sampling": {**sampling, "top_k": 0, "top_p": 1.0}}})
    assert_refused_untouched(
        tmp_path,
        "countdown.sampling.top_k: 0 there, 5 now",
        lambda: open_writer(folder, data={"countdown": {"sampling": {**sampling, "top_k": 5}}}),
    )


# --- adding to a run --------------------------------------------------------------------------------------------


def test_reopening_a_run_keeps_its_config_and_status_and_adds_verdicts(folder):
    open_writer(folder).finish("failed", "why it failed")
    config, before = (folder / "config.toml").read_bytes(), RunReader.read(folder).record
    writer = RunWriter.reopen(folder, {"countdown": {**DATA["countdown"], "grader": "exact"}})
    writer.append_verdict("countdown", "p", 0, "exact", Verdict("correct", 1.0))
    with pytest.raises(RunFolderError, match="being written"):
        RunWriter.reopen(folder, {})
    writer.close()
    reader = RunReader.read(folder)
    data = {**DATA, "countdown": {**DATA["countdown"], "grader": "exact"}}
    assert reader.record == dataclasses.replace(before, data=data)
    assert (folder / "config.toml").read_bytes() == config
    assert len(reader.verdicts("exact")) == 1
    make(folder)  # it is released


def test_reopening_a_run_with_other_data_is_refused(folder, tmp_path):
    make(folder)
    data = {"countdown": {"fingerprint": "cafe"}}
    assert_refused_untouched(tmp_path, "'f00d' there, 'cafe' now", lambda: RunWriter.reopen(folder, data))


# --- other folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "all of it"},
        {"config.toml": "rate = 0.5  # my own, with a comment\n"},
        {"config.toml": "rate = 0.5\n", "config.toml.tmp": ""},
        {".git/config": ""},
        {"completions.jsonl": "{}\n"},
        {"run.lock": "", "notes.txt": "mine"},
        {"run.json": "{}"},
        {"run.json": "[]"},
        {"run.json": "not json"},
        {"run.json": ""},
        {"run.json": '{"format": 1, "id": "one"}'},
    ],
    ids=lambda files: " ".join(files),
)
def test_a_folder_that_is_not_a_run_is_never_touched(folder, tmp_path, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    message = assert_refused_untouched(tmp_path, "choose another", lambda: open_writer(folder))
    assert str(folder) in message


def test_a_folder_in_place_of_the_record_is_refused(folder, tmp_path):
    (folder / "run.json").mkdir(parents=True)
    assert_refused_untouched(tmp_path, "run.json can't be read: Is a directory", lambda: open_writer(folder))


def test_a_run_of_another_format_is_refused_by_its_format(folder, tmp_path):
    make(folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "format": 2, "novelty": True}))
    assert_refused_untouched(tmp_path, "run format 2, this version reads 1", lambda: open_writer(folder))


@pytest.mark.parametrize("place", ["a file", "a file/below", "dangling"])
def test_path_that_cannot_be_a_folder_is_refused(tmp_path, place):
    (tmp_path / "a file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    message = assert_refused_untouched(tmp_path, "choose another --out", lambda: open_writer(tmp_path / place))
    assert str(tmp_path / place) in message


def test_a_run_that_began_in_between_is_checked_again_under_the_lock(folder, monkeypatch):
    # Another process makes the run and leaves it after the first look at the folder and before the lock.
    from harness.runs import lock as module

    really_lock = module._lock

    def lock_late(place):
        monkeypatch.setattr(module, "_lock", really_lock)
        make(folder, Settings(name="theirs"))
        return really_lock(place)

    monkeypatch.setattr(module, "_lock", lock_late)
    with pytest.raises(RunFolderError, match="name: 'theirs' there, 'mine' now"):
        open_writer(folder, Settings(name="mine"))
    assert RunReader.read(folder).config()["name"] == "theirs"
    make(folder, Settings(name="theirs"))  # the refusal has let go of the lock


# --- kills ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "left", [[], ["run.lock"], ["run.lock", "config.toml.tmp"], ["run.lock", "config.toml", "run.json.tmp"]]
)
def test_a_run_killed_before_its_record_was_written_can_be_begun_again(folder, left):
    folder.mkdir(parents=True)
    for name in left:
        (folder / name).write_text("half")
    make(folder)
    assert RunReader.read(folder).record.status == "done"
    assert not list(folder.glob("*.tmp"))


KILLED_AT = """
    import os, signal, sys
    from pathlib import Path

    ends_at = int(sys.argv[2])
    calls = 0

    def audit(event, arguments):
        global calls
        if event in ("os.mkdir", "os.rename") or (event == "open" and str(arguments[0]).startswith(sys.argv[1])):
            calls += 1
            if calls == ends_at:
                os.kill(os.getpid(), signal.SIGKILL)

    from dataclasses import dataclass
    from harness.runs.folder import RunIdentity, RunWriter

    @dataclass(frozen=True)
    class Settings:
        rate: float = 0.5

    sys.addaudithook(audit)
    RunWriter.open(Path(sys.argv[1]), RunIdentity.of("eval", Settings(), seeds={}, data={})).finish("done")
"""


def test_a_run_killed_at_any_step_of_its_making_can_be_begun_again(tmp_path):
    program = [sys.executable, "-c", textwrap.dedent(KILLED_AT)]
    n_kills = 0
    for ends_at in range(1, 40):
        folder = tmp_path / str(ends_at)
        done = subprocess.run([*program, str(folder), str(ends_at)], capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        n_kills += 1
        open_writer(folder, Rate(), data={}).finish("done")
        assert RunReader.read(folder).record.status == "done"
    assert done.returncode == 0
    assert n_kills >= 8


@dataclass(frozen=True)
class Rate:
    rate: float = 0.5


# --- one process at a time --------------------------------------------------------------------------------------

HOLDER = """
    import sys
    from pathlib import Path
    from dataclasses import dataclass
    from harness.runs.folder import RunIdentity, RunWriter

    @dataclass(frozen=True)
    class Settings:
        rate: float = 0.5

    writer = RunWriter.open(Path(sys.argv[1]), RunIdentity.of("eval", Settings(), seeds={}, data={}))
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_held_by_another_process_is_refused_until_that_ends(folder):
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert_refused_untouched(
            folder,
            "being written by another harness process; wait for it, or end it",
            lambda: open_writer(folder, Rate(), data={}),
        )
        assert RunReader.read(folder).record.status == "running"  # reading needs no lock
        holder.kill()
    open_writer(folder, Rate(), data={}).finish("done")


def test_a_folder_held_by_this_process_is_refused_too(folder):
    writer = open_writer(folder)
    with pytest.raises(RunFolderError, match="being written"):
        open_writer(folder)
    writer.finish("done")
    make(folder)


def test_failed_start_releases_the_folder(folder):
    folder.mkdir(parents=True)
    (folder / "run.lock").touch()
    (folder / "config.toml.tmp").mkdir()  # so that config.toml can't be written
    with pytest.raises(DiskError, match=r"config\.toml"):
        open_writer(folder)
    (folder / "config.toml.tmp").rmdir()
    make(folder)


# --- completions and verdicts -----------------------------------------------------------------------------------


def test_completions_and_verdicts_are_read_back_as_they_were(folder):
    writer = open_writer(folder)
    verdict = Verdict("correct", 1.0, "4*9=36", "", {"solution": "4*9"})
    writer.append_completion("countdown", completion(), with_ids=True)
    writer.append_verdict("countdown", "p", 0, "exact", verdict)
    writer.finish("done")
    reader = RunReader.read(folder)
    assert list(reader.completions()) == [("countdown", completion())]
    assert reader.verdicts("exact") == {("countdown", "p", 0): verdict}


def test_token_ids_are_left_out_unless_asked_for_and_counts_never(folder):
    writer = open_writer(folder)
    writer.append_completion("countdown", completion())
    writer.finish("done")
    [(_, kept)] = RunReader.read(folder).completions()
    assert kept == dataclasses.replace(completion(), tokens=Tokens(3, 2))


def test_the_last_verdict_of_a_grader_wins_and_other_graders_are_kept_apart(folder):
    writer = open_writer(folder)
    old, new, other = Verdict("incorrect", 0.0), Verdict("correct", 1.0), Verdict("ungraded", None)
    writer.append_verdict("countdown", "p", 0, "exact", old)
    writer.append_verdict("countdown", "p", 0, "judge", other)
    writer.append_verdict("countdown", "p", 0, "exact", new)
    writer.append_verdict("countdown", "p", 1, "exact", old)
    writer.append_verdict("elsewhere", "p", 0, "exact", old)
    writer.finish("done")
    reader = RunReader.read(folder)
    assert reader.verdicts("exact") == {
        ("countdown", "p", 0): new,
        ("countdown", "p", 1): old,
        ("elsewhere", "p", 0): old,
    }
    assert reader.verdicts("judge") == {("countdown", "p", 0): other}
    assert reader.verdicts("math") == {}


def test_a_view_of_a_growing_run_sees_every_whole_row_and_no_torn_one(folder):
    writer = open_writer(folder)
    reader = RunReader.read(folder)
    assert list(reader.completions()) == []
    assert reader.verdicts("exact") == {}
    assert reader.steps() == []
    assert reader.estimates() == {}
    for index in range(3):
        writer.append_completion("countdown", completion(index=index))
        assert [c.index for _, c in reader.completions()] == list(range(index + 1))
    with (folder / "completions.jsonl").open("ab") as file:
        file.write(b'{"task": "countdown", "probl')
    assert [c.index for _, c in reader.completions()] == [0, 1, 2]
    writer.finish("done")


def test_torn_row_is_removed_by_the_next_append(folder):
    writer = open_writer(folder)
    writer.append_completion("countdown", completion(index=0))
    writer.finish("interrupted")
    with (folder / "completions.jsonl").open("ab") as file:
        file.write(b'{"task": "countdown", "probl')
    writer = open_writer(folder)
    writer.append_completion("countdown", completion(index=1))
    writer.finish("done")
    assert [c.index for _, c in RunReader.read(folder).completions()] == [0, 1]


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("completions.jsonl", '{"task": "countdown"}'),
        ("completions.jsonl", '{"problem_id": "p"}'),
        ("completions.jsonl", '{"task": "t", "tokens": null}'),
        ("verdicts.jsonl", '{"task": "countdown"}'),
        ("verdicts.jsonl", '{"task": "t", "problem_id": "p", "index": 0, "grader": "exact", "outcome": "correct"}'),
        (
            "verdicts.jsonl",
            '{"task": "t", "problem_id": "p", "index": 0, "grader": "exact", "outcome": "ungraded", "reward": 1.0}',
        ),
    ],
)
def test_an_altered_row_is_refused_with_path_and_number(folder, file, row):
    writer = open_writer(folder)
    writer.append_completion("countdown", completion())
    writer.append_verdict("countdown", "p", 0, "exact", Verdict("correct", 1.0))
    writer.finish("done")
    with (folder / file).open("a") as journal:
        journal.write(row + "\n")
    reader = RunReader.read(folder)
    with pytest.raises(RunFolderError, match="altered") as caught:
        print(list(reader.completions()), reader.verdicts("exact"))
    assert f"{folder / file}, line 2 " in str(caught.value)


def test_metrics_are_read_back_as_they_were(folder):
    estimate = Estimate("avg@2", 0.5, 0.25, 0.75, 8, 16, 1, "bootstrap")
    writer = open_writer(folder)
    writer.write_metrics({"countdown": [estimate]})
    writer.finish("done")
    assert RunReader.read(folder).estimates() == {"countdown": [estimate]}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"countdown": 3}', '{"countdown": [{"name": "avg"}]}'])
def test_unreadable_metrics_error_names_the_command_that_restores_them(folder, text):
    make(folder)
    (folder / "metrics.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"metrics\.json can't be read: .*run the evaluation again"):
        RunReader.read(folder).estimates()


def test_steps_are_rows_of_their_journal(folder):
    writer = open_writer(folder, kind="train")
    writer.append_step({"step": 1, "loss": 0.5})
    writer.finish("done")
    assert RunReader.read(folder).steps() == [{"step": 1, "loss": 0.5}]


def test_rewinding_drops_the_records_of_later_steps(folder):
    writer = open_writer(folder, kind="train")
    assert writer.rewind_steps(3) == []
    for step in (1, 2, 3):
        writer.append_step({"step": step})
        writer.append_warning({"step": step, "name": "w", "text": ""})
    assert writer.rewind_steps(2) == [{"step": 1}, {"step": 2}]
    writer.replace_warnings({"step": step, "name": "w", "text": ""} for step in (1, 2))
    writer.append_step({"step": 3, "try": 2})
    writer.finish("done")
    reader = RunReader.read(folder)
    assert reader.steps() == [{"step": 1}, {"step": 2}, {"step": 3, "try": 2}]
    assert [row["step"] for row in reader.warnings()] == [1, 2]


@pytest.mark.parametrize("place", ["absent", "empty", "full", "full/file"])
def test_reading_a_folder_that_is_not_a_run_does_not_mention_out(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="not a run folder") as caught:
        RunReader.read(tmp_path / place)
    assert str(tmp_path / place) in str(caught.value)
    assert "--out" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="Permission denied; choose another --out"):
        open_writer(tmp_path / "run")
    tmp_path.chmod(0o700)
