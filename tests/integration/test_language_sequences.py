"""Stages of a language model by the commands: whole weights, and an adapter that goes on being trained."""

import json

import pytest
from command_words import flags
from lm_folders import save_lines, save_tiny_lm
from runs import history

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main

RUN = {"max_steps": 4, "learning_rate": 0.005, "logging_steps": 4, "report_to": "none", "save_strategy": "no"}
RUN |= {"disable_tqdm": True, "use_cpu": True, "retention_terms": "token_kl"}


def build(teacher, texts, folder):
    options = {"teacher": teacher, "dataset": texts, "output_dir": folder, "anchors": 12, "batch_size": 4}
    return main(["cache", "build", *flags(**options, num_tokens=8)])


def train(model, texts, folder, anchors, **options):
    given = {"model": model, "dataset": texts, "output_dir": folder, "anchors": anchors}
    return main(["train", *flags(**RUN | given | options)])


@pytest.mark.parametrize("adapter", [{}, {"lora_rank": 4}], ids=["weights", "adapter"])
def test_the_second_stage_is_held_by_the_anchors_of_both_teachers(tmp_path, capsys, adapter):
    """From a folder that is not the teacher of the first cache. Seen to fail without `loaded_from` of an adapter."""
    save_tiny_lm(tmp_path / "model")
    texts = {"a": "hello world ", "b": "the answer is yes ", "c": "left of the goal "}
    for name, text in texts.items():
        save_lines(tmp_path / f"{name}.jsonl", [{"text": text * (1 + n % 5) + str(n)} for n in range(16)])
    assert build(tmp_path / "model", tmp_path / "a.jsonl", tmp_path / "of a") == 0
    assert train(tmp_path / "model", tmp_path / "b.jsonl", tmp_path / "stage1", tmp_path / "of a", **adapter) == 0
    assert build(tmp_path / "stage1", tmp_path / "b.jsonl", tmp_path / "of b") == 0
    caches = [str(tmp_path / "of a"), str(tmp_path / "of b")]
    joined = tmp_path / "joined"
    assert main(["cache", "join", "--caches", *caches, *flags(anchors=16, output_dir=joined)]) == 0
    capsys.readouterr()
    assert train(tmp_path / "stage1", tmp_path / "c.jsonl", tmp_path / "stage2", joined) == 0, capsys.readouterr().err
    assert history(tmp_path / "stage2")[0]["retention_loss"] > 1e-6
    lineage = json.loads((tmp_path / "stage2/lineage.json").read_text())["lineage"]
    assert [one["weights"] for one in lineage] == [one["weights"] for one in AnchorCache(joined).provenance.teachers]
    made = flags(cache=joined, teacher=tmp_path / "stage2", output_dir=tmp_path / "relabelled", batch_size=4)
    assert main(["cache", "relabel", *made]) == 0
    assert main(["cache", "verify", *flags(cache=tmp_path / "relabelled", teacher=tmp_path / "stage2")]) == 0


def test_a_relabelled_cache_says_how_its_teacher_was_loaded(tmp_path):
    """So that ``cache verify`` loads it alike. Seen to fail with the dtype of the teacher before."""
    save_tiny_lm(tmp_path / "model")
    texts = save_lines(tmp_path / "a.jsonl", [{"text": "hello world " * (1 + n % 3) + str(n)} for n in range(12)])
    assert build(tmp_path / "model", texts, tmp_path / "cache") == 0
    assert AnchorCache(tmp_path / "cache").provenance.data["teacher_dtype"] == "float32"
    made = flags(cache=tmp_path / "cache", teacher=tmp_path / "model", output_dir=tmp_path / "relabelled")
    assert main(["cache", "relabel", *made, "--teacher_dtype", "bfloat16"]) == 0
    assert AnchorCache(tmp_path / "relabelled").provenance.data["teacher_dtype"] == "bfloat16"
    same = flags(cache=tmp_path / "relabelled", teacher=tmp_path / "model", batch_size=4)  # bfloat16 rounds by batch
    assert main(["cache", "verify", *same]) == 0


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        ("relabel", {"rename": '{"a": "b"}'}, "rename has no effect here: the anchors are of a language model"),
        ("verify", {"policy_options": '{"dtype": "bfloat16"}'}, "policy_options has no effect here: the anchors are"),
        ("verify", {"dataset": "a.jsonl"}, "holds its inputs and reads no dataset: leave out a.jsonl"),
    ],
)
def test_options_of_policies_are_refused_for_anchors_of_texts(tmp_path, monkeypatch, command, option, said, capsys):
    """Seen to fail: every one was accepted."""
    monkeypatch.chdir(tmp_path)
    save_tiny_lm(tmp_path / "model")
    texts = save_lines(tmp_path / "a.jsonl", [{"text": f"hello world {n}"} for n in range(12)])
    assert build(tmp_path / "model", texts, tmp_path / "cache") == 0
    made = {"cache": tmp_path / "cache", "teacher": tmp_path / "model"}
    made |= {"output_dir": tmp_path / "relabelled"} if command == "relabel" else {}
    assert main(["cache", command, *flags(**made | option)]) == 1
    assert said in capsys.readouterr().err
