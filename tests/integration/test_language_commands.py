"""``train`` and ``cache build`` of language models: from texts to a comparison of two checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from command_words import flags
from lm_folders import save_lines, save_tiny_lm
from runs import history
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import teacher_features
from craft_trainer.cli.main import main
from craft_trainer.language.checkpoints import load_checkpoint
from craft_trainer.language.samples import TextSamples
from craft_trainer.models.families import as_anchored_model

ROOT = Path(__file__).parents[2]
RUN = {
    "max_steps": 4,
    "learning_rate": 0.005,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "update_angle_every": 1,
    "multiplier_lr": 1.0,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, texts of a new and of two old tasks of many lengths, questions."""
    folder = tmp_path_factory.mktemp("lm")
    save_tiny_lm(folder / "model")
    new = [{"prompt": f"Where is the puck {n}?", "completion": " left of the goal" * (1 + n % 3)} for n in range(24)]
    old = [{"text": "hello world " + "the answer is yes " * (n % 6) + str(n), "topic": "ab"[n % 2]} for n in range(24)]
    asked = [{"question": f"Is it {n}?", "choices": ["yes", "the goal"], "answer_index": n % 2} for n in range(6)]
    for name, rows in (("new", new), ("old", old), ("questions", asked)):
        save_lines(folder / f"{name}.jsonl", rows)
    return folder


def build(place, folder, **options):
    settings = {"teacher": place / "model", "dataset": place / "old.jsonl", "output_dir": folder, "anchors": 20}
    settings |= {"batch_size": 4, "group_column": "topic", "num_tokens": 8}
    return main(["cache", "build", *flags(**settings | options)])


def train(place, folder, **options):
    settings = RUN | {"model": place / "model", "dataset": place / "new.jsonl", "output_dir": folder}
    return main(["train", *flags(**settings | options)])


def verify(place, folder, **options):
    return main(["cache", "verify", *flags(cache=folder, teacher=place / "model", batch_size=8, **options)])


@pytest.fixture(scope="module")
def anchors(place):
    assert build(place, place / "anchors", layers="-2,-1", pooling="mean_masked,last_token") == 0
    return place / "anchors"


def weights(folder):
    return load_file(next(Path(folder).glob("*model.safetensors")))


def assert_same_weights(left, right):
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_cache_is_verified_shown_and_of_this_teacher(place, anchors, tmp_path, capsys):
    """Seen to fail with the teacher loaded in another number type."""
    assert verify(place, anchors) == 0
    said = capsys.readouterr().out
    assert "ok  made by this teacher: weights, processors and configuration" in said
    assert sum(line.startswith("ok  hidden/") for line in said.splitlines()) == 4
    assert "ok  tokens recomputed on 20 anchors" in said
    assert main(["cache", "info", "--cache", str(anchors)]) == 0
    assert "20: 10 of a, 10 of b" in capsys.readouterr().out
    save_tiny_lm(tmp_path / "other", seed=1)
    assert main(["cache", "verify", *flags(cache=anchors, teacher=tmp_path / "other")]) == 1
    assert "was made by a teacher with weights" in capsys.readouterr().err


