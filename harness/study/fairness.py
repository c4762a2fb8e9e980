"""Whether arms differ in no more than they declare: the same base, prompts, steps, samples and reward.

An arm declares a difference by setting the key in the study file, by sweeping or tuning it, or by naming it in
`differs` if its recipe brings it. Options of the objective are the method itself. Any other difference is printed in
the report, and refused where it changes what the arms have in common.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.config import parse, to_tree
from harness.core.errors import ConfigError
from harness.core.types import Table
from harness.study.arms import Arm
from harness.study.cells import TrainCell
from harness.trainers.config import TrainConfig

METHOD = "objective"
PROTECTED = {
    "model": "base",
    "task": "prompts",
    "loop.prompts_per_step": "prompts",
    "loop.steps": "steps",
    "loop.samples_per_prompt": "samples",
    "sampling": "samples",
    "rollouts": "samples",
    "dynamic_sampling": "samples",
    "grader": "reward",
    "overlong": "reward",
    "mara": "reward",
}
"""Key or section -> what the arms would no longer have in common."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting in which an arm differs from most."""

    arm: str
    key: str
    value: Any
    usual: Any
    """The value of most arms; of as many with two values, that of the first arm."""
    is_declared: bool
    changes: str | None
    """The thing that the arms no longer have in common, if the key is protected."""


def differences(arms: Sequence[Arm], cells: Sequence[TrainCell]) -> list[Difference]:
    """Return every setting outside the objective in which an arm differs. `cells` has one training of each arm."""
    of_arm = {cell.arm: flat(to_tree(parse(TrainConfig, cell.tree), identity_only=True)) for cell in cells}
    by_name = {arm.name: arm for arm in arms}
    found = []
    for key in sorted({key for tree in of_arm.values() for key in tree}):
        if key.partition(".")[0] in (METHOD, "seed"):
            continue
        values = {name: tree.get(key) for name, tree in of_arm.items()}
        texts = {name: json.dumps(value) for name, value in values.items()}
        usual_text = Counter(texts.values()).most_common(1)[0][0]
        usual = json.loads(usual_text)
        found += [
            Difference(name, key, value, usual, _is_declared(by_name[name], key), _protects(key))
            for name, value in values.items()
            if texts[name] != usual_text
        ]
    return found


def check_fairness(found: Sequence[Difference]) -> None:
    """Raise if an arm undeclared has another base, other prompts, steps, samples or rewards."""
    for d in found:
        if d.changes is not None and not d.is_declared:
            section = next(key for key in PROTECTED if _is_in(d.key, key))
            raise ConfigError(
                f"the arm {d.arm!r} has {d.key} = {_text(d.value)}, and the others {_text(d.usual)}: they would not be "
                f"compared on the same {d.changes}. Set it for all in [common], or declare it in the arm: "
                f'differs = ["{section}"]'
            )


def fairness_table(found: Sequence[Difference]) -> Table:
    rows = tuple(
        (d.arm, d.key, _text(d.value), _text(d.usual), "declared" if d.is_declared else "NOT DECLARED")
        for d in sorted(found, key=lambda d: (d.is_declared, d.arm, d.key))
    )
    note = (
        "All arms have the same base, seeds, evaluations and, unless listed here, prompts, steps, samples and reward. "
        "Options of the objective are the method and are in the table of arms."
    )
    return Table("Differences between the arms", ("arm", "setting", "value", "others", ""), rows, (note,))


def arms_table(arms: Sequence[Arm], cells: Sequence[TrainCell]) -> Table:
    """Return the objective of each arm with its options, and what the study sets for it."""
    objectives = {cell.arm: cell.tree["objective"] for cell in cells}
    rows = []
    for arm in arms:
        objective = objectives[arm.name]
        options = ", ".join(f"{key}={_text(value)}" for key, value in objective.items() if key != "id")
        own = ", ".join(f"{key}={_text(value)}" for key, value in flat(arm.settings).items())
        rows.append((arm.name, arm.recipe.stem, objective["id"], options, own if own else None))
    return Table("Arms", ("arm", "recipe", "objective", "its options", "set in the study"), tuple(rows))


# --- keys -------------------------------------------------------------------------------------------------------


def flat(tree: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return the values of a tree by dotted key. Lists are values."""
    return dict(_flat(tree, where))


def _flat(tree: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield where + key, value


def _is_declared(arm: Arm, key: str) -> bool:
    return key in flat(arm.settings) or any(_is_in(key, named) for named in arm.differs)


def _protects(key: str) -> str | None:
    return next((what for section, what in PROTECTED.items() if _is_in(key, section)), None)


def _is_in(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _text(value: Any) -> str:
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
