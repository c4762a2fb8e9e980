"""Connect to Ray: to a cluster at an address, or to one on this machine that lives as long as the connection."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from typing import Any

from harness.core import extras
from harness.core.errors import ClusterError

ANSWERS_WITHIN_S = 60.0
_TRIAL = """
import logging, sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)
except BaseException as error:
    sys.stdout.write(str(error))
    sys.exit(1)
"""


def connect(address: str | None, setting: str, feature: str) -> tuple[Any, bool]:
    """Return Ray, connected, and whether this call has connected it. A connection that exists is used.

    Without an address Ray starts on this machine. Raise ClusterError within about a minute if no cluster answers at the
    address, or one of another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray: Any = extras.require("ray", feature)
    if ray.is_initialized():
        return ray, False
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {"address": "local", "include_dashboard": False}
    else:
        _refuse_other_form(address, setting)
        _try(address, setting)
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _no_cluster(address, setting, one_line(error)) from None
    return ray, True


def _refuse_other_form(address: str, setting: str) -> None:
    if "://" in address:
        raise ClusterError(f"{setting} is {address!r}; it is the address of the cluster's head, such as 10.0.0.1:6379")


def _try(address: str, setting: str) -> None:
    """Connect in another process, which can be ended: Ray tries for minutes where nothing or something else listens."""
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        command = [sys.executable, "-c", _TRIAL, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWERS_WITHIN_S)
    except OSError as error:
        raise _no_cluster(address, setting, str(error)) from None
    except subprocess.TimeoutExpired:
        raise _no_cluster(address, setting, f"no answer within {ANSWERS_WITHIN_S:g} s") from None
    if done.returncode != 0:
        raise _no_cluster(address, setting, " ".join((done.stdout or done.stderr).split())[-400:])


def _no_cluster(address: str | None, setting: str, why: str) -> ClusterError:
    if "version mismatch" in why.lower():
        return ClusterError(f"the Ray at {setting} {address!r} has another version: {why}")
    return ClusterError(f"no Ray at {setting} {address!r}: {why}")


def one_line(error: Exception) -> str:
    """Return an error on a line, without the middle of a long one: Ray's end with the cause."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-150:]}"
