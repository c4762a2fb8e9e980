"""Run the commands in the documentation, and parse those that need a network, a GPU or another program."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT, file_names, harness_commands, is_run, pages, run_page

pytest.importorskip("mkdocs", reason="the documentation is tested by `tox -e docs`")

from harness.cli import command_parser, load_command

RUN = [page for page in pages() if is_run(page)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_harness_command_parses(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, arguments in harness_commands(page):
        command, *options = arguments
        try:
            command_parser(command, load_command(command)).parse_args(options)
        except (SystemExit, ModuleNotFoundError) as error:
            pytest.fail(f"{name_of(page)}:{line}: harness {' '.join(arguments)}\n{error}\n{capsys.readouterr().err}")


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    missing = {
        name for name in file_names(page) if not any((base / name).exists() for base in (ROOT, ROOT / "harness"))
    }
    assert missing == set()


def test_a_broken_command_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```bash\nharness eval no-such-model --tasks countdown\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"page\.md:3 ended with 2, not 0"):
        run_page(page, tmp_path)


def test_an_output_that_differs_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    run = "<!-- run -->\n```bash\necho one two\n```\n"
    page.write_text(run + "<!-- output -->\n```text\none\ntwo\n```\n" + "<!-- output -->\n```text\nthree\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:12 is not in the output"):
        run_page(page, tmp_path)


def test_a_command_after_a_pipe_or_a_comment_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "```bash\npip install x && .venv/bin/harness show a > b  # harness no\nharness eval m \\\n    --n 2\n```\n"
    page.write_text(text, encoding="utf-8")
    assert list(harness_commands(page)) == [(2, ["show", "a"]), (3, ["eval", "m", "--n", "2"])]
