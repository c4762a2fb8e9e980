"""The words that this project's prose avoids: see "Style" in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import io
import re
import tokenize

import pytest

FOLDERS = ("harness", "tasks", "trainers", "reports", "tools", "bench")  # globbing does not follow the links
PAGES = ("README.md", "CONTRIBUTING.md", "docs")
BANNED = re.compile(
    r"\b(told|tells|said|anew|beside|whoever|whosoever)\b"
    r"|\bis too that\b"
    r"|(?<!\bthere )\b(is|are) no (?!longer\b|more\b|less\b)[a-z]+",
    re.IGNORECASE,
)


def test_docstrings_comments_and_messages_avoid_the_banned_words(checkout):
    assert {where: text for where, text in _prose(checkout) if BANNED.search(text)} == {}


def test_names_avoid_the_banned_words(checkout):
    assert {where: name for where, name in _names(checkout) if BANNED.fullmatch(name)} == {}


def test_docstrings_of_tests_avoid_the_banned_words(checkout):
    docstrings = {f"{path}:{node.lineno}": text for path, node, text in _docstrings(checkout, ("tests",))}
    assert {where: text for where, text in docstrings.items() if BANNED.search(text)} == {}


def test_names_of_tests_avoid_the_banned_words(checkout):
    names = {
        f"{path.relative_to(checkout)}:{node.lineno}": node.name.replace("_", " ")
        for path in _files(checkout, ("tests",))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert len(names) > 1000
    assert {where: name for where, name in names.items() if BANNED.search(name)} == {}


def test_no_docstring_begins_with_what(checkout):
    folders = (*FOLDERS, "tests")
    docstrings = {f"{path}:{node.lineno}": text for path, node, text in _docstrings(checkout, folders)}
    assert {where: text for where, text in docstrings.items() if text.startswith("What")} == {}


def test_pages_avoid_the_banned_words(checkout):
    lines = {
        f"{path.relative_to(checkout)}:{number}": line
        for page in PAGES
        for path in ([checkout / page] if page.endswith(".md") else sorted((checkout / page).rglob("*.md")))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    }
    assert {where: line for where, line in lines.items() if BANNED.search(line)} == {}


@pytest.mark.parametrize("text", ["as it was told", "seeds are drawn anew", "Whoever asks", "which is no number"])
def test_banned_words_are_found(text):
    assert BANNED.search(text)


@pytest.mark.parametrize("text", ["it is no longer there", "there is no file", "bold text", "besides"])
def test_other_words_are_allowed(text):
    assert not BANNED.search(text)


def _files(checkout, folders=FOLDERS):
    return [path for folder in folders for path in sorted((checkout / folder).rglob("*.py"))]


def _docstrings(checkout, folders=FOLDERS):
    """Yield (path, node, text) of every docstring, those of attributes included."""
    for path in _files(checkout, folders):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for statement in node.body if isinstance(getattr(node, "body", None), list) else []:
                value = statement.value if isinstance(statement, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield path.relative_to(checkout), statement, value.value


def _prose(checkout):
    """Yield (place, text) of every comment and every string with a space in it, docstrings included."""
    for path in _files(checkout):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield f"{path.relative_to(checkout)}:{node.lineno}", node.value
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield f"{path.relative_to(checkout)}:{token.start[0]}", token.string


def _names(checkout):
    for path in _files(checkout):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.NAME:
                yield f"{path.relative_to(checkout)}:{token.start[0]}", token.string
