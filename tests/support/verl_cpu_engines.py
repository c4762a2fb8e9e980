"""The engines of a run on a processor, imported where verl imports a model's `external_lib`."""

import contextlib

from verl_cpu import register_engines

with contextlib.suppress(AssertionError):  # registered already
    register_engines()
