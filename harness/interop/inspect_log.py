"""`harness export inspect-log`: a run as `.eval` logs, one per task, which `inspect view` opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.errors import RunFolderError
from harness.core.extras import installed_version, require
from harness.core.types import Completion, Estimate, Problem, Tokens, Verdict
from harness.evaluation.config import EvalConfig
from harness.evaluation.setup import build_tasks, grader_name, problems_for
from harness.interop.inspect_export import messages_of, score_of
from harness.interop.problems import new_folder
from harness.runs.folder import RunReader

GradedSample = tuple[Problem[Any], Completion, Verdict]


def export(run: Path, folder: Path) -> list[Path]:
    """Write the logs and return their paths. Completions without a verdict are left out."""
    require("inspect", "an inspect log")
    from inspect_ai.log import write_eval_log

    view = RunReader.read(run)
    if view.record.kind != "eval":
        raise RunFolderError(f"{run} is a train run; name one of its evaluations, such as {run}/evals/...")
    config = configs.parse(EvalConfig, view.config())
    found = {chosen.id: _graded_samples(view, config, chosen) for chosen in config.tasks}
    if not any(found.values()):
        raise RunFolderError(f"{run} has no graded completions yet, so there is nothing to write")
    new_folder(folder)
    paths = []
    for task, graded in found.items():
        if graded:
            paths.append(folder / f"{view.record.id}-{task.replace(':', '-').replace('/', '-')}.eval")
            write_eval_log(_log(view, config, task, graded), str(paths[-1]))
    return paths


def _graded_samples(view: RunReader, config: EvalConfig, chosen: configs.PluginChoice) -> list[GradedSample]:
    task = build_tasks(config)[chosen.id]
    problems = {p.id: p for p in problems_for(config, {chosen.id: task})[chosen.id]}
    verdicts = view.verdicts(grader_name(task, config.judge(chosen.id)))
    completions = [c for name, c in view.completions() if name == chosen.id and c.problem_id in problems]
    keyed = [(c, verdicts.get((chosen.id, c.problem_id, c.index))) for c in completions]
    return [(problems[c.problem_id], c, verdict) for c, verdict in keyed if verdict is not None]


def _log(view: RunReader, config: EvalConfig, task: str, graded: Sequence[GradedSample]) -> Any:
    from inspect_ai.log import EvalLog, EvalPlan, EvalPlanStep, EvalStats

    record, usage = view.record, {config.model.path: _usage([c.tokens for _, c, _ in graded])}
    statuses = {"done": "success", "interrupted": "cancelled", "running": "started", "failed": "error"}
    return EvalLog(
        status=statuses[record.status],
        eval=_spec(view, config, task, graded),
        plan=EvalPlan(steps=[EvalPlanStep(solver="generate", params_passed={})], config=_settings(view, task)),
        results=_results(view.estimates().get(task, []), graded),
        stats=EvalStats(started_at=record.created, model_usage=usage),
        samples=[_sample(config, *one) for one in graded],
    )


def _spec(view: RunReader, config: EvalConfig, task: str, graded: Sequence[GradedSample]) -> Any:
    from inspect_ai.log import EvalConfig as InspectConfig
    from inspect_ai.log import EvalDataset, EvalSpec

    record = view.record
    ids = list(dict.fromkeys(problem.id for problem, _, _ in graded))
    facts: Mapping[str, Any] = record.data.get(task, {})
    name = f"{record.id}-{task}"
    return EvalSpec(
        eval_id=name,
        run_id=record.id,
        task_id=name,
        created=record.created,
        task=task,
        task_version=str(facts.get("fingerprint", 0)),
        dataset=EvalDataset(name=task, location=str(facts.get("source", "")), samples=len(ids), sample_ids=ids),
        model=config.model.path,
        model_generate_config=_settings(view, task),
        config=InspectConfig(epochs=max(completion.index for _, completion, _ in graded) + 1),
        packages={"flowrl-harness": record.code, "inspect_ai": str(installed_version("inspect-ai"))},
        metadata={
            "config": configs.to_tree(config),
            "config_digest": record.config_digest,
            "data": dict(record.data),
            "environment": dict(record.environment),
            "seeds": dict(record.seeds),
        },
    )


def _settings(view: RunReader, task: str) -> Any:
    from inspect_ai.model import GenerateConfig

    is_imported = "source" in view.record.data  # and not drawn as the task asks for
    own = {} if is_imported else dict(view.record.data.get(task, {}).get("sampling", {}))
    sampling = {**own, **view.config().get("sampling", {})}
    names = {"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "stop": "stop_seqs"}
    return GenerateConfig(**{theirs: sampling[ours] for ours, theirs in names.items() if ours in sampling})


def _results(estimates: Sequence[Estimate], graded: Sequence[GradedSample]) -> Any:
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    n_ungraded = sum(verdict.outcome == "ungraded" for _, _, verdict in graded)
    metrics = {
        e.name: EvalMetric(name=e.name, value=e.value, metadata={"low": e.low, "high": e.high, "method": e.method})
        for e in estimates
    }
    score = EvalScore(
        name="harness",
        scorer="harness",
        scored_samples=len(graded) - n_ungraded,
        unscored_samples=n_ungraded,
        metrics=metrics,
    )
    return EvalResults(total_samples=len(graded), completed_samples=len(graded), scores=[score])


def _sample(config: EvalConfig, problem: Problem[Any], completion: Completion, verdict: Verdict) -> Any:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput

    prompt = messages_of([{"role": m.role, "content": m.content} for m in problem.messages])
    reason = "max_tokens" if completion.finish_reason == "length" else "stop"
    output = ModelOutput.from_content(config.model.path, completion.text, stop_reason=reason)
    output.usage = _usage([completion.tokens])
    scored = [{"text": p.text, "logp": found.logp} for p, found in zip(problem.passages, completion.likelihoods)]  # noqa: B905
    return EvalSample(
        id=problem.id,
        epoch=completion.index + 1,
        input=prompt,
        target=str(getattr(problem.reference, "text", problem.reference)),
        messages=[*prompt, output.message],
        output=output,
        scores={"harness": score_of(verdict)},
        metadata={"seed": completion.seed, **problem.tags, **({"passages": scored} if scored else {})},
        model_usage={config.model.path: output.usage},
    )


def _usage(several: Sequence[Tokens]) -> Any:
    from inspect_ai.model import ModelUsage

    n_prompt, n_completion = sum(t.n_prompt for t in several), sum(t.n_completion for t in several)
    return ModelUsage(input_tokens=n_prompt, output_tokens=n_completion, total_tokens=n_prompt + n_completion)
