"""Any task of lm-evaluation-harness with lm-eval's own metrics: lm_eval:gsm8k, lm_eval:mmlu (extra lm-eval)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.core.config import incidental
from harness.core.errors import ConfigError
from harness.core.extras import installed_version
from harness.core.protocols import Split, Task
from harness.core.types import DatasetCard, Estimate, Graded, Problem, Sampling
from harness.graders.lm_eval import LmEvalGrader
from harness.graders.references.lm_eval import LmEvalReference
from harness.tasks.lm_eval.loading import Loaded, check_name, load
from harness.tasks.lm_eval.problems import SCORED, estimates, own_metrics, problems, repeats_of, sampling_of


class LmEvalTask(Task[LmEvalReference]):
    """A task, group or tag of lm-eval. Ids are its name and the number of the document, such as `gsm8k-12`.

    Replies are drawn as the task says. Where that is greedily, or likelihoods are asked for, a second sample would be
    the same, so that there are as many as lm-eval takes (one, as a rule), whatever n says.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        """Options of lm-eval's command line, under the same names."""

        num_fewshot: int | None = None
        """Number of few-shot examples, in place of the task's own. A task with 0 keeps 0, as in lm-eval."""
        include_path: str = ""
        """A folder with additional tasks."""
        apply_chat_template: bool = False
        fewshot_as_multiturn: bool | None = None
        """Write each example as a turn of the conversation. Default: only with the chat template."""
        system_instruction: str = ""
        fewshot_seed: int = 1234
        run_unsafe_code: bool = False
        """Allow tasks that execute the model's programs in this process."""
        metric: str = ""
        """`metric` or `metric,filter` that decides whether a completion is correct. Default: the task's first."""
        bootstrap_iters: int = incidental(default=100_000)
        """Number of bootstrap draws of lm-eval's standard errors."""

    NAME: ClassVar[str] = ""
    is_external: ClassVar[bool] = True

    config: Config
    grader: LmEvalGrader

    def __init__(self, config: Config) -> None:
        check_name(self.NAME, config)
        self.config = config
        self.grader = LmEvalGrader(LmEvalGrader.Config())

    @classmethod
    @functools.cache
    def member(cls, name: str) -> type[LmEvalTask]:
        """Return the class of the task of that name. Whether it exists is checked on loading."""
        return type(cls.__name__, (cls,), {"NAME": name, "__module__": cls.__module__})

    @property
    def _loaded(self) -> Loaded:
        return load(self.NAME, self.config)

    @property
    def _id(self) -> str:
        return f"lm_eval:{self.NAME}"

    @property
    def sampling(self) -> Sampling:  # type: ignore[override]  # read from lm-eval on first use
        """Sampling of the first member that generates text; the others have their own."""
        found = (sampling for task in self._loaded.tasks.values() if (sampling := sampling_of(task)) is not None)
        return next(found, SCORED)

    @property
    def card(self) -> DatasetCard:  # type: ignore[override]  # read from lm-eval on first use
        tasks = self._loaded.tasks
        everything = list(self.problems("test", 0))
        sources = [f"{task.config.dataset_path} {task.config.dataset_name or ''}".strip() for task in tasks.values()]
        digest = hashlib.sha256()
        for problem in everything:
            asked = [(passage.messages, passage.text) for passage in problem.passages]
            digest.update(repr((problem.id, problem.messages, asked, str(problem.reference))).encode())
        return DatasetCard(
            title=f"{self.NAME} of lm-evaluation-harness",
            source="; ".join(dict.fromkeys(sources)),
            licence="that of its data set",
            paper="",
            sizes={"test": f"{len(everything)} problems"},
            fingerprint=digest.hexdigest()[:16],
            notes=f"lm-eval {self._version}; " + ", ".join(f"{name} {task.VERSION}" for name, task in tasks.items()),
        )

    @property
    def _version(self) -> str:
        return str(installed_version("lm-eval"))

    def problems(self, split: Split, seed: int) -> Iterator[Problem[LmEvalReference]]:  # noqa: ARG002
        """Yield the documents that lm-eval evaluates, in its order; the members of a group alternate."""
        if split != "test":
            raise ConfigError(f"{self._id} has no split {split!r}: lm-eval chooses the split itself; use test")
        return problems(self._id, self._loaded, self.config.metric)

    # --- external task ---------------------------------------------------------------------------------------------

    def has_right_and_wrong(self) -> bool:
        """Return whether every member's first metric is a mean over documents."""
        from lm_eval.api.metrics import mean

        return all(next(iter(task.aggregation().values()), mean) is mean for task in self._loaded.tasks.values())

    def n_samples(self, n: int, sampling: Sampling) -> int:
        tasks = self._loaded.tasks.values()
        least = max(repeats_of(task) for task in tasks)
        is_drawn = sampling.temperature > 0 and any(sampling_of(task) is not None for task in tasks)
        return max(n, least) if is_drawn else least

    def own_estimates(self, graded: Sequence[Graded[Any]]) -> Mapping[str, Sequence[Estimate]]:
        found = own_metrics(self._loaded, graded, self.config.bootstrap_iters)
        return {
            f"lm_eval:{name}": estimates(metrics, self._among(graded, name), self._version)
            for name, metrics in found.items()
        }

    def _among(self, graded: Sequence[Graded[Any]], name: str) -> Sequence[Graded[Any]]:
        """Return the graded completions of one member, or of a group's members."""
        group = self._loaded.groups.get(name)
        members = {name} if group is None else {task.task_name for task in group.get_all_tasks()}
        return [item for item in graded if item.problem.tags["member"] in members]


TASK = LmEvalTask
