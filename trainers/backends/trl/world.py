"""The processes of a run: started by `accelerate launch` or `torchrun`, one a device, all with the same command.

Values that are not gradients travel as pickled objects over gloo, also where gradients go over NCCL. Every wait is
bounded by `backend.wait_s`; the launcher ends the other processes when one dies.
"""

from __future__ import annotations

import datetime
import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

import harness
from harness.core import extras
from harness.core.errors import MissingExtraError, RunError, UsageError
from harness.core.extras import installed_version

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "vllm", "deepspeed")
# DistributedDataParallel keeps gloo's threads alive. One that frees a tensor while Python ends aborts the process, so
# they get the time to free those of the last exchange.
_LAST_TENSORS_S = 0.5
_IN_USE = ("EADDRINUSE", "address already in use", "failed to bind")
_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "timed out",
    "timeout",
    "socket closed",
    "broken pipe",
)


@dataclass(frozen=True, slots=True)
class World:
    """This process among all. The first one, of rank 0, writes the run folder."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in the order of their ranks, in each process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def average(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its mean over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size

    def wait(self) -> None:
        """Wait until every process is here."""
        self.gather(None)

    def leave(self) -> None:
        """Close the connections, once every process is done."""
        if self.size > 1:
            self.wait()
            dist.destroy_process_group()
            time.sleep(_LAST_TENSORS_S)


def n_processes() -> int:
    """Return how many processes the launcher has started with this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(*, on_cpu: bool, wait_s: float) -> World:
    """Meet the other processes that the launcher started. Raise where one can't be reached or has other versions."""
    size, rank = n_processes(), int(os.environ.get("RANK", "0"))
    if size == 1:
        extras.require("trl", "--backend trl")
        return World()
    if not on_cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        try:
            dist.init_process_group(
                "gloo" if on_cpu else "cpu:gloo,cuda:nccl", timeout=datetime.timedelta(seconds=wait_s)
            )
        except (RuntimeError, ValueError) as error:  # torch's errors of the network are RuntimeErrors
            raise _not_met(error, rank, size, wait_s) from error
    world = World(rank, size)
    _refuse_differences(world.gather(_facts()))
    return world


def _not_met(error: Exception, rank: int, size: int, wait_s: float) -> UsageError:
    address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    text = " ".join(str(error).split())
    if any(words in text for words in _IN_USE):
        return UsageError(
            f"the port of {address} is in use on {socket.gethostname()}: choose another one with accelerate launch "
            "--main_process_port, or torchrun --master-port"
        )
    return UsageError(
        f"process {rank} of {size} on {socket.gethostname()} did not meet the others at {address} within {wait_s:g} s: "
        f"is the first node reachable there, and does every node run the same command? ({text[:200]})"
    )


def _facts() -> Mapping[str, str]:
    versions = {name: version for name in PACKAGES if (version := installed_version(name)) is not None}
    missing = "" if extras.is_installed("trl") else extras.install_command("trl")
    return {
        "host": socket.gethostname(),
        "missing": missing,
        "harness": harness.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        **versions,
    }


def _refuse_differences(everyone: list[Mapping[str, str]]) -> None:
    """Raise the same error in every process if an extra is missing on a node or versions differ between nodes."""
    for facts in everyone:
        if facts["missing"]:
            raise MissingExtraError(f"--backend trl needs the extra 'trl' on {facts['host']}: {facts['missing']}")
    first = everyone[0]
    for other in everyone[1:]:
        names = [name for name in {**first, **other} if name not in ("host", "missing")]
        if different := [name for name in names if first.get(name) != other.get(name)]:
            pairs = "; ".join(f"{n} {first.get(n, 'missing')} and {other.get(n, 'missing')}" for n in different)
            raise UsageError(f"{first['host']} and {other['host']} have different versions: {pairs}; install the same")


@contextmanager
def explain_lost_process(world: World) -> Iterator[None]:
    """Turn an error of the network into one that names this process: another one died or is stuck."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if world.size == 1 or not any(words in text.lower() for words in _LOST):
            raise
        raise RunError(
            f"process {world.rank} of {world.size} on {socket.gethostname()} lost another one: it died, or took longer "
            f"than backend.wait_s. Its own message is above or below this one. The same command goes on from the "
            f"newest checkpoint ({text[:200]})"
        ) from error
