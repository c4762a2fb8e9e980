"""Simulate 64 replicas with failures: makespan, overhead, stragglers and lost work of the engine `ray`.

    python tools/simulate_replicas.py --out tools/simulate_replicas.csv

The scheduling is that of `harness.engines.ray`, which runs here unchanged; Ray, the replicas and the clock are
simulated. A replica decodes up to SLOTS completions side by side: a step takes STEP_S and STEP_EACH_S for each of them,
and gives each a token. It begins the next completion of its chunk when one ends. Lengths are lognormal and cut at the
limit. A failure of a process ends one replica, and a failure of a node its eight, which come back after the repair;
then the model is loaded.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.types import Completion, Message, Request, Sampling, Tokens
from harness.engines.ray import RayEngine

REPLICAS, PER_NODE = 64, 8
SLOTS, STEP_S, STEP_EACH_S = 64, 0.020, 0.00047
"""1,280 tokens a second with all slots, 49 with one."""
MEAN_TOKENS, SIGMA, MOST_TOKENS = 8_000, 0.8, 32_768
LOAD_S, REPAIR_S = 120.0, 900.0
PROBLEMS, SAMPLES = 1_547, 64
"""Problems of the six maths benchmarks of the FlowRL paper."""
CHUNKS = (256, 1024, 4096)
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Rates:
    """Failures per hour: of one replica's process, and of one node with its replicas."""

    name: str
    per_replica: float = 0.0
    per_node: float = 0.0


RATES = (
    Rates("none"),
    # 419 unexpected interruptions in 54 days on 16,384 GPUs (Llama 3), all of them as failures of one replica
    Rates("Llama 3", per_replica=419 / (54 * 24 * 16_384)),
    # 6.5 failures per 1,000 node days (Meta's RSC-1)
    Rates("RSC-1", per_node=6.5 / 1000 / 24),
    Rates("spot: a node in 10 h", per_node=0.1),
    Rates("spot: a node in 2 h", per_node=0.5),
)


# --- a Ray of which only time passes ----------------------------------------------------------------------------


class RayActorError(Exception):
    pass


class RayTaskError(Exception):
    cause: Any = None


class Errors:
    RayActorError, RayTaskError = RayActorError, RayTaskError


class Reference:
    """A result, or a stream of them; those that have arrived are taken one by one."""

    def __init__(self) -> None:
        self.results: deque[Any] = deque()

    def __next__(self) -> Any:
        return self.results.popleft()


class Call:
    """A method of an actor."""

    def __init__(self, begin: Callable[..., Reference]) -> None:
        self.remote = begin

    def options(self, **_: Any) -> Call:
        return self


class SimulatedRay:
    """The part of Ray that the engine uses. `wait` lets time pass until the next result."""

    exceptions = Errors

    def __init__(self, rates: Rates, seed: int) -> None:
        self.now_s, self.n_deaths, self.lost_tokens = 0.0, 0, 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._arrived: deque[Reference] = deque()
        self.actors: list[Actor] = []
        self._random, self._rates = random.Random(seed), rates

    def start_actor(self) -> Actor:
        self.actors.append(Actor(self))
        return self.actors[-1]

    def begin_failures(self) -> None:
        for actor in self.actors:
            self._fail_at_times(self._rates.per_replica, [actor], 0.0)
        for start in range(0, REPLICAS, PER_NODE):
            self._fail_at_times(self._rates.per_node, self.actors[start : start + PER_NODE], REPAIR_S)

    def _fail_at_times(self, per_hour: float, actors: list[Actor], repair_s: float) -> None:
        if per_hour == 0:
            return

        def fail() -> None:
            for actor in actors:
                actor.die(repair_s)
            self._fail_at_times(per_hour, actors, repair_s)

        self.at(3600 * self._random.expovariate(per_hour), fail)

    def kill(self, actor: Actor) -> None:
        """Do nothing: replicas that have delivered everything do nothing more."""

    def at(self, after_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + after_s, next(self._count), act))

    def deliver(self, reference: Reference, result: Any) -> None:
        reference.results.append(result)
        self._arrived.append(reference)

    def wait(self, references: list[Reference], **_: Any) -> tuple[list[Reference], Any]:
        wanted = {id(reference) for reference in references}
        while True:
            while self._arrived:
                reference = self._arrived.popleft()
                if reference.results and id(reference) in wanted:
                    return [reference], None
            self.now_s, _, act = heapq.heappop(self._events)
            act()

    def get(self, result: Any) -> Any:
        result = next(result) if isinstance(result, Reference) else result
        if isinstance(result, RayActorError):
            raise result
        return result


