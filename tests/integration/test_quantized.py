"""Adapters on bases of 4 and 8 bits, by commands: ``nox -s quantization``, or wherever bitsandbytes is installed."""

import json
import shutil

import pytest
import torch
from command_words import flags
from lm_folders import save_lines, save_tiny_lm
from peft import LoraConfig, get_peft_model
from runs import history
from safetensors.torch import load_file
from vlm_processors import vlm_and_processor

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main
from craft_trainer.language import auto
from craft_trainer.language.anchoring import adapter_anchors
from craft_trainer.language.checkpoints import Lora, load_checkpoint
from craft_trainer.language.samples import TextSamples
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.pretrained import load_model

pytest.importorskip("bitsandbytes")

RUN = {
    "max_steps": 4,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "steps",
    "save_steps": 2,
    "disable_tqdm": True,
    "use_cpu": True,
    "lora_rank": 2,
    "retention_terms": ["hidden", "token_kl"],
}
BITS = ["4bit", "8bit"]
ADAPTER = "adapter_model.safetensors"


def build(place, folder, **options):
    settings = {"teacher": place / "model", "dataset": place / "old.jsonl", "output_dir": folder, "anchors": 12}
    return main(["cache", "build", *flags(**settings | {"layers": -1, "num_tokens": 8, "device": "cpu"} | options)])


