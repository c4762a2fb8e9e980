"""Replicas of another engine as Ray actors, on this machine or a cluster, for evaluation.

Each replica generates a chunk of completions, those of one prompt together, and streams them back; a replica that is
done gets the next chunk. The number of replicas changes no text, provided the inner engine gives the same text in any
batch: the randomness of a completion comes from its seed.

Ray restarts a replica that dies (`max_restarts`), on another node if its own is gone. The rest of its chunk is requeued
here: a retry by Ray would generate the chunk from its start, and `ray.util.ActorPool` takes no streams, so a killed
run would lose whole chunks.

Every node needs the same version of this package, and the same model at the same path: `harness.cluster.nodes` checks
those of a cluster before a replica starts, and each replica compares its own. A replica computes with `num_cpus`
threads.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.cluster.connection import connect, one_line
from harness.cluster.nodes import Needs, check_nodes, node_name, nodes, portable
from harness.core import registry
from harness.core.config import PluginChoice, differences, incidental, plugin
from harness.core.errors import EngineError, HarnessError, ModelError
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Failure, Message, Request
from harness.models.loading import fingerprint
from harness.runs.provenance import code_version

_Answer = Completion | Failure
_LOOK_EVERY_S = 5.0
_MOST_PIECES, _LEAST_PIECE = 8, 64
"""The rest of the chunk of a replica that died is cut into these, so that the run does not wait for one replica."""


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
        chunk: int = incidental(default=1024)
        """The most completions that a replica gets at a time. It waits for the longest at the end of a chunk."""
        max_deaths: int = incidental(default=3)
        """How often replicas may die over the same completions before one of these arrives, and each replica over
        opening the model. Any number of other deaths is survived."""
        patience_s: float = incidental(default=600)
        """How long to wait while no replica has room on any node, as after the last node that had some died."""

        def __post_init__(self) -> None:
            if min(self.replicas, self.chunk) < 1:
                raise ValueError("replicas and chunk must be at least 1")
            if min(self.num_gpus, self.num_cpus, self.max_deaths, self.patience_s) < 0:
                raise ValueError("num_gpus, num_cpus, max_deaths and patience_s must not be negative")
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
        self._placing: dict[Any, Any] = {}  # the reference of an actor's place() -> that actor
        self._opening: dict[Any, Any] = {}  # the reference of an actor's open() -> that actor
        self._idle: deque[Any] = deque()
        self._jobs: list[_Job] = []
        self._requeued: deque[_Chunk] = deque()
        self._died_opening: Counter[Any] = Counter()
        self._n_deaths = 0
        self._is_our_ray = False

    def check_prompts(self, source: ModelSource, requests: Iterable[Request]) -> None:
        self.config.inner.build().check_prompts(source, requests)

    def open(self, source: ModelSource) -> None:
        if os.path.isdir(source.path):
            source = dataclasses.replace(source, path=os.path.abspath(source.path))
        self._n_deaths = 0
        try:
            self._join(source)
            self._start_actor = self._actor_factory(source)
            for _ in range(self.config.replicas):
                self._add_actor()
            while not self._idle:
                self._next_answer()
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Iterable[Request]) -> Iterator[_Answer]:
        chunks = _all_chunks(requests, self.config)
        try:
            while True:
                while self._idle and (chunk := self._next_chunk(chunks)) is not None:
                    self._jobs.append(_Job(self._idle.popleft(), chunk))
                if not self._jobs and not self._requeued and self._idle:
                    return
                if (answer := self._next_answer()) is not None:
                    yield answer
        finally:
            self._requeued.clear()
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
        self._actors, self._placing, self._opening, self._jobs = [], {}, {}, []
        self._died_opening.clear()
        self._idle.clear()

    def _next_chunk(self, chunks: Iterator[list[Request]]) -> _Chunk | None:
        if self._requeued:
            return self._requeued.popleft()
        requests = next(chunks, None)
        return _Chunk(requests) if requests is not None else None

    def _join(self, source: ModelSource) -> None:
        config = self.config
        self._ray, self._is_our_ray = connect(config.address, "engine.address", "the engine ray")
        self._inner = portable(self._ray, config.inner)
        if config.address is None:
            if self._is_our_ray:  # a cluster may still grow
                self._refuse_too_many()
            return
        extra = registry.load("engines", config.inner.id).extra
        feature = f"the engine {config.inner.id}"
        needs = Needs({extra: feature} if extra is not None else {}, [self._inner], models=[source.path])
        able = [node for node in nodes(self._ray) if node.n_fitting(config.num_cpus, config.num_gpus) > 0]
        check_nodes(self._ray, able, needs)

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
            max_restarts=-1,
        )(_Replica)
        return functools.partial(replica.remote, self._inner, source, _facts(source), has_gpus=config.num_gpus > 0)

    def _add_actor(self) -> None:
        actor = self._start_actor()
        self._actors.append(actor)
        self._place_actor(actor)

    def _replace_actor(self, actor: Any) -> None:
        self._ray.kill(actor)
        self._actors.remove(actor)
        self._add_actor()

    def _place_actor(self, actor: Any) -> None:
        # Ray uses up retries while it restarts an actor, so they are not limited, and deaths are counted here.
        self._placing[actor.place.options(max_task_retries=-1).remote()] = actor

    def _next_answer(self) -> _Answer | None:
        """Wait for a replica. Return its next completion, or None if it was placed, became idle or died."""
        ready = self._wait()
        errors = self._ray.exceptions
        try:
            if ready in self._placing:
                self._finish_placing(ready)
                return None
            if ready in self._opening:
                self._finish_opening(ready)
                return None
            return self._receive(ready)
        except errors.RayTaskError as error:
            raise error.cause if isinstance(error.cause, HarnessError) else error from None

    def _wait(self) -> Any:
        """Return the next reference with a result. Raise EngineError after too long without room for any replica."""
        began_s = time.monotonic()
        while True:
            waiting = [*self._placing, *self._opening, *(job.stream for job in self._jobs)]
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=_LOOK_EVERY_S)
            if ready:
                return ready[0]
            if self._opening or self._jobs or self._idle:  # these have room
                began_s = time.monotonic()
            if time.monotonic() - began_s > self.config.patience_s:
                raise EngineError(self._no_room())

    def _no_room(self) -> str:
        config, here = self.config, nodes(self._ray)
        fitting = [node.name for node in here if node.n_fitting(config.num_cpus, config.num_gpus) > 0]
        state = f"all that are large enough are busy ({', '.join(fitting)})" if fitting else "none is large enough"
        return (
            f"no replica of {config.num_cpus:g} CPU and {config.num_gpus:g} GPU found room on the {len(here)} nodes of "
            f"the cluster within {config.patience_s:g} s (engine.patience_s): {state}; the same command continues"
        )

    def _finish_placing(self, reference: Any) -> None:
        actor = self._placing.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            inner = self.config.inner.id
            raise EngineError(f"Ray does not start a replica of the engine {inner}: {one_line(error)}") from None
        self._opening[actor.open.remote()] = actor

    def _finish_opening(self, reference: Any) -> None:
        actor = self._opening.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            self._count_death_opening(actor, error)
            self._place_actor(actor)
            return
        del self._died_opening[actor]
        self._idle.append(actor)

    def _receive(self, stream: Any) -> _Answer | None:
        job = next(job for job in self._jobs if job.stream is stream)
        self._jobs.sort(key=lambda other: other is job)  # the others have their turn before it
        try:
            answer: _Answer | None = self._ray.get(next(stream))
        except StopIteration:
            raise EngineError(f"the engine {self.config.inner.id} left {len(job.owed)} completions out") from None
        except self._ray.exceptions.RayActorError as error:
            self._requeue(job, error)
            return None
        if answer is None:
            job.has_begun = True
            return None
        if job.owed.pop(_key(answer), None) is None:
            raise EngineError(
                f"the engine {self.config.inner.id} gave a completion that was not asked for, or gave it twice: "
                f"{_key(answer)}"
            )
        job.n_deaths = 0
        if not job.owed:
            self._jobs.remove(job)
            self._idle.append(job.actor)
        return answer

    def _requeue(self, job: _Job, error: Exception) -> None:
        """Take the chunk of a replica that died. It may have died before, while it was idle, as on a node that did."""
        self._jobs.remove(job)
        self._n_deaths += 1
        if job.has_begun:
            job.n_deaths += 1
            if job.n_deaths > self.config.max_deaths:
                raise self._too_many_deaths("replicas", f"the completion {next(iter(job.owed))}", error) from None
        else:
            self._count_death_opening(job.actor, error)
        n_pieces = max(1 + len(self._idle), min(_MOST_PIECES, len(job.owed) // _LEAST_PIECE))
        self._requeued += [_Chunk(piece, job.n_deaths) for piece in _even_chunks(list(job.owed.values()), n_pieces)]
        self._place_actor(job.actor)  # which Ray restarts

    def _count_death_opening(self, actor: Any, error: Exception) -> None:
        self._died_opening[actor] += 1
        if self._died_opening[actor] > self.config.max_deaths:
            raise self._too_many_deaths("a replica", "opening the model", error) from None

    def _too_many_deaths(self, who: str, where: str, error: Exception) -> EngineError:
        return EngineError(
            f"{who} of the engine {self.config.inner.id} died more than {self.config.max_deaths} times "
            f"(engine.max_deaths) over {where}; the last: {one_line(error)}"
        )


class _Chunk(NamedTuple):
    """Requests for one replica, and how many replicas died over them since one was fulfilled."""

    requests: Sequence[Request]
    n_deaths: int = 0


class _Job:
    """A chunk in the hands of one actor: the stream of its completions, and the requests still to come."""

    def __init__(self, actor: Any, chunk: _Chunk) -> None:
        self.actor, self.n_deaths = actor, chunk.n_deaths
        self.has_begun = False
        self.owed = {_key(request): request for request in chunk.requests}
        self.stream: Any = actor.generate.options(num_returns="streaming").remote(list(chunk.requests))


class _Replica:
    """The inner engine in a process of Ray's. A restarted one opens its engine when first used."""

    def __init__(
        self, inner: PluginChoice, source: ModelSource, expected: Mapping[str, Any], *, has_gpus: bool
    ) -> None:
        self._inner, self._source, self._expected, self._has_gpus = inner, source, expected, has_gpus
        self._engine: Engine | None = None

    def place(self) -> None:
        """Return once Ray has found room for this replica."""

    def open(self) -> None:
        self._open_engine()

    def generate(self, requests: Sequence[Request]) -> Iterator[_Answer | None]:
        engine = self._open_engine()
        yield None  # the model is open, so a death from now on may be that of a request
        yield from engine.generate(requests)

    def _open_engine(self) -> Engine:
        if self._engine is None:
            if not self._has_gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all of them visible
            try:
                engine: Engine = self._inner.build()
                engine.open(self._source)
            except HarnessError as error:
                raise type(error)(f"the replica on {node_name()}: {error}") from None
            _refuse_difference(self._expected, node_name(), _facts(self._source))
            self._engine = engine
        return self._engine


