"""How a server reduces token losses to the loss whose gradient it takes, found by a test on adapters of its own.

`sum`            the sum over all tokens of all sequences: SkyRL's megatron and fsdp backends, by their source, and the
                 hosted service, by a comment in its client
`mean_of_means`  the mean over a sequence's targets, then over sequences: SkyRL's JAX backend
`token_mean`     the mean over the targets of all sequences

Under the last two a gradient has to be scaled before it is sent. A wrong scale shows nowhere: Adam hides it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from harness.core.errors import ConfigError
from harness.models.tinker_server import Server
from harness.trainers.backends.tinker.requests import datum, logprobs_of

Reduction = Literal["sum", "mean_of_means", "token_mean"]
_LONG, _SHORT, _TOLERANCE = 12, 4, 0.05


def factors(reduction: Reduction, lengths: Sequence[int]) -> list[float]:
    """Return what to multiply each sequence's gradient by, so that the server's gradient is that of the sum.

    `lengths` are the targets of each sequence since the last step.
    """
    match reduction:
        case "sum":
            return [1.0] * len(lengths)
        case "mean_of_means":
            return [float(n * len(lengths)) for n in lengths]
        case "token_mean":
            return [float(sum(lengths))] * len(lengths)


def measure(server: Server, client: Any, tokens: Sequence[int]) -> Reduction | None:
    """Return the reduction; None if the server gives no norm of the gradient. `client` is stepped at rate 0.

    One token's log-prob has one gradient, whether its sequence goes on after it, and whether another sequence without
    gradient is sent too. How the norms of the three differ shows the reduction.
    """
    long, short = list(tokens[: _LONG + 1]), list(tokens[: _SHORT + 1])
    place = _SHORT - 1
    norms = [_norm(server, client, batch, place) for batch in ([short], [long], [long, short])]
    if any(norm is None for norm in norms):
        return None
    alone, longer, together = (norm if norm is not None else math.nan for norm in norms)
    seen = (longer / alone, together / alone) if alone > 0 else (math.nan, math.nan)
    for reduction in get_args(Reduction):
        expected = _expected(reduction)
        if all(abs(a - b) <= _TOLERANCE * b for a, b in zip(seen, expected, strict=True)):
            found: Reduction = reduction
            return found
    raise ConfigError(
        f"the server {server.base_url} scales gradients in an unknown way: the gradient of one token has the norm "
        f"{alone:.3g} in a sequence of {_SHORT}, {longer:.3g} in one of {_LONG}, and {together:.3g} with both. Only "
        "backends that sum, or that average over tokens and sequences, can be trained with; please open an issue"
    )


def _expected(reduction: Reduction) -> tuple[float, float]:
    """Return the norm in the long sequence and in both together, as shares of that in the short one."""
    per_short = factors(reduction, [_SHORT])[0]
    return per_short / factors(reduction, [_LONG])[0], per_short / factors(reduction, [_LONG, _SHORT])[0]


def _norm(server: Server, client: Any, sequences: Sequence[Sequence[int]], place: int) -> float | None:
    """Return the norm of the gradient of one log-prob of the first sequence."""
    from tinker import types

    asked = [datum(tokens, weights=[1.0] * (len(tokens) - 1)) for tokens in sequences]
    passed = server.wait(client.forward(asked, "cross_entropy"), "log-probabilities")
    data = []
    for number, (tokens, logp) in enumerate(zip(sequences, logprobs_of(passed), strict=True)):
        advantages = [float(number == 0 and i == place) for i in range(len(tokens) - 1)]
        data.append(datum(tokens, logprobs=logp.tolist(), advantages=advantages))
    server.wait(client.forward_backward(data, "importance_sampling"), "a gradient")
    step = client.optim_step(types.AdamParams(learning_rate=0.0))
    metrics = server.wait(step, "an optimiser step").metrics
    norm = metrics.get("skyrl.ai/grad_norm") if metrics else None
    return float(norm) if norm is not None else None
