"""Tokens and positions without a row are found before the model is."""

import pytest
import torch
from bpe import bpe_tokenizer
from lm_folders import save_lines
from peft import PromptTuningConfig, get_peft_model
from tiny_vlm import tiny_vlm
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    XGLMConfig,
    XGLMForCausalLM,
)

from craft_trainer.language.checkpoints import load_checkpoint
from craft_trainer.language.own_texts import from_nothing, written_by
from craft_trainer.language.samples import TextSamples
from craft_trainer.models.embeddings import Embeddings

GPT = {"n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LIKE_BERT = SIZES | {"is_decoder": True, "pad_token_id": 1}
LIKE_OPT = {
    "hidden_size": 16,
    "ffn_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "word_embed_proj_dim": 16,
}
LIKE_BART = {"d_model": 16, "ffn_dim": 16, "num_layers": 1, "attention_heads": 2}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, **GPT)),
    "gptj": lambda: GPTJForCausalLM(GPTJConfig(vocab_size=50, **GPT, rotary_dim=4)),
    "opt": lambda: OPTForCausalLM(OPTConfig(vocab_size=50, max_position_embeddings=8, **LIKE_OPT)),
    "bert": lambda: BertLMHeadModel(BertConfig(vocab_size=50, max_position_embeddings=8, **LIKE_BERT)),
    "roberta": lambda: RobertaForCausalLM(RobertaConfig(vocab_size=50, max_position_embeddings=10, **LIKE_BERT)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=8, **SIZES)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2)),
    "xglm": lambda: XGLMForCausalLM(XGLMConfig(vocab_size=50, max_position_embeddings=8, **LIKE_BART)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_limits_are_those_at_which_the_model_fails(name):
    """Seen to fail with the configuration's number for all: models with rotations take more, RoBERTa takes less."""
    model = MODELS[name]().eval()
    limits = Embeddings.of(model)
    assert limits.tokens == 50
    assert limits.positions == (None if name in ("llama", "bloom", "xglm") else 8)
    with torch.no_grad():
        model(input_ids=torch.full((1, 8), 5))
        if limits.positions is None:
            model(input_ids=torch.full((1, 20), 5))
            return
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, 9), 5))


def test_a_trained_prompt_takes_places():
    """Seen to fail with the 8 of the model alone."""
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(MODELS["gpt2"](), config).eval()
    assert Embeddings.of(model).positions == 5
    with torch.no_grad():
        model(input_ids=torch.full((1, 5), 5), attention_mask=torch.ones(1, 5))
        with pytest.raises(IndexError):
            model(input_ids=torch.full((1, 6), 5), attention_mask=torch.ones(1, 6))


def test_places_of_patches_are_no_places_of_tokens():
    assert Embeddings.of(tiny_vlm("smolvlm")) == Embeddings(48, None)


def test_a_text_that_is_longer_than_the_positions_is_named(tmp_path):
    """Whether read or written. Seen to fail with `index out of range in self`."""
    tokenizer = bpe_tokenizer()
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **GPT)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = load_checkpoint(str(tmp_path), dtype="float32")
    texts = str(save_lines(tmp_path / "texts.jsonl", [{"text": "hello"}, {"text": "hello world" * 9}]))
    message = r"row 2: it has \d+ tokens, but the model has embeddings of 8 positions: lower max_length to 8"
    with pytest.raises(ValueError, match=message):
        TextSamples.open(texts, lm.model, lm.processor)
    with pytest.raises(ValueError, match="a prompt of 1 tokens and 8 of its own are more than the model's 8 positions"):
        written_by(lm.model, lm.processor, from_nothing(2), new_tokens=8, batch_size=2, seed=0)
    assert max(written_by(lm.model, lm.processor, from_nothing(2), new_tokens=7, batch_size=2, seed=0).lengths) <= 8
