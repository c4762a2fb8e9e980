"""Strategies of stored runs by one judge: values in every run's folder, its replies next to them, and its card."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from harness.core.errors import UsageError
from harness.core.progress import Progress
from harness.core.seeds import derive
from harness.core.types import Graded
from harness.diversity.arms import Arm, Sizes, common_tasks, right_items, sizes_of, with_details
from harness.diversity.asking import Judge, Prompt
from harness.diversity.measures import build, store
from harness.diversity.strategies import WORDINGS, Labelled, Labelling, Solutions, label, labellings
from harness.runs.folder import RunReader
from harness.runs.jsonl import write_whole

REPLIES = "judgements.jsonl"
RANDOM = "strategy_random_"
"""Prefix of the control: as many labels as the judge found, dealt at random."""
MEASURES = ("coverage_at_n", "hill_numbers", "majority_share")
UNKNOWN = "not known"
LEAST_COSINE = 0.9
"""Texts at least as near as this to the first text of a cluster belong to it."""


class Encoder(Protocol):
    """A model that gives a unit vector for each text."""

    def directions(self, texts: Sequence[str]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Judged:
    """The labels of one task, with the solutions that they are of."""

    task: str
    sizes: Sizes
    items: Mapping[tuple[str, str], Sequence[Graded[Any]]]
    """Right samples by run and problem, in the order of their labels, repeats included."""
    places: Mapping[tuple[str, str], Sequence[int]]
    """Place of each sample's text among the different texts."""
    labelled: Labelled
    ways: Sequence[Labelling]

    def labels(self, key: tuple[str, str], way: Labelling) -> list[str] | None:
        """Return the label of each sample; None where the judge failed."""
        found = self.labelled.labels.get((*key, way.name))
        return [found[place] for place in self.places[key]] if found is not None else None


def judge_arms(
    arms: Sequence[Arm],
    judge: Judge,
    n_passes: int,
    n_solutions: int | None,
    progress: Progress,
    encoder: Encoder | None = None,
) -> dict[str, dict[str, Any]]:
    """Label the strategies of all runs, store values, replies and the card in each, and return the cards by task.

    With an encoder the card has the agreement with clusters of embeddings.
    """
    refuse_reward_judges(arms, judge)
    cards = {}
    for task in common_tasks(arms):
        sizes = sizes_of(arms, task)
        if sizes.correct is None:
            progress.warn(f"{task}: no problem has two right samples in every run, so there is nothing to judge")
            continue
        judged = _label(arms, task, sizes, judge, n_passes, n_solutions, progress)
        cards[task] = card_of(judged, judge)
        if encoder is not None:
            index = _index(_agreement_with(judged, _embedded(judged, encoder)))
            cards[task] |= {f"adjusted Rand with embeddings of cosine {LEAST_COSINE:g}": index}
        for arm in arms:
            store(arm, task, sizes, arms, values_of(judged, arm), {"judge": cards[task]})
            _write_replies(judged, arm, judge)
    return cards


def _label(
    arms: Sequence[Arm], task: str, sizes: Sizes, judge: Judge, n_passes: int, n: int | None, progress: Progress
) -> Judged:
    items, places, solutions = {}, {}, []
    fewest = sizes.correct if sizes.correct is not None else 2
    for arm in arms:
        for problem_id, graded in arm.graded[task].items():
            right = right_items(graded)
            if len(right) < fewest:
                continue
            kept = right[: max(fewest, n if n is not None else fewest)]
            texts = [item.completion.load().text for item in kept]
            different = list(dict.fromkeys(texts))
            statement = "\n\n".join(message.content for message in kept[0].problem.messages)
            items[arm.id, problem_id] = kept
            places[arm.id, problem_id] = [different.index(text) for text in texts]
            solutions.append(Solutions(arm.id, problem_id, statement, tuple(different)))
    ways = labellings(n_passes)
    return Judged(task, sizes, items, places, label(solutions, ways, judge, progress), ways)


def values_of(judged: Judged, arm: Arm) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return the measures of strategies by problem: one value for each labelling, where none of them failed."""
    whole = [
        problem
        for run, problem in judged.items
        if run == arm.id and all(judged.labels((run, problem), way) is not None for way in judged.ways)
    ]
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for name in MEASURES:
        metric = build(name, Sizes(None, judged.sizes.correct), {"classes": "strategy"})
        if metric is None:
            continue
        for is_random in (False, True) if name == "hill_numbers" else (False,):
            for way in judged.ways:
                graded = [item for problem in whole for item in _marked(judged, (arm.id, problem), way, is_random)]
                for measure, values in metric.per_problem(graded).items():
                    shown = measure.replace("strategy_", RANDOM, 1) if is_random else measure
                    for problem, value in values.items():
                        former = found.setdefault(shown, {}).get(problem, ())
                        found[shown][problem] = (*former, value)
    return found


def _marked(judged: Judged, key: tuple[str, str], way: Labelling, is_random: bool) -> list[Graded[Any]]:
    labels = judged.labels(key, way) or []
    if is_random:
        source, names = Random(derive(0, "random strategies", way.name, key[1])), sorted(set(labels))
        labels = [source.choice(names) for _ in labels]
    return [with_details(item, strategy=name) for item, name in zip(judged.items[key], labels, strict=True)]


def _write_replies(judged: Judged, arm: Arm, judge: Judge) -> None:
    """Write the labels of a run's samples, one line for each problem and labelling, failures included."""
    lines = []
    for (run, problem), items in judged.items.items():
        for way in judged.ways if run == arm.id else ():
            labels = judged.labels((run, problem), way)
            row: dict[str, Any] = {"task": judged.task, "problem_id": problem, "judge": judge.model}
            row |= {"wording": way.wording, "pass": way.order, "indices": [item.completion.index for item in items]}
            failure = judged.labelled.failures.get((run, problem, way.name))
            lines.append(json.dumps({**row, "labels": labels, **({"failure": failure} if failure else {})}))
    write_whole(arm.run.folder / REPLIES, "".join(f"{line}\n" for line in lines))


