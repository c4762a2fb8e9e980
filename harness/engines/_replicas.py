"""Copies of one engine in processes of their own, each on its share of the GPUs, which share requests out."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import queue
from collections.abc import Iterable, Iterator
from typing import Any

from harness.core.errors import EngineError, HarnessError
from harness.core.protocols import ModelSource
from harness.core.types import Completion, Request

_LOOK_EVERY_S = 1.0


class Replicas:
    """`config.data_parallel` engines. What one of them raises is raised here; one that dies is noticed."""

    def __init__(self, engine: Any, config: Any, source: ModelSource) -> None:
        context = multiprocessing.get_context("spawn")  # a forked child can't use a GPU
        self._requests: list[Any] = [context.Queue() for _ in range(config.data_parallel)]
        self._answers: Any = context.Queue()
        self._processes = [
            context.Process(target=_serve, args=(engine, config, source, rank, mine, self._answers), daemon=True)
            for rank, mine in enumerate(self._requests)
        ]
        for process in self._processes:
            process.start()
        try:
            for _ in self._processes:  # each says None when its model is loaded
                self._next_answer()
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        n_asked = 0
        turns = itertools.cycle(self._requests)
        for _, group in itertools.groupby(requests, key=lambda request: request.messages):
            mine = next(turns)  # those of one prompt stay together, and share its reading
            for request in group:
                mine.put(request)
                n_asked += 1
        for mine in self._requests:
            mine.put(None)
        for _ in range(n_asked):
            answer = self._next_answer()
            assert answer is not None
            yield answer

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def _next_answer(self) -> Completion | None:
        while True:
            try:
                answer: Completion | HarnessError | None = self._answers.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                dead = [process.exitcode for process in self._processes if not process.is_alive()]
                if dead:
                    raise EngineError(f"a copy of the model ended by itself, with exit code {dead[0]}") from None
                continue
            if isinstance(answer, HarnessError):
                raise answer
            return answer


def _serve(engine: Any, config: Any, source: ModelSource, rank: int, requests: Any, answers: Any) -> None:
    import dataclasses

    _take_gpus(rank, config.tensor_parallel)
    try:
        opened = engine(dataclasses.replace(config, data_parallel=1))
        opened.open(source)
        answers.put(None)
        while True:
            for completion in opened.generate(iter(requests.get, None)):
                answers.put(completion)
    except HarnessError as error:
        answers.put(error)


def _take_gpus(rank: int, n_each: int) -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible is not None else [str(i) for i in range((rank + 1) * n_each)]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[rank * n_each : (rank + 1) * n_each])