def train(place, folder, **options):
    settings = RUN | {"model": place / "model", "dataset": place / "new.jsonl", "output_dir": folder}
    given = {name: value for name, value in (settings | options).items() if value is not None}
    return main(["train", *flags(**given)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, texts, and anchors of it in full precision."""
    folder = tmp_path_factory.mktemp("quantised")
    save_tiny_lm(folder / "model", hidden_size=64, intermediate_size=64)  # what bitsandbytes would pack on a CPU
    save_lines(folder / "old.jsonl", [{"text": "hello world " + "the answer is yes " * (n % 5)} for n in range(16)])
    save_lines(folder / "new.jsonl", [{"prompt": f"Where is the puck {n}?", "completion": " left"} for n in range(12)])
    asked = [{"question": f"Is it {n}?", "choices": ["yes", "the goal"], "answer_index": n % 2} for n in range(6)]
    save_lines(folder / "questions.jsonl", asked)
    assert build(folder, folder / "full") == 0
    return folder


@pytest.fixture(scope="module", params=BITS)
def trained(request, place):
    """How many bits; anchors of the base with so many, and an adapter trained on it."""
    bits = request.param
    assert build(place, place / f"anchors{bits}", quantization=bits) == 0
    assert train(place, place / bits, quantization=bits, anchors=place / f"anchors{bits}") == 0
    return bits


def test_the_untouched_base_is_held_at_zero_and_its_adapter_learns(place, trained):
    rows = history(place / trained)
    assert abs(float(rows[0]["retention_loss"])) < 1e-6
    assert all(float(row["retention_loss"]) > 1e-5 for row in rows[1:])
    assert {path.name for path in (place / trained).glob("*.safetensors")} == {ADAPTER}
    said = json.loads((place / trained / "adapter_config.json").read_text())
    assert said["auto_mapping"]["base_quantization"][f"load_in_{trained}"] is True
    assert said["base_model_name_or_path"] == str(place / "model")


def test_a_resumed_run_is_the_run(place, trained, tmp_path):
    """Bit for bit, on a CPU."""
    folder = shutil.copytree(place / trained, tmp_path / "run")
    shutil.rmtree(folder / "checkpoint-4")
    (folder / ADAPTER).unlink()
    given = {"quantization": trained, "anchors": place / f"anchors{trained}"}
    assert train(place, folder, **given, resume_from_checkpoint="last") == 0
    ours, theirs = (load_file(run / ADAPTER) for run in (folder, place / trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_base_is_another_teacher_than_in_full_precision(place, trained, tmp_path, capsys):
    """In both directions, and by the words that say what to give."""
    assert train(place, tmp_path / "out", anchors=place / f"anchors{trained}") == 1
    assert f"quantization {trained} " in (said := capsys.readouterr().err)
    assert "quantization none" in said
    assert "start from its teacher, loaded with the same quantization," in said
    assert train(place, tmp_path / "out", quantization=trained, anchors=place / "full") == 1
    assert "quantization none " in (said := capsys.readouterr().err)
    assert f"quantization {trained}:" in said
    other = next(bits for bits in BITS if bits != trained)
    assert train(place, tmp_path / "out", quantization=other, anchors=place / f"anchors{trained}") == 1
    assert f"quantization {other}:" in capsys.readouterr().err
    assert train(place, tmp_path / "out", quantization=other, lora_rank=None, model=place / trained) == 1
    assert f"was trained on a {trained} base, and quantization is {other}" in capsys.readouterr().err


def test_its_anchors_are_verified_with_the_base_as_it_was(place, trained, capsys):
    assert main(["cache", "verify", *flags(cache=place / f"anchors{trained}", teacher=place / "model")]) == 0
    assert "made by this teacher: weights, processors, configuration and quantization" in capsys.readouterr().out
    assert main(["cache", "info", *flags(cache=place / f"anchors{trained}")]) == 0
    assert f"({trained})" in capsys.readouterr().out


def test_anchors_that_the_base_writes_itself_say_how_it_was_quantised(place, trained, tmp_path, capsys, monkeypatch):
    """So that the teacher is loaded as it was. Seen to fail without: "quantization none" was verified, and refused."""
    monkeypatch.setattr(auto, "NUM_TEXTS", 12)
    assert train(place, tmp_path / "run", quantization=trained, anchors="auto", retention_terms="token_kl") == 0
    cache = AnchorCache(tmp_path / "run/_anchors")
    assert cache.provenance.data["quantization"] == trained
    assert main(["cache", "verify", *flags(cache=cache.folder, teacher=place / "model")]) == 0
    assert "configuration and quantization" in capsys.readouterr().out


def test_mcq_asks_the_adapter_on_the_base_that_it_was_trained_on(place, trained, tmp_path):
    """With quantization so is the base beside it."""
    asked = {"data": place / "questions.jsonl", "output": tmp_path / "mcq.json", "device": "cpu"}
    assert main(["mcq", *flags(**asked, model=place / "model", quantization=trained, compare=place / trained)]) == 0
    found = json.loads((tmp_path / "mcq.json").read_text())
    model = load_checkpoint(str(place / "model"), dtype=None, quantization=trained).model
    assert found["fingerprint"] == as_anchored_model(model).fingerprint()["weights"]
    assert found["compare"]["fingerprint"] != found["fingerprint"]
    assert load_checkpoint(str(place / trained), dtype=None).model.get_base_model().is_quantized


def test_merge_scales_the_adapter_and_leaves_whole_weights_alone(place, trained, tmp_path, capsys):
    given = {"teacher": place / "model", "tuned": place / trained, "points": 3, "device": "cpu", "epsilon": 1e9}
    assert main(["merge", *flags(**given, anchors=place / f"anchors{trained}", output_dir=tmp_path / "out")]) == 0
    merged, tuned = (load_file(folder / ADAPTER) for folder in (tmp_path / "out", place / trained))
    assert all(torch.equal(merged[name], tuned[name]) for name in tuned)
    assert load_checkpoint(str(tmp_path / "out"), dtype=None).model.get_base_model().is_quantized
    capsys.readouterr()
    assert main(["merge", *flags(**given, anchors=place / "full", output_dir=tmp_path / "other")]) == 1
    assert "differ in quantization_config" in capsys.readouterr().err


def test_a_folder_of_quantised_weights_is_the_same_base(place, trained, tmp_path, capsys):
    """Anchors of the one hold a run on the other; alone it is not trained, and not quantised again."""
    saved = tmp_path / "saved"
    checkpoint = load_checkpoint(str(place / "model"), dtype=None, quantization=trained)
    checkpoint.model.save_pretrained(saved)
    checkpoint.processor.save_pretrained(saved)
    again = as_anchored_model(load_checkpoint(str(saved), dtype=None).model)
    assert again.fingerprint() == as_anchored_model(checkpoint.model).fingerprint()
    assert train(place, tmp_path / "run", model=saved, anchors=place / f"anchors{trained}") == 0
    assert json.loads((tmp_path / "run/adapter_config.json").read_text())["auto_mapping"] is None
    ours, theirs = (load_file(run / ADAPTER) for run in (tmp_path / "run", place / trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    capsys.readouterr()
    assert train(place, tmp_path / "whole", model=saved, lora_rank=None) == 1
    assert f"are quantised ({trained}), so they cannot be trained" in capsys.readouterr().err
    assert train(place, tmp_path / "twice", model=saved, quantization=trained) == 1
    assert f"are saved quantised ({trained}) already" in capsys.readouterr().err


def test_the_base_without_its_adapter_is_what_its_cache_holds(place, trained):
    """Whatever the adapter is. In batches of the same samples: what 8 bits say of a text depends on its neighbours."""
    lm = load_checkpoint(str(place / trained), dtype="float32", trainable=True)
    cache = AnchorCache(place / f"anchors{trained}")
    texts = TextSamples.open(str(place / "old.jsonl"), lm.model, lm.processor)
    live = adapter_anchors(lm, texts, ["-1"], ["mean_masked"], num_tokens=8)
    ours, theirs = live.batch(list(cache.dataset["row"])), cache.batch(range(len(cache)))
    torch.testing.assert_close(ours.teacher.hidden, theirs.teacher.hidden, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.teacher.tokens.log_probs, theirs.teacher.tokens.log_probs, rtol=1e-4, atol=1e-5)


def test_a_pass_of_the_teacher_leaves_gradients_as_they_are(place):
    """Seen to fail on a CPU with AVX-512 BF16 without ``keep_layout``: packed 4-bit weights pass no gradient on."""
    model = load_checkpoint(str(place / "model"), dtype="float32", quantization="4bit", lora=Lora(2)).model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.1)
    tokens = torch.arange(12).view(2, 6)

    def gradients():
        model.train().zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]

    before = gradients()
    with torch.no_grad(), model.disable_adapter():
        model.eval()(input_ids=tokens)
    assert all(found.any() for found in before)
    assert all(torch.equal(*pair) for pair in zip(before, gradients(), strict=True))


def test_a_model_quantised_in_a_script_keeps_its_gradients_too(place):
    """One that was packed already is unpacked."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(place / "model", quantization_config=config, dtype="float32")
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        base.eval()(input_ids=tokens)
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"))
    assert as_anchored_model(model).fingerprint()["quantization"] == "4bit"
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.any() for gradient in found)


def test_a_vision_language_model_is_quantised_too(tmp_path):
    model, _ = vlm_and_processor("smolvlm")
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, None, quantization="4bit")
    assert as_anchored_model(loaded).fingerprint()["quantization"] == "4bit"
    assert sum(parameter.dtype == torch.uint8 for parameter in loaded.parameters()) > 4
