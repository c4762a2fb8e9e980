"""Whether the Hugging Face hub can be reached, found out in seconds.

The hub's client repeats each request five times with growing waits, which takes minutes if there is no network.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

WAIT_S = 5.0


def why_unreachable(wait_s: float = WAIT_S) -> str | None:
    """Return None if the hub answers anything within the time, else the reason in a few words."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address, found = constants.ENDPOINT, ["no answer in time"]
    # In a thread, since looking up a name takes as long as the system wishes.
    thread = threading.Thread(target=_ask, args=(address, wait_s, found), daemon=True)
    thread.start()
    thread.join(wait_s)
    return f"{address}: {found[0]}" if found else None


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[str | None]:
    """Have libraries that load from the hub use its cache alone if it can't be reached, and yield the reason if so."""
    from huggingface_hub import constants

    reason = why_unreachable()
    settings: list[Any] = [constants, sys.modules.get("datasets.config")] if reason is not None else []
    former = [(module, module.HF_HUB_OFFLINE) for module in settings if module is not None]
    try:
        for module, _ in former:
            module.HF_HUB_OFFLINE = True
        yield reason
    finally:
        for module, value in former:
            module.HF_HUB_OFFLINE = value


def _ask(address: str, wait_s: float, found: list[str]) -> None:
    """Empty the list if the address answers, or put the reason into it. Proxies of the environment are used."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=wait_s).close()
    except urllib.error.HTTPError as error:  # an answer
        error.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        found[0] = str(getattr(error, "reason", error))[:100]
        return
    found.clear()
