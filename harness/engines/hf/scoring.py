"""Forward passes that score given tokens: their log-probability, and whether each was the likeliest."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from harness.engines.hf.batch import MIN_CPU_ROWS, mixes_lengths
from harness.engines.hf.cache import prompt_cache
from harness.engines.hf.prefix_tree import ROW_TOKENS, Ids, Node, PackedRow, SharedPrefix, forest, pack, plan
from harness.models.passages import ScoringWindow

# Limits of one forward pass: tokens, cached ones among them, and elements of its logits.
PASS_TOKENS = 16_384
PASS_LOGITS = 2**28
# On a CPU a packed row is padded to a multiple of this, whatever other rows are read with it.
_ROW_COLUMNS = 4
# How far a packed row may be from a plain pass, in nats a token; float32 differs by 1e-6, a wrong mask by far more.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_TOLERANCE_HALF = 0.25

_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window")
"""The names that configs have for the number of tokens that a layer of local attention sees."""

Windows = Mapping[Ids, Sequence[ScoringWindow]]
Scores = dict[ScoringWindow, tuple[float, bool]]

_shares_prefixes: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""By model, whether packed rows have been seen to give the numbers of a plain pass."""


@torch.inference_mode()
def score_windows(module: Any, windows: Iterable[ScoringWindow]) -> Scores:
    """Return the log-probability of the scored tokens of each window, and whether greedy decoding would write them.

    A prefix that windows share is read once, where the model allows it.
    """
    by_input: dict[Ids, list[ScoringWindow]] = defaultdict(list)
    for window in windows:
        by_input[window.input_ids].append(window)
    chains = SharedPrefix((), [pack(Node(0, ids, [], True), ()) for ids in by_input], [])
    trees = forest(sorted(by_input))
    if any(tree.children for tree in trees) and _can_share(module, trees, by_input):
        return _scores(module, plan(trees, {ids: _first_scored(ids, by_input) for ids in by_input}), by_input)
    return _scores(module, chains, by_input)


def _can_share(module: Any, trees: Sequence[Node], windows: Windows) -> bool:
    """Return whether packed rows and shared caches give this model's numbers: tried once, with the smallest tree."""
    if not mixes_lengths(module) or not _takes_masks(module, max(tree.longest() for tree in trees)):
        return False
    if module not in _shares_prefixes:
        tree = min((tree for tree in trees if tree.children), key=Node.n_tokens)
        row = pack(tree, ())
        packed = _scores(module, SharedPrefix((), [row], []), windows)
        plain = _scores(module, SharedPrefix((), [pack(Node(0, ids, [], True), ()) for ids in row.places], []), windows)
        tolerance = _TOLERANCE.get(module.dtype, _TOLERANCE_HALF)
        _shares_prefixes[module] = all(
            math.isclose(packed[window][0], plain[window][0], rel_tol=0, abs_tol=tolerance * window.n_scored)
            for window in plain
        )
    return _shares_prefixes[module]


def _takes_masks(module: Any, longest: int) -> bool:
    """Return whether the attention takes a mask of its own, and no layer sees less than `longest` tokens."""
    config = module.config.get_text_config()
    windows = [window for name in _WINDOWS if isinstance(window := getattr(config, name, None), int)]
    is_general = config._attn_implementation.startswith(("sdpa", "eager"))
    # A layer may count its window in columns, of which a packed row has more than its longest sequence.
    return is_general and all(window >= max(ROW_TOKENS, 2 * longest) for window in windows)


def _first_scored(ids: Ids, windows: Windows) -> int:
    """Return the first position of these tokens whose prediction counts."""
    return len(ids) - max(window.n_scored for window in windows[ids])


# --- passes -----------------------------------------------------------------------------------------------------------


def _scores(module: Any, shared: SharedPrefix, windows: Windows, cache: Any = None) -> Scores:
    """Score the rows below a shared prefix, which `cache` holds but for its own tokens."""
    if shared.ids:
        cache = _extended(module, cache, shared.ids)
    scores: Scores = {}
    for batch in _batches(module, shared.rows, windows, _n_cached(cache)):
        n_kept = max(_n_kept(row, windows) for row in batch)
        for row, logits in zip(batch, last_logits(module, batch, n_kept, cache), strict=True):
            scores |= _scores_of_row(row, logits, windows)
    for inner in shared.inner:
        scores |= _scores(module, inner, windows, cache)
    return scores


def _scores_of_row(row: PackedRow, logits: torch.Tensor, windows: Windows) -> Scores:
    """Return the scores of all windows in a row, from the logits of its last columns. (columns, V)"""
    mine = [(window, columns) for ids, columns in row.places.items() for window in windows[ids]]
    at = [column - len(row.ids) for window, columns in mine for column in columns[-window.n_scored :]]
    tokens = torch.tensor(
        [token for window, _ in mine for token in window.ids[-window.n_scored :]], device=logits.device
    )
    places = torch.tensor(at, device=logits.device)
    used, of = places.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    logp = torch.log_softmax(logits[used], -1)  # (used columns, V)
    sizes = [window.n_scored for window, _ in mine]
    # Summed like lm-eval's, in the model's precision, so that the bits are the same.
    sums = [float(part.sum()) for part in torch.split(logp[of, tokens], sizes)]
    are_likeliest = [bool(part.all()) for part in torch.split(logp.argmax(-1)[of] == tokens, sizes)]
    return dict(zip((window for window, _ in mine), zip(sums, are_likeliest, strict=True), strict=True))


