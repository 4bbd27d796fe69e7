"""Multiple choice through the Hub: the `evaluate` modules from Spaces, models and questions by name, questions pushed.

The double stands in for the Hub; see ``fakehub``.
"""

import ast
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from test_mcq import by_hand, rows, tiny_model

from craft_trainer.simulation.question_folder import QUESTIONS, write

SCRIPT = Path(__file__).parents[2] / "scripts/spaces.py"
KINDS = {"mcq_likelihood": "metric", "mcq_comparison": "comparison"}
PUSH = """\
import runpy, sys
sys.argv = ["spaces.py", "org"]
runpy.run_path({script!r}, run_name="__main__")
"""
COMPUTE = """\
import evaluate
module = evaluate.load("org/{name}", module_type="{kind}")
print(module.compute(**{inputs!r}))
"""


def computed(client, name, inputs):
    """What the module ``name`` computes, pushed as a Space by ``scripts/spaces.py`` and loaded from it."""
    pushed = client.python(PUSH.format(script=str(SCRIPT)))
    assert pushed.status == 0, pushed.err
    assert f'evaluate.load("org/{name}", module_type="{KINDS[name]}")' in pushed.out
    result = client.python(COMPUTE.format(name=name, kind=KINDS[name], inputs=inputs))
    assert result.status == 0, result.err
    return ast.literal_eval(result.out.splitlines()[-1])


def test_the_metric_is_computed_from_its_space(hub, client):
    """Three items by hand: -4/8 is above -3/3. Fails if a file that the script imports is not in the Space."""
    inputs = {
        "predictions": [[-4.0, -3.0], [-1.0, -3.0, -3.0], [-2.0, -5.0]],
        "references": [0, 0, 1],
        "num_chars": [[8, 3], [1, 1, 1], [2, 2]],
    }
    found = computed(client, "mcq_likelihood", inputs)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["accuracy_per_char"] == pytest.approx(2 / 3)
    assert found["margin_gold"] == pytest.approx((-1 + 2 - 3) / 3)
    assert found["margin_top2"] == pytest.approx((1 + 2 + 3) / 3)
    right = [1 / (1 + math.exp(1)), 1 / (1 + 2 * math.exp(-2)), 1 / (1 + math.exp(3))]
    two = [2 * (1 - p) ** 2 for p in (right[0], right[2])]
    assert found["brier"] == pytest.approx((sum(two) + (1 - right[1]) ** 2 * (1 + 1 / 2)) / 3)
    assert found["num_items"] == 3


def test_the_comparison_is_computed_from_its_space(hub, client):
    """Of twelve items nine become wrong and one right: the binomial test of 1 in 10."""
    right, wrong = [-1.0, -2.0], [-2.5, -2.0]
    before, after = [right] * 10 + [wrong] * 2, [wrong] * 9 + [right] * 2 + [wrong]
    inputs = {"predictions1": before, "predictions2": after, "references": [0] * 12, "ids": list("abcdefghijkl")}
    found = computed(client, "mcq_comparison", inputs)
    assert (found["accuracy1"], found["accuracy2"]) == (pytest.approx(10 / 12), pytest.approx(2 / 12))
    assert found["mcnemar_p"] == pytest.approx(stats.binomtest(1, 10).pvalue)
    assert (found["right_to_wrong"], found["wrong_to_right"]) == (list("abcdefghi"), ["k"])
    assert found["margin_gold_change"] == pytest.approx(-1.5 * 8 / 12)
    low, high = found["accuracy_difference_ci"]
    assert low < found["accuracy_difference"] < high < 0
    assert "damaged" in found["conclusion"]


