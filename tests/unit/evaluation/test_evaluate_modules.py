"""The metric and the comparison as `evaluate` loads them: from their folders, offline, from anywhere, in batches."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

evaluate = pytest.importorskip("evaluate")
pytest.importorskip("statsmodels", reason="pip install 'craft-trainer[mcq]'")

from craft_trainer.evaluation.metrics.mcq_likelihood.likelihoods import ItemLikelihoods, item_scores  # noqa: E402

METRICS = Path(__file__).parents[3] / "craft_trainer/evaluation/metrics"
KINDS = {"mcq_likelihood": "metric", "mcq_comparison": "comparison"}
PREDICTIONS = [[-4.0, -3.0], [-1.0, -3.0, -3.0], [-2.0, -1.0, -5.0, -6.0]]
REFERENCES = [0, 0, 3]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)


@pytest.fixture
def metric(tmp_path):
    return evaluate.load(str(METRICS / "mcq_likelihood"), cache_dir=str(tmp_path))


@pytest.fixture
def comparison(tmp_path):
    return evaluate.load(str(METRICS / "mcq_comparison"), module_type="comparison", cache_dir=str(tmp_path))


def test_batches_give_what_one_call_gives(metric):
    expected = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    metric.add_batch(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
    metric.add(prediction=PREDICTIONS[2], reference=REFERENCES[2])
    assert metric.compute() == expected
    assert expected["accuracy"] == pytest.approx(1 / 3)
    assert expected["num_items"] == 3
    assert json.loads(json.dumps(expected)) == expected


def test_lengths_are_given_to_compute(metric):
    metric.add_batch(predictions=PREDICTIONS, references=REFERENCES)
    lengths = [[8, 3], [1, 1, 1], [9, 1, 9, 30]]
    numbers = metric.compute(num_chars=lengths, num_tokens=None)
    assert numbers["accuracy_per_char"] == 1.0  # −4/8 over −3/3, −1, −6/30
    assert "accuracy_per_token" not in numbers


def test_the_numbers_of_each_item_can_be_asked_for(metric):
    items = metric.compute(predictions=PREDICTIONS, references=REFERENCES, per_item=True)["items"]
    assert [item["predicted_index"] for item in items] == [1, 0, 1]
    assert [item["margin_gold"] for item in items] == [-1.0, 2.0, -5.0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"predictions": [], "references": []}, "no items"),
        ({"predictions": [[-1.0, -2.0]], "references": [2]}, "item 0"),
        ({"predictions": [[-1.0, float("nan")]], "references": [0]}, "item 0"),
        ({"predictions": [[-1.0, -2.0]], "references": [0], "num_chars": [[1, 2], [3, 4]]}, "num_chars has 2 items"),
        ({"predictions": [[-1.0, -2.0]], "references": [0], "num_words": [[1, 2]]}, "num_words"),
    ],
)
def test_the_metric_refuses_what_it_cannot_score(metric, inputs, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(**inputs)


def test_the_comparison_scores_as_the_metric_does(comparison):
    """The comparison is published by itself and so has its own few lines for the argmax and the gold margin."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, 6, 60)
    first, second = ([generator.normal(-5, 1, n).round(1).tolist() for n in sizes] for _ in range(2))
    gold = [int(generator.integers(n)) for n in sizes]
    numbers = comparison.compute(predictions1=first, predictions2=second, references=gold, num_resamples=99)
    for model, number in ((first, "1"), (second, "2")):
        scores = [item_scores(ItemLikelihoods(row, answer)) for row, answer in zip(model, gold, strict=True)]
        assert numbers[f"accuracy{number}"] == np.mean([score.correct for score in scores])
        assert numbers[f"margin_gold{number}"] == pytest.approx(np.mean([score.margin_gold for score in scores]))
    assert json.loads(json.dumps(numbers)) == numbers


def test_the_comparison_takes_batches_and_names(comparison):
    comparison.add_batch(predictions1=PREDICTIONS[:1], predictions2=[[-3.0, -4.0]], references=REFERENCES[:1])
    comparison.add_batch(predictions1=PREDICTIONS[1:], predictions2=PREDICTIONS[1:], references=REFERENCES[1:])
    numbers = comparison.compute(ids=["cat", "sky", "sum"], num_resamples=99)
    assert numbers["wrong_to_right"] == ["cat"]
    assert numbers["num_items"] == 3


@pytest.mark.parametrize(
    ("second", "references", "message"),
    [
        ([[-1.0, -2.0, -3.0]], [0], "item 0: 2 choices in predictions1, 3 in predictions2"),
        ([[-1.0, float("inf")]], [0], "item 0: predictions2"),
        ([[-1.0, -2.0]], [2], "item 0: reference 2"),
    ],
)
def test_the_comparison_refuses_what_it_cannot_compare(comparison, second, references, message):
    with pytest.raises(ValueError, match=message):
        comparison.compute(predictions1=[[-1.0, -2.0]], predictions2=second, references=references)


@pytest.mark.parametrize("name", KINDS)
def test_the_examples_hold(name, monkeypatch):
    """Of the card and of what ``metric.inputs_description`` shows; a bare name is a folder of the working directory."""
    monkeypatch.chdir(METRICS)
    description = evaluate.load(name, module_type=KINDS[name]).inputs_description
    card = (METRICS / name / "README.md").read_text()
    for text in (description, card):
        examples = doctest.DocTestParser().get_doctest(text, {"evaluate": evaluate}, name, name, 0)
        assert len(examples.examples) >= 3
        assert doctest.DocTestRunner().run(examples).failed == 0


@pytest.mark.parametrize("name", KINDS)
def test_the_card_is_that_of_a_space(name):
    text = (METRICS / name / "README.md").read_text()
    card = yaml.safe_load(text.split("---")[1])
    assert card["sdk"] == "gradio"
    assert int(card["sdk_version"].split(".")[0]) >= 5
    assert (METRICS / name / card["app_file"]).is_file()
    assert set(card["tags"]) == {"evaluate", KINDS[name]}


@pytest.mark.parametrize("name", KINDS)
def test_the_card_names_every_number_that_comes_out(name, metric, comparison):
    if name == "mcq_likelihood":
        numbers = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    else:
        numbers = comparison.compute(predictions1=PREDICTIONS, predictions2=PREDICTIONS, references=REFERENCES)
    card = (METRICS / name / "README.md").read_text()
    assert [key for key in numbers if f"`{key}`" not in card] == []


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_of_the_folder_works_alone(name, tmp_path):
    """What a Space holds: nothing of the package is needed. Seen to fail with an import of the package in the maths."""
    folder = tmp_path / "elsewhere" / name
    folder.mkdir(parents=True)
    for file in (METRICS / name).iterdir():
        if file.is_file() and file.name != "__init__.py":
            text = file.read_text()
            assert "craft_trainer." not in text
            (folder / file.name).write_text(text)
    module = evaluate.load(str(folder), module_type=KINDS[name])
    columns = {"predictions": PREDICTIONS} if name == "mcq_likelihood" else {}
    columns = columns or {"predictions1": PREDICTIONS, "predictions2": PREDICTIONS}
    assert module.compute(**columns, references=REFERENCES)["num_items"] == 3
