"""Trees of tokens against a walk over all prefixes of all sequences."""

from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from craft_trainer.evaluation.tree import BEFORE, tree_batch

TOKEN = st.integers(0, 3)  # few, so that sequences share beginnings
SEQUENCE = st.lists(TOKEN, min_size=1, max_size=6).map(tuple)
Tree = namedtuple("Tree", "tokens depths ancestors predictors targets")


def token_tree(sequences, starts):
    """The tree of one question: the only row of a batch, with the predictors and targets of each sequence."""
    batch = tree_batch([(sequences, starts)])
    (predictors,) = batch.split(batch.rows[batch.places, 1].tolist())
    (targets,) = batch.split(batch.targets.tolist())
    return Tree(batch.tokens[0], batch.depths[0], batch.ancestors[0], predictors, targets)


@st.composite
def questions(draw):
    """Sequences, some of them equal or beginnings of others, and the first scored token of each."""
    sequences = draw(st.lists(SEQUENCE, min_size=1, max_size=5))
    return sequences, [draw(st.integers(0, len(sequence) - 1)) for sequence in sequences]


def beginnings(sequences):
    """Every beginning, not empty, of the sequences without their last tokens: what a tree must have as its nodes."""
    return {sequence[:end] for sequence in sequences for end in range(1, len(sequence))}


def path_to(tree, node):
    """Tokens of the nodes that ``node`` sees, in the order of their depths."""
    above = torch.where(tree.ancestors[node])[0].tolist()
    return tuple(int(tree.tokens[one]) for one in sorted(above, key=lambda one: int(tree.depths[one])))


@settings(max_examples=60, deadline=None)
@given(questions())
def test_nodes_are_the_beginnings_of_the_sequences_each_once(question):
    """Fails if nodes are keyed by their place and token without their parent, or if beginnings are not shared."""
    sequences, starts = question
    tree = token_tree(sequences, starts)
    paths = [path_to(tree, node) for node in range(len(tree.tokens))]
    assert len(paths) == len(set(paths))
    assert set(paths) == beginnings(sequences)


@settings(max_examples=60, deadline=None)
@given(questions())
def test_a_node_sees_itself_and_what_is_above_it_at_the_depth_of_its_place(question):
    """Fails with depths counted from 1, with a node that sees no parent, or one that sees a child."""
    sequences, starts = question
    tree = token_tree(sequences, starts)
    paths = [path_to(tree, node) for node in range(len(tree.tokens))]
    for node, path in enumerate(paths):
        assert int(tree.depths[node]) == len(path) - 1
        for other, candidate in enumerate(paths):
            assert bool(tree.ancestors[node, other]) == (path[: len(candidate)] == candidate)
        assert not tree.ancestors[node, node + 1 :].any()  # parents come first


@settings(max_examples=60, deadline=None)
@given(questions())
def test_each_scored_token_is_predicted_by_the_node_of_what_comes_before_it(question):
    """Fails with predictors one place later, which is how the original scored ("the token repeats")."""
    sequences, starts = question
    tree = token_tree(sequences, starts)
    for sequence, start, predictors, targets in zip(sequences, starts, tree.predictors, tree.targets, strict=True):
        assert targets == list(sequence[start:])
        for place, node in zip(range(start, len(sequence)), predictors, strict=True):
            assert (() if node == BEFORE else path_to(tree, node)) == sequence[:place]


@settings(max_examples=60, deadline=None)
@given(st.lists(questions(), min_size=1, max_size=4))
def test_values_of_the_scored_tokens_go_back_to_their_sequences(several):
    """The tokens themselves, looked up by place, stand for log-likelihoods; fails if ``split`` forgets a choice."""
    batch = tree_batch(several)
    assert batch.split(batch.targets.tolist()) == [
        [list(sequence[start:]) for sequence, start in zip(*question, strict=True)] for question in several
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(questions(), min_size=1, max_size=4))
def test_a_batch_holds_each_tree_and_padding_that_sees_itself_alone(several):
    """Fails if ``ancestors`` is filled with zeros (a row of a softmax with nothing in it) or ones."""
    trees = [token_tree(*question) for question in several]
    batch = tree_batch(several)
    for row, tree in enumerate(trees):
        size = len(tree.tokens)
        assert torch.equal(batch.tokens[row, :size], tree.tokens)
        assert torch.equal(batch.depths[row, :size], tree.depths)
        assert torch.equal(batch.ancestors[row, :size, :size], tree.ancestors)
        assert torch.equal(batch.ancestors[row, size:], torch.eye(batch.tokens.shape[1], dtype=torch.bool)[size:])
        assert not batch.ancestors[row, :size, size:].any()


@settings(max_examples=60, deadline=None)
@given(st.lists(questions(), min_size=1, max_size=4))
def test_places_point_at_the_row_of_the_tree_and_the_node_that_predicts(several):
    """Fails if the index of rows forgets which tree a node is of; and each row is asked for once."""
    trees = [token_tree(*question) for question in several]
    batch = tree_batch(several)
    rows = [tuple(row) for row in batch.rows.tolist()]
    assert len(rows) == len(set(rows))
    wanted = [(row, node) for row, tree in enumerate(trees) for nodes in tree.predictors for node in nodes]
    assert [rows[place] for place in batch.places.tolist()] == wanted


def test_a_known_tree():
    """a b c | a b d | a | e: two beginnings, of which ``a b`` is shared; ``a`` alone and ``e`` alone have no node."""
    tree = token_tree([(7, 8, 9), (7, 8, 6), (7,), (5,)], [0, 1, 0, 0])
    assert tree.tokens.tolist() == [7, 8]
    assert tree.predictors == [[BEFORE, 0, 1], [0, 1], [BEFORE], [BEFORE]]
    assert tree.targets == [[7, 8, 9], [8, 6], [7], [5]]


def test_single_tokens_need_no_nodes():
    batch = tree_batch([([(1,), (2,)], [0, 0]), ([(3,)], [0])])
    assert batch.tokens.shape == (2, 0)
    assert batch.rows.tolist() == [[0, BEFORE], [1, BEFORE]]
    assert batch.split([0.1, 0.2, 0.3]) == [[[0.1], [0.2]], [[0.3]]]


def test_sequences_and_starts_of_different_numbers_are_refused():
    with pytest.raises(ValueError, match="zip"):
        token_tree([(1, 2), (3,)], [0])