def _n_kept(row: PackedRow, windows: Windows) -> int:
    first = min(columns[-max(w.n_scored for w in windows[ids])] for ids, columns in row.places.items())
    return len(row.ids) - first


def _batches(module: Any, rows: Sequence[PackedRow], windows: Windows, n_cached: int) -> Iterator[list[PackedRow]]:
    """Yield rows that share a pass, longest first.

    On a CPU they have one width, which does not depend on the others, and so has the rounding.
    """
    is_cpu, vocabulary = module.device.type == "cpu", module.config.get_text_config().vocab_size
    batch: list[PackedRow] = []
    n_kept = 0
    for row in sorted(rows, key=lambda row: (-_width(row, n_cached), len(row.spans) > 1, row.ids)):
        n_mine = max(n_kept, _n_kept(row, windows))
        n_rows, width = len(batch) + 1, _width(batch[0] if batch else row, n_cached)
        is_other = bool(batch) and (
            (is_cpu and _width(row, n_cached) != width) or _needs_mask(row, n_cached) != _needs_mask(batch[0], n_cached)
        )
        is_full = n_rows * (width + n_cached) > PASS_TOKENS or n_rows * n_mine * vocabulary > PASS_LOGITS
        if batch and (is_other or is_full):
            yield batch
            batch, n_mine = [], _n_kept(row, windows)
        batch.append(row)
        n_kept = n_mine
    if batch:
        yield batch


def last_logits(module: Any, batch: Sequence[PackedRow], n_kept: int, cache: Any = None) -> torch.Tensor:
    """Return the last `n_kept` logits of every row, or a few more. (rows, columns, V)"""
    n_cached, is_cpu, device = _n_cached(cache), module.device.type == "cpu", module.device
    width = max(_width(row, n_cached) for row in batch)
    n_kept = min(width, max(n_kept, MIN_CPU_ROWS)) if is_cpu else n_kept
    copies = -(-MIN_CPU_ROWS // (n_kept * len(batch))) if is_cpu else 1
    n_padded = [width - len(row.ids) for row in batch]
    padded = [[0] * n + row.ids for n, row in zip(n_padded, batch, strict=True)]
    settings: dict[str, Any] = {}
    if _needs_mask(batch[0], n_cached):
        masks = torch.stack([_tree_mask(row, width, n_cached) for row in batch]).to(device)
        hidden = torch.finfo(module.dtype).min
        masks = torch.zeros(masks.shape, dtype=module.dtype, device=device).masked_fill(~masks, hidden)
        settings["attention_mask"] = masks[:, None].repeat(copies, 1, 1, 1)
    elif any(n_padded):
        settings["attention_mask"] = torch.tensor(
            [[int(i >= n) for i in range(width)] for n in n_padded], device=device
        )
    if settings:
        positions = [[0] * n + row.positions for n, row in zip(n_padded, batch, strict=True)]
        settings["position_ids"] = torch.tensor(positions * copies, device=device)
    if cache is not None:
        settings["past_key_values"] = _repeated(cache, len(batch) * copies)
    ids = torch.tensor(padded * copies, device=device)
    output = module(input_ids=ids, use_cache=False, logits_to_keep=n_kept, **settings)
    logits: torch.Tensor = output.logits[: len(batch)]
    return logits


def _needs_mask(row: PackedRow, n_cached: int) -> bool:
    """Return whether a row is more than a sequence that begins at position 0."""
    return n_cached > 0 or len(row.spans) > 1


def _width(row: PackedRow, n_cached: int) -> int:
    if not _needs_mask(row, n_cached):
        return len(row.ids)
    return -(-len(row.ids) // _ROW_COLUMNS) * _ROW_COLUMNS


def _tree_mask(row: PackedRow, width: int, n_cached: int) -> torch.Tensor:
    """Return which columns each token attends to: the cache, the nodes above its own, and its own up to itself."""
    mask = torch.eye(width, n_cached + width, dtype=torch.bool).roll(n_cached, 1)  # padding attends to itself
    n_padded = width - len(row.ids)
    mask[n_padded:, :n_cached] = True
    for first, end, above in row.spans:
        own = slice(n_padded + first, n_padded + end)
        for start, stop in above:
            mask[own, n_cached + n_padded + start : n_cached + n_padded + stop] = True
        mask[own, n_cached + own.start : n_cached + own.stop] = torch.ones(end - first, end - first).tril().bool()
    return mask


# --- the cache of a shared prefix -------------------------------------------------------------------------------------


def _n_cached(cache: Any) -> int:
    return 0 if cache is None else int(cache.get_seq_length())


def _extended(module: Any, cache: Any, ids: Ids) -> Any:
    """Return a new cache that holds these tokens after those of `cache`."""
    longer = prompt_cache(module.config) if cache is None else _repeated(cache, 1)
    tokens = torch.tensor([ids], device=module.device)
    positions = torch.arange(_n_cached(cache), _n_cached(cache) + len(ids), device=module.device)[None]
    module.base_model(input_ids=tokens, past_key_values=longer, use_cache=True, position_ids=positions)
    return longer


def _repeated(cache: Any, n_rows: int) -> Any:
    """Return a cache of `n_rows` copies of the one row of `cache`, to which nothing of theirs is appended."""
    several = copy.copy(cache)
    several.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in several.layers:
        if getattr(layer, "keys", None) is not None:
            layer.keys, layer.values = (states.expand(n_rows, -1, -1, -1) for states in (layer.keys, layer.values))
    return several
