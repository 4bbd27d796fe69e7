"""Encoder–decoders, heads with a distribution at every token, and two towers, as the anchors see them."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_shapes import DISTRIBUTIONS, LAYERS, MODELS, WRITES, Samples, batch_of, old_rows, shape_anchors, tiny
from torch import Tensor

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec, extract, teacher_features
from craft_trainer.anchors.verification import deviations
from craft_trainer.models.base import AnchoredModel
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.general import GeneralModel


def rows_of(name: str, rows: range = range(6)) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = old_rows(name)(list(rows))
    return batch


def view_of(name: str, seed: int = 0) -> AnchoredModel:
    return as_anchored_model(tiny(name, seed).eval())


def specs_of(name: str, pooling: str = "none") -> list[FeatureSpec]:
    return [FeatureSpec(path, pooling) for path in LAYERS[name]]


def reads(view: AnchoredModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in batch.items() if key in view.input_keys()}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_it_is_viewed(name: str) -> None:
    view = view_of(name)
    assert type(view) is GeneralModel
    assert isinstance(view, AnchoredModel)
    assert view.output_kind == ("logits" if name in DISTRIBUTIONS else "numbers")
    count = len(LAYERS[name])
    assert [view.module_path(layer) for layer in range(-count, count)] == LAYERS[name] * 2
    with pytest.raises(ValueError, match=rf"has no layer {count}; it has {count}: "):
        view.module_path(count)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_sample_does_not_depend_on_its_batch_or_its_padding(name: str) -> None:
    """Of the encoder's tokens and the decoder's: each have padding of their own."""
    view = view_of(name)
    together = extract(view, reads(view, rows_of(name)), specs_of(name), output=True)
    pooled = extract(view, reads(view, rows_of(name)), specs_of(name, "mean_masked"), output=False)
    for row in range(6):
        batch = reads(view, rows_of(name, range(row, row + 1)))
        alone = extract(view, batch, specs_of(name), output=True)
        for column, state in alone.hidden.items():
            tokens = state.shape[1]
            torch.testing.assert_close(state[0], together.hidden[column][row, :tokens], rtol=1e-4, atol=1e-4)
            assert not together.hidden[column][row, tokens:].any()
            mean = pooled.hidden[column.replace("none", "mean_masked")][row]
            torch.testing.assert_close(state[0].mean(dim=0), mean, rtol=1e-4, atol=1e-4)
        assert alone.output is not None
        assert together.output is not None
        size = alone.output.shape[1:2] if name in DISTRIBUTIONS else alone.output.shape[1:]
        torch.testing.assert_close(alone.output[0], together.output[row, : size[0]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_the_output_is_the_models_own_distribution(name: str) -> None:
    model = tiny(name).eval()
    batch = rows_of(name)
    given = model(**batch).logits
    found = view_of(name).predict(batch)
    torch.testing.assert_close(found, given)
    tokens = teacher_features(view_of(name), batch, []).tokens
    assert tokens is not None
    assert torch.equal(tokens.valid, batch["labels"] != -100 if name in WRITES else batch["attention_mask"].bool())
    log_probs, indices = given.log_softmax(dim=-1).topk(tokens.indices.shape[-1], dim=-1)
    assert torch.equal(tokens.indices, indices)
    torch.testing.assert_close(tokens.log_probs, log_probs)


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_the_task_loss_is_the_models_own(name: str) -> None:
    """Of one sample, as every sample has its own mean; of all with as many labels."""
    model, view = tiny(name).eval(), view_of(name)
    for row in range(4):
        batch = rows_of(name, range(row, row + 1))
        task = extract(view, batch, [], output=True, task=True).task
        assert task is not None
        torch.testing.assert_close(task[0], model(**batch).loss)


def test_the_output_of_two_towers_is_both_embeddings() -> None:
    model, batch = tiny("clip").eval(), rows_of("clip")
    given = model(**batch)
    found = view_of("clip").predict(batch)
    torch.testing.assert_close(found, torch.cat([given.text_embeds, given.image_embeds], dim=1))
    assert not torch.allclose(given.text_embeds[0], given.text_embeds[1], atol=1e-3)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("pooling", ["none", "last_token"])
def test_a_cache_holds_what_its_teacher_makes(tmp_path: Path, name: str, pooling: str) -> None:
    """In other batches than it was built with, which are padded otherwise."""
    cache = shape_anchors(tmp_path / "cache", name, layers=(0, -1), pooling=pooling)
    found = deviations(cache, view_of(name), num_rows=24, batch_size=5)
    held = {"tokens", "task"} if name in DISTRIBUTIONS else {"output"}
    assert set(found) == {spec.column for spec in cache.specs} | held
    assert max(found.values()) < 1e-4
    with pytest.raises(ValueError, match="was made by a teacher with weights"):
        cache.check_teacher(view_of(name, seed=1))


@pytest.mark.parametrize("name", sorted(WRITES))
def test_what_a_decoder_reads_may_be_given_instead_of_labels(tmp_path: Path, name: str) -> None:
    """With a mask of its own, which a cache adds where the samples have none."""
    model = tiny(name).eval()
    batch = rows_of(name, range(1))
    labels = batch.pop("labels")
    first = torch.tensor([[model.config.decoder_start_token_id]])
    written = batch | {"decoder_input_ids": torch.cat([first, labels[:, :-1]], dim=1)}
    torch.testing.assert_close(view_of(name).predict(written), model(**batch, labels=labels).logits)
    with pytest.raises(ValueError, match=rf"{type(model).__name__} needs what its decoder reads: give labels"):
        view_of(name).prepare(batch)

    task = Samples(name, seed=2)

    def unlabelled(rows: list[int]) -> dict[str, Tensor]:
        samples = [task[row] for row in rows]
        samples = [{("decoder_input_ids" if k == "labels" else k): v for k, v in one.items()} for one in samples]
        return batch_of(name, samples)

    cache = build_anchor_cache(
        view_of(name),
        unlabelled,
        tmp_path / "cache",
        rows=range(12),
        groups=["old"] * 12,
        specs=[FeatureSpec(LAYERS[name][-2], "mean_masked")],
        batch_size=1,  # so that no sample is padded before the cache is read
        source={"dataset": name, "frames": 12},
        teacher_path="tiny",
    )
    anchors = cache.batch(range(12))
    assert anchors.inputs["decoder_attention_mask"].sum(dim=1).tolist() == [8 - row % 3 for row in range(12)]
    assert not cache.has_labels
    assert max(deviations(cache, view_of(name), num_rows=12, batch_size=5).values()) < 1e-4


def test_inside_of_a_decoders_layer_tokens_may_be_the_encoders() -> None:
    view = view_of("bart")
    for path in ("model.decoder.layers.1.encoder_attn.k_proj", "lm_head", "model.shared"):
        with pytest.raises(ValueError, match=rf"what the tokens at '{path}' are is not known: choose"):
            view.module_path(path)
    assert view.module_path("model.encoder.layers.0.fc2") == "model.encoder.layers.0.fc2"
    assert view.module_path("model.decoder.layers.1@input") == "model.decoder.layers.1@input"


def test_a_mask_that_is_not_of_the_tokens_is_named() -> None:
    """Whisper takes a mask of its frames, of which it makes half as many tokens."""
    batch = rows_of("whisper") | {"attention_mask": torch.ones(6, 12, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"has shape \(6, 6, 16\), and the mask of its tokens \(6, 12\): choose a tra"):
        extract(view_of("whisper"), batch, specs_of("whisper")[:1], output=False)


def test_the_first_token_that_a_decoder_reads_is_part_of_the_teacher() -> None:
    one, other = tiny("t5"), tiny("t5")
    other.config.decoder_start_token_id = 3
    digests = [as_anchored_model(model).fingerprint()["configuration"] for model in (one, other)]
    assert digests[0] != digests[1]


def test_a_fresh_adapter_of_an_encoder_decoder_has_the_base_as_its_teacher() -> None:
    base = view_of("t5")
    adapted = get_peft_model(tiny("t5"), LoraConfig(r=2, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")).eval()
    view = as_anchored_model(adapted)
    assert view.fingerprint() == base.fingerprint()
    assert view.module_path(-1) == base.module_path(-1)
    torch.testing.assert_close(view.predict(rows_of("t5")), base.predict(rows_of("t5")))
