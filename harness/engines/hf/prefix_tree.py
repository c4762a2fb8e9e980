"""A tree of the token sequences to score, so that each prefix they share is read once.

A node holds the tokens that its sequences have in common after its parent's. A small tree is packed into one row of a
forward pass: its nodes stand one after the other, and a mask lets each token attend to its own path alone. The common
beginning of a large tree is read into a key-value cache, which the rows below it continue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

Ids = tuple[int, ...]

MIN_SHARED = 8
"""The fewest common tokens that are worth a node of their own."""
MIN_CACHED = 32
"""The fewest common tokens that are worth a key-value cache."""
ROW_TOKENS = 512
"""A tree of at most this many tokens is packed; attention within a row costs the square of its length."""


@dataclass(slots=True)
class Node:
    """Tokens from position `start` on, of one sequence or shared by several."""

    start: int
    ids: Ids
    children: list[Node] = field(default_factory=list)
    is_end: bool = False
    """Whether one of the sequences ends here."""

    @property
    def end(self) -> int:
        return self.start + len(self.ids)

    def n_tokens(self) -> int:
        return len(self.ids) + sum(child.n_tokens() for child in self.children)

    def longest(self) -> int:
        """Return the end of the longest sequence."""
        return max([self.end, *(child.longest() for child in self.children)])

    def is_packed(self) -> bool:
        """Whether one row holds the tree: it is short, or hardly longer than its longest sequence."""
        n_tokens = self.n_tokens()
        return n_tokens <= ROW_TOKENS or 4 * n_tokens <= 5 * (self.longest() - self.start)

    def split(self, end: int) -> Node:
        """Return this tree without the tokens before position `end`."""
        return Node(end, self.ids[end - self.start :], self.children, self.is_end)


def forest(sequences: Sequence[Ids], start: int = 0) -> list[Node]:
    """Return the trees of sorted, different sequences that agree before `start` and all go on after it."""
    nodes: list[Node] = []
    for _, same_token in groupby(sequences, key=lambda ids: ids[start]):
        group = list(same_token)
        end = _common_end(group[0], group[-1], start)
        is_end = len(group[0]) == end
        node = Node(start, group[0][start:end], forest(group[is_end:], end), is_end)
        nodes += [node] if len(node.ids) >= MIN_SHARED else branches(node)
    return nodes


def branches(node: Node) -> list[Node]:
    """Return trees for a node's sequences in which each child repeats the node's own tokens."""
    ending = [Node(node.start, node.ids, [], True)] if node.is_end else []
    return ending + [Node(node.start, node.ids + child.ids, child.children, child.is_end) for child in node.children]


def _common_end(first: Ids, last: Ids, start: int) -> int:
    """Return how far two sequences agree; of sorted ones, the first and last agree least."""
    shortest = min(len(first), len(last))
    return next((i for i in range(start + 1, shortest) if first[i] != last[i]), shortest)


@dataclass(slots=True)
class PackedRow:
    """A tree laid out in one row: ids and positions of its tokens, and where each node stands."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    spans: list[tuple[int, int, list[tuple[int, int]]]] = field(default_factory=list)
    """Of each node, its first and last column plus one, and the columns of the nodes above it."""
    places: dict[Ids, list[int]] = field(default_factory=dict)
    """By sequence, the column of each of its tokens in this row, so that the last of them can be scored."""


def pack(tree: Node, prefix: Ids) -> PackedRow:
    """Lay a tree out in one row, whose sequences begin with a prefix that is read already."""
    row = PackedRow()
    _place(tree, row, [], prefix)
    return row


def _place(node: Node, row: PackedRow, above: list[tuple[int, int]], before: Ids) -> None:
    span = (len(row.ids), len(row.ids) + len(node.ids))
    row.ids += node.ids
    row.positions += range(node.start, node.end)
    row.spans.append((*span, above))
    path, sequence = [*above, span], before + node.ids
    if node.is_end:
        row.places[sequence] = [column for first, end in path for column in range(first, end)]
    for child in node.children:
        _place(child, row, path, sequence)


@dataclass(slots=True)
class SharedPrefix:
    """Tokens to append to a cache, and the trees that continue it: packed rows, or further prefixes."""

    ids: Ids
    rows: list[PackedRow]
    inner: list[SharedPrefix]


def plan(trees: Sequence[Node], first_scored: dict[Ids, int], prefix: Ids = ()) -> SharedPrefix:
    """Decide what is packed and what is cached below a prefix.

    `first_scored` has of each sequence the first position whose prediction counts: it is read in a row, not cached.
    """
    below = SharedPrefix(prefix, [], [])
    for tree in trees:
        cut = min([tree.end, *_first_scored(tree, first_scored, prefix)])
        if tree.is_packed():
            below.rows.append(pack(tree, prefix))
        elif cut - tree.start >= MIN_CACHED:
            ids = tree.ids[: cut - tree.start]
            rest = tree.split(cut)
            inner = plan([rest] if rest.ids else rest.children, first_scored, prefix + ids)
            below.inner.append(SharedPrefix(ids, inner.rows, inner.inner))
        else:
            inner = plan(branches(tree), first_scored, prefix)
            below.rows += inner.rows
            below.inner += inner.inner
    return below


def _first_scored(node: Node, first_scored: dict[Ids, int], before: Ids) -> Iterator[int]:
    sequence = before + node.ids
    if node.is_end:
        yield first_scored[sequence]
    for child in node.children:
        yield from _first_scored(child, first_scored, sequence)
