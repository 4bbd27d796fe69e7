"""Token sequences as a tree: what several of them begin with is written, and computed, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

BEFORE = -1  # the node before the first: what comes before the tree predicts its first tokens


@dataclass(frozen=True)
class TokenTree:
    """Nodes are tokens, in an order in which parents come first.

    Attributes:
        tokens: the token of each node.
        depths: how many nodes are above each: its place in every sequence it belongs to.
        ancestors: ``ancestors[i, j]``: node j is node i or above it, so i attends to it.
        predictors: of each sequence, for each scored token, the node whose output predicts it (``BEFORE`` for none).
        targets: of each sequence, its scored tokens.
    """

    tokens: Int[Tensor, " nodes"]
    depths: Int[Tensor, " nodes"]
    ancestors: Bool[Tensor, "nodes nodes"]
    predictors: list[list[int]]
    targets: list[list[int]]


def token_tree(sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> TokenTree:
    """The tree of ``sequences`` without their last tokens, which predict nothing that is scored.

    Args:
        sequences: tokens of each, at least one.
        starts: of each sequence, the index of its first scored token.
    """
    nodes: dict[tuple[int, int], int] = {}
    predictors = []
    for sequence, start in zip(sequences, starts, strict=True):
        path = [BEFORE]
        for token in sequence[:-1]:
            path.append(nodes.setdefault((path[-1], token), len(nodes)))
        predictors.append(path[start:])
    tokens = torch.tensor([token for _, token in nodes], dtype=torch.long)
    ancestors = _ancestors([parent for parent, _ in nodes])
    return TokenTree(
        tokens=tokens,
        depths=ancestors.sum(dim=1) - 1,
        ancestors=ancestors,
        predictors=predictors,
        targets=[list(sequence[start:]) for sequence, start in zip(sequences, starts, strict=True)],
    )


def _ancestors(parents: Sequence[int]) -> Bool[Tensor, "nodes nodes"]:
    """Every node sees what its parent sees, and itself."""
    seen = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent != BEFORE:
            seen[node] |= seen[parent]
    return torch.from_numpy(seen)


@dataclass(frozen=True)
class TreeBatch:
    """Several trees as rows of one batch, padded at the end; padding sees itself alone.

    Attributes:
        tokens: (batch, nodes).
        depths: (batch, nodes).
        ancestors: (batch, nodes, nodes).
        rows: the nodes whose outputs are needed, each once: (rows, 2), row of the batch and node (or ``BEFORE``).
        num_choices: of each tree, how many sequences it has.
        places: of each scored token of each sequence of each tree, in order, the index into ``rows``.
        targets: of the same, the token.
        lengths: of each sequence of each tree, how many of these it has.
    """

    tokens: Int[Tensor, "batch nodes"]
    depths: Int[Tensor, "batch nodes"]
    ancestors: Bool[Tensor, "batch nodes nodes"]
    rows: Int[Tensor, "rows 2"]
    num_choices: list[int]
    places: Int[Tensor, " scored"]
    targets: Int[Tensor, " scored"]
    lengths: list[int]

    def split(self, values: Sequence[float]) -> list[list[list[float]]]:
        """``values`` of the scored tokens, shared out: of each tree, of each sequence."""
        ends = np.cumsum([0, *self.lengths])
        sequences = [list(values[first:last]) for first, last in pairwise(ends)]
        ends = np.cumsum([0, *self.num_choices])
        return [sequences[first:last] for first, last in pairwise(ends)]


def tree_batch(trees: Sequence[TokenTree]) -> TreeBatch:
    """``trees`` padded to the longest of them."""
    longest = max(len(tree.tokens) for tree in trees)
    tokens = torch.zeros(len(trees), longest, dtype=torch.long)
    depths = torch.zeros(len(trees), longest, dtype=torch.long)
    ancestors = torch.eye(longest, dtype=torch.bool).repeat(len(trees), 1, 1)
    index: dict[tuple[int, int], int] = {}
    places: list[int] = []
    for row, tree in enumerate(trees):
        size = len(tree.tokens)
        tokens[row, :size], depths[row, :size], ancestors[row, :size, :size] = tree.tokens, tree.depths, tree.ancestors
        for nodes in tree.predictors:
            places += [index.setdefault((row, node), len(index)) for node in nodes]
    return TreeBatch(
        tokens=tokens,
        depths=depths,
        ancestors=ancestors,
        rows=torch.tensor(list(index), dtype=torch.long),
        num_choices=[len(tree.targets) for tree in trees],
        places=torch.tensor(places, dtype=torch.long),
        targets=torch.tensor([token for tree in trees for targets in tree.targets for token in targets]),
        lengths=[len(targets) for tree in trees for targets in tree.targets],
    )
