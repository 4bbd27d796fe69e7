"""Token sequences as trees: what several of them begin with is written, and computed, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

BEFORE = -1  # the node before the first: what comes before the tree predicts its first tokens


@dataclass(frozen=True)
class TreeBatch:
    """Trees as rows of one batch, padded at the end; their nodes are tokens, in an order in which parents come first.

    Attributes:
        tokens: (batch, nodes), the token of each node.
        depths: (batch, nodes), how many nodes are above each: its place in every sequence it belongs to.
        ancestors: (batch, nodes, nodes): i attends to j, which is i or above it. Padding sees itself alone.
        rows: the nodes whose outputs are needed, each once: (rows, 2), row of the batch and node (or ``BEFORE``).
        places: of each scored token of each sequence of each tree, in order, the index into ``rows`` of what predicts
            it; ``targets``: of the same, the token.
        lengths: of each tree, of each sequence, how many of these it has.
    """

    tokens: Int[Tensor, "batch nodes"]
    depths: Int[Tensor, "batch nodes"]
    ancestors: Bool[Tensor, "batch nodes nodes"]
    rows: Int[Tensor, "rows 2"]
    places: Int[Tensor, " scored"]
    targets: Int[Tensor, " scored"]
    lengths: list[list[int]]

    def split(self, values: Sequence[float]) -> list[list[list[float]]]:
        """``values`` of the scored tokens, shared out: of each tree, of each sequence."""
        left = iter(values)
        return [[list(islice(left, length)) for length in lengths] for lengths in self.lengths]


def tree_batch(questions: Sequence[tuple[Sequence[Sequence[int]], Sequence[int]]]) -> TreeBatch:
    """A tree of the sequences of each question, without their last tokens, which predict nothing that is scored.

    A question is its sequences, at least one, and the index of the first scored token of each of them.
    """
    trees: list[dict[tuple[int, int], int]] = [{} for _ in questions]
    index: dict[tuple[int, int], int] = {}
    places: list[int] = []
    targets: list[int] = []
    for row, (nodes, (sequences, starts)) in enumerate(zip(trees, questions, strict=True)):
        for sequence, start in zip(sequences, starts, strict=True):
            path = [BEFORE]
            for token in sequence[:-1]:
                path.append(nodes.setdefault((path[-1], token), len(nodes)))
            places += [index.setdefault((row, node), len(index)) for node in path[start:]]
            targets += sequence[start:]
    tokens = torch.zeros(len(trees), max(map(len, trees)), dtype=torch.long)
    ancestors = torch.eye(tokens.shape[1], dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, nodes in enumerate(trees):
        size = len(nodes)
        tokens[row, :size] = torch.tensor([token for _, token in nodes], dtype=torch.long)
        ancestors[row, :size, :size] = _ancestors([parent for parent, _ in nodes])
    return TreeBatch(
        tokens=tokens,
        depths=ancestors.sum(dim=2) - 1,
        ancestors=ancestors,
        rows=torch.tensor(list(index), dtype=torch.long),
        places=torch.tensor(places, dtype=torch.long),
        targets=torch.tensor(targets),
        lengths=[[len(sequence) - start for sequence, start in zip(*question, strict=True)] for question in questions],
    )


def _ancestors(parents: Sequence[int]) -> Bool[Tensor, "nodes nodes"]:
    """Every node sees what its parent sees, and itself."""
    seen = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent != BEFORE:
            seen[node] |= seen[parent]
    return torch.from_numpy(seen)
