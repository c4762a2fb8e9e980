"""Runs untrusted programs; judges nothing. Until there is a real one, every program is refused, loudly."""

from __future__ import annotations

from harness.core.errors import UsageError
from harness.core.types import Execution, Limits

LEVEL = "none: programs are refused"


class RefusingSandbox:
    """The sandbox of a machine that has none: it never runs anything."""

    def run(self, program: str, stdin: bytes, limits: Limits) -> Execution:
        raise UsageError("this version has no sandbox, so no program of a model is ever run; use a task without code")
