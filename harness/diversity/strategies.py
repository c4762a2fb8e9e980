"""Strategies of right solutions, labelled by a judge: chunks and a merging call, in several orders and wordings.

A reply that is not exactly the asked JSON, with every number once, leaves its labelling of the problem missing. It
never becomes a label, and the next command asks again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from harness.core.progress import Progress
from harness.core.seeds import derive
from harness.core.types import Failure
from harness.diversity.asking import Judge, Prompt

WORDINGS = ("a", "b")
CHUNK = 8
MAX_TOKENS = 2048
_FENCED = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)

Key = tuple[str, str, str]
"""Run, problem, labelling."""


@dataclass(frozen=True, slots=True)
class Solutions:
    """The right solutions of one problem in one run. Equal texts are one."""

    run: str
    problem_id: str
    statement: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Labelling:
    """One way to ask: a wording of the prompts, and a pass with an order of its own."""

    wording: str
    order: int

    @property
    def name(self) -> str:
        return f"{self.wording}{self.order}"


@dataclass
class Labelled:
    """The labels of the solutions by labelling, and why some are missing."""

    labels: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    idea: str
    members: tuple[int, ...]
    """Places among the texts that the prompt showed, from 0."""


class BadReplyError(Exception):
    """A reply that is not the asked JSON. The message states the fault."""


def labellings(n_passes: int) -> list[Labelling]:
    return [Labelling(wording, order) for wording in WORDINGS for order in range(n_passes)]


def label(problems: Sequence[Solutions], ways: Sequence[Labelling], judge: Judge, progress: Progress) -> Labelled:
    """Label the solutions of every problem in every way. Everything of one stage is asked at once."""
    found = Labelled()
    work = {(one.run, one.problem_id, way.name): (one, way) for one in problems for way in ways}
    orders = {key: _order(one, way) for key, (one, way) in work.items()}
    prompts, chunks = {}, {}
    for key, (one, way) in work.items():
        prompt = Prompt.read(f"group-{way.wording}")
        chunks[key] = [orders[key][start : start + CHUNK] for start in range(0, len(orders[key]), CHUNK)]
        for number, chunk in enumerate(chunks[key]):
            prompts[_name(key, number)] = prompt.filled(one.statement, [one.texts[i] for i in chunk])
    groups = _groups(prompts, chunks, judge, found, progress)
    merges = {}
    for key, of_problem in groups.items():
        one, way = work[key]
        if len(chunks[key]) > 1:
            shown = [f"{group.name}: {group.idea}\n\n{one.texts[group.members[0]]}" for group in of_problem]
            merges[_name(key, 0)] = Prompt.read(f"merge-{way.wording}").filled(one.statement, shown)
        else:
            found.labels[key] = _labels(of_problem, len(one.texts))
    places = {key: [list(range(len(groups[key])))] for key in groups if len(chunks[key]) > 1}
    for key, merged in _groups(merges, places, judge, found, progress).items():
        united = [Group(g.name, g.idea, tuple(m for i in g.members for m in groups[key][i].members)) for g in merged]
        found.labels[key] = _labels(united, len(work[key][0].texts))
    return found


def _order(one: Solutions, way: Labelling) -> list[int]:
    """Return the order of a pass, which both wordings share. It depends on the texts and not on the run."""
    return Random(derive(way.order, "judge order", *sorted(one.texts))).sample(range(len(one.texts)), len(one.texts))


def _name(key: Key, number: int) -> str:
    return json.dumps([*key, number])


def _groups(
    prompts: Mapping[str, str],
    shown: Mapping[Key, Sequence[Sequence[int]]],
    judge: Judge,
    found: Labelled,
    progress: Progress,
) -> dict[Key, list[Group]]:
    """Ask, and return the groups of each key whose replies are all good, with the members as places in its texts."""
    replies = judge.ask(prompts, MAX_TOKENS, progress)
    good: dict[Key, list[Group]] = {}
    for key, chunks in shown.items():
        of_key: list[Group] = []
        for number, chunk in enumerate(chunks):
            name = _name(key, number)
            reply = replies[name]
            try:
                if isinstance(reply, Failure):
                    raise BadReplyError(reply.reason)
                parsed = parse_groups(reply, len(chunk))
            except BadReplyError as error:
                found.failures[key] = str(error)
                judge.forget(prompts[name], MAX_TOKENS)
                continue
            of_key += [Group(g.name, g.idea, tuple(chunk[i] for i in g.members)) for g in parsed]
        if key not in found.failures:
            good[key] = of_key
    return good


def parse_groups(reply: str, count: int) -> list[Group]:
    """Return the groups of a reply about `count` solutions. Raise BadReplyError unless each is in exactly one."""
    fenced = _FENCED.fullmatch(reply)
    try:
        tree = json.loads(fenced[1] if fenced is not None else reply)
    except (ValueError, RecursionError):
        raise BadReplyError("the reply is not JSON") from None
    groups = tree.get("groups") if isinstance(tree, dict) else None
    if not isinstance(groups, list) or not groups:
        raise BadReplyError("the reply has no list of groups")
    found = [_group(group) for group in groups]
    members = [member for group in found for member in group.members]
    if sorted(members) != list(range(count)):
        raise BadReplyError("a number is missing, repeated or out of range")
    return found


def _group(tree: object) -> Group:
    if not isinstance(tree, dict) or not {"name", "idea", "members"} <= tree.keys():
        raise BadReplyError("a group lacks its name, idea or members")
    name, idea, members = tree["name"], tree["idea"], tree["members"]
    is_named = isinstance(name, str) and isinstance(idea, str)
    if not (is_named and isinstance(members, list) and members and all(type(m) is int for m in members)):
        raise BadReplyError("a group's name, idea or members have the wrong type")
    return Group(name[:200], idea[:1000], tuple(member - 1 for member in members))


def _labels(groups: Sequence[Group], count: int) -> tuple[str, ...]:
    labels = [""] * count
    for number, group in enumerate(groups):
        for member in group.members:
            labels[member] = str(number)
    return tuple(labels)