def _key(item: Request | _Answer) -> tuple[str, int, int]:
    return item.problem_id, item.index, item.seed


def _facts(source: ModelSource) -> Mapping[str, Any]:
    """Return what must be the same on every machine that takes part in a run."""
    return {"the package": code_version(), "the model": fingerprint(source.path)}


def _refuse_difference(ours: Mapping[str, Any], node: str, theirs: Mapping[str, Any]) -> None:
    if found := differences(theirs, ours):
        raise ModelError(
            f"the replica on {node} differs: {found[0]}; every machine needs the same package and the same model"
        )


def _all_chunks(requests: Iterable[Request], config: RayEngine.Config) -> Iterator[list[Request]]:
    """Cut any number of requests into chunks, one for each replica at a time, so that few are held."""
    remaining = iter(requests)
    while several := list(itertools.islice(remaining, config.chunk * config.replicas)):
        yield from _even_chunks(several, config.replicas)


def _even_chunks(requests: Sequence[Request], n: int) -> Iterator[list[Request]]:
    """Cut requests into at most n chunks of equal size, with those of one prompt next to each other.

    A replica is idle at the end of each chunk, until its longest completion is done. So chunks are few and even, though
    a prompt is read twice where it is cut.
    """
    of_prompt: dict[tuple[Message, ...], list[Request]] = {}
    for request in requests:
        of_prompt.setdefault(request.messages, []).append(request)
    size, ordered = -(-len(requests) // n), itertools.chain.from_iterable(of_prompt.values())
    while chunk := list(itertools.islice(ordered, size)):
        yield chunk


ENGINE = RayEngine