def repository(hub, kind, name, folder):
    """The files of ``folder`` as a repository of the double; the commit."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return hub.upload(kind, name, files)


def test_model_and_questions_come_from_the_hub(hub, client, tmp_path):
    """A revision of the model that is not the newest, one split of two. Fails with the newest revision, whose weights
    are others, and with the other split."""
    first, second = tmp_path / "first", tmp_path / "second"
    tiny_model(first, seed=0), tiny_model(second, seed=1)
    repository(hub, "model", "org/tiny", first)
    tagged = client.python("from huggingface_hub import HfApi; HfApi().create_tag('org/tiny', tag='v1')")
    assert tagged.status == 0, tagged.err
    repository(hub, "model", "org/tiny", second)
    lines = {"train": rows(2), "test": rows(8)[2:]}
    files = {f"{split}.jsonl": "".join(json.dumps(row) + "\n" for row in of).encode() for split, of in lines.items()}
    hub.upload("dataset", "org/questions", files)
    output = tmp_path / "out.json"
    words = ["mcq", "--data", "org/questions", "--split", "test", "--output", output, "--device", "cpu"]
    result = client.command(*words, "--model", "org/tiny@v1", "--compare", "org/tiny", "--pmi", "false")
    assert result.status == 0, result.err
    document = json.loads(output.read_text())
    assert (document["model"], document["compare"]["model"]) == ("org/tiny@v1", "org/tiny")
    assert document["data"]["name"] == "org/questions"
    assert document["data"]["split"] == "test"
    for part, folder in ((document, first), (document["compare"], second)):
        assert [item["id"] for item in part["items"]] == [f"q{number}" for number in range(2, 8)]
        for item, row in zip(part["items"], lines["test"], strict=True):
            prompt = f"Question: {row['question']}\nAnswer:"
            expected = [by_hand(folder, prompt, f" {choice}") for choice in row["choices"]]
            assert item["log_likelihoods"] == pytest.approx(expected, abs=1e-4)
    other = client.command(*words, "--model", "org/tiny@v1")
    assert other.status == 1
    assert "is a result with compare org/tiny, and this one has compare None" in other.err
    words[words.index(output)] = tmp_path / "other.json"
    missing = client.command(*words, "--model", "org/none@v1")
    assert missing.status == 1
    assert "there is no model repository org/none, or it is private" in missing.err
    unknown = client.command(*words, "--model", "org/tiny@v2")
    assert unknown.status == 1
    assert "org/tiny has no revision 'v2'; it has main, v1" in unknown.err


def embodied(folder):
    """Two questions about one picture and one about another, as ``mcq-from-demos`` writes them."""
    generator = np.random.default_rng(0)
    pixels = {f"images/push-v3-{frame}.png": generator.integers(0, 255, (8, 8, 3), np.uint8) for frame in (0, 1)}
    pictures = {}
    for path, array in pixels.items():
        file = io.BytesIO()
        Image.fromarray(array).save(file, format="PNG")
        pictures[path] = file.getvalue()
    shared = {"kind": "side", "task": "push-v3", "episode": 0, "moment": "start", "seed": 0}
    asked = [
        {
            "id": f"push-{number}", "image_path": f"images/push-v3-{frame}.png", "question": f"Where? {number}",
            "choices": ["left", "right"], "answer_index": number % 2, "frame": frame, **shared,
        }
        for number, frame in enumerate((0, 0, 1))
    ]  # fmt: skip
    write(folder, asked, pictures, ["push-v3"], "craft-trainer mcq-from-demos")
    return asked, pixels


READ_BACK = """\
import numpy as np
from craft_trainer.evaluation.questions import read_questions
from craft_trainer.evaluation.choices.images import opened
for item in read_questions("org/embodied", split="test").items:
    print([item.id, item.question, list(item.choices), item.answer_index, np.asarray(opened(item.image)).tolist()])
"""


def test_questions_that_were_pushed_are_read_back(hub, client, tmp_path):
    """Pictures pixel by pixel, and the card has both what was written and what datasets needs. Fails if the card is
    replaced by ours, which speaks of files that are not there."""
    asked, pictures = embodied(tmp_path / "questions")
    push = "from pathlib import Path\nfrom craft_trainer.simulation.question_folder import push\n"
    pushed = client.python(push + f"push(Path({str(tmp_path / 'questions')!r}), 'org/embodied', private=True)")
    assert pushed.status == 0, pushed.err
    result = client.python(READ_BACK)
    assert result.status == 0, result.err
    found = [ast.literal_eval(line) for line in result.out.splitlines() if line.startswith("[")]
    assert [line[:4] for line in found] == [
        [row["id"], row["question"], row["choices"], row["answer_index"]] for row in asked
    ]
    for line, row in zip(found, asked, strict=True):
        assert np.array_equal(line[4], pictures[row["image_path"]])
    card = client.python("from huggingface_hub import DatasetCard; print(DatasetCard.load('org/embodied').content)").out
    assert "pretty_name: Embodied questions" in card
    assert "3 multiple-choice questions about 2 rendered pictures" in card
    assert (tmp_path / "questions" / QUESTIONS).is_file()
    info = client.python("from huggingface_hub import HfApi; print(HfApi().dataset_info('org/embodied').private)")
    assert info.out.split() == ["True"]


def test_private_questions_do_not_go_where_everybody_reads(hub, client, tmp_path):
    """Seen to fail: datasets asks for a private repository as well, and is given the public one."""
    embodied(tmp_path / "questions")
    hub.create("dataset", "org/embodied")
    push = "from pathlib import Path\nfrom craft_trainer.simulation.question_folder import push\n"
    pushed = client.python(push + f"push(Path({str(tmp_path / 'questions')!r}), 'org/embodied', private=True)")
    assert "org/embodied is to be private, and there is a public dataset repository of that name" in pushed.err
    assert set(hub.repos["dataset", "org/embodied"].resolve("main")["tree"]) <= {".gitattributes"}
    words = ["mcq-from-demos", "--output", tmp_path / "made", "--push_to_hub", "org/embodied", "--private"]
    refused = client.command(*words, "--tasks", "push-v3", "--episodes", 1)
    assert refused.status == 1
    assert "is to be private" in refused.err
    assert not (tmp_path / "made").exists(), "it is said before the pictures are made"
    alone = client.command("mcq-from-demos", "--output", tmp_path / "made", "--private")
    assert "private has no effect here" in alone.err
