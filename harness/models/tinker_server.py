"""The connection to a Tinker server: every wait has a limit, and every error states what to do next.

The client library repeats failed requests in silence and may wait for ever, so nothing here waits for one of its
results without a limit. While one is awaited, the server's health page is asked: a server that has gone is reported
within `dead_after_s`, and not after the limit of a request that may take minutes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.core import extras
from harness.core.config import incidental
from harness.core.errors import ConfigError, HarnessError, MissingExtraError, ModelError, RunError, UsageError, nearest

T = TypeVar("T")

CLIENT_VERSION = "0.25"
"""The minor version of the client that the servers of `SERVER_VERSION` speak. Others fail at the first sample."""
SERVER_VERSION = "SkyRL 0.4"
KEY_VARIABLE = "TINKER_API_KEY"
_LOCAL_KEY = "tml-local"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SLICE_S = 2.0
_HEALTH_TIMEOUT_S = 5.0
_ARCHITECTURES = "Llama 3, Qwen3 (dense and MoE), Qwen3.5 and DeepSeek-V3"


def check_client() -> None:
    """Raise unless the client is installed in the version that the servers speak."""
    extras.require("tinker", "the backend tinker")
    found = importlib.metadata.version("tinker")
    if found.split(".")[:2] != CLIENT_VERSION.split("."):
        raise MissingExtraError(
            f"tinker {found} is installed, and {SERVER_VERSION} speaks with {CLIENT_VERSION}: "
            f"{extras.install_command('tinker')}"
        )


def check_url(base_url: str) -> None:
    """Raise ValueError for an address that is none, or that holds a secret: it is stored with the run."""
    if not base_url.startswith(("http://", "https://")):
        raise ValueError("base_url must begin with http:// or https://")
    if "@" in base_url:
        raise ValueError(f"base_url must not hold a user or password; the key comes from {KEY_VARIABLE}")


def api_key(base_url: str) -> str:
    """Return the key in the environment; a server on this machine takes any."""
    key = os.environ.get(KEY_VARIABLE, "")
    if not key and urllib.parse.urlsplit(base_url).hostname in _LOOPBACK:
        return _LOCAL_KEY
    if not key.startswith("tml-"):
        state = "has a key that does not begin with 'tml-'" if key else "is not set"
        raise ConfigError(
            f"the environment variable {KEY_VARIABLE} {state}: put the key of {base_url} there (SkyRL takes any key "
            "that begins with 'tml-')"
        )
    return key


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The options of whatever talks to a server: the engine and the backend."""

    base_url: str = incidental()
    """The address of the server, such as http://127.0.0.1:8000. There is no default: the client's own is the hosted
    service, which costs money. The key is in the environment variable TINKER_API_KEY."""
    base_model: str | None = None
    """The server's name of the model; unset, its path here. The tokenizer is always that of the path."""
    max_concurrency: int = incidental(default=256)
    """Completions that are requested at the same time."""
    timeout_s: float = incidental(default=900.0)
    """Of one request."""
    dead_after_s: float = incidental(default=60.0)
    """A server whose health page has not answered for so long has gone, and the run stops."""

    def __post_init__(self) -> None:
        check_url(self.base_url)
        if self.max_concurrency < 1 or min(self.timeout_s, self.dead_after_s) <= 0:
            raise ValueError("max_concurrency must be at least 1, timeout_s and dead_after_s above 0")

    def connect(self) -> Server:
        return Server(self.base_url, timeout_s=self.timeout_s, dead_after_s=self.dead_after_s)


class RefusedRequestError(RunError):
    """One request was refused; others may do."""


