"""What a run says when its memory is not enough, in the place of an allocator's words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from harness.core.errors import RunError


@contextlib.contextmanager
def told_what_to_lower() -> Iterator[None]:
    """What is named may change on resuming, so that the same folder goes on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            "out of memory. Lower loop.tokens_per_microbatch (training) or engine.batch_rows (sampling), or set "
            "loop.gradient_checkpointing = true, and run the same command again: it goes on from the newest "
            "checkpoint. --dry-run tells what a step takes"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """A device says so by its type, torch on a processor by its words alone."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
