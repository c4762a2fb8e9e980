"""Text of models and foreign files on a terminal, in markdown and in CSV."""

from __future__ import annotations

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.text import printable
from harness.core.types import Table
from harness.reports.render import escape_markdown, to_csv, to_markdown, to_terminal

NASTY = st.text(
    st.characters() | st.sampled_from("\x1b\x9b\r\n\t\u202e\u2066\u200b|`*_[]()<>&;:/@=+-\\'\"#"), max_size=40
)
ATTACKS = [
    "\x1b]0;title\x07", "\x1b[2J\x1b[1;1H", "\x9b31m", "\r\x1b[K", "\x1b]52;c;cGF5bG9hZA==\x07", "abc\x08\x08\x08xyz",
    "\u202egnp.exe", "\u2066hidden\u2069", "a\u2028b", "\ufeff", "\U000e0041", "\ud800",
    "[click](javascript:alert(1))", "![x](http://evil.example/p.png)", "<img src=http://evil.example/p.png>",
    "<http://evil.example>", "http://evil.example", "www.evil.example", "me@evil.example", "[a][b]", "[a]: http://evil",
    "a | b | c", "`code`", "**bold**", "&#x202e;", "&lt;", "<!-- -->", "a\n\n# heading\n\n- list",
]  # fmt: skip
FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "\uff1d1+1"]


def is_shown(text: str) -> bool:
    """Return whether no character of the text is a control, a mark of direction, or one half of a pair."""
    return all(c == "\n" or c == "\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


@given(NASTY)
def test_printable_text_has_no_control_or_direction_character(text: str) -> None:
    shown = printable(text)
    assert is_shown(shown) or not all(ord(c) in _LISTED for c in text if not is_shown(c))
    assert printable(shown) == shown
    shown.encode("utf-8")


_LISTED = {
    *range(32),
    *range(0x7F, 0xA0),
    0x61C,
    *range(0x200B, 0x2010),
    *range(0x2028, 0x2070),
    *range(0xD800, 0xE000),
}


@pytest.mark.parametrize("attack", ATTACKS[:12])
def test_each_terminal_sequence_is_written_as_an_escape(attack: str) -> None:
    assert is_shown(printable(attack)) and "\\" in printable(attack)


def test_honest_text_stays_as_it_is() -> None:
    text = "∫₀¹ x² dx = ⅓,\tso 答案 is 1/3 — naïve, עברית, 😀\n"
    assert printable(text) == text


@given(st.lists(st.tuples(NASTY, NASTY), min_size=1, max_size=3), NASTY)
def test_markdown_of_any_cells_is_one_table_without_links_images_or_html(
    rows: list[tuple[str, str]], note: str
) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("gfm-like", {"html": True, "linkify": False}).disable("linkify")
    table = Table("a title", ("first", "second"), tuple(rows), (note,))
    page = to_markdown(table)
    assert is_shown(page) or not all(ord(c) in _LISTED for c in page if not is_shown(c))
    tokens = parser.parse(page)
    inline = [child.type for token in tokens for child in token.children or ()]
    assert sum(token.type == "table_open" for token in tokens) == 1
    assert sum(token.type == "td_open" for token in tokens) == 2 * len(rows)
    assert not {"link_open", "image", "html_inline", "code_inline"} & set(inline)
    assert not any(token.type == "html_block" for token in tokens)


@pytest.mark.parametrize("attack", ATTACKS)
def test_markdown_shows_each_attack_as_text(attack: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    html = markdown_it.MarkdownIt("gfm-like", {"html": True, "linkify": False}).disable("linkify").render(
        to_markdown(Table("t", ("a", "b"), ((attack, "x"),), (attack,)))
    )  # fmt: skip
    body = html.partition("<tbody>")[2]
    assert not any(tag in body for tag in ("<a ", "<img", "<code", "<strong", "<h1", "<li", "<!--", "\u202e"))


@pytest.mark.parametrize("text", ["http://evil.example", "https://evil.example", "www.evil.example", "me@evil.example"])
def test_bare_addresses_are_broken_for_parsers_that_link_them(text: str) -> None:
    escaped = escape_markdown(text)
    assert escaped != text and escaped.replace("\\", "") == text


def test_names_of_metrics_and_intervals_are_not_escaped() -> None:
    assert escape_markdown("avg@16 0.5 [0.4, 0.6] snake_case 2 > 1") == "avg@16 0.5 [0.4, 0.6] snake_case 2 > 1"


@given(st.lists(NASTY, min_size=1, max_size=4))
def test_no_cell_of_a_csv_file_is_a_formula(cells: list[str]) -> None:
    written = to_csv(Table("t", tuple("abcd"[: len(cells)]), (tuple(cells),)))
    rows = list(csv.reader(io.StringIO(written)))
    assert len(rows) == 2 or (len(cells) == 1 and not cells[0].strip("\r\n"))
    for cell in rows[-1]:
        assert cell.lstrip()[:1] not in ("=", "@") and (cell.lstrip()[:1] not in ("+", "-") or _is_number(cell))
        assert "\r" not in cell and "\x1b" not in cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_in_a_csv_cell_or_head_is_marked_as_text(formula: str) -> None:
    (head, row) = csv.reader(io.StringIO(to_csv(Table("t", (formula,), ((formula,),)))))
    assert head[0][0] == row[0][0] == "'"


@pytest.mark.parametrize("number", ["-0.5", "+3", "-1e-7", "-.5", "-inf", "-"])
def test_numbers_in_csv_cells_stay_numbers(number: str) -> None:
    assert to_csv(Table("t", ("a",), ((number,),))) == f"a\n{number}\n"
    assert to_csv(Table("t", ("a",), ((-0.5,),))) == "a\n-0.5\n"


def test_a_table_on_a_terminal_shows_escapes() -> None:
    shown = to_terminal(Table("t", ("a",), (("\x1b[2J\u202e",),)))
    assert is_shown(shown) and "\\x1b[2J\\u202e" in shown
