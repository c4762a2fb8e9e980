"""Modules have at most 600 lines and functions at most 60."""

from __future__ import annotations

import ast

FOLDERS = ("harness", "tasks", "trainers", "reports")  # globbing does not follow the links
MOST_LINES_OF_A_MODULE = 600
MOST_LINES_OF_A_FUNCTION = 60


def _files(checkout):
    return [path for folder in FOLDERS for path in sorted((checkout / folder).rglob("*.py"))]


def test_every_source_folder_is_checked_once(checkout):
    files = _files(checkout)
    assert {path.relative_to(checkout).parts[0] for path in files} == set(FOLDERS)
    assert len({path.resolve() for path in files}) == len(files)


def test_no_module_is_long(checkout):
    lengths = {str(path.relative_to(checkout)): len(path.read_text().splitlines()) for path in _files(checkout)}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES_OF_A_MODULE} == {}


def test_no_function_is_long(checkout):
    lengths = {
        f"{path.relative_to(checkout)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in _files(checkout)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES_OF_A_FUNCTION} == {}
