"""The reference of a problem of lm-eval: its document, and the task that evaluates completions of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.types import Completion

Values = Mapping[str, Mapping[str, Any]]
"""lm-eval's result for one document: filter -> metric -> value."""


@dataclass(frozen=True, slots=True)
class LmEvalReference:
    """A document of a task, and the requests that lm-eval makes from it."""

    task: Any
    doc_id: int
    instances: tuple[Any, ...]
    metric: str
    """`metric,filter` that decides between right and wrong; empty for the first of the task."""

    def __str__(self) -> str:
        return str(self.task.doc_to_target(self.instances[0].doc))

    def evaluate(self, completions: Sequence[Completion]) -> tuple[Values, Mapping[str, list[Any]]]:
        """Return the values of all metrics under every filter, and the filtered replies."""
        instances = [copy.copy(instance) for instance in self.instances]
        for place, instance in enumerate(instances):
            instance.resps = [_response(instance.request_type, completion, place) for completion in completions]
            instance.filtered_resps = {}
        for pipeline in self.task._filters:
            pipeline.apply(instances)
        instances.sort(key=lambda instance: instance.idx)
        filtered = {name: [one.filtered_resps[name] for one in instances] for name in instances[0].filtered_resps}
        values = {name: self.task.process_results(instances[0].doc, replies) for name, replies in filtered.items()}
        return values, filtered

    def deciding_metric(self, values: Values) -> tuple[str, str]:
        """Return the filter and the metric that decide between right and wrong."""
        if self.metric:
            metric, _, pipeline = self.metric.partition(",")
            return (pipeline if pipeline else next(iter(values))), metric
        pipeline = next(iter(values))
        known = [name for name in self.task.aggregation() if name in values[pipeline]]
        return pipeline, (known[0] if known else next(iter(values[pipeline])))


def _response(kind: str, completion: Completion, place: int) -> Any:
    if kind == "generate_until":
        return completion.text
    likelihood = completion.likelihoods[place]
    return likelihood.logp if kind == "loglikelihood_rolling" else (likelihood.logp, likelihood.is_greedy)
