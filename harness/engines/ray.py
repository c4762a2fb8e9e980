"""Copies of another engine as Ray actors, on this machine or a cluster, for evaluation.

A copy is asked for a chunk of completions, those of one prompt together, and gets the next chunk as soon as it has
given them. How many copies there are changes no text that the engine inside gives alike in any batch: randomness comes
from a completion's seed. A copy that dies is started again, and what it still owed is asked of the first that is free.

Every machine must have this package in one version, and the model at one path: both are compared. Ray lets a copy
compute with `num_cpus` threads.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core import extras
from harness.core.config import PluginChoice, differences, incidental, plugin
from harness.core.errors import EngineError, HarnessError, ModelError
from harness.core.protocols import Engine, ModelSource, PromptChecker, Served
from harness.core.types import Completion, Failure, Message, Request
from harness.models.loading import fingerprint
from harness.runs.provenance import code_version

_Answer = Completion | Failure


class RayEngine:
    """`replicas` copies of the engine `inner`. It is open when the first of them is; the others join when they are."""

    @dataclass(frozen=True, slots=True)
    class Config:
        inner: PluginChoice = plugin("engines", default="hf")
        """The engine that is copied, with its options."""
        num_gpus: float = 0
        """Of each copy; may be a share of one. With 0 a copy sees none."""
        num_cpus: float = incidental(default=1)
        """Of each copy."""
        replicas: int = incidental(default=1)
        address: str | None = incidental(default=None)
        """None: a Ray on this machine, for as long as the engine is open. "auto" or an address joins a cluster."""
        chunk: int = incidental(default=256)
        """The most completions that a copy is asked for at a time."""
        max_deaths: int = incidental(default=3)
        """How many copies may die before the run stops."""

        def __post_init__(self) -> None:
            if min(self.replicas, self.chunk) < 1:
                raise ValueError("replicas and chunk must be at least 1")
            if min(self.num_gpus, self.num_cpus, self.max_deaths) < 0:
                raise ValueError("num_gpus, num_cpus and max_deaths must not be negative")
            if self.address is not None and "://" in self.address:
                raise ValueError("address is that of the cluster's head, such as 10.0.0.1:6379; a Ray client is none")
            if self.inner.id == "ray" or isinstance(self.inner.build(), Served):
                raise ValueError(f"inner is an engine that holds a model, such as hf or vllm, not {self.inner.id}")

    def __init__(self, config: Config) -> None:
        self.config = config
        self._copies: list[_Copy] = []
        self._waiting: deque[Sequence[Request]] = deque()
        self._n_deaths = 0
        self._is_our_ray = False

    def vet(self, source: ModelSource, requests: Iterable[Request]) -> None:
        inner = self.config.inner.build()
        if isinstance(inner, PromptChecker):
            inner.vet(source, requests)

    def open(self, source: ModelSource) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray: Any = extras.require("ray", "the engine ray")
        if os.path.isdir(source.path):
            source = dataclasses.replace(source, path=os.path.abspath(source.path))
        self._n_deaths = 0
        try:
            self._join()
            facts = _facts(source)
            self._copies = [_Copy(self._ray, self.config, source, facts) for _ in range(self.config.replicas)]
            while not any(copy.is_open for copy in self._copies):
                self._next_answer()
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Iterable[Request]) -> Iterator[_Answer]:
        self._waiting.extend(_chunks(list(requests), self.config))
        try:
            while self._waiting or any(copy.owed for copy in self._copies):
                for copy in self._copies:
                    if self._waiting and copy.is_open and not copy.owed:
                        copy.ask(self._waiting.popleft())
                if (answer := self._next_answer()) is not None:
                    yield answer
        finally:
            self._waiting.clear()
            for copy in self._copies:
                if copy.owed:  # the stream was left, and nothing else stops an actor
                    copy.end()

    def close(self) -> None:
        for copy in self._copies:
            copy.end()
        self._copies = []
        if self._is_our_ray:
            self._ray.shutdown()
            self._is_our_ray = False

    def _join(self) -> None:
        if self._ray.is_initialized():
            return
        address = self.config.address
        options = {"address": "local", "include_dashboard": False} if address is None else {"address": address}
        try:
            _reach(address)
            self._ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise ModelError(f"there is no Ray to be had at engine.address {address!r}: {_line(error)}") from None
        self._is_our_ray = True
        if address is None:  # to a cluster machines may yet come
            self._refuse_too_many()

    def _refuse_too_many(self) -> None:
        has = self._ray.cluster_resources()
        for what, each in (("CPU", self.config.num_cpus), ("GPU", self.config.num_gpus)):
            if each * self.config.replicas > has.get(what, 0):
                raise ModelError(
                    f"{self.config.replicas} copies of {each:g} {what} each are more than this machine has for Ray "
                    f"({has.get(what, 0):g}); lower engine.replicas or engine.num_{what.lower()}s"
                )

    def _next_answer(self) -> _Answer | None:
        """What the first copy says that says something. None: that it is open, or nothing ever again."""
        for copy in self._copies:
            if copy.is_dead:
                copy.start()
        speaking, _ = self._ray.wait([copy.said for copy in self._copies if copy.said is not None], num_returns=1)
        copy = next(copy for copy in self._copies if copy.said is speaking[0])
        self._copies.sort(key=lambda other: other is copy)  # the others have their turn before it
        errors = self._ray.exceptions
        try:
            return copy.hear()
        except errors.RayTaskError as error:
            raise error.cause if isinstance(error.cause, HarnessError) else error from None
        except errors.RayError as error:
            self._bury(copy, error)
            return None

    def _bury(self, copy: _Copy, error: Exception) -> None:
        self._n_deaths += 1
        if self._n_deaths > self.config.max_deaths:
            raise EngineError(
                f"{self._n_deaths} copies of the engine {self.config.inner.id} died, and engine.max_deaths is "
                f"{self.config.max_deaths}; the last: {_line(error)}"
            ) from None
        if copy.owed:
            self._waiting.appendleft(copy.owed)
        copy.end()


class _Copy:
    """One actor after another, each with what it has been asked for and still owes."""

    def __init__(self, ray: Any, config: RayEngine.Config, source: ModelSource, facts: Mapping[str, Any]) -> None:
        self._ray, self._config, self._source, self._facts = ray, config, source, facts
        self._actor: Any = None
        self._forget()

    def _forget(self) -> None:
        self.said: Any = None
        self.owed: list[Request] = []
        self.is_open = False

    @property
    def is_dead(self) -> bool:
        return self._actor is None

    def start(self) -> None:
        options = {"num_cpus": self._config.num_cpus, "num_gpus": self._config.num_gpus}
        self._actor = self._ray.remote(**options, scheduling_strategy="SPREAD")(_Actor).remote()
        opening = self._actor.open.options(num_returns="streaming")
        self.said = opening.remote(self._config.inner, self._source, has_gpus=self._config.num_gpus > 0)

    def ask(self, requests: Sequence[Request]) -> None:
        self.owed = list(requests)
        self.said = self._actor.generate.options(num_returns="streaming").remote(self.owed)

    def hear(self) -> _Answer | None:
        try:
            said = self._ray.get(next(self.said))
        except StopIteration:
            raise EngineError(f"the engine {self._config.inner.id} left {len(self.owed)} completions out") from None
        if self.is_open:
            answer: _Answer = said
            self._settle(answer)
            return answer
        _refuse_another(self._facts, *said)
        self.is_open, self.said = True, None
        return None

    def _settle(self, answer: _Answer) -> None:
        key = answer.problem_id, answer.index, answer.seed
        asked = next((r for r in self.owed if (r.problem_id, r.index, r.seed) == key), None)
        if asked is None:
            raise EngineError(f"the engine {self._config.inner.id} gave what nobody asked for, or gave it twice: {key}")
        self.owed.remove(asked)
        if not self.owed:
            self.said = None

    def end(self) -> None:
        if self._actor is not None:
            self._ray.kill(self._actor)
        self._actor = None
        self._forget()


class _Actor:
    """What runs in a process of Ray's. Each method gives a stream."""

    def open(
        self, inner: PluginChoice, source: ModelSource, *, has_gpus: bool
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if not has_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all of them in sight
        self._engine: Engine = inner.build()
        self._engine.open(source)
        yield platform.node(), _facts(source)

    def generate(self, requests: Sequence[Request]) -> Iterator[_Answer]:
        yield from self._engine.generate(requests)


def _facts(source: ModelSource) -> Mapping[str, Any]:
    """What must be the same wherever completions of one run come from."""
    return {"the package": code_version(), "the model": fingerprint(source.path)}


def _reach(address: str | None) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition(":") if address is not None else ("", "", "")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _refuse_another(ours: Mapping[str, Any], node: str, theirs: Mapping[str, Any]) -> None:
    if told := differences(theirs, ours):
        raise ModelError(f"the copy on {node} is another: {told[0]}; every machine needs the same package and model")


def _chunks(requests: Sequence[Request], config: RayEngine.Config) -> Iterator[list[Request]]:
    """No more than `config.chunk` each, and few enough that every copy has some; those of one prompt together."""
    size = min(config.chunk, -(-len(requests) // config.replicas))
    of_prompt: dict[tuple[Message, ...], list[Request]] = {}
    for request in requests:
        of_prompt.setdefault(request.messages, []).append(request)
    chunk: list[Request] = []
    for several in of_prompt.values():
        for start in range(0, len(several), size):
            piece = several[start : start + size]
            if len(chunk) + len(piece) > size:
                yield chunk
                chunk = []
            chunk += piece
    if chunk:
        yield chunk


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


ENGINE: type[Engine] = RayEngine
