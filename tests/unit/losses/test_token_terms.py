"""Losses of token predictions against torch's own, in float64 over the whole vocabulary."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from craft_trainer.anchors.features import TOKEN_SCALE, Features, TokenTargets, token_targets
from craft_trainer.losses.distillation import retention_loss
from craft_trainer.losses.terms import TERMS
from craft_trainer.losses.token_ce import TokenCE
from craft_trainer.losses.token_kl import TokenKL, token_divergence
from craft_trainer.models.base import TokenLayout

VOCABULARY = 13
GENERATOR = torch.Generator().manual_seed(0)
TEACHER = 3 * torch.randn(4, 6, VOCABULARY, generator=GENERATOR)
STUDENT = TEACHER + torch.randn(4, 6, VOCABULARY, generator=GENERATOR)
VALID = torch.tensor([[1] * 6, [1] * 3 + [0] * 3, [0] * 5 + [1], [1, 0, 1, 0, 1, 1]], dtype=torch.bool)
SCALE = {TOKEN_SCALE: torch.tensor(2.0)}


class Padded:
    """As much of a model as ``token_targets`` asks for."""

    def token_layout(self, path: str, inputs: Any, shape: torch.Size) -> TokenLayout:
        assert (path, shape[1]) == ("", 6)
        return TokenLayout(valid=inputs["valid"])


def targets(k: int, teacher: Tensor = TEACHER) -> TokenTargets:
    return token_targets(Padded(), {"valid": VALID}, teacher, k)  # type: ignore[arg-type]


def mean_over_valid(values: Tensor) -> Tensor:
    """The oracle's mean: sample by sample, of the positions that count."""
    return torch.stack([row[ok].mean() for row, ok in zip(values, VALID, strict=True)])


def whole_kl(teacher: Tensor, student: Tensor) -> Tensor:
    log_p, log_q = teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    return mean_over_valid(kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1))


def loss(student: Tensor, k: int = VOCABULARY, **weights: float) -> Tensor:
    teacher, terms = Features({}, None, targets(k)), {TERMS[name](): weight for name, weight in weights.items()}
    return retention_loss(Features({}, student), teacher, SCALE, terms)


@pytest.mark.parametrize("k", [VOCABULARY, VOCABULARY + 1, 32])
def test_all_tokens_give_the_whole_kl_divergence(k: int) -> None:
    """Seen to fail with the two distributions exchanged."""
    expected = whole_kl(TEACHER, STUDENT)
    assert expected.min() > 0.05
    torch.testing.assert_close(token_divergence(STUDENT, targets(k)).double(), expected, rtol=1e-6, atol=1e-6)


def test_fewer_tokens_give_a_lower_bound_that_grows_with_their_number() -> None:
    """Seen to fail without the part of the remaining tokens: what is then left is no divergence and may be negative."""
    bounds = torch.stack([token_divergence(STUDENT, targets(k)) for k in range(1, VOCABULARY + 1)])
    assert bounds.min() > 0
    assert (bounds.diff(dim=0) > -1e-6).all()
    assert (bounds[0] < 0.8 * bounds[-1]).all()  # and it is a real bound: one token does not tell all


def test_one_token_gives_the_divergence_of_a_coin() -> None:
    """k = 1 lumps all others together: KL of two Bernoulli distributions."""
    best = TEACHER.argmax(-1, keepdim=True)
    p, q = (logits.double().softmax(-1).gather(-1, best)[..., 0] for logits in (TEACHER, STUDENT))
    expected = mean_over_valid(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    torch.testing.assert_close(token_divergence(STUDENT, targets(1)).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 4, VOCABULARY])
def test_the_gradient_of_the_divergence_is_that_of_the_lumped_distributions(k: int) -> None:
    """Seen to fail with the normaliser detached. Oracle: autograd in float64 on the k tokens and their rest."""
    student = STUDENT.double().requires_grad_()
    kept = targets(k)
    q = student.softmax(-1)
    p = TEACHER.double().softmax(-1)
    q, p = (torch.cat([d.gather(-1, kept.indices), 1e-7 + _others(d, kept.indices)], dim=-1) for d in (q, p))
    mean_over_valid((p * (p / q).log()).sum(-1)).sum().backward()
    mine = STUDENT.clone().requires_grad_()
    token_divergence(mine, kept).sum().backward()
    torch.testing.assert_close(mine.grad.double(), student.grad, rtol=1e-4, atol=2e-6)


def _others(probabilities: Tensor, indices: Tensor) -> Tensor:
    """The probability of all tokens that are not at ``indices``, summed one by one (1 − Σ would lose it)."""
    mask = torch.ones_like(probabilities).scatter(-1, indices, 0.0)
    return (probabilities * mask).sum(-1, keepdim=True)


@pytest.mark.parametrize("k", [1, 5])
def test_cross_entropy_is_of_the_teachers_likeliest_token_above_its_own(k: int) -> None:
    """Whatever the number of stored tokens. Oracle: torch's cross_entropy, sample by sample."""
    best = TEACHER.argmax(-1)
    above = [
        torch.nn.functional.cross_entropy(STUDENT[i, ok].double(), best[i, ok])
        - torch.nn.functional.cross_entropy(TEACHER[i, ok].double(), best[i, ok])
        for i, ok in enumerate(VALID)
    ]
    torch.testing.assert_close(loss(STUDENT, k, token_ce=1.0).double(), torch.stack(above) / 2.0, rtol=1e-5, atol=1e-6)


def test_cross_entropy_may_be_negative_of_a_surer_student() -> None:
    assert loss(TEACHER * 3, token_ce=1.0).max() < 0 < loss(TEACHER * 3, token_kl=1.0).min()


