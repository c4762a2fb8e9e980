"""Convert lm-eval's requests to problems, and verdicts to lm-eval's metrics."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.core.errors import ConfigError
from harness.core.types import Completion, Estimate, Graded, Message, Passage, Problem, Sampling
from harness.graders.references.lm_eval import LmEvalReference, Values
from harness.models.chat import PLAIN
from harness.tasks.lm_eval.loading import Loaded, turns_of

SCORED = Sampling(max_tokens=1, temperature=0.0)
_TRUNCATION = SCORED.truncation().keys()
_UNDERSTOOD = {"until", "do_sample", "temperature", "max_gen_toks", *_TRUNCATION}
_QUANTILE = 1.959963984540054


def problems(task_id: str, loaded: Loaded, metric: str) -> Iterator[Problem[LmEvalReference]]:
    """Alternate between the members of a group, so that a limit keeps some problems of each."""
    each = [_of_member(task_id, name, task, metric) for name, task in loaded.tasks.items()]
    for turn in itertools.zip_longest(*each):
        yield from (problem for problem in turn if problem is not None)


def _of_member(task_id: str, name: str, task: Any, metric: str) -> Iterator[Problem[LmEvalReference]]:
    sampling = sampling_of(task)
    for doc_id, group in itertools.groupby(task.instances, key=lambda instance: instance.doc_id):
        instances = tuple(group)
        kinds = {instance.request_type for instance in instances}
        reference = LmEvalReference(task, doc_id, instances, metric)
        problem_id, tags = f"{name}-{doc_id}", {"member": name}
        if kinds == {"generate_until"} and len(instances) == 1:
            messages = _messages(instances[0].args[0])
            yield Problem(problem_id, task_id, messages, reference, tags, sampling=sampling)
        elif "generate_until" not in kinds:
            passages = tuple(_passage(instance) for instance in instances)
            messages = passages[0].messages if passages[0].messages else _messages(passages[0].text)
            yield Problem(problem_id, task_id, messages, reference, tags, passages)
        else:
            raise ConfigError(
                f"lm-eval's task {name!r} asks for several replies to one document, which is not supported"
            )


def _messages(context: str) -> tuple[Message, ...]:
    turns = turns_of(context)
    return turns if turns is not None else (Message(PLAIN, context),)


def _passage(instance: Any) -> Passage:
    if instance.request_type == "loglikelihood_rolling":
        return Passage((), instance.args[0])
    return Passage(_messages(instance.args[0]), instance.args[1])


def sampling_of(task: Any) -> Sampling | None:
    """Return the sampling of a member, or None if it scores likelihoods."""
    if task.OUTPUT_TYPE != "generate_until":
        return None
    from lm_eval.models.utils import normalize_gen_kwargs

    settings = dict(normalize_gen_kwargs(dict(task.config.generation_kwargs)))
    unknown = sorted(key for key in settings.keys() - _UNDERSTOOD if settings[key] is not None)
    if unknown:
        raise ConfigError(f"lm-eval's task {task.task_name!r} sets {', '.join(unknown)}, which no engine here supports")
    is_drawn = bool(settings["do_sample"]) and settings.get("temperature", 1.0) > 0
    return Sampling(
        max_tokens=settings["max_gen_toks"],
        temperature=float(settings.get("temperature", 1.0)) if is_drawn else 0.0,
        stop=tuple(stop for stop in settings["until"] if stop),
        **{name: settings[name] for name in _TRUNCATION & settings.keys() if is_drawn and settings[name] is not None},
    )


# --- lm-eval's metrics ------------------------------------------------------------------------------------------------


def own_metrics(loaded: Loaded, graded: Sequence[Graded[Any]], bootstrap_iters: int) -> Mapping[str, Mapping[str, Any]]:
    """Return lm-eval's metrics of these verdicts by task and group, with the keys of its results files."""
    from lm_eval.evaluator_utils import _process_results

    found: dict[str, dict[str, Any]] = {}
    for (name, _), (reference, completions) in _by_document(graded).items():
        values = _values(reference, completions)
        if values is None:
            continue
        empty = {"task": reference.task, "raw_metrics": defaultdict(list), "logged_samples": []}
        raw = found.setdefault(name, empty)["raw_metrics"]
        for pipeline, of_filter in values.items():
            for metric, value in of_filter.items():
                raw[metric, pipeline].append(value)
    with contextlib.redirect_stderr(io.StringIO()):  # hide the progress bar of its bootstrap
        metrics: Mapping[str, Mapping[str, Any]] = _process_results(found, dict(loaded.groups), bootstrap_iters).metrics
    return metrics


def _by_document(
    graded: Sequence[Graded[Any]],
) -> dict[tuple[str, int], tuple[LmEvalReference, list[Graded[Any]]]]:
    """Order by document: the last bit of a sum depends on the order."""
    found: dict[tuple[str, int], tuple[LmEvalReference, list[Graded[Any]]]] = {}
    for item in sorted(graded, key=_place):
        name, doc_id, _ = _place(item)
        found.setdefault((name, doc_id), (item.problem.reference, []))[1].append(item)
    return found


def _place(item: Graded[Any]) -> tuple[str, int, int]:
    return item.problem.tags["member"], item.problem.reference.doc_id, item.completion.index


def _values(reference: LmEvalReference, items: Sequence[Graded[Any]]) -> Values | None:
    """Return the stored metrics of one document, or compute them over its replies if the task wants several."""
    repeats = repeats_of(reference.task)
    first = items[:repeats]
    if len(first) < repeats or any(item.completion.finish_reason == "failed" for item in first):
        return None
    if repeats == 1:
        on_record: Values | None = first[0].verdict.details.get("lm_eval")
        return on_record
    completions: list[Completion] = [item.completion.load() for item in first]
    return reference.evaluate(completions)[0]


def repeats_of(task: Any) -> int:
    repeats: int | None = task.config.repeats
    return repeats if repeats is not None else 1


def estimates(metrics: Mapping[str, Any], graded: Sequence[Graded[Any]], version: str) -> list[Estimate]:
    """Return the metrics of one task or group, each with the interval from its standard error."""
    n_problems = len({item.problem.id for item in graded})
    n_ungraded = sum(item.verdict.outcome == "ungraded" for item in graded)
    found = []
    for key, value in metrics.items():
        metric, comma, pipeline = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)) or not math.isfinite(value):
            continue
        half_width, how = _interval(metrics.get(f"{metric}_stderr,{pipeline}"))
        n_graded = len(graded) - n_ungraded
        method = f"lm-eval {version}; {how}"
        found.append(
            Estimate(key, value, value - half_width, value + half_width, n_problems, n_graded, n_ungraded, method)
        )
    return found


def _interval(stderr: Any) -> tuple[float, str]:
    """Return half the width of the interval, and how it was computed."""
    if not isinstance(stderr, (int, float)) or not math.isfinite(stderr):  # lm-eval writes N/A
        return 0.0, "no interval"
    return _QUANTILE * stderr, f"standard error {float(stderr)!r}, normal interval"