def test_cached_features_are_those_of_each_text_alone(place, anchors):
    """Though anchors were padded when they were made, and are padded to others when they are read. Seen to fail with
    the attention mask left out, and with features pooled over the padding."""
    cache = AnchorCache(anchors)
    teacher = as_anchored_model(AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32))
    batch = cache.batch(range(20))
    lengths = batch.inputs["attention_mask"].sum(dim=1)
    texts = [json.loads(line)["text"] for line in (place / "old.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    assert lengths.tolist() == [len(tokenizer(texts[row]).input_ids) + 1 for row in cache.dataset["row"]]
    assert len(set(lengths.tolist())) > 4
    for row, length in enumerate(lengths.tolist()):
        alone = {key: value[row : row + 1, :length] for key, value in batch.inputs.items()}
        live = teacher_features(teacher, alone, cache.specs, num_tokens=8)
        for column, value in live.hidden.items():
            torch.testing.assert_close(batch.teacher.hidden[column][row : row + 1], value, rtol=1e-4, atol=1e-5)
        tokens = batch.teacher.tokens
        assert torch.equal(tokens.indices[row : row + 1, :length], live.tokens.indices)
        torch.testing.assert_close(
            tokens.log_probs[row : row + 1, :length], live.tokens.log_probs, rtol=1e-4, atol=1e-4
        )
        assert tokens.valid[row].sum() == length


def test_the_labels_of_anchors_are_those_of_their_texts(place, anchors):
    """So that replay learns what the texts say: every token but the first, and no padding."""
    inputs = AnchorCache(anchors).batch(range(20)).inputs
    wanted = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    wanted[:, 0] = -100
    assert torch.equal(inputs["labels"], wanted)


@pytest.mark.parametrize("terms", [["hidden"], ["token_kl"], ["hidden", "token_kl"]])
def test_the_whole_path(place, anchors, tmp_path, terms, capsys):
    """Train on the cache, open the result as anybody would, ask both what they know."""
    options = {"retention_terms": terms, "constraints": "per_group", "mcq_data": place / "questions.jsonl"}
    assert train(place, tmp_path / "craft", anchors=anchors, mcq_steps=2, **options) == 0
    said = capsys.readouterr().out
    assert "24 samples of" in said
    assert "the loss is of the completions alone" in said
    compare = f"craft-trainer mcq --model {place / 'model'} --compare {tmp_path / 'craft'}"
    assert compare in said
    rows = history(tmp_path / "craft")
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-6)
    assert all(row["retention_loss"] > 1e-5 for row in rows[1:])
    groups = (tmp_path / "craft/lambda_history_groups.csv").read_text().splitlines()
    assert {line.split(",")[1] for line in groups[1:]} == {"a", "b"}
    AutoTokenizer.from_pretrained(tmp_path / "craft")
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "craft")
    assert student.dtype == torch.float32
    state = json.loads((tmp_path / "craft/trainer_state.json").read_text())
    assert [log["step"] for log in state["log_history"] if "mcq/accuracy" in log] == [0, 2, 4]
    words = compare.split()[1:] + flags(data=place / "questions.jsonl", output=tmp_path / "mcq.json", dtype="float32")
    assert main(words) == 0
    assert json.loads((tmp_path / "mcq.json").read_text())["comparison"]["num_items"] == 6


def test_without_anchors_it_is_plain_fine_tuning(place, tmp_path):
    """The same weights as Trainer's own on the same samples. Seen to fail with another number type."""
    from transformers import Trainer, TrainingArguments, set_seed

    assert train(place, tmp_path / "plain") == 0
    set_seed(42)
    model, tokenizer = load_checkpoint(str(place / "model"), dtype="float32")
    samples = TextSamples.open(str(place / "new.jsonl"), model, tokenizer)
    ours = {key: value for key, value in RUN.items() if key not in ("update_angle_every", "multiplier_lr")}
    arguments = TrainingArguments(output_dir=str(tmp_path / "hf"), remove_unused_columns=False, **ours)
    trainer = Trainer(
        model, arguments, train_dataset=samples, data_collator=samples.collate, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()
    assert_same_weights(tmp_path / "plain", tmp_path / "hf")


def eval_losses(folder):
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["eval_loss"] for entry in log if "eval_loss" in entry}


