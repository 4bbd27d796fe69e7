"""Positions that come with texts: the teacher and the student read them, and several texts in a row are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vlm import tiny_vlm
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import extract
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.anchors.teacher_pass import raw_inputs, texts_of_rows
from craft_trainer.models.families import as_anchored_model

ROWS = 11
PACKED = torch.tensor([[0, 1, 2, 0, 1, 2]])
type Make = Callable[..., Any]


def build_with(teacher: Any, load: Make, folder: Path, **options: Any) -> AnchorCache:
    return build_anchor_cache(
        teacher,
        load,
        folder,
        rows=range(ROWS),
        groups=["old"] * ROWS,
        specs=[],
        batch_size=4,
        source={"dataset": "tokens", "frames": ROWS},
        teacher_path="tiny llama",
        **options,
    )


@pytest.mark.parametrize("inputs", ["embedded", "reference"])
@pytest.mark.parametrize("as_given", ["of every row", "of all rows at once"])
def test_positions_are_read_by_teacher_and_student(
    inputs: str, as_given: str, tiny_llama: Make, load_tokens: Make, tmp_path: Path
) -> None:
    """Every second place, so that each token is twice as far from the others. Seen to fail: they were dropped."""
    model = tiny_llama().eval()
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 50  # a fresh model hardly tells places apart
    positions = 2 * torch.arange(6)[None]

    def load(rows: list[int]) -> dict[str, Tensor]:
        count = len(rows) if as_given == "of every row" else 1
        return load_tokens(rows) | {"position_ids": positions.repeat(count, 1)}

    anchors = build_with(as_anchored_model(model), load, tmp_path / "cache", inputs=inputs).batch([0, 3])
    with torch.no_grad():
        logits = model(input_ids=load_tokens([0, 3])["input_ids"], position_ids=positions).logits
        counted = model(input_ids=load_tokens([0, 3])["input_ids"]).logits
    expected = logits.log_softmax(-1).gather(-1, anchors.teacher.tokens.indices)
    torch.testing.assert_close(anchors.teacher.tokens.log_probs, expected, rtol=0, atol=1e-4)
    assert (logits - counted).abs().max() > 0.1
    student = extract(as_anchored_model(model), anchors.inputs, [], output=True).output
    torch.testing.assert_close(student, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("family", ["causal", "vision", "bert"])
def test_several_texts_in_a_row_are_refused(family: str, masked: bool, tiny_llama: Make, tmp_path: Path) -> None:
    """Seen to fail: the teacher's answers to the second text of a row were those of a text that goes on."""
    makers: dict[str, Make] = {"causal": tiny_llama, "vision": lambda: tiny_vlm("smolvlm"), "bert": tiny_bert}

    def load(rows: list[int]) -> dict[str, Tensor]:
        ids = torch.arange(6).repeat(len(rows), 1)
        return {"input_ids": ids, "position_ids": PACKED} | ({"attention_mask": torch.ones_like(ids)} if masked else {})

    said = r"position_ids start anew within a row.*the second would see the first\. Give one text per row"
    with pytest.raises(ValueError, match=said):
        build_with(as_anchored_model(makers[family]()), load, tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def tiny_bert() -> Any:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForMaskedLM(BertConfig(vocab_size=20, **sizes))


def test_several_texts_in_a_row_are_refused_without_a_cache(tiny_llama: Make, lora: Make, load_tokens: Make) -> None:
    """By the anchors of an adapter and in references, whose dataset may give other positions than when it was built."""
    model = as_anchored_model(lora(tiny_llama()))
    live = AdapterAnchors(model, lambda rows: load_tokens(rows) | {"position_ids": PACKED}, ["old"] * ROWS)
    for load in (live.batch, raw_inputs(model, live._load_batch)):
        with pytest.raises(ValueError, match="position_ids start anew within a row"):
            load([0])


@pytest.mark.parametrize("before", [[0, 0, 0], [1, 1, 1], [-1, -1, -1]])
def test_positions_of_padding_begin_no_text(before: list[int]) -> None:
    """On the left as tokenizers, transformers and a count of the mask make them; on the right of zeros."""
    positions = torch.tensor([[*before, 0, 1, 2], [0, 1, 2, 0, 0, 0], [0, 1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1] * 6])
    batch = {"input_ids": positions, "position_ids": positions, "attention_mask": mask}
    found = [[text.tolist() for text in texts] for texts in texts_of_rows(batch)]
    assert found == [[[3, 4, 5]], [[0, 1, 2]], [[0, 1, 2, 3, 4, 5]]]


def test_texts_begin_where_positions_do_not_grow() -> None:
    """Texts of one token, padding between two, and none at all."""
    positions = torch.tensor([[0, 1, 0, 0, 1, 2], [0, 1, 9, 0, 1, 2], [0, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[1] * 6, [1, 1, 0, 1, 1, 1], [0] * 6])
    batch = {"input_ids": positions, "position_ids": positions, "attention_mask": mask}
    found = [[text.tolist() for text in texts] for texts in texts_of_rows(batch)]
    assert found == [[[0, 1], [2], [3, 4, 5]], [[0, 1], [3, 4, 5]], [[]]]
    assert texts_of_rows({"input_ids": positions}) == []
