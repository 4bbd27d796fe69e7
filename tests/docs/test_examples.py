"""The scripts of docs/examples.md run, before and after the changes that the page shows, and hold what they say."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from lm_folders import save_lines, save_tiny_lm
from pages import DOCS, blocks, command_lines

PAGE = DOCS / "examples.md"
STEPS = re.compile(r"max_steps=\d+")
FLOAT32 = "max_steps=2, bf16=False"  # TRL's default is bf16, which has its own rounding
SENTENCES = ["push the red puck", "open the door", "push the door", "open the red door"] * 4
QUIET = ("ignore:'pin_memory' argument is set:UserWarning",)  # as a user without a GPU sees it


def section(title):
    """The code blocks under a heading, in their order."""
    lines = PAGE.read_text().splitlines()
    first = lines.index(f"## {title}")
    last = next((n for n in range(first + 1, len(lines)) if lines[n].startswith("## ")), len(lines))
    return [block for block in blocks(PAGE) if first < block.line <= last]


def changed(script, diff):
    """``script`` with the hunks of ``diff`` applied; a blank line ends a hunk."""
    for hunk in diff.split("\n\n"):
        lines = hunk.strip("\n").splitlines()
        old = "\n".join(line[1:] for line in lines if line[:1] in " -")
        new = "\n".join(line[1:] for line in lines if line[:1] in " +")
        assert script.count(old) == 1, f"{script.count(old)} times in the script:\n{old}"
        script = script.replace(old, new)
    return script


def run(text, options="max_steps=2"):
    namespace = {"__name__": "__main__"}
    exec(compile(STEPS.sub(options, text), str(PAGE), "exec"), namespace)
    return namespace


def history(folder):
    with (folder / "lambda_history.csv").open() as file:
        return [float(row["retention_loss"]) for row in csv.DictReader(file)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return tmp_path


def save_language_model(folder):
    import torch
    from texts import text_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = text_tokenizer(num_spare=0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_classifier(folder):
    import torch
    from texts import text_tokenizer
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = text_tokenizer(num_spare=0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_vision_language_model(folder):
    import torch
    from smolvlms import save_smolvlm
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    save_smolvlm(folder)
    torch.manual_seed(0)
    SmolVLMForConditionalGeneration(SmolVLMConfig.from_pretrained(folder)).save_pretrained(folder)


def save_images(folder, seed):
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(seed)
    rows = []
    for index, sentence in enumerate(SENTENCES[:8]):
        Image.fromarray(generator.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        rows.append(json.dumps({"file_name": f"{index}.png", "text": sentence}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def both(title, output, options="max_steps=2"):
    """Runs the section's scripts: the plain one, then what the diff makes of it."""
    found = section(title)
    script, diff = found[0].text, found[-1].text
    assert (found[0].language, found[-1].language) == ("python", "diff")
    run(script, options)
    assert not list(Path().rglob("lambda_history.csv")), "the script as it was is plain training"
    for block in found[1:-1]:
        if block.language == "python":
            run(block.text)
        else:
            from craft_trainer.cli.main import main

            for program, *words in command_lines(block):
                assert (program, main(words)) == ("craft-trainer", 0)
    namespace = run(changed(script, diff), options)
    losses = history(Path(output))
    assert len(losses) == 2
    assert losses[0] == pytest.approx(0, abs=1e-5), "it starts as its own teacher"
    assert losses[1] > max(1e-9, 3 * abs(losses[0])), "and is pulled away from it"
    return namespace


def chats(answers):
    """Conversations of one question and its answer."""
    for number, answer in enumerate(answers):
        question = {"role": "user", "content": f"Where is the puck {number}?"}
        yield {"messages": [question, {"role": "assistant", "content": answer}]}


@pytest.mark.filterwarnings(*QUIET)
def test_sft(place):
    pytest.importorskip("trl")
    save_tiny_lm(place / "HuggingFaceTB/SmolLM2-135M-Instruct")
    save_lines(place / "new_chats.jsonl", chats(SENTENCES))
    save_lines(place / "old_chats.jsonl", chats(reversed(SENTENCES)))
    trainer = both("TRL's SFTTrainer", "outputs/sft", FLOAT32)["trainer"]
    assert type(trainer).__name__ == "CraftSFTTrainer"
    assert (place / "outputs/sft/model.safetensors").is_file()


@pytest.mark.filterwarnings(*QUIET)
def test_dpo(place):
    pytest.importorskip("trl")
    save_tiny_lm(place / "HuggingFaceTB/SmolLM2-135M-Instruct")
    pair = {"prompt": "Where is the puck? ", "chosen": "left of the goal", "rejected": "open"}
    save_lines(place / "preferences.jsonl", [pair] * 16)
    (place / "old_texts.txt").write_text("\n".join(SENTENCES) + "\n")
    trainer = both("TRL's DPOTrainer", "outputs/dpo", FLOAT32)["trainer"]
    assert type(trainer).__name__ == "CraftDPOTrainer"


@pytest.mark.filterwarnings(*QUIET)
def test_a_classifier(place):
    save_classifier(place / "distilbert/distilbert-base-uncased-finetuned-sst-2-english")
    for name in ("new_reviews", "old_reviews"):
        reviews = [{"text": sentence, "label": number % 2} for number, sentence in enumerate(SENTENCES)]
        save_lines(place / f"{name}.jsonl", reviews)
    both("A classifier", "outputs/classifier")
    assert (place / "outputs/classifier/model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings(*QUIET)
def test_a_language_model(place):
    """Seen to fail with a line of the diff that is not in the script, and without `anchors` in it."""
    save_language_model(place / "HuggingFaceTB/SmolLM2-135M-Instruct")
    (place / "new_texts.txt").write_text("\n".join(SENTENCES) + "\n")
    (place / "old_texts.txt").write_text("\n".join(reversed(SENTENCES)) + "\n")
    both("A language model", "outputs/lm")
    assert (place / "outputs/lm/model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings(*QUIET)
def test_a_vision_language_model_with_an_adapter(place):
    """What is saved is an adapter: the base model was the teacher. Seen to fail with the adapter left on for it."""
    save_vision_language_model(place / "HuggingFaceTB/SmolVLM-256M-Instruct")
    for seed, name in enumerate(("new_images", "old_images")):
        save_images(place / name, seed)
    both("A vision-language model with LoRA", "outputs/vlm")
    assert (place / "outputs/vlm/adapter_model.safetensors").is_file()
    assert not (place / "outputs/vlm/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings(*QUIET)
def test_a_policy(place, tiny_dataset, tiny_policy):
    """The result is a LeRobot checkpoint. Seen to fail with more anchors than there are samples."""
    from craft_trainer.models.lerobot import PolicyModel

    tiny_policy().save_pretrained(place / "my/old_policy")
    (place / "data").mkdir()
    for name in ("new_task", "old_tasks"):
        (place / "data" / name).symlink_to(tiny_dataset)
    both("A LeRobot policy", "outputs/policy")
    assert PolicyModel.from_pretrained("outputs/policy").policy_config.type == "act"


def test_a_line_that_is_not_in_the_script_is_found():
    with pytest.raises(AssertionError, match="0 times"):
        changed("trainer = Trainer(\n", "-trainer = Trainer()\n+trainer = CraftTrainer(\n")