def test_other_texts_are_evaluated_on(place, tmp_path, capsys):
    """The loss that is logged is the mean over all their tokens, by the weights of that step. Seen to fail with the
    texts that are learned evaluated on, and with Trainer's own mean, in which a batch counts by its samples."""
    held_out = [
        {"prompt": f"Where is the goal {n}?", "completion": " right of the puck" * (1 + n // 3)} for n in range(6)
    ]
    save_lines(tmp_path / "held_out.jsonl", held_out)
    options = {"eval_dataset": tmp_path / "held_out.jsonl", "eval_strategy": "steps", "eval_steps": 2}
    assert train(place, tmp_path / "run", **options, per_device_eval_batch_size=4) == 0
    assert "evaluated on: 6 samples of" in capsys.readouterr().out
    logged = eval_losses(tmp_path / "run")
    assert list(logged) == [2, 4]
    model, tokenizer = load_checkpoint(str(tmp_path / "run"), dtype="float32")
    samples = TextSamples.open(str(tmp_path / "held_out.jsonl"), model, tokenizer)
    with torch.no_grad():
        assert logged[4] == pytest.approx(model.eval()(**samples.batch(range(6))).loss.item(), rel=1e-5)
    best = options | {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2}
    best |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}  # so that it is not the last
    assert train(place, tmp_path / "best", **best) == 0
    logged = eval_losses(tmp_path / "best")
    assert logged[2] > logged[4]
    assert_same_weights(tmp_path / "best", tmp_path / "best/checkpoint-2")


def test_another_split_is_evaluated_on(place, tmp_path, capsys):
    """Seen to fail with the split that is learned evaluated on."""
    (tmp_path / "data").mkdir()
    for name, numbers in (("train", range(8)), ("test", range(8, 12))):
        save_lines(tmp_path / "data" / f"{name}.jsonl", [{"text": f"hello world {n}"} for n in numbers])
    splits = {"dataset": tmp_path / "data", "split": "train", "eval_split": "test", "eval_strategy": "epoch"}
    assert train(place, tmp_path / "run", **splits) == 0
    said = capsys.readouterr().out
    assert "8 samples of" in said.splitlines()[0]
    assert "evaluated on: 4 samples of" in said
    assert eval_losses(tmp_path / "run")


def test_the_only_split_is_not_evaluated_on(place, tmp_path, capsys):
    """Whatever its name is. Seen to fail: with no split named, ``train`` alone was taken for what is learned."""
    (tmp_path / "data").mkdir()
    save_lines(tmp_path / "data/test.jsonl", [{"text": f"hello world {n}"} for n in range(4)])
    given = {"dataset": tmp_path / "data", "eval_strategy": "epoch", "max_steps": 1}
    for split in ("test", "test[:100%]"):
        assert train(place, tmp_path / "run", **given, eval_split=split) == 1
        assert f"eval_split {split} is what is learned: name another" in capsys.readouterr().err
    assert train(place, tmp_path / "run", **given, split="test[:3]", eval_split="test[1:3]") == 1
    assert "eval_split test[1:3] is what is learned: name another" in capsys.readouterr().err
    assert train(place, tmp_path / "part", **given, split="test[:3]", eval_split="test[2:]") == 0
    assert "; 1 of them are learned too, so the evaluation is too good" in capsys.readouterr().out
    assert train(place, tmp_path / "rest", **given, split="test[:3]", eval_split="test[3:]") == 0
    assert "learned too" not in capsys.readouterr().out


def test_texts_of_another_name_that_are_learned_too_are_counted(place, tmp_path, capsys):
    """Seen to fail: nothing was said."""
    copied = shutil.copy(place / "new.jsonl", tmp_path / "copied.jsonl")
    assert train(place, tmp_path / "run", eval_dataset=copied, eval_strategy="epoch", max_steps=1) == 0
    assert "; 24 of them are learned too" in capsys.readouterr().out


def test_texts_to_evaluate_on_may_have_configurations(place, tmp_path, capsys):
    """Seen to fail with the option not passed on."""
    (tmp_path / "data").mkdir()
    for name, count in (("easy", 3), ("hard", 5)):
        save_lines(tmp_path / "data" / f"{name}.jsonl", [{"text": f"hello world {n}"} for n in range(count)])
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("easy", "hard"))
    (tmp_path / "data/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    options = {"eval_dataset": tmp_path / "data", "eval_config": "hard", "eval_strategy": "steps", "eval_steps": 4}
    assert train(place, tmp_path / "run", columns="text=text", dataset=tmp_path / "data/easy.jsonl", **options) == 0
    assert "evaluated on: 5 samples of" in capsys.readouterr().out


def test_a_generation_config_that_cannot_be_saved_is_refused_before_training(place, tmp_path, capsys):
    """An adapter saves none. Seen to fail with hours of training that end in an error and no weights."""
    shutil.copytree(place / "model", tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": 1}')
    options = {"model": tmp_path / "model", "max_steps": 1}
    assert train(place, tmp_path / "run", **options) == 1
    assert "could not be saved and loaded again. Correct its generation_config.json" in capsys.readouterr().err
    assert train(place, tmp_path / "lora", **options, lora_rank=2) == 0


def test_tokens_without_a_row_are_named(place, tmp_path, capsys):
    """Padding is masked and may be any token, but Trainer would write its number into config.json. Seen to fail with
    a checkpoint that nothing opens, and with `index out of range in self` for the rest."""
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["<robot>"])
    shutil.copytree(place / "model", tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = {"model": tmp_path / "model", "max_steps": 1}
    assert train(place, tmp_path / "run", **options) == 1
    assert f"its token '[PAD]' has the number {size}, but the model has embeddings of {size}" in capsys.readouterr().err
    assert train(place, tmp_path / "lora", **options, lora_rank=2) == 0
    questions = place / "questions.jsonl"
    assert main(["mcq", *flags(model=tmp_path / "lora", data=questions, output=tmp_path / "mcq.json")]) == 0
    rows = save_lines(tmp_path / "robot.jsonl", [{"text": "hello"}, {"text": "the <robot>"}])
    capsys.readouterr()
    assert build(place, tmp_path / "cache", dataset=rows, group_column="text", teacher=tmp_path / "model") == 1
    assert f"robot.jsonl, row 2: its token '<robot>' has the number {size + 1}" in capsys.readouterr().err
    asked = {"question": "a <robot>?", "choices": ["a", "b"], "answer_index": 0}
    rows = save_lines(tmp_path / "asked.jsonl", [asked])
    assert main(["mcq", *flags(model=tmp_path / "model", data=rows, output=tmp_path / "mcq2.json")]) == 1
    assert f"its token '<robot>' has the number {size + 1}" in capsys.readouterr().err


def test_an_adapters_folder_is_not_for_full_weights(place, tmp_path, capsys):
    """Both in one folder, every tool would read the adapter. Seen to fail with an adapter taken for no run."""
    assert train(place, tmp_path / "run", lora_rank=4) == 0
    assert train(place, tmp_path / "run") == 1
    assert "holds a run already (adapter_model.safetensors)" in capsys.readouterr().err
    assert not (tmp_path / "run/model.safetensors").exists()


@pytest.mark.parametrize("lora", [{}, {"lora_rank": 4}], ids=["weights", "adapter"])
def test_resumed_is_never_interrupted(place, anchors, tmp_path, lora):
    """Seen to fail with λ not restored."""
    options = {"anchors": anchors, "save_strategy": "steps", "save_steps": 2, "retention_terms": ["token_kl"]} | lora
    assert train(place, tmp_path / "whole", **options) == 0
    assert train(place, tmp_path / "cut", **options) == 0
    kept = tmp_path / "cut/checkpoint-2"
    assert (kept / "tokenizer.json").is_file()
    for path in (tmp_path / "cut").glob("checkpoint-4/*"):
        path.unlink()
    (tmp_path / "cut/checkpoint-4").rmdir()
    next((tmp_path / "cut").glob("*model.safetensors")).unlink()
    assert train(place, tmp_path / "cut", resume_from_checkpoint="last", **options) == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    files = [(tmp_path / run / "lambda_history.csv").read_bytes() for run in ("whole", "cut")]
    assert files[0] == files[1]


def test_a_checkpoint_that_is_not_whole_is_not_resumed_from(place, tmp_path, capsys):
    """Seen to fail with Trainer's own loading, which goes on with the weights of the start and a warning."""
    options = {"save_strategy": "steps", "save_steps": 2}
    assert train(place, tmp_path / "run", **options) == 0
    for step in (2, 4):
        file = tmp_path / f"run/checkpoint-{step}/model.safetensors"
        tensors = load_file(file)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, file, metadata={"format": "pt"})
        file.with_name("manifest.json").unlink()  # which would say so first
    (tmp_path / "run/model.safetensors").unlink()
    assert train(place, tmp_path / "run", resume_from_checkpoint="last", **options | {"max_steps": 6}) == 1
    assert "missing model.layers.1.mlp.up_proj.weight" in capsys.readouterr().err


def test_an_adapter_without_a_cache(place, tmp_path, capsys):
    """The base is the teacher; what is saved is the adapter alone, which mcq opens. With gradient checkpointing."""
    options = {"lora_rank": 4, "lora_targets": "q_proj,v_proj", "anchors": "adapter", "learning_rate": 0.05}
    options |= {"anchors_dataset": place / "old.jsonl", "layers": "-1", "retention_terms": ["hidden", "token_kl"]}
    assert train(place, tmp_path / "lora", group_column="topic", constraints="per_group", **options) == 0
    assert "PEFT adapter: " in capsys.readouterr().out
    rows = history(tmp_path / "lora")
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["retention_loss"] > 1e-5
    moved = weights(tmp_path / "lora")
    assert {name.split(".")[-3] for name in moved} == {"q_proj", "v_proj"}
    assert all(value.any() for value in moved.values())
    settings = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert settings["base_model_name_or_path"] == str(place / "model")
    data = flags(data=place / "questions.jsonl", output=tmp_path / "mcq.json", dtype="float32")
    assert main(["mcq", *flags(model=place / "model", compare=tmp_path / "lora"), *data]) == 0
    again = options | {"model": tmp_path / "lora"}
    assert train(place, tmp_path / "again", **again) == 1
    assert "goes on being trained: leave lora_rank out" in capsys.readouterr().err
    del again["lora_rank"], again["lora_targets"]
    assert train(place, tmp_path / "moved", **again) == 1
    assert "before the first step, where the model should equal its teacher" in capsys.readouterr().err
    again["teacher_mismatch"] = "allow"
    assert train(place, tmp_path / "again", gradient_checkpointing=True, **again) == 0
    assert history(tmp_path / "again")[0]["retention_loss"] > 1e-5  # of the base, from which the adapter had moved


def test_an_adapter_is_held_by_a_cache_of_its_base(place, anchors, tmp_path):
    """As by the base itself, without one: the same run on the same texts. Seen to fail with other anchors."""
    common = {"lora_rank": 4, "retention_terms": ["token_kl"], "learning_rate": 0.05, "retention_batch_size": 24}
    assert build(place, tmp_path / "cache", anchors=24, num_tokens=32) == 0
    assert train(place, tmp_path / "cached", anchors=tmp_path / "cache", **common) == 0
    live = {"anchors": "adapter", "anchors_dataset": place / "old.jsonl"}
    assert train(place, tmp_path / "live", **live, **common) == 0
    cached, alive = history(tmp_path / "cached"), history(tmp_path / "live")
    for one, other in zip(cached, alive, strict=True):
        assert one["retention_loss"] == pytest.approx(other["retention_loss"], rel=2e-3, abs=1e-6)
    assert cached[-1]["retention_loss"] > 1e-4


def test_references_are_followed_and_other_texts_refused(place, tmp_path, capsys):
    """The cache holds rows; the texts are read again as they were. Seen to fail with max_length forgotten."""
    old = save_lines(
        tmp_path / "old.jsonl", [json.loads(line) for line in (place / "old.jsonl").read_text().splitlines()]
    )
    folder = tmp_path / "cache"
    assert build(place, folder, dataset=old, inputs="reference", max_length=12, layers="-1") == 0
    assert "input/input_ids" not in AnchorCache(folder).dataset.column_names
    assert verify(place, folder) == 0
    moved = old.rename(tmp_path / "moved.jsonl")
    assert train(place, tmp_path / "craft", anchors=folder, anchors_dataset=moved) == 0
    assert history(tmp_path / "craft")[0]["retention_loss"] == pytest.approx(0, abs=1e-6)
    moved.write_text(moved.read_text().replace("hello", "hallo"))
    capsys.readouterr()
    assert verify(place, folder, dataset=moved) == 1
    assert "but the dataset found there has" in capsys.readouterr().err


@pytest.mark.parametrize("prompts", [False, True])
def test_texts_of_the_teachers_own(place, tmp_path, prompts, capsys):
    """Written anew, the same for the same seed; what was asked is no label."""
    options = {"source": "own_texts", "own_tokens": 10, "anchors": 12}
    words = flags(teacher=place / "model", num_tokens=8, batch_size=4, **options)
    words += flags(dataset=place / "new.jsonl", chat=True) if prompts else []
    for name in ("one", "two"):
        assert main(["cache", "build", *words, "--output_dir", str(tmp_path / name)]) == 0
    assert "12 anchors: 12 of own texts" in capsys.readouterr().out
    one, two = AnchorCache(tmp_path / "one"), AnchorCache(tmp_path / "two")
    assert one.provenance.fingerprint == two.provenance.fingerprint
    assert verify(place, tmp_path / "one") == 0
    inputs = one.batch(range(12)).inputs
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    texts = tokenizer.batch_decode(inputs["input_ids"])
    assert all(text.startswith("<bos>user: Where is the puck" if prompts else "<bos>") for text in texts)
    asked = (inputs["labels"] == -100).sum(dim=1) - (inputs["attention_mask"] == 0).sum(dim=1)
    assert (asked > 10).all() if prompts else (asked == 1).all()
    assert train(place, tmp_path / "craft", anchors=tmp_path / "one") == 0


def test_sources_are_mixed_with_a_group_for_each(place, tmp_path, capsys):
    """Every part has the tokens and labels of its own text; a batch of several parts is padded as one part's is. Seen
    to fail with tokens of unlike length, and with labels filled up with 0."""
    corpus = save_lines(tmp_path / "corpus.jsonl", [{"body": "left of the goal " * (1 + n % 4)} for n in range(9)])
    mixed = {"source": "own_texts,corpus,dataset", "corpus": corpus, "corpus_columns": "text=body", "own_tokens": 9}
    weights = {"own_texts": 2, "corpus": 1, "dataset": 1}
    assert build(place, tmp_path / "cache", anchors=12, source_weights=[*weights.values()], **mixed) == 0
    assert "12 anchors: 3 of corpus, 3 of dataset, 6 of own_texts" in capsys.readouterr().out
    cache = AnchorCache(tmp_path / "cache")
    parts = cache.provenance.data["parts"]
    assert {name: part["anchors"] for name, part in parts.items()} == {name: 3 * part for name, part in weights.items()}
    inputs = cache.batch(range(12)).inputs
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    texts = [
        tokenizer.decode(ids[:length], skip_special_tokens=True)
        for ids, length in zip(inputs["input_ids"], lengths, strict=True)
    ]
    for text, group in zip(texts, cache.groups, strict=True):
        assert text.startswith("left of the goal") or group != "corpus"
        assert text.startswith("hello world") or group == "corpus"  # prompts of the dataset, or the dataset
    for labels, length in zip(inputs["labels"], lengths, strict=True):
        assert (labels[length:] == -100).all()
        assert labels[length - 1] != -100
    assert verify(place, tmp_path / "cache") == 0
    assert train(place, tmp_path / "craft", anchors=tmp_path / "cache") == 0


@pytest.mark.parametrize("inputs", ["embedded", "reference"])
def test_a_corpus_alone_is_one_group(place, tmp_path, inputs, capsys):
    words = flags(teacher=place / "model", source="corpus", corpus=place / "old.jsonl", anchors=6, inputs=inputs)
    assert main(["cache", "build", *words, "--output_dir", str(tmp_path / "cache")]) == 0
    assert "6 anchors: 6 of corpus" in capsys.readouterr().out
    assert AnchorCache(tmp_path / "cache").provenance.data["source"] == "corpus"
    assert verify(place, tmp_path / "cache") == 0


def test_options_of_texts_are_refused_of_a_policy(tmp_path, tiny_policy, capsys):
    """The family is that of the checkpoint. Seen to fail with options that did nothing."""
    tiny_policy().save_pretrained(tmp_path / "policy")
    for options, message in (
        ({"source": "own_texts"}, "is a policy, and source own_texts is not for those"),
        ({"group_column": "topic"}, "group_column has no effect here: it is an option of language models"),
        ({"max_length": 9}, "max_length has no effect here: it is an option of language models"),
    ):
        words = flags(teacher=tmp_path / "policy", output_dir=tmp_path / "out", **options)
        assert main(["cache", "build", *words]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["cache", "build", *flags(teacher=tmp_path / "empty", output_dir=tmp_path / "out")]) == 1
    assert "holds no config.json: it is not a LeRobot checkpoint, nor a language model" in capsys.readouterr().err


def test_old_texts_are_asked_for(place, tmp_path, capsys):
    assert main(["cache", "build", *flags(teacher=place / "model", output_dir=tmp_path / "out")]) == 1
    assert "source dataset reads old texts: give them by --dataset, or take source own_texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("build", {"source": "mine"}, "source is 'mine': it must be one of dataset, new_task"),
        ("build", {"source": "own_texts", "inputs": "reference"}, "needs rows to refer to"),
        ("build", {"source": "statistics"}, "is a language model, and source statistics is not for those"),
        ("build", {"views": 3}, "views has no effect here: it is an option of policies"),
        ("build", {"policy_options": '{"a": 1}'}, "policy_options has no effect here: it is an option of policies"),
        ("build", {"corpus": "x.jsonl"}, "corpus has no effect here: it is an option of source corpus"),
        ("build", {"own_tokens": 7}, "own_tokens has no effect here: it is an option of source own_texts"),
        ("build", {"source": "corpus"}, "source corpus reads any text: give it by --corpus"),
        ("build", {"source": "corpus", "corpus": "x.jsonl"}, "dataset has no effect here: it is an option of sources"),
        ("build", {"source": "own_texts", "max_length": 9}, "max_length has no effect here: the model writes all"),
        ("build", {"source": "dataset,own_texts", "anchors": 1}, "1 anchors of 2 sources"),
        ("build", {"anchors": 99}, "99 anchors asked of 24 samples"),
        ("build", {"layers": "7"}, "has no layer 7"),
        ("build", {"assistant_only_loss": True}, "nobody says what the assistant wrote"),
        ("build", {"selection": "best"}, "selection is 'best'"),
        ("build", {"group_column": "tpoic"}, "has no column 'tpoic'"),
        ("train", {"anchors": "adapter"}, "name them with anchors_dataset"),
        ("train", {"anchors_dataset": "org/x"}, "anchors_dataset has no effect without anchors"),
        ("train", {"layers": "-1"}, "layers has no effect here: it is an option of anchors: auto and adapter"),
        (
            "train",
            {"anchors_columns": "text=topic"},
            "anchors_columns has no effect here: it is an option of anchors: adapter",
        ),
        ("train", {"lora_alpha": 4}, "lora_alpha has no effect here: there is no lora_rank"),
        ("train", {"split": "train"}, "is a file of JSON lines: it has no split ('train')"),
        ("train", {"lora_rank": 0}, "lora_rank is 0"),
        ("train", {"lora_rank": 4, "lora_targets": "qq_proj"}, "qq_proj"),
        ("train", {"dtype": "float31"}, "dtype is 'float31'"),
        ("train", {"columns": "text"}, "give it as OURS=THEIRS"),
        ("train", {"max_length": 1}, "max_length is 1"),
        ("train", {"mcq_steps": 7}, "mcq_steps has no effect here: it is of the questions of mcq_data"),
        ("train", {"mcq_limit": 7}, "mcq_limit has no effect here: it is of the questions of mcq_data"),
        ("train", {"dataset": "nowhere.jsonl"}, "nowhere.jsonl"),
        ("train", {"eval_dataset": "org/x"}, "have no effect without eval_strategy"),
        ("train", {"eval_strategy": "epoch"}, "an evaluation needs texts: name them with eval_dataset"),
        ("train", {"eval_on_start": True}, "an evaluation needs texts: name them with eval_dataset"),
        ("train", {"eval_split": "train", "eval_strategy": "epoch"}, "eval_split train is what is learned"),
        ("train", {"eval_config": "a"}, "eval_config has no effect without eval_dataset"),
        ("train", {"model": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_mistakes_are_said_in_a_line(place, tmp_path, capsys, command, options, message):
    assert (build if command == "build" else train)(place, tmp_path / "out", **options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or command == "train"


def test_questions_of_other_columns_are_asked_by_the_command_for_them(place, tmp_path, capsys):
    """Seen to fail: the way out was `--columns`, which names columns of the texts here."""
    assert train(place, tmp_path / "out", mcq_data=place / "old.jsonl") == 1
    assert "that option is `craft-trainer mcq`'s: for mcq_data rename the columns" in capsys.readouterr().err


def test_adapter_anchors_need_an_adapter(place, tmp_path, capsys):
    assert train(place, tmp_path / "out", anchors="adapter", anchors_dataset=place / "old.jsonl") == 1
    assert "needs an adapter: give lora_rank" in capsys.readouterr().err


def test_a_policys_terms_are_refused_with_what_can_be_held(place, anchors, tmp_path, capsys):
    assert train(place, tmp_path / "out", anchors=anchors, retention_terms=["output"]) == 1
    assert "Set retention_terms to some of hidden, token_ce, token_kl" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["max_length", "lora_rank", "eval_split", "dtype"])
def test_options_of_language_models_are_refused_by_name_for_a_policy(tmp_path, tiny_policy, capsys, option):
    """Before the policy is loaded: its weights are damaged. Seen to fail without the comparison in train.run."""
    tiny_policy().save_pretrained(tmp_path / "policy")
    (tmp_path / "policy/model.safetensors").write_bytes(b"damaged")
    given = {"model": tmp_path / "policy", "dataset": "org/nowhere", "output_dir": tmp_path / "out", option: 7}
    assert main(["train", *flags(**given)]) == 1
    said = capsys.readouterr().err
    assert f"{option} has no effect here: " in said
    assert f"{tmp_path / 'policy'} is a policy" in said


@pytest.mark.parametrize(
    "given", [{"policy_min_std": 0.1}, {"statistics": "dataset"}, {"rename": '{"a": "b"}'}, {"adapt_to": "org/x"}]
)
def test_options_of_policies_are_refused_by_name_for_a_language_model(place, tmp_path, capsys, given):
    assert train(place, tmp_path / "out", model=damaged(place, tmp_path), **given) == 1
    assert f"{next(iter(given))} has no effect here: it is an option of policies" in capsys.readouterr().err


def damaged(place, tmp_path):
    """A copy of the language model whose weights cannot be loaded."""
    shutil.copytree(place / "model", tmp_path / "damaged")
    (tmp_path / "damaged/model.safetensors").write_bytes(b"damaged")
    return tmp_path / "damaged"


@pytest.mark.parametrize("selection", ["uniform", "stratified", "k_center"])
def test_selections(place, tmp_path, selection):
    assert build(place, tmp_path / "cache", selection=selection, anchors=8) == 0
    cache = AnchorCache(tmp_path / "cache")
    assert len(set(cache.dataset["row"])) == 8
    if selection == "stratified":
        assert cache.provenance.groups == {"a": 4, "b": 4}


def test_texts_of_two_files_are_two_tasks_where_caches_are_joined(place, tmp_path):
    """Seen to fail with one group for both, of which the older file loses half at every join."""
    for name in ("first", "second"):
        save_lines(tmp_path / f"{name}.jsonl", [{"text": f"the {name} answer is {n} yes"} for n in range(8)])
        given = {"dataset": tmp_path / f"{name}.jsonl", "columns": "null", "group_column": "null", "anchors": 8}
        assert build(place, tmp_path / name, **given) == 0
    caches = [str(tmp_path / name) for name in ("first", "second")]
    assert main(["cache", "join", "--caches", *caches, *flags(anchors=8, output_dir=tmp_path / "joined")]) == 0
    assert AnchorCache(tmp_path / "joined").provenance.groups == {"first": 4, "second": 4}


def test_the_configurations_belong_together():
    """The same model and the same task with and without anchors; every key is known. Seen to fail with another rate."""
    from craft_trainer.cli.arguments import parse_all
    from craft_trainer.cli.cache_build import BuildArguments
    from craft_trainer.cli.train import TrainArguments
    from craft_trainer.cli.train_config import TrainConfig

    names = {name: ROOT / f"configs/train/lm_{name}.yaml" for name in ("plain", "craft")}
    plain, craft = (yaml.safe_load(path.read_text()) for path in names.values())
    added = {"anchors", "retention_terms", "retention_batch_size", "retention", "multiplier_lr"}
    assert craft.keys() - plain.keys() == added
    assert {key for key in plain if plain[key] != craft[key]} == {"output_dir"}
    for path in names.values():
        arguments, config = parse_all("train", "", [TrainArguments, TrainConfig], ["--config", str(path), "--use_cpu"])
        assert (arguments.columns, arguments.max_length) == ({"prompt": "question", "completion": "answer"}, 512)
        assert config.learning_rate == 5e-5
    (anchors,) = parse_all("cache build", "", [BuildArguments], ["--config", str(ROOT / "configs/anchors/lm.yaml")])
    assert (anchors.teacher, anchors.output_dir) == (craft["model"], craft["anchors"])
    assert anchors.teacher_dtype == arguments.dtype


def test_a_cache_of_streamed_texts(place, tmp_path, capsys):
    """Of a folder of files, as of the Hub. Seen to fail when the option was not handed on."""
    (tmp_path / "old").mkdir()
    shutil.copy(place / "old.jsonl", tmp_path / "old")
    for name in ("one", "two"):
        assert build(place, tmp_path / name, dataset=tmp_path / "old", streamed_rows=15, anchors=12) == 0
    assert "15 samples of" in capsys.readouterr().out
    one, two = (AnchorCache(tmp_path / name).provenance for name in ("one", "two"))
    assert one.data["frames"] == 15
    assert one.fingerprint == two.fingerprint
    assert build(place, tmp_path / "three", streamed_rows=15) == 1
    assert "is a file of JSON lines, which is read whole" in capsys.readouterr().err