class Server:
    """A server with a session of its own. It holds the training clients that this process created, and unloads them."""

    def __init__(self, base_url: str, *, timeout_s: float, dead_after_s: float) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s, self._dead_after_s = timeout_s, dead_after_s
        self._clients: list[Any] = []
        key = api_key(base_url)
        self._refuse_unreachable()
        self._service = self._call(lambda: _new_service(self.base_url, key), "a session")

    # --- models

    def check_model(self, name: str) -> None:
        """Raise ModelError for a model that the server does not list."""
        listed = self._call(lambda: self._service.get_server_capabilities(), "the list of models").supported_models
        known = [model.model_name for model in listed if model.model_name is not None]
        if known and name not in known:
            raise ModelError(
                f"the server {self.base_url} has no base model {name!r}; {nearest(name, known)} (set "
                "backend.base_model to its name there)"
            )

    def create(self, base_model: str, rank: int, seed: int) -> Any:
        """Return a training client with fresh adapters on the seven projections of each layer."""
        client = self._call(
            lambda: self._service.create_lora_training_client(
                base_model=base_model, rank=rank, seed=seed % 2**31, train_unembed=False
            ),
            f"adapters on {base_model}",
        )
        self._clients.append(client)
        return client

    def resume(self, path: str, *, with_optimizer: bool = True) -> Any:
        """Return a training client with the saved adapters, and with the state of their optimiser."""
        name = f"create_training_client_from_state{'_with_optimizer' if with_optimizer else ''}"
        client = self._call(lambda: getattr(self._service, name)(path), f"the saved state {path}")
        self._clients.append(client)
        return client

    def unload(self, client: Any) -> None:
        """Free the client's place on the server, as far as it can be reached."""
        if client in self._clients:
            self._clients.remove(client)
        with contextlib.suppress(Exception):  # a courtesy to other runs; the run itself is over
            _unload(client)

    def close(self) -> None:
        for client in list(self._clients):
            self.unload(client)

    def sampler(self, client: Any) -> Any:
        """Return a sampling client of the weights as they are now."""
        return self._call(client.save_weights_and_get_sampling_client, "the weights for sampling")

    def sampler_of(self, base_model: str, weights: str | None) -> Any:
        """Return a sampling client of a base model, or of weights saved for sampling."""
        kind, name = ("base_model", base_model) if weights is None else ("model_path", weights)
        return self._call(lambda: self._service.create_sampling_client(**{kind: name}), f"a sampler of {name}")

    def save(self, client: Any, name: str) -> str:
        """Save adapters and optimiser on the server; return the path."""
        path: str = self.wait(client.save_state(name, overwrite=True), f"the saved state {name}").path
        return path

    def download(self, client: Any, name: str) -> bytes:
        """Return the archive of the adapters as they are now."""
        path = self.wait(client.save_weights_for_sampler(name), f"the adapters {name}").path
        rest = self._service.create_rest_client()
        address = self.wait(rest.get_checkpoint_archive_url(*_run_and_name(path)), f"the address of {path}").url
        try:
            with urllib.request.urlopen(address, timeout=self._timeout_s) as response:
                archive: bytes = response.read()
        except OSError as error:
            raise RunError(f"the adapters can't be downloaded from {address}: {error}") from None
        self.delete(path)
        return archive

    def delete(self, path: str) -> None:
        """Delete what was saved there, as far as the server allows it: it costs space and nothing else."""
        with contextlib.suppress(Exception):
            run, name = _run_and_name(path)
            kind = "" if "/" in name else "sampler_weights/"  # SkyRL leaves it out of the paths that it returns
            self._service.create_rest_client().delete_checkpoint(run, kind + name).result(timeout=_HEALTH_TIMEOUT_S)

    # --- waits

    def wait(self, future: Any, purpose: str) -> Any:
        """Return the result of a future. Raise RunError if the server has gone or takes too long."""
        started = alive = time.monotonic()
        while True:
            try:
                return future.result(timeout=_SLICE_S)
            except TimeoutError:
                now = time.monotonic()
                alive = now if self._is_alive() else alive
            except HarnessError:
                raise
            except Exception as error:  # of the client library, httpx and pydantic
                raise self._explained(error, purpose) from None
            if now - alive > self._dead_after_s:
                raise RunError(
                    f"the Tinker server {self.base_url} has not answered for {now - alive:.0f} s, and {purpose} is not "
                    "there: start it again, and run the same command: it goes on from the newest checkpoint"
                )
            if now - started > self._timeout_s:
                raise RunError(
                    f"the Tinker server {self.base_url} is up, and {purpose} took more than {self._timeout_s:g} s: "
                    "look at its log. The same command goes on from the newest checkpoint (backend.timeout_s is the "
                    "limit)"
                )

    def _call(self, function: Callable[[], T], purpose: str) -> T:
        """Run a function of the client library that waits without a limit, and wait with one."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # raised where the result is read
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        result: T = self.wait(future, purpose)
        return result

    # --- health and errors

    def _refuse_unreachable(self) -> None:
        if not self._is_alive():
            raise UsageError(
                f"no Tinker server answers at {self.base_url}: start it, or set backend.base_url to its address"
            )

    def _is_alive(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/api/v1/healthz", timeout=_HEALTH_TIMEOUT_S):
                return True
        except urllib.error.HTTPError:
            return True  # it answers, if only to refuse
        except OSError:
            return False

    def _explained(self, error: Exception, purpose: str) -> HarnessError:
        """Return the error of a request in our words."""
        text = " ".join(str(error).split())[:300]
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            return ConfigError(f"the server {self.base_url} refuses the key in {KEY_VARIABLE} ({status}): {text}")
        if "Maximum number of LoRA adapters" in text:
            return ConfigError(
                f"the server {self.base_url} has no free place for adapters ({text}): end other runs, start it with "
                "more max_lora_adapters (a run takes two, or three with a reference), or start it again: the places "
                "of a client that was killed in its first seconds are never freed"
            )
        if "architectures" in text:
            return ModelError(
                f"the server {self.base_url} can't train this model ({text}); SkyRL takes {_ARCHITECTURES}"
            )
        if "not loaded" in text:
            return RunError(
                f"the server {self.base_url} was started again and has lost this run's adapters ({text}); run the same "
                "command again: it goes on from the newest checkpoint"
            )
        kind = type(error).__name__
        return RefusedRequestError(
            f"the server {self.base_url} did not give {purpose} ({kind}: {text}). The client is tinker "
            f"{importlib.metadata.version('tinker')}, and this was tested with {SERVER_VERSION}: other versions do not "
            "understand each other. The same command goes on from the newest checkpoint"
        )


def _run_and_name(path: str) -> tuple[str, str]:
    """Return the client's id and the name of what it saved, from tinker://id/name or tinker://id/kind/name."""
    run, _, name = path.removeprefix("tinker://").partition("/")
    return run, name


def _unload(client: Any) -> None:
    """Unload a training client, which the client library has a request for and no method."""
    from tinker import types
    from tinker.lib.client_connection_pool_type import ClientConnectionPoolType

    async def unload() -> None:
        with client.holder.aclient(ClientConnectionPoolType.TRAIN) as http:
            await http.models.unload(request=types.UnloadModelRequest(model_id=client.model_id))

    client.holder.run_coroutine_threadsafe(unload()).result(timeout=_HEALTH_TIMEOUT_S)


def _new_service(base_url: str, key: str) -> Any:
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    import tinker

    logging.getLogger("tinker").setLevel(logging.ERROR)  # its warnings would break the progress line
    return tinker.ServiceClient(base_url=base_url, api_key=key)
