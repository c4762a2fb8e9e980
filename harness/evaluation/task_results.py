"""What a run folder holds of one task, and where more of it goes."""

from __future__ import annotations

from harness.core.types import Completion, StoredCompletion, Verdict
from harness.evaluation.timing import Stopwatch
from harness.runs.folder import RunWriter
from harness.runs.index import CompletionIndex, stored_at

LOST = "no_completion"  # in a verdict's details: there was nothing to grade, and the next run asks again


class TaskResults:
    """What a run folder holds of one task under one grader, and where more of it goes."""

    def __init__(
        self,
        store: RunWriter,
        task: str,
        grader: str,
        *,
        with_ids: bool = False,
        records: CompletionIndex | None = None,
    ) -> None:
        """`records` are those of the folder, where they were read already."""
        self._store, self._task, self._grader, self._with_ids = store, task, grader, with_ids
        self.stopwatch = Stopwatch()
        held = records if records is not None else CompletionIndex(store.view(), {task: grader})
        self.completions, self.verdicts = held.completions[task], held.verdicts[task]
        for key in [key for key, verdict in self.verdicts.items() if LOST in verdict.details]:
            del self.verdicts[key]

    def append_completion(self, completion: Completion) -> StoredCompletion:
        """Append it to completions.jsonl; return a handle that reads its text and ids back on demand."""
        path, offset = self._store.append_completion(self._task, completion, with_ids=self._with_ids)
        stored = stored_at(completion, path, offset)
        self.completions[stored.problem_id, stored.index] = stored
        return stored

    def append_verdict(self, completion: Completion | StoredCompletion, verdict: Verdict) -> None:
        self._store.append_verdict(self._task, completion.problem_id, completion.index, self._grader, verdict)
