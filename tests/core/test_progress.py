"""Progress: one live line on a terminal, lines elsewhere, nothing when quiet."""

import io
import os
import pty
import time

import pytest

from harness.core import progress as module
from harness.core.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and draws what one would show."""

    def isatty(self):
        return True

    def screen(self):
        lines = [""]
        for character in self.getvalue():
            if character == "\n":
                lines.append("")
                column = 0
            elif character == "\r":
                column = 0
            else:
                column = column if lines[-1] else 0
                lines[-1] = lines[-1][:column] + character + lines[-1][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


class Clock:
    """A clock that advances only when the test moves it."""

    def __init__(self):
        self.now_s = 1000.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(module, "time", fake)
    return fake


def advance(progress, clock, count, figures=None, elapsed_s=1.0):
    clock.now_s += elapsed_s
    progress.advance(count, figures)


def test_terminal_progress_is_one_live_line(clock):
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.begin("eval countdown", 100)
    for _ in range(4):
        advance(progress, clock, 20)
        assert "\n" not in stream.getvalue()
    advance(progress, clock, 20)
    progress.end()
    assert len(stream.screen()) == 2
    assert stream.screen()[0] == "eval countdown 100/100  20.0/s"
    assert stream.screen()[1] == ""


def test_a_shorter_live_line_leaves_nothing_of_a_longer_one(clock):
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.begin("eval", 100)
    advance(progress, clock, 1, {"solved": 0.123})
    advance(progress, clock, 99, {})
    assert stream.screen() == ["eval 100/100  50.0/s"]


def test_a_message_goes_above_the_live_line(clock):
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.begin("eval", 4)
    advance(progress, clock, 1)
    progress.say("note")
    advance(progress, clock, 1)
    assert stream.screen() == ["note", "eval 2/4  1.0/s, 2s left"]


def test_a_live_line_is_never_wider_than_its_terminal(clock):
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.begin("t" * 200, 4)
    advance(progress, clock, 1)
    assert len(stream.screen()[0]) == module.UNKNOWN_COLUMNS - 1
    progress.end()
    assert "4" in stream.screen()[0][150:]  # the last word is whole, it may wrap


def test_progress_uses_the_width_of_a_real_terminal(clock):
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        progress = Progress(stream=stream)
        progress.begin("t" * 200, 4)
        advance(progress, clock, 1)
        assert os.read(ours, 1000) == b"t" * 29 + b"\r"
    os.close(ours)


def test_a_live_line_is_not_drawn_more_often_than_the_eye_can_follow(clock):
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.begin("eval", 1000)
    for _ in range(1000):
        advance(progress, clock, 1, elapsed_s=0.001)
    assert 8 <= stream.getvalue().count("\r") <= 10


def test_progress_without_a_terminal_is_a_few_whole_lines(clock):
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.begin("eval", 60)
    for _ in range(60):
        advance(progress, clock, 1)
    progress.say("note")
    progress.end()
    assert "\r" not in stream.getvalue()
    assert stream.getvalue().splitlines() == [
        "eval 15/60  1.0/s, 45s left",
        "eval 30/60  1.0/s, 30s left",
        "eval 45/60  1.0/s, 15s left",
        "eval 60/60  1.0/s",
        "note",
        "eval 60/60  1.0/s",
    ]


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_quiet_progress_prints_nothing(clock, stream):
    progress = Progress(quiet=True, stream=stream)
    progress.begin("eval", 2)
    advance(progress, clock, 1, {"solved": 0.5}, elapsed_s=100.0)
    progress.say("note")
    progress.end()
    assert stream.getvalue() == ""


def test_earlier_work_counts_in_progress_but_not_in_its_rate(clock):
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.begin("eval", 100, 50)
    advance(progress, clock, 10, elapsed_s=20.0)
    assert stream.getvalue() == "eval 60/100  2.0 s each, 1m20s left\n"


@pytest.mark.usefixtures("clock")
def test_progress_without_work_done_has_no_rate():
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.begin("eval", 100)
    progress.end()
    assert stream.getvalue() == "eval 0/100  -\n"


def test_new_progress_task_drops_the_figures_of_the_last(clock):
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.begin("one", 1)
    advance(progress, clock, 1, {"solved": 0.5})
    progress.begin("two", 1)
    progress.end()
    assert stream.getvalue() == "two 0/1  -\n"


@pytest.mark.parametrize(("seconds", "text"), [(9.6, "10s"), (59.6, "1m00s"), (3599.7, "1h00m"), (7260.0, "2h01m")])
def test_durations_are_rounded_for_people(clock, seconds, text):
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.begin("eval", 2)
    advance(progress, clock, 1, elapsed_s=seconds)
    progress.end()
    assert f"{text} left" in stream.getvalue()


# --- work without a count ---------------------------------------------------------------------------------------


def wait_for(condition):
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_work_without_a_count_is_reported_at_least_every_five_seconds():
    assert module.WORKING_LINE_EVERY_S < 5 and module.WORKING_LIVE_EVERY_S < 5


def test_work_is_reported_in_lines_while_it_lasts(monkeypatch):
    monkeypatch.setattr(module, "WORKING_LINE_EVERY_S", 0.01)
    stream = io.StringIO()
    with Progress(stream=stream).working("loading tiny"):
        wait_for(lambda: stream.getvalue().count("\n") >= 2)
    printed = stream.getvalue()
    assert set(printed.splitlines()) == {"loading tiny ... 0s"}
    time.sleep(0.05)
    assert stream.getvalue() == printed


def test_live_line_of_work_is_cleared_when_it_ends(monkeypatch):
    monkeypatch.setattr(module, "WORKING_LIVE_EVERY_S", 0.01)
    stream = Terminal()
    progress = Progress(stream=stream)
    with progress.working("loading tiny"):
        wait_for(lambda: "loading tiny ... 0s" in stream.getvalue())
        assert stream.screen() == ["loading tiny ... 0s"]
    assert stream.screen() == [""]
    progress.say("done")
    assert stream.screen() == ["done", ""]


def test_quick_work_and_quiet_work_print_nothing(monkeypatch):
    stream = io.StringIO()
    with Progress(stream=stream).working("loading tiny"):
        pass
    monkeypatch.setattr(module, "WORKING_LINE_EVERY_S", 0.01)
    with Progress(stream=stream, quiet=True).working("loading tiny"):
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_error_in_reported_work_passes_and_ends_the_report(monkeypatch):
    monkeypatch.setattr(module, "WORKING_LINE_EVERY_S", 0.01)
    stream = io.StringIO()
    with pytest.raises(ValueError, match="no"), Progress(stream=stream).working("loading tiny"):
        raise ValueError("no")
    printed = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == printed
