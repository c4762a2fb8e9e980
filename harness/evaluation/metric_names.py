"""Metrics by the names that tables print: `pass@8` is the metric `pass_at_k` with k = 8, `avg@16` is `avg_at_k` of 16.

`--metrics` takes these, ids, and `pass@k` for every k that the metric chooses itself. A family that is named several
times gets all of the k.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core import registry
from harness.core.errors import ConfigError, UnknownNameError
from harness.core.plugin_files import is_file

PRINTED = {
    "pass^k": "pass_hat_k",
    "pass-all@k": "pass_hat_k",
    "g-pass@k": "g_pass_at_k",
    "bayes@k": "bayes_at_n",
    "best@k": "best_of_k",
    "no answer": "no_answer",
    "engine seconds per right answer": "engine_time",
    "tokens per right answer": "tokens",
    "USD per 1000 samples": "cost",
    "USD per 1000 right answers": "cost",
}
"""Names in tables from which the id does not follow."""
ONE_NAME = re.compile(r"(?P<family>[^@^]+(?:\(.*\))?)(?P<sign>[@^])(?P<k>\d+|k)")


def metric_settings(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the config tables of the named metrics, in their order."""
    found: dict[str, list[int]] = {}
    for name in names:
        plugin_id, k = _id_and_k(name)
        ks = found.setdefault(plugin_id, [])
        ks += [k] if k is not None else []
    return [_table(plugin_id, sorted(set(ks))) for plugin_id, ks in found.items()]


def samples_averaged(names: Sequence[str]) -> int | None:
    """Return the 16 of `avg@16` or `bayes@16`, which has to be the number of samples; None without such a name."""
    matches = (re.fullmatch(r"(?:avg|bayes)@(\d+)", name) for name in names)
    return next((int(match[1]) for match in matches if match is not None), None)


def _id_and_k(name: str) -> tuple[str, int | None]:
    if is_file(name):
        return name, None
    known: Mapping[str, Any] = registry.entries("metrics")
    one = ONE_NAME.fullmatch(name)
    general = f"{one['family']}{one['sign']}k" if one is not None else name
    general = re.sub(r"\(tau=.*\)", "", general)
    plugin_id = PRINTED.get(general, general.replace("@k", "_at_k").replace("-", "_").replace(" ", "_"))
    if plugin_id not in known:
        printed = [registry_id.replace("_at_k", "@k") for registry_id in known]
        raise UnknownNameError("metric", name, [*known, *printed, *PRINTED])
    k = int(one["k"]) if one is not None and one["k"] != "k" else None
    return plugin_id, k


def _table(plugin_id: str, ks: Sequence[int]) -> dict[str, Any]:
    if not ks or plugin_id in ("avg_at_k", "bayes_at_n"):
        return {"id": plugin_id}
    if 0 in ks:
        raise ConfigError(f"every k of {plugin_id} is at least 1, not 0")
    return {"id": plugin_id, "ks": list(ks)}
