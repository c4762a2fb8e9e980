"""Fenced blocks of Markdown pages, and a runner for the commands in them.

A block that follows the line `<!-- run -->` is run by bash in a folder of the page, in order; `<!-- run: exit 2 -->`
expects that exit code. The text of a block after `<!-- output -->` must be in the output of the block that ran before
it, white space aside. A block with `title="mine/loss.py"` is first written to that file.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(?P<language>\w+)(?P<attributes>.*)$")
SOURCE_FOLDERS = {
    *("harness", "tasks", "trainers", "reports", "tests", "tools", "bench"),
    *(path.name for path in (ROOT / "harness").iterdir()),
}
MARK = re.compile(r"<!-- run(?:: exit (?P<code>\d+))? -->")


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    title: str | None
    text: str
    expected_exit: int | None
    """None: the block is not run."""
    is_output: bool = False


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if start is None and (opening := FENCE.match(line)):
            start, found = number, opening
        elif start is not None and line == "```":
            mark = MARK.fullmatch(lines[start - 1].strip())
            title = re.search(r'title="([^"]+)"', found["attributes"])
            yield Block(
                line=start + 2,
                language=found["language"],
                title=title[1] if title else None,
                text="\n".join(lines[start + 1 : number]),
                expected_exit=int(mark["code"] or 0) if mark else None,
                is_output=lines[start - 1] == "<!-- output -->",
            )
            start = None


def is_run(page: Path) -> bool:
    return any(block.expected_exit is not None for block in blocks(page))


def run_page(page: Path, folder: Path) -> None:
    """Write the page's files and run its marked blocks. Raises AssertionError at the first with another exit code."""
    environment = offline_environment(folder)
    workplace = folder / "workplace"
    workplace.mkdir()
    output = ""
    for block in blocks(page):
        if block.title is not None:
            path = workplace / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n", encoding="utf-8")
        if block.expected_exit is not None:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=workplace,
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
            )
            assert done.returncode == block.expected_exit, (
                f"{page}:{block.line} ended with {done.returncode}, not {block.expected_exit}:\n{block.text}\n"
                f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            )
            output = " ".join(f"{done.stdout} {done.stderr}".split())
        if block.is_output:
            assert " ".join(block.text.split()) in output, (
                f"{page}:{block.line} is not in the output:\n{output[-2000:]}"
            )


def offline_environment(folder: Path) -> dict[str, str]:
    """The environment of a reader without a network. `pip install` puts packages into a folder of the page."""
    packages = folder / "packages"
    not_kept = ("HARNESS_DATA_DIR", "PYTHONPATH", "COLUMNS")  # tox and pytest-xdist set COLUMNS
    kept = {name: value for name, value in os.environ.items() if name not in not_kept}
    paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(paths),
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads 0 as: no isolation
        "PIP_TARGET": str(packages),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def harness_commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Every `harness ...` command of the page's shell blocks: line number, arguments."""
    for block in blocks(page):
        if block.language == "bash":
            joined = block.text.replace("\\\n", " ")
            for offset, line in enumerate(joined.splitlines()):
                yield from ((block.line + offset, command) for command in _commands(line))


def file_names(page: Path) -> set[str]:
    """The paths of source files that a page names."""
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"(?<![\w/.<-])((?:[a-z_]+/)+[a-z_0-9-]+\.(?:py|toml|txt))\b", text)
    return {name for name in names if name.partition("/")[0] in SOURCE_FOLDERS}


def _commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    command: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";&|<>()") and word:
            if command and Path(command[0]).name == "harness":
                yield command[1:]
            command = []
        else:
            command.append(word)
