"""An anchor cache of a causal LM: its tokens and features are the live teacher's."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import TASK_SCALE, TOKEN_SCALE, FeatureSpec, TokenTargets, extract, teacher_features
from craft_trainer.anchors.statistics import feature_statistics, token_scale
from craft_trainer.losses.hidden import Hidden
from craft_trainer.losses.task import Task
from craft_trainer.losses.term import RetentionTerm
from craft_trainer.losses.token_ce import TokenCE
from craft_trainer.losses.token_kl import TokenKL
from craft_trainer.models.families import as_anchored_model

ROWS = 11
type Make = Callable[..., Any]


def test_tokens_go_through_the_cache_unchanged(token_anchors: AnchorCache, tiny_llama: Make, load_tokens: Make) -> None:
    """Recomputed in the batches the cache was built in. Seen to fail with the columns in another order."""
    teacher = as_anchored_model(tiny_llama())
    for start in range(0, ROWS, 4):
        rows = list(range(start, min(start + 4, ROWS)))
        live = teacher_features(teacher, load_tokens(rows), token_anchors.specs, num_tokens=5)
        cached = token_anchors.batch(rows).teacher
        assert cached.output is None
        for name in TokenTargets._fields:
            stored, expected = getattr(cached.tokens, name), getattr(live.tokens, name)
            assert stored.dtype == expected.dtype, name
            assert torch.equal(stored, expected), name
        assert cached.hidden.keys() == live.hidden.keys()
        assert all(torch.equal(cached.hidden[name], live.hidden[name]) for name in live.hidden)


def test_rows_may_be_asked_for_in_any_order(token_anchors: AnchorCache) -> None:
    everything, some = token_anchors.batch(range(ROWS)), token_anchors.batch([9, 0, 4, 4])
    for name in TokenTargets._fields:
        assert torch.equal(getattr(some.teacher.tokens, name), getattr(everything.teacher.tokens, name)[[9, 0, 4, 4]])
    assert some.groups == [token_anchors.groups[row] for row in (9, 0, 4, 4)] == ["prose", "prose", "verse", "verse"]


def test_inputs_are_what_the_model_reads(token_anchors: AnchorCache, load_tokens: Make) -> None:
    inputs, samples = token_anchors.batch([3, 1]).inputs, load_tokens([3, 1])
    assert inputs.keys() == {"input_ids", "attention_mask", "labels"}
    assert all(torch.equal(inputs[key], samples[key]) for key in inputs)


def test_the_scale_of_tokens_is_the_mean_entropy_where_there_is_no_padding(
    token_anchors: AnchorCache, tiny_llama: Make, load_tokens: Make
) -> None:
    """Oracle: torch's own Categorical, in float64. Seen to fail with the mean over all positions."""
    samples = load_tokens(list(range(ROWS)))
    with torch.no_grad():
        logits = tiny_llama().eval()(input_ids=samples["input_ids"], attention_mask=samples["attention_mask"]).logits
    entropy = torch.distributions.Categorical(logits=logits.double()).entropy()
    valid = samples["attention_mask"].bool()
    scale = token_anchors.scales()[TOKEN_SCALE]
    assert scale.item() == pytest.approx(entropy[valid].mean().item(), rel=1e-6)
    assert abs(entropy.mean() - entropy[valid].mean()) > 1e-5 * scale  # padding would show


def test_scales_of_hidden_features_are_mean_variances(token_anchors: AnchorCache) -> None:
    teacher, scales = token_anchors.batch(range(ROWS)).teacher, token_anchors.scales()
    assert scales.keys() == {*teacher.hidden, TOKEN_SCALE, TASK_SCALE}
    for name, hidden in teacher.hidden.items():
        expected = hidden.double().numpy().var(axis=0).mean()
        assert scales[name].item() == pytest.approx(expected, rel=1e-6)
        assert scales[name].shape == ()


@pytest.mark.parametrize("term", [TokenKL(), TokenCE(), Hidden(), Task()])
def test_the_teacher_is_at_distance_zero_of_its_own_cache(
    token_anchors: AnchorCache, tiny_llama: Make, lora: Make, term: RetentionTerm
) -> None:
    """In batches other than those it was built in, and with a fresh adapter too; another model is not.

    Seen to fail when the layers of a PEFT model had names of their own.
    """
    anchors, scales = token_anchors.batch([10, 2, 5]), token_anchors.scales()

    def losses(model: Any) -> Tensor:
        student = extract(as_anchored_model(model), anchors.inputs, token_anchors.specs, output=True, task=True)
        return term(student, anchors.teacher, scales)

    for itself in (tiny_llama(), lora(tiny_llama())):
        torch.testing.assert_close(losses(itself), torch.zeros(3), rtol=0, atol=1e-5)
    for other in (tiny_llama(seed=1), lora(tiny_llama(), moved=True)):
        assert losses(other).abs().min() > 1e-4


def test_tokens_alone_may_be_cached(tiny_llama: Make, build_token_anchors: Make, tmp_path: Path) -> None:
    cache = build_token_anchors(tiny_llama(), tmp_path / "cache", layers=(), num_tokens=1)
    assert cache.specs == []
    assert cache.batch([0]).teacher.tokens.indices.shape == (1, 6, 1)
    assert cache.scales().keys() == {TOKEN_SCALE, TASK_SCALE}


