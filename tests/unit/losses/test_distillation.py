"""The weighted sum of terms, on a model and the anchors of its teacher."""

import pytest
import torch
from toy import OUTPUTS, TOKENS, ToyModel
from toy_run import COLUMN, SCALES, SPECS, X, anchors, moved, teacher_of_the_toy

from craft_trainer.anchors.features import TOKEN_SCALE, Features, FeatureSpec, extract
from craft_trainer.losses.distillation import DistillationLoss, retention_loss
from craft_trainer.losses.hidden import Hidden
from craft_trainer.losses.output import Output
from craft_trainer.losses.term import RetentionTerm
from craft_trainer.losses.token_ce import TokenCE
from craft_trainer.losses.token_kl import TokenKL

Terms = dict[RetentionTerm, float]


@pytest.mark.parametrize("terms", [{Hidden("l1"): 1.0}, {Output(): 2.0}, {Hidden("l1"): 0.5, Output(): 3.0}])
@pytest.mark.parametrize("whole_pass", [False, True])
def test_it_is_the_weighted_sum_of_its_terms_for_every_anchor(terms: Terms, whole_pass: bool) -> None:
    teacher, student = teacher_of_the_toy(), moved(ToyModel())
    held = DistillationLoss(SPECS, SCALES, terms, whole_pass=whole_pass)
    losses = held(student, anchors(teacher=teacher))
    features = extract(student, {"x": X}, SPECS, output=True)
    expected = sum(weight * term(features, teacher, SCALES) for term, weight in terms.items())
    assert held.per_anchor
    assert losses.shape == (6,)
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)


def test_terms_are_weighted_and_summed_in_their_own_units() -> None:
    """By hand: ¼ · 2²/4 + 10 · 3²/2."""
    teacher = Features({COLUMN: torch.ones(1, 4)}, torch.ones(1, 2))
    student = Features({COLUMN: torch.ones(1, 4) + 2}, torch.ones(1, 2) + 3)
    scales = {COLUMN: torch.tensor(4.0), "output": torch.tensor(2.0)}
    terms: Terms = {Hidden(): 0.25, Output(): 10.0}
    assert retention_loss(student, teacher, scales, terms).item() == pytest.approx(0.25 * 4 / 4 + 10 * 9 / 2)


@pytest.mark.parametrize(
    ("terms", "whole_pass", "head_runs"),
    [({Hidden(): 1.0}, False, 0), ({Hidden(): 1.0}, True, 1), ({Hidden(): 1.0, Output(): 1.0}, False, 1)],
)
def test_the_head_runs_only_if_its_output_is_held(terms: Terms, whole_pass: bool, head_runs: int) -> None:
    model, calls = ToyModel(), []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    held = DistillationLoss(SPECS, SCALES, terms, whole_pass=whole_pass)
    held(model, anchors(teacher=teacher_of_the_toy()))
    assert len(calls) == head_runs


def test_features_that_are_not_held_are_not_captured() -> None:
    """A term without hidden features does not even look for their layers."""
    held = DistillationLoss([FeatureSpec("absent", "none")], SCALES, {Output(): 1.0})
    teacher = Features({"hidden/absent/none": torch.zeros(6, 1)}, torch.zeros(6, TOKENS, OUTPUTS))
    assert held(ToyModel(), anchors(teacher=teacher)).shape == (6,)


@pytest.mark.parametrize(
    ("term", "specs", "scales", "message"),
    [
        (Output(), SPECS, [COLUMN, TOKEN_SCALE], "'output' cannot be held: the anchors have hidden, tokens of"),
        (TokenKL(), SPECS, [COLUMN, "output"], "'token_kl' cannot be held: the anchors have hidden, output of"),
        (
            TokenCE(),
            [],
            ["output"],
            "'token_ce' .* have output of their teacher. Set retention_terms to some of",
        ),
        (Hidden(), [], [TOKEN_SCALE], "'hidden' .* have tokens of .* to some of token_ce, token_kl, or rebuild"),
    ],
)
def test_what_the_anchors_lack_is_refused_with_what_they_have(
    term: RetentionTerm, specs: list[FeatureSpec], scales: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=f"retention term {message}"):
        DistillationLoss(specs, dict.fromkeys(scales, torch.tensor(1.0)), {term: 1.0})
