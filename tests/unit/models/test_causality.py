"""Models that see what they are to predict are refused, whatever their configuration calls it."""

import json

import pytest
import torch
from bpe import bpe_tokenizer
from lm_folders import save_lines
from tiny_vlm import FAMILIES, tiny_vlm
from transformers import (
    BertConfig,
    BertLMHeadModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from craft_trainer.cli.main import main
from craft_trainer.models.causality import require_causal

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
GEMMA = SIZES | {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 8}
SEE = {
    "bert": lambda: BertLMHeadModel(BertConfig(**SIZES)),
    "roberta": lambda: RobertaForCausalLM(RobertaConfig(**SIZES)),
    "xlnet": lambda: XLNetLMHeadModel(XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=16)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA, use_bidirectional_attention=True)),
}
DO_NOT = {
    "bert": lambda: BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)),
    "roberta": lambda: RobertaForCausalLM(RobertaConfig(**SIZES, is_decoder=True)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=1)),
    "bfloat16": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)).to(torch.bfloat16),
    **{family: lambda family=family: tiny_vlm(family) for family in FAMILIES},
}


@pytest.mark.parametrize("name", SEE)
def test_a_model_that_sees_ahead_is_refused(name):
    """Seen to fail with one token changed instead of half of them: a new BERT hardly looks at it."""
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="in FOLDER sees the tokens that it is to predict"):
        require_causal(SEE[name]().eval(), "FOLDER")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("name", DO_NOT)
def test_a_causal_model_is_not(name):
    """Seen to fail with PaliGemma's text taken for its prefix, and with every difference of rounding counted."""
    torch.manual_seed(0)
    require_causal(DO_NOT[name]().eval(), "FOLDER")


def test_every_command_refuses_it(tmp_path, capsys):
    """Seen to fail with exit status 0 and numbers that mean nothing."""
    tokenizer = bpe_tokenizer()
    BertLMHeadModel(BertConfig(**SIZES | {"vocab_size": len(tokenizer)})).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    asked = {"question": "Where is the puck?", "choices": ["left", "right"], "answer_index": 0, "text": "hello world"}
    rows, out = save_lines(tmp_path / "rows.jsonl", [asked] * 4), tmp_path / "out"
    for words in (
        f"train --model {tmp_path / 'bert'} --dataset {rows} --output_dir {out} --use_cpu true",
        f"mcq --model {tmp_path / 'bert'} --data {rows} --output {out}.json",
        f"cache build --teacher {tmp_path / 'bert'} --dataset {rows} --output_dir {out}.cache --anchors 2",
    ):
        assert main(words.split()) == 1
        assert "sees the tokens that it is to predict" in capsys.readouterr().err
    settings = json.loads((tmp_path / "bert/config.json").read_text())
    (tmp_path / "bert/config.json").write_text(json.dumps(settings | {"is_decoder": True}))
    assert main(["mcq", "--model", str(tmp_path / "bert"), "--data", str(rows), "--output", f"{out}.json"]) == 0
