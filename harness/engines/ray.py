"""Replicas of another engine as Ray actors, on this machine or a cluster, for evaluation.

Each replica generates a chunk of completions, those of one prompt together, and streams them back; a replica that is
done gets the next chunk. The number of replicas changes no text, provided the inner engine gives the same text in any
batch: the randomness of a completion comes from its seed.

Ray restarts a replica that dies (`max_restarts`) and has it open the model again (`max_task_retries`). The rest of its
chunk is requeued here: a retry by Ray would generate the chunk from its start, and `ray.util.ActorPool` takes no
streams, so a killed run would lose whole chunks.

Every machine needs the same version of this package, and the same model at the same path: both are compared. A replica
computes with `num_cpus` threads.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core import extras
from harness.core.config import PluginChoice, differences, incidental, plugin
from harness.core.errors import EngineError, HarnessError, ModelError
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Failure, Message, Request
from harness.models.loading import fingerprint
from harness.runs.provenance import code_version

_Answer = Completion | Failure


class RayEngine(Engine):
    """`replicas` replicas of the engine `inner`. It is open when the first of them is; the others join later."""

    @dataclass(frozen=True, slots=True)
    class Config:
        inner: PluginChoice = plugin("engines", default="hf")
        """The engine to replicate, with its options."""
        num_gpus: float = 0
        """GPUs per replica; may be a fraction. With 0 a replica sees none."""
        num_cpus: float = incidental(default=1)
        """CPUs per replica."""
        replicas: int = incidental(default=1)
        address: str | None = incidental(default=None)
        """None: a Ray on this machine, for as long as the engine is open. "auto" or an address joins a cluster."""
        chunk: int = incidental(default=256)
        """The most completions that a replica is asked for at a time."""
        max_deaths: int = incidental(default=3)
        """How often replicas may die while they generate, all together, and each one while it opens the model."""

        def __post_init__(self) -> None:
            if min(self.replicas, self.chunk) < 1:
                raise ValueError("replicas and chunk must be at least 1")
            if min(self.num_gpus, self.num_cpus, self.max_deaths) < 0:
                raise ValueError("num_gpus, num_cpus and max_deaths must not be negative")
            if self.address is not None and "://" in self.address:
                raise ValueError(
                    "address is that of the cluster's head, such as 10.0.0.1:6379, not that of a Ray client"
                )
            if self.inner.id == "ray" or self.inner.build().is_remote:
                raise ValueError(f"inner is an engine that holds a model, such as hf or vllm, not {self.inner.id}")

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self._actors: list[Any] = []
        self._opening: dict[Any, Any] = {}  # the reference of an actor's open() -> that actor
        self._idle: deque[Any] = deque()
        self._jobs: list[_Job] = []
        self._chunks: deque[list[Request]] = deque()
        self._n_deaths = 0
        self._is_our_ray = False

    def check_prompts(self, source: ModelSource, requests: Iterable[Request]) -> None:
        self.config.inner.build().check_prompts(source, requests)

    def open(self, source: ModelSource) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray: Any = extras.require("ray", "the engine ray")
        if os.path.isdir(source.path):
            source = dataclasses.replace(source, path=os.path.abspath(source.path))
        self._n_deaths = 0
        try:
            self._join()
            self._start_actor = self._actor_factory(source)
            for _ in range(self.config.replicas):
                self._add_actor()
            while not self._idle:
                self._next_answer()
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Iterable[Request]) -> Iterator[_Answer]:
        self._chunks.extend(_chunks(list(requests), self.config))
        try:
            while self._chunks or self._jobs:
                while self._chunks and self._idle:
                    self._jobs.append(_Job(self._idle.popleft(), self._chunks.popleft()))
                if (answer := self._next_answer()) is not None:
                    yield answer
        finally:
            self._chunks.clear()
            for job in self._jobs:  # the caller has left, and only a kill stops an actor
                self._replace_actor(job.actor)
            self._jobs.clear()

    def close(self) -> None:
        if self._is_our_ray:
            self._ray.shutdown()  # ends the actors too
            self._is_our_ray = False
        else:
            for actor in self._actors:
                self._ray.kill(actor)
        self._actors, self._opening, self._jobs = [], {}, []
        self._idle.clear()

    def _join(self) -> None:
        if self._ray.is_initialized():
            return
        address = self.config.address
        options = {"address": "local", "include_dashboard": False} if address is None else {"address": address}
        try:
            _reach(address)
            self._ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise ModelError(f"no Ray at engine.address {address!r}: {_line(error)}") from None
        self._is_our_ray = True
        if address is None:  # a cluster may still grow
            self._refuse_too_many()

    def _refuse_too_many(self) -> None:
        has = self._ray.cluster_resources()
        for what, each in (("CPU", self.config.num_cpus), ("GPU", self.config.num_gpus)):
            if each * self.config.replicas > has.get(what, 0):
                raise ModelError(
                    f"{self.config.replicas} replicas of {each:g} {what} each are more than this machine has for Ray "
                    f"({has.get(what, 0):g}); lower engine.replicas or engine.num_{what.lower()}s"
                )

    def _actor_factory(self, source: ModelSource) -> Callable[[], Any]:
        config = self.config
        replica = self._ray.remote(
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            scheduling_strategy="SPREAD",
            max_restarts=config.max_deaths,
        )(_Replica)
        return functools.partial(replica.remote, config.inner, source, _facts(source), has_gpus=config.num_gpus > 0)

    def _add_actor(self) -> None:
        actor = self._start_actor()
        self._actors.append(actor)
        self._open_actor(actor)

    def _replace_actor(self, actor: Any) -> None:
        self._ray.kill(actor)
        self._actors.remove(actor)
        self._add_actor()

    def _open_actor(self, actor: Any) -> None:
        # Ray uses up retries while it restarts an actor, so only the number of restarts is limited.
        self._opening[actor.open.options(max_task_retries=-1).remote()] = actor

    def _next_answer(self) -> _Answer | None:
        """Wait for a replica. Return its next completion, or None if it became idle or died."""
        (ready,), _ = self._ray.wait([*self._opening, *(job.stream for job in self._jobs)], num_returns=1)
        errors = self._ray.exceptions
        try:
            if ready in self._opening:
                self._finish_opening(ready)
                return None
            return self._receive(ready)
        except errors.RayTaskError as error:
            raise error.cause if isinstance(error.cause, HarnessError) else error from None

    def _finish_opening(self, reference: Any) -> None:
        actor = self._opening.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:  # Ray does not restart it any more
            self._replace_actor(actor)
            raise self._too_many_deaths(error) from None
        self._idle.append(actor)

    def _receive(self, stream: Any) -> _Answer | None:
        job = next(job for job in self._jobs if job.stream is stream)
        self._jobs.sort(key=lambda other: other is job)  # the others have their turn before it
        try:
            answer: _Answer = self._ray.get(next(stream))
        except StopIteration:
            raise EngineError(f"the engine {self.config.inner.id} left {len(job.owed)} completions out") from None
        except self._ray.exceptions.RayActorError as error:
            self._n_deaths += 1
            if self._n_deaths > self.config.max_deaths:
                raise self._too_many_deaths(error) from None
            self._jobs.remove(job)
            self._chunks.appendleft(list(job.owed.values()))
            self._open_actor(job.actor)  # which Ray restarts
            return None
        if job.owed.pop(_key(answer), None) is None:
            raise EngineError(
                f"the engine {self.config.inner.id} gave a completion that was not asked for, or gave it twice: "
                f"{_key(answer)}"
            )
        if not job.owed:
            self._jobs.remove(job)
            self._idle.append(job.actor)
        return answer

    def _too_many_deaths(self, error: Exception) -> EngineError:
        return EngineError(
            f"replicas of the engine {self.config.inner.id} died more than {self.config.max_deaths} times "
            f"(engine.max_deaths); the last: {_line(error)}"
        )


class _Job:
    """A chunk in the hands of one actor: the stream of its completions, and the requests still to come."""

    def __init__(self, actor: Any, chunk: Sequence[Request]) -> None:
        self.actor = actor
        self.owed = {_key(request): request for request in chunk}
        self.stream: Any = actor.generate.options(num_returns="streaming").remote(list(chunk))


class _Replica:
    """The inner engine in a process of Ray's. A restarted one opens its engine when first used."""

    def __init__(
        self, inner: PluginChoice, source: ModelSource, expected: Mapping[str, Any], *, has_gpus: bool
    ) -> None:
        self._inner, self._source, self._expected, self._has_gpus = inner, source, expected, has_gpus
        self._engine: Engine | None = None

    def open(self) -> None:
        self._open_engine()

    def generate(self, requests: Sequence[Request]) -> Iterator[_Answer]:
        yield from self._open_engine().generate(requests)

    def _open_engine(self) -> Engine:
        if self._engine is None:
            if not self._has_gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all of them visible
            engine: Engine = self._inner.build()
            engine.open(self._source)
            _refuse_difference(self._expected, platform.node(), _facts(self._source))
            self._engine = engine
        return self._engine


def _key(item: Request | _Answer) -> tuple[str, int, int]:
    return item.problem_id, item.index, item.seed


def _facts(source: ModelSource) -> Mapping[str, Any]:
    """Return what must be the same on every machine that takes part in a run."""
    return {"the package": code_version(), "the model": fingerprint(source.path)}


def _reach(address: str | None) -> None:
    """Raise OSError if nothing listens at the address. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":") if address is not None else ("", "", "")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _refuse_difference(ours: Mapping[str, Any], node: str, theirs: Mapping[str, Any]) -> None:
    if found := differences(theirs, ours):
        raise ModelError(
            f"the replica on {node} differs: {found[0]}; every machine needs the same package and the same model"
        )


def _chunks(requests: Sequence[Request], config: RayEngine.Config) -> Iterator[list[Request]]:
    """Cut requests into chunks of at most `config.chunk`, small enough that each replica has one, by prompt."""
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


ENGINE = RayEngine