class Actor:
    """A replica. `progress` is the tokens that a completion has which is decoded since the start."""

    def __init__(self, ray: SimulatedRay) -> None:
        self._ray = ray
        self._life = self._plan = 0
        self._up_from_s = self._since_s = self._progress = 0.0
        self._is_loaded = False
        self._waiting: list[Request] = []
        self._running: list[tuple[float, int, int, Request]] = []  # ends at this progress, order, tokens, request
        self._stream = Reference()
        self.last_s = 0.0
        self.place, self.open, self.generate = Call(self._place), Call(self._open), Call(self._generate)

    def _place(self) -> Reference:
        reference = Reference()

        def arrive() -> None:
            if self._ray.now_s < self._up_from_s:
                self._ray.at(self._up_from_s - self._ray.now_s, arrive)
            else:
                self._ray.deliver(reference, None)

        self._ray.at(0.0, arrive)
        return reference

    def _open(self) -> Reference:
        reference, life = Reference(), self._life

        def arrive() -> None:
            self._is_loaded = self._life == life
            self._ray.deliver(reference, None if self._is_loaded else RayActorError("died"))

        self._ray.at(LOAD_S, arrive)
        return reference

    def _generate(self, requests: list[Request]) -> Reference:
        self._stream = Reference()
        if self._ray.now_s < self._up_from_s:
            self._ray.deliver(self._stream, RayActorError("died"))
            return self._stream
        self._waiting, self._running = list(reversed(requests)), []
        life = self._life

        def begin() -> None:
            if self._life == life:
                self._ray.deliver(self._stream, None)
                self._fill()

        # One that was idle when it died opens the model now.
        self._ray.at(0.0 if self._is_loaded else LOAD_S, begin)
        return self._stream

    def _fill(self) -> None:
        self._is_loaded = True
        self._since_s = self._ray.now_s
        while self._waiting and len(self._running) < SLOTS:
            request = self._waiting.pop()
            n_tokens = length_of(request)
            heapq.heappush(self._running, (self._progress + n_tokens, id(request), n_tokens, request))
        self._plan_next_end()

    def _plan_next_end(self) -> None:
        if not self._running:
            return
        self._plan += 1
        plan, after_s = self._plan, (self._running[0][0] - self._progress) * self._step_s()
        self._ray.at(after_s, lambda: self._end() if self._plan == plan else None)

    def _step_s(self) -> float:
        return STEP_S + STEP_EACH_S * len(self._running)

    def _end(self) -> None:
        self._progress, _, n_tokens, request = heapq.heappop(self._running)
        self.last_s = self._ray.now_s
        tokens = Tokens(0, n_tokens)
        completion = Completion(request.problem_id, request.index, request.seed, "", "stop", tokens)
        self._ray.deliver(self._stream, completion)
        self._fill()

    def die(self, repair_s: float) -> None:
        self._life += 1
        self._plan += 1
        self._ray.n_deaths += 1
        self._up_from_s = max(self._up_from_s, self._ray.now_s + repair_s)
        if self._running:
            now = self._progress + (self._ray.now_s - self._since_s) / self._step_s()
            self._ray.lost_tokens += sum(now - (end - n_tokens) for end, _, n_tokens, _ in self._running)
        if self._running or self._waiting:
            self._ray.deliver(self._stream, RayActorError("died"))
        self._running, self._waiting, self._is_loaded = [], [], False


# --- one evaluation ---------------------------------------------------------------------------------------------


def length_of(request: Request) -> int:
    mean_of_log = math.log(MEAN_TOKENS) - SIGMA**2 / 2
    return min(MOST_TOKENS, round(random.Random(request.seed).lognormvariate(mean_of_log, SIGMA)))


def requests() -> Iterator[Request]:
    how = Sampling(MOST_TOKENS)
    for problem in range(PROBLEMS):
        prompt = (Message("user", f"problem {problem}"),)
        for index in range(SAMPLES):
            yield Request(f"p{problem}", index, prompt, problem * 100_003 + index, how)


def simulate(rates: Rates, chunk: int, seed: int) -> dict[str, float]:
    ray = SimulatedRay(rates, seed)
    engine = RayEngine(RayEngine.Config(replicas=REPLICAS, chunk=chunk))
    engine._ray, engine._start_actor = ray, ray.start_actor
    for _ in range(REPLICAS):
        engine._add_actor()
    ray.begin_failures()
    n, tokens, seen = 0, 0, set()
    for completion in engine.generate(requests()):
        n += 1
        tokens += completion.tokens.n_completion
        seen.add((completion.problem_id, completion.index))
    assert n == len(seen) == PROBLEMS * SAMPLES, "a completion was lost or counted twice"
    full_s = STEP_S + STEP_EACH_S * SLOTS
    ideal_s = LOAD_S + tokens * full_s / (SLOTS * REPLICAS)
    return {
        "hours": ray.now_s / 3600,
        "over_full_slots": ray.now_s / ideal_s - 1,
        "deaths": ray.n_deaths,
        "lost_tokens": ray.lost_tokens / (tokens + ray.lost_tokens),
        "half_done_for_good": 1 - statistics.median(actor.last_s for actor in ray.actors) / ray.now_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for chunk, rates in itertools.product(CHUNKS, RATES):
        seeds = SEEDS if rates.per_replica or rates.per_node else SEEDS[:1]
        results = [simulate(rates, chunk, seed) for seed in seeds]
        means = {key: round(statistics.fmean(result[key] for result in results), 4) for key in results[0]}
        undisturbed = next((row["hours"] for row in rows if row["chunk"] == chunk), means["hours"])
        overhead = round(means["hours"] / undisturbed - 1, 4)
        rows.append({"chunk": chunk, "failures": rates.name, **means, "over_no_failures": overhead})
        print(rows[-1], flush=True)
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
