"""What a finished run asked for and did not get."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.records import Records
from harness.core.store import RunView
from harness.core.task_facts import grader_name
from harness.eval_config import EvalConfig
from harness.evaluate import tasks_of
from harness.ledger import LOST


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What a run asked for and has no verdict of right or wrong on."""

    n_asked: int
    n_ungraded: int
    n_lost: int
    """Of the ungraded those that the engine could not have; the same command asks for them again."""

    def is_above(self, share: float) -> bool:
        return self.n_ungraded > share * self.n_asked


def shortfall(config: EvalConfig, view: RunView) -> Shortfall:
    """Of the samples below n under each task's own grader."""
    tasks = tasks_of(config)
    graders = {name: grader_name(task, config.judge(name)) for name, task in tasks.items()}
    wanted = {name: config.plan(name, task).n for name, task in tasks.items()}
    records = Records(view, graders, with_completions=False)
    found = [
        verdict
        for task, verdicts in records.verdicts.items()
        for (_, index), verdict in verdicts.items()
        if index < wanted[task]
    ]
    ungraded = [verdict for verdict in found if verdict.outcome == "ungraded"]
    return Shortfall(len(found), len(ungraded), sum(LOST in verdict.details for verdict in ungraded))