# --- the card ---------------------------------------------------------------------------------------------------


def card_of(judged: Judged, judge: Judge) -> dict[str, Any]:
    """Return what the judge is and how far it agrees: with itself, with exact solutions, and how often it failed."""
    usage, n_all = judge.usage, len(judged.items) * len(judged.ways)
    orders = [pair for pair in itertools.combinations(judged.ways, 2) if pair[0].wording == pair[1].wording]
    wordings = [pair for pair in itertools.combinations(judged.ways, 2) if pair[0].order == pair[1].order]
    passes = _agreement(judged, orders)
    return {
        "model": judge.model,
        "engine": judge.choice.id,
        "prompts": " ".join(f"{p}:{Prompt.read(p).digest}" for w in WORDINGS for p in (f"group-{w}", f"merge-{w}")),
        "passes": f"{len(judged.ways) // len(WORDINGS)} orders x {len(WORDINGS)} wordings",
        "adjusted Rand between orders": _index(passes),
        "pair decisions that the order changes": _changed(passes),
        "adjusted Rand between wordings": _index(_agreement(judged, wordings)),
        "adjusted Rand with exact solutions": _index(_agreement_with(judged, _exact(judged))),
        "failed": f"{len(judged.labelled.failures)} of {n_all} labellings (missing, never a score)",
        "replies": f"{usage.n_asked} asked, {usage.n_cached} from the cache",
        "tokens": f"{usage.n_prompt_tokens} in, {usage.n_completion_tokens} out",
        "cost": f"{usage.cost_usd:.4f} USD" if usage.cost_usd is not None else UNKNOWN,
    }


def _agreement(judged: Judged, pairs: Iterable[tuple[Labelling, Labelling]]) -> list[tuple[int, int, int, int]]:
    """Return the pair counts of two labellings of each problem, summed over such pairs of labellings."""
    from harness.stats.diversity import pair_counts  # numpy

    found = []
    chosen = list(pairs)
    for key in judged.items:
        sides = [(judged.labels(key, one), judged.labels(key, other)) for one, other in chosen]
        counts = [pair_counts(one, other) for one, other in sides if one is not None and other is not None]
        if counts:
            both, first, second, neither = (sum(column) for column in zip(*counts, strict=True))
            found.append((both, first, second, neither))
    return found


def _exact(judged: Judged) -> dict[tuple[str, str], list[Any]]:
    """Return the task's own solution of each sample, for the problems whose samples all have one."""
    found = {key: [g.verdict.details.get("solution") for g in items] for key, items in judged.items.items()}
    return {key: solutions for key, solutions in found.items() if None not in solutions}


def _embedded(judged: Judged, encoder: Encoder) -> dict[tuple[str, str], list[Any]]:
    """Return the cluster of each sample's embedding."""
    from harness.stats.diversity import leader_clusters  # numpy

    texts = {key: [item.completion.load().text for item in items] for key, items in judged.items.items()}
    return {key: list(leader_clusters(encoder.directions(found), LEAST_COSINE)) for key, found in texts.items()}


def _agreement_with(judged: Judged, others: Mapping[tuple[str, str], Sequence[Any]]) -> list[tuple[int, int, int, int]]:
    """Return the pair counts of each labelling and another partition, summed over labellings."""
    from harness.stats.diversity import pair_counts  # numpy

    found = []
    for key, other in others.items():
        labels = [judged.labels(key, way) for way in judged.ways]
        counts = [pair_counts(of_way, other) for of_way in labels if of_way is not None]
        if counts:
            both, first, second, neither = (sum(column) for column in zip(*counts, strict=True))
            found.append((both, first, second, neither))
    return found


def _index(counts: Sequence[tuple[int, int, int, int]]) -> str:
    from harness.stats.diversity import adjusted_rand_interval  # numpy

    found = adjusted_rand_interval(counts)
    return f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]" if found is not None else "not defined"


def _changed(counts: Sequence[tuple[int, int, int, int]]) -> str:
    every = sum(map(sum, counts))
    return f"{sum(c[1] + c[2] for c in counts) / every:.1%}" if every else "not defined"


# --- judges that were a reward ----------------------------------------------------------------------------------


def refuse_reward_judges(arms: Sequence[Arm], judge: Judge) -> None:
    """Raise if a run's model was trained with this judge as its reward, since it has learned to please it."""
    for arm in arms:
        trained = _training(arm.run)
        if trained is not None and judge.model in _strings(trained.config(), "model"):
            raise UsageError(
                f"{judge.model} was a judge in the training of {arm.run.folder} ({trained.folder}), and the model has "
                "learned to please it; use another judge for all of these runs"
            )


def _training(run: RunReader) -> RunReader | None:
    model = Path(str(run.config().get("model", {}).get("path", "")))
    for folder in (model, model.parent.parent, run.folder.parent.parent):
        if (folder / "run.json").is_file() and RunReader.read(folder).record.kind == "train":
            return RunReader.read(folder)
    return None


def _strings(tree: Mapping[str, Any], key: str) -> list[str]:
    """Return the values of a key in the graders of a training config, at any depth."""
    found = [str(tree[key])] if isinstance(tree.get(key), str) else []
    return found + [name for value in tree.values() if isinstance(value, Mapping) for name in _strings(value, key)]