def test_a_flipped_token_is_refused(token_anchors: AnchorCache, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(token_anchors.folder, tmp_path / "anchors"))
    (file,) = folder.glob("*.arrow")
    content = bytearray(file.read_bytes())
    position = content.index(token_anchors.batch([0]).teacher.tokens.indices[0, 0].int().numpy().tobytes())
    content[position] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is missing or damaged; rebuild it"):
        AnchorCache(folder)


def test_the_number_of_tokens_does_not_change_the_scale(
    token_anchors: AnchorCache, tiny_llama: Make, build_token_anchors: Make, tmp_path: Path
) -> None:
    other = build_token_anchors(tiny_llama(), tmp_path / "cache", num_tokens=40, batch_size=ROWS)
    assert other.batch([0]).teacher.tokens.indices.shape == (1, 6, 40)
    torch.testing.assert_close(other.scales()[TOKEN_SCALE], token_anchors.scales()[TOKEN_SCALE])
    assert other.provenance.fingerprint != token_anchors.provenance.fingerprint


def test_its_own_teacher_is_accepted_with_or_without_a_fresh_adapter(
    token_anchors: AnchorCache, tiny_llama: Make, lora: Make
) -> None:
    token_anchors.check_teacher(as_anchored_model(tiny_llama()))
    token_anchors.check_teacher(as_anchored_model(lora(tiny_llama())))
    for other in (tiny_llama(seed=1), lora(tiny_llama(), moved=True)):
        with pytest.raises(ValueError, match=r"teacher with weights .*\(tiny llama\)"):
            token_anchors.check_teacher(as_anchored_model(other))


def test_every_token_of_a_layer_may_be_cached_with_padding_as_zero(
    tiny_llama: Make, build_token_anchors: Make, tmp_path: Path
) -> None:
    cache = build_token_anchors(tiny_llama(), tmp_path / "cache", layers=(1,), pooling="none")
    (hidden,) = cache.batch([4, 0]).teacher.hidden.values()
    assert hidden.shape == (2, 6, 16)
    assert hidden[0, 1:].abs().max() == 0  # row 4 has one token
    assert cache.specs == [FeatureSpec("model.layers.1", "none")]


def test_statistics_are_those_of_float64() -> None:
    """Mean and variance per dimension, over anchors and tokens; a mean of 10⁴ leaves float32 no digits for them."""
    values = 1e4 + torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    statistics = feature_statistics("x", lambda: [values[:2], values[2:]])
    flat = values.double().view(18, 4).numpy()
    torch.testing.assert_close(statistics["mean/x"].double(), torch.from_numpy(flat.mean(axis=0)), rtol=1e-6, atol=0)
    torch.testing.assert_close(statistics["variance/x"].double(), torch.from_numpy(flat.var(axis=0)), rtol=1e-6, atol=0)


def test_a_feature_that_is_the_same_everywhere_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden/a is the same for all anchors: leave it out, or take more of them"):
        feature_statistics("hidden/a", lambda: [torch.ones(5, 3)])
    feature_statistics("hidden/a", lambda: [torch.ones(5, 3).index_fill(0, torch.tensor([0]), 2.0)])


def test_a_feature_that_differs_by_rounding_alone_is_refused() -> None:
    constant = 3.0 + 1e-7 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="is the same for all anchors"):
        feature_statistics("hidden/a", lambda: [constant])


@pytest.mark.parametrize(("entropy", "valid"), [(0.0, True), (1.0, False)])
def test_a_teacher_without_doubt_or_tokens_is_refused(entropy: float, valid: bool) -> None:
    """Token losses would be divided by zero: 0/0 at the teacher, infinite elsewhere."""
    with pytest.raises(ValueError, match="entropy"):
        token_scale([(torch.full((3, 4), entropy), torch.full((3, 4), valid))])


def test_the_token_scale_is_a_float64_mean() -> None:
    entropy = torch.tensor([[1.0, 2.0, 100.0], [3.0, 100.0, 100.0]])
    valid = torch.tensor([[True, True, False], [True, False, False]])
    scale: Tensor = token_scale([(entropy[:1], valid[:1]), (entropy[1:], valid[1:])])
    assert scale.item() == 2.0
    assert scale.dtype == torch.float32


def test_its_card_has_no_empty_code(token_anchors: AnchorCache) -> None:
    """Seen to fail: a language model without a tokenizer has no digest of processors."""
    assert "``" not in (token_anchors.folder / "README.md").read_text()


def test_the_same_weights_under_another_rope_are_refused(token_anchors: AnchorCache, tiny_llama: Make) -> None:
    """By the name of the digest that differs, with both. Seen to fail when weights and processors were all."""
    other = tiny_llama()
    other.config.rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
    student = as_anchored_model(other)
    with pytest.raises(ValueError, match=r"made by a teacher with configuration .* rebuild it with") as error:
        token_anchors.check_teacher(student)
    assert f"the given one has configuration {student.fingerprint()['configuration'][:12]}…:" in str(error.value)
    assert f"teacher with configuration {token_anchors.provenance.teachers[0]['configuration'][:12]}…" in str(
        error.value
    )
    assert "weights" not in str(error.value)


def test_a_model_without_a_digest_of_the_cache_is_not_its_teacher(token_anchors: AnchorCache, tiny_llama: Make) -> None:
    """Seen to fail when only what both had was compared."""
    student = as_anchored_model(tiny_llama())
    found = student.fingerprint()
    assert token_anchors.check_teacher(student) == ["weights", "processors", "configuration"]
    del found["configuration"]
    student.fingerprint = lambda: found
    with pytest.raises(ValueError, match=r"teacher with configuration .* the given one has configuration none"):
        token_anchors.check_teacher(student)
