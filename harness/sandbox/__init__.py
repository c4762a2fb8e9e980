"""Runs untrusted programs and judges nothing. docs/explanations/sandbox.md says what is contained and what is not."""

from __future__ import annotations

from harness.sandbox.isolation import MEANING, Level
from harness.sandbox.pool import Pool, open_pool, strongest

__all__ = ["MEANING", "Level", "Pool", "open_pool", "strongest"]
