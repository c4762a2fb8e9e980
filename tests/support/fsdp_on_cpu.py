"""`harness` with FSDP2 on processors: accelerate offers it for GPUs only, and gloo can do all that it needs.

torchrun --nproc-per-node 2 tests/support/fsdp_on_cpu.py train countdown-flowrl --backend trl
"""

import os
import sys

SETTINGS = {
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def allow() -> None:
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    os.environ.update(SETTINGS)
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)


def run(arguments: list[str]) -> int:
    from harness.cli import main

    allow()
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
