"""`loss` of language models: nats per token against HuggingFace's own loss, and two models row by row."""

import json

import numpy as np
import pytest
import torch
from command_words import flags
from lm_folders import save_lines, save_tiny_lm
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from craft_trainer.cli.main import main
from craft_trainer.evaluation.token_mean import mean_over_tokens

TEXTS = [{"text": "hello world " + "the answer is yes " * (n % 6) + str(n)} for n in range(24)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loss")
    for seed, name in enumerate(("first", "second")):
        save_tiny_lm(folder / name, seed=seed)
    save_lines(folder / "texts.jsonl", TEXTS)
    save_lines(folder / "asked.jsonl", [{"q": f"Where is {n}?", "a": " left" * (1 + n % 3)} for n in range(9)])
    return folder


def loss(place, output, **options):
    settings = {"model": place / "first", "dataset": place / "texts.jsonl", "output": output, "device": "cpu"}
    return main(["loss", *flags(**settings | options)])


def alone(folder, texts):
    """The losses of each text by the model's own forward, and its tokens that are predicted."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    losses, tokens = [], []
    for text in texts:
        ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
        tokens.append(ids.shape[1] - 1)
    return np.array(losses), np.array(tokens)


def test_the_mean_is_over_tokens_and_two_models_are_paired_by_rows(place, tmp_path, capsys):
    """Seen to fail with the mean over rows, and with rows in the order in which they were computed."""
    assert loss(place, tmp_path / "loss.json", compare=place / "second", batch_size=5) == 0
    found = json.loads((tmp_path / "loss.json").read_text())
    texts = [row["text"] for row in TEXTS]
    (first, tokens), (second, _) = (alone(place / name, texts) for name in ("first", "second"))
    np.testing.assert_allclose(found["row_losses"], first, rtol=1e-4)
    np.testing.assert_allclose(found["compare_row_losses"], second, rtol=1e-4)
    assert found["row_tokens"] == tokens.tolist()
    assert (found["rows"], found["tokens"]) == (24, tokens.sum())
    assert found["loss"] == pytest.approx(np.average(first, weights=tokens), rel=1e-5)
    change = np.average(second - first, weights=tokens)
    assert found["difference"] == pytest.approx(change, rel=1e-3)
    low, high = found["difference_ci"]
    assert low < found["difference"] < high
    said = capsys.readouterr().out
    assert "nats a token on 24 texts" in said
    assert ("worse" if low > 0 else "better" if high < 0 else "chance") in said


def test_one_model_or_one_row_at_a_time_gives_the_same(place, tmp_path):
    assert loss(place, tmp_path / "all.json") == 0
    assert loss(place, tmp_path / "one.json", batch_size=1) == 0
    every, single = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("all", "one"))
    assert single["row_losses"] == pytest.approx(every["row_losses"], rel=1e-4)
    assert "difference" not in every
    assert loss(place, tmp_path / "few.json", samples=5) == 0
    few = json.loads((tmp_path / "few.json").read_text())
    assert few["row_losses"] == pytest.approx([every["row_losses"][row] for row in (0, 5, 11, 17, 23)], rel=1e-4)


def test_the_loss_is_the_eval_loss_of_a_training(place, tmp_path):
    """With the options of texts that `train` has, on completions inside a chat template."""
    texts = {"columns": "prompt=q,completion=a", "chat": True, "max_length": 30}
    assert loss(place, tmp_path / "loss.json", dataset=place / "asked.jsonl", **texts) == 0
    run = {"model": place / "first", "dataset": place / "asked.jsonl", "eval_dataset": place / "asked.jsonl"} | texts
    run |= {"max_steps": 1, "eval_on_start": True, "eval_strategy": "epoch", "report_to": "none", "use_cpu": True}
    run |= {"save_strategy": "no", "output_dir": tmp_path / "run", "disable_tqdm": True}
    assert main(["train", *flags(**run)]) == 0
    log = json.loads((tmp_path / "run/trainer_state.json").read_text())["log_history"]
    began = next(entry["eval_loss"] for entry in log if "eval_loss" in entry)
    found = json.loads((tmp_path / "loss.json").read_text())
    assert found["loss"] == pytest.approx(began, rel=1e-5)
    assert (found["chat"], found["max_length"], found["columns"]) == (True, 30, {"prompt": "q", "completion": "a"})


def test_anchors_are_measured_as_well(place, tmp_path):
    cache = {"teacher": place / "first", "dataset": place / "texts.jsonl", "output_dir": tmp_path / "anchors"}
    assert main(["cache", "build", *flags(**cache, anchors=8, num_tokens=4)]) == 0
    given = {"compare": place / "second", "anchors": tmp_path / "anchors"}
    assert loss(place, tmp_path / "loss.json", **given) == 0
    found = json.loads((tmp_path / "loss.json").read_text())
    assert found["L_retain"] == pytest.approx(0, abs=1e-5)
    assert found["compare_L_retain"] > 0.01
    assert found["anchors"] == 8
    assert loss(place, tmp_path / "twice.json", **given, retention_weights=2) == 0
    twice = json.loads((tmp_path / "twice.json").read_text())
    assert twice["compare_L_retain"] == pytest.approx(2 * found["compare_L_retain"], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "first"}, "name one of policy"),
        ({"held_out": 0.1}, "held_out has no effect here"),
        ({"samples": 0}, "at least 1"),
        ({"retention_terms": "token_kl"}, "retention_terms has no effect here: it is of L_retain"),
        ({"compare": "other"}, "different tokens"),
        ({"columns": "text=none"}, "none"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, said, place, tmp_path, capsys):
    if options.get("compare"):
        save_tiny_lm(tmp_path / "other", chat="{% for m in messages %}{{ m['content'] }}{% endfor %}")
        save_lines(tmp_path / "asked.jsonl", [{"prompt": "Where is 1?", "completion": " left"}])
        options |= {"compare": tmp_path / "other", "dataset": tmp_path / "asked.jsonl", "chat": True}
    if options.get("policy"):
        options = {"policy": place / "first"}
    assert loss(place, tmp_path / "loss.json", **options) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "loss.json").exists()


def test_a_model_by_the_name_of_a_policy_and_options_of_texts_for_a_policy(place, capsys):
    words = {"policy": place / "first", "dataset": place / "texts.jsonl"}
    assert main(["loss", *flags(**words)]) == 1
    assert "is no LeRobot policy: name a language model with" in capsys.readouterr().err
    assert main(["loss", *flags(**words, chat=True)]) == 1
    assert "chat has no effect here: it is an option of language models" in capsys.readouterr().err


def test_a_result_of_another_model_is_not_written_over(place, tmp_path, capsys):
    """Seen to fail: the result of another model was gone without a word."""
    output = tmp_path / "loss.json"
    assert (loss(place, output), loss(place, output), loss(place, output, model=place / "second")) == (0, 0, 1)
    told = f"{output} is a result with model {place / 'first'}, and this one has model {place / 'second'}: name another"
    assert told in capsys.readouterr().err


def test_the_interval_is_that_of_a_bootstrap_of_the_ratio():
    """Rows of many lengths; scipy draws whole rows and computes the ratio of sums anew."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 200, 400).astype(float)
    values = generator.normal(2 + tokens / 100, 1)
    found = mean_over_tokens(values, tokens)

    def ratio(n, v, axis):
        return (n * v).sum(axis=axis) / n.sum(axis=axis)

    drawn = stats.bootstrap((tokens, values), ratio, paired=True, rng=np.random.default_rng(1)).confidence_interval
    assert found.mean == pytest.approx(np.average(values, weights=tokens))
    assert (found.low, found.high) == pytest.approx(tuple(drawn), abs=0.02)
    assert found.high - found.low > 0.15
