"""An engine without a model, for tests that define `generate` alone."""

from __future__ import annotations

from harness.core.protocols import Engine, ModelSource


class StubEngine(Engine):
    def open(self, source: ModelSource) -> None:
        pass

    def close(self) -> None:
        pass