@pytest.mark.parametrize("term", ["token_ce", "token_kl"])
@pytest.mark.parametrize("k", [1, 4, VOCABULARY])
def test_the_teacher_itself_loses_nothing(term: str, k: int) -> None:
    assert loss(TEACHER, k, **{term: 1.0}).abs().max() < 1e-6
    assert loss(TEACHER + 7.0, k, **{term: 1.0}).abs().max() < 1e-6  # logits have no zero


@pytest.mark.parametrize("k", [1, 4, VOCABULARY])
def test_at_the_teacher_the_divergence_has_no_gradient_but_the_cross_entropy_has(k: int) -> None:
    """token_kl is at its minimum there; token_ce goes on to make the likeliest token likelier."""
    gradients = {}
    for term in ("token_kl", "token_ce"):
        logits = TEACHER.clone().requires_grad_()
        loss(logits, k, **{term: 1.0}).sum().backward()
        gradients[term] = logits.grad.norm().item()
    assert gradients["token_kl"] < 1e-5
    assert gradients["token_ce"] > 0.1


@pytest.mark.parametrize("term", ["token_ce", "token_kl"])
def test_padding_does_not_count(term: str) -> None:
    """Whatever either model says there. Seen to fail with the mean over all positions."""
    garbage = torch.where(VALID[..., None], STUDENT, 100 * torch.randn(STUDENT.shape, generator=GENERATOR))
    assert torch.equal(loss(garbage, 4, **{term: 1.0}), loss(STUDENT, 4, **{term: 1.0}))
    logits = STUDENT.clone().requires_grad_()
    loss(logits, 4, **{term: 1.0}).sum().backward()
    assert logits.grad[~VALID].abs().max() == 0
    assert logits.grad[VALID].abs().amax(dim=-1).min() > 0


def test_a_row_of_padding_alone_is_zero() -> None:
    nothing = targets(4)._replace(valid=torch.zeros_like(VALID))
    assert token_divergence(STUDENT, nothing).tolist() == [0.0] * 4


def test_the_unit_is_the_teachers_mean_entropy() -> None:
    teacher, student = Features({}, None, targets(4)), Features({}, STUDENT)
    for term in (TokenCE(), TokenKL()):
        in_nats = term(student, teacher, {TOKEN_SCALE: torch.tensor(1.0)})
        torch.testing.assert_close(term(student, teacher, {TOKEN_SCALE: torch.tensor(0.5)}), 2 * in_nats)
    torch.testing.assert_close(TokenKL()(student, teacher, SCALE) * 2.0, token_divergence(STUDENT, targets(4)))


def test_terms_are_weighted_and_summed_per_anchor() -> None:
    parts = [loss(STUDENT, 4, token_ce=1.0), loss(STUDENT, 4, token_kl=1.0)]
    torch.testing.assert_close(loss(STUDENT, 4, token_ce=0.5, token_kl=3.0), 0.5 * parts[0] + 3.0 * parts[1])


def test_targets_are_the_likeliest_tokens_of_the_whole_vocabulary() -> None:
    """Oracle: float64 sorting. The entropy is that of all tokens, not of those kept."""
    kept, log_p = targets(4), TEACHER.double().log_softmax(-1)
    expected = log_p.sort(dim=-1, descending=True)
    assert torch.equal(kept.indices, expected.indices[..., :4])
    torch.testing.assert_close(kept.log_probs.double(), expected.values[..., :4], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kept.entropy.double(), -(log_p.exp() * log_p).sum(-1), rtol=1e-5, atol=1e-6)
    assert torch.equal(kept.valid, VALID)


def test_tokens_that_cannot_be_predicted_have_no_entropy() -> None:
    """Models that pad their vocabulary give −∞ there: 0·log 0 = 0, not NaN."""
    padded = torch.cat([TEACHER, torch.full((4, 6, 3), -math.inf)], dim=-1)
    torch.testing.assert_close(targets(4, padded).entropy, targets(4).entropy)
    student = torch.cat([STUDENT, torch.full((4, 6, 3), -math.inf)], dim=-1)
    torch.testing.assert_close(token_divergence(student, targets(4, padded)), token_divergence(STUDENT, targets(4)))


def test_without_a_mask_every_position_counts() -> None:
    kept = token_targets(Padded(), {"valid": None}, TEACHER, 2)  # type: ignore[arg-type]
    assert kept.valid.dtype == torch.bool
    assert kept.valid.all()
    assert kept.valid.shape == (4, 6)


def test_half_precision_students_are_compared_in_float32() -> None:
    """A bfloat16 log-softmax would be wrong by some percent."""
    half = STUDENT.bfloat16()
    torch.testing.assert_close(
        token_divergence(half, targets(VOCABULARY)).double(), whole_kl(TEACHER, half.float()), rtol=1e-5, atol=1e-6
    )


def test_a_teacher_that_never_doubts_can_be_compared_in_nats() -> None:
    """Its entropy is 0, so it has no unit; the divergence itself is finite and is −log q of its token."""
    sure = torch.full((1, 1, VOCABULARY), -1e4)
    sure[..., 3] = 1e4
    kept = token_targets(_Unpadded(), {}, sure, 4)  # type: ignore[arg-type]
    assert kept.entropy.item() == 0
    student = torch.zeros(1, 1, VOCABULARY)
    assert token_divergence(student, kept).item() == pytest.approx(math.log(VOCABULARY), abs=1e-4)
    assert token_divergence(sure, kept).item() == pytest.approx(0, abs=1e-6)


class _Unpadded:
    def token_layout(self, path: str, inputs: Any, shape: torch.Size) -> TokenLayout:
        del path, inputs, shape
        return TokenLayout()
