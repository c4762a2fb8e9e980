"""Reference page of exit codes and error classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from docs_site.markdown import block, code, page, section, table
from harness.core import errors

EXIT_CODES = {
    0: "Done.",
    1: "The run failed. Its folder can be resumed by the same command.",
    2: "The request is wrong: unknown name or key, missing data, a folder of another config. Nothing was written.",
    3: "Done, but more completions than `max_ungraded` allows could not be graded.",
    130: "Interrupted. The same command resumes.",
}


def errors_page() -> str:
    codes = {error.exit_code for error in _classes(errors.HarnessError)}
    if not codes <= EXIT_CODES.keys():
        raise ValueError(f"exit codes without a description: {codes - EXIT_CODES.keys()}")
    exit_codes = table(["code", "meaning"], ([code(n), meaning] for n, meaning in EXIT_CODES.items()))
    tree = inspect.getdoc(errors) or ""
    return page(
        "Exit codes and errors",
        "An error is one line on stderr that states what happened, where, and what to do next.",
        section("Exit codes", exit_codes),
        section(
            "Error classes",
            f"They are defined in `{errors.__name__}` and are what the Python API raises.",
            block(tree.partition("\n\n")[2]),
            table(["class", "base", "exit code"], map(_row, _classes(errors.HarnessError))),
        ),
    )


def _classes(base: type[errors.HarnessError]) -> Iterator[type[errors.HarnessError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _classes(child)


def _row(error: type[errors.HarnessError]) -> list[str]:
    return [code(error.__name__), code(error.__base__.__name__ if error.__base__ else ""), str(error.exit_code)]
