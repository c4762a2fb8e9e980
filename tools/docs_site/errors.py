"""Reference page of exit codes and error classes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from docs_site.markdown import code, page, section, table
from harness.core import errors

EXIT_CODES = {
    0: "Done.",
    1: "The run failed. Its folder can be resumed by the same command.",
    2: "The request is wrong: unknown name or key, missing data, a folder of another config. Nothing was written.",
    3: "Done, but more completions than `max_ungraded` allows could not be graded.",
    130: "Interrupted. The same command resumes.",
}


def errors_page() -> str:
    classes = list(_classes(errors.HarnessError))
    codes = {error.exit_code for error in classes}
    if not codes <= EXIT_CODES.keys():
        raise ValueError(f"exit codes without a description: {codes - EXIT_CODES.keys()}")
    exit_codes = table(["code", "meaning"], ([code(n), meaning] for n, meaning in EXIT_CODES.items()))
    meanings = _meanings()
    rows = ([code(e.__name__), code(e.__base__.__name__), str(e.exit_code), meanings[e.__name__]] for e in classes)
    return page(
        "Exit codes and errors",
        "An error is one line on stderr that states what happened, where, and what to do next.",
        section("Exit codes", exit_codes),
        section(
            "Error classes",
            f"Functions raise these classes of `{errors.__name__}`.",
            table(["class", "base", "exit code", "meaning"], rows),
        ),
    )


def _classes(base: type[errors.HarnessError]) -> Iterator[type[errors.HarnessError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _classes(child)


def _meanings() -> dict[str, str]:
    """Return the meaning of each class from the tree in the module's docstring."""
    found = dict(re.findall(r"(\w+Error)  +(?:exit \d: )?(.+)", inspect.getdoc(errors) or ""))
    return {errors.HarnessError.__name__: "the base of every error that a user can cause", **found}
