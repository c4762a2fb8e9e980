"""Stands for the tool that made imported completions: it generates nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, NoReturn

from harness.core.errors import ModelError
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Failure, Request


class ImportedEngine(Engine):
    """The engine of runs that `harness import` makes. A completion that the files lack stays missing."""

    is_remote: ClassVar[bool] = True

    def open(self, source: ModelSource) -> NoReturn:  # noqa: ARG002
        raise ModelError(
            "the engine 'imported' generates nothing; it stands for completions that `harness import` reads from files"
        )

    def close(self) -> None:
        pass

    def generate(self, requests: Iterable[Request]) -> Iterator[Failure]:
        for request in requests:
            yield Failure(request.problem_id, request.index, request.seed, "the imported files have none")


ENGINE = ImportedEngine
