"""Adapters that put a trained prompt in front of every sequence."""

import json

import pytest
import torch
from bpe import bpe_tokenizer
from lm_folders import save_lines
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM
from vlm_processors import vlm_and_processor

from craft_trainer.cli.main import main
from craft_trainer.evaluation.choices.opening import reader
from craft_trainer.evaluation.choices.text import TextChoices

QUESTION = {"question": "Where is the puck?", "choices": ["left of the goal", "in your hand"], "answer_index": 0}
PROMPT = "Question: Where is the puck?\nAnswer:"
ADAPTERS = {
    "prompt tuning": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
    "p-tuning": lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16),
    "prefix tuning": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6),
}


def base(name, size):
    """BLOOM knows no positions, Llama has as many as are given."""
    tokens = {"vocab_size": size, "hidden_size": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    torch.manual_seed(0)
    if name == "bloom":
        model = BloomForCausalLM(BloomConfig(n_layer=2, n_head=2, **tokens))
    else:
        more = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=128, **more, **tokens))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def by_its_own_loss(model, tokenizer, choice):
    """Log-likelihood of a choice: PEFT itself puts the labels behind its prompt."""
    start = len(tokenizer(PROMPT).input_ids)
    ids = torch.tensor([tokenizer(f"{PROMPT} {choice}").input_ids])
    labels = ids.clone()
    labels[:, :start] = -100
    with torch.no_grad():
        loss = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    return -loss.item() * (ids.shape[1] - start)


@pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient tuning")
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["bloom", "llama"])
def test_choices_are_scored_behind_a_trained_prompt(tmp_path, name, adapter, capsys):
    """Seen to fail: of BLOOM log-likelihoods were read from the rows of other tokens, as many before as the prompt is
    long; of Llama it ended with ``Tensors must have same number of dimensions``."""
    tokenizer = bpe_tokenizer()
    base(name, len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = base(name, len(tokenizer))
    model.name_or_path = str(tmp_path / "base")
    model = get_peft_model(model, ADAPTERS[adapter]())
    model.save_pretrained(tmp_path / "adapter")
    expected = [by_its_own_loss(model, tokenizer, choice) for choice in QUESTION["choices"]]
    data, output = save_lines(tmp_path / "q.jsonl", [QUESTION]), tmp_path / "mcq.json"
    command = ["mcq", "--model", str(tmp_path / "adapter"), "--data", str(data), "--output", str(output)]
    assert main([*command, "--device", "cpu"]) == 0
    document = json.loads(output.read_text())
    assert document["method"] == "separate"
    assert document["items"][0]["log_likelihoods"] == pytest.approx(expected, rel=1e-4)
    assert main([*command, "--device", "cpu", "--method", "packed"]) == 1
    assert "one pass for each choice, not packed ones: use auto" in capsys.readouterr().err


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["bloom", "llama"])
def test_loss_is_measured_behind_a_trained_prompt(tmp_path, name, adapter, capsys):
    """By PEFT's own loss of each text. Seen to fail: "… trains a prompt, which the retention pass does not see: use
    LoRA", where no retention was asked for."""
    tokenizer = bpe_tokenizer()
    base(name, len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = base(name, len(tokenizer))
    model.name_or_path = str(tmp_path / "base")
    model = get_peft_model(model, ADAPTERS[adapter]()).eval()
    model.save_pretrained(tmp_path / "adapter")
    texts = ["hello world", "the answer is yes", "no"]
    expected = []
    for text in texts:
        ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
        labels = ids.clone()
        labels[:, 0] = -100  # the prompt predicts it, and without a prompt nobody does
        with torch.no_grad():
            expected.append(model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.item())
    rows = save_lines(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    command = ["loss", "--dataset", str(rows), "--output", str(tmp_path / "loss.json"), "--device", "cpu"]
    assert main([*command, "--model", str(tmp_path / "adapter"), "--compare", str(tmp_path / "base")]) == 0
    found = json.loads((tmp_path / "loss.json").read_text())
    assert found["row_losses"] == pytest.approx(expected, rel=1e-4)
    assert found["compare_row_losses"] != pytest.approx(expected, rel=1e-2)


def test_a_trained_prompt_takes_places_of_the_model():
    tokenizer = bpe_tokenizer()
    model = base("llama", len(tokenizer))
    assert TextChoices(model, tokenizer).max_length == 128
    assert TextChoices(get_peft_model(model, ADAPTERS["prompt tuning"]()), tokenizer).max_length == 120


def test_a_vision_language_model_with_a_trained_prompt_is_refused():
    """By name: PEFT would embed the text, and the model would find no place for the image."""
    model, processor = vlm_and_processor("idefics3")
    model = get_peft_model(
        model,
        PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=16, num_layers=1, num_attention_heads=1
        ),
    )
    with pytest.raises(ValueError, match=r"PROMPT_TUNING puts a trained prompt .* with LoRA"):
        reader(model, processor)
