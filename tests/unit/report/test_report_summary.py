"""The sentences say the numbers that the files hold, and say so when something is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_inputs import write_history

from craft_trainer.report import Results, load_results, verdict
from craft_trainer.report.history import load_history
from craft_trainer.report.run import load_histories
from craft_trainer.report.sentences import conflict_sentence, constraint_sentence, missing_sentence

type Document = dict[str, Any]
type Write = Callable[[Document], Path]


def _keep(document: Document, methods: set[str]) -> Document:
    document["rows"] = [row for row in document["rows"] if row["method"] in methods]
    document["summary"] = {name: groups for name, groups in document["summary"].items() if name in methods}
    return document


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        (
            {"teacher", "plain", "craft"},
            "CRaFT kept 97 % of old-task success (plain fine-tuning kept 41 %) "
            "and reached 95 % on the new task (plain 100 %).",
        ),
        ({"teacher", "craft"}, "CRaFT kept 97 % of old-task success and reached 95 % on the new task."),
        (
            {"plain", "craft"},
            "CRaFT succeeded in 95 % of old-task episodes (plain fine-tuning in 40 %) "
            "and reached 95 % on the new task (plain 100 %).",
        ),
        (
            {"teacher", "plain"},
            "Plain fine-tuning kept 41 % of old-task success and reached 100 % on the new task; "
            "no CRaFT run is in these results.",
        ),
        (
            {"teacher"},
            "The teacher succeeded in 98 % of old-task episodes and reached 0 % on the new task; "
            "no other method is in these results.",
        ),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else "",
)
def test_verdict(document: Document, write_results: Write, methods: set[str], sentence: str) -> None:
    """Kept is 0.95 / 0.975 = 0.974 for craft and 0.4 / 0.975 = 0.410 for plain."""
    assert verdict(load_results(write_results(_keep(document, methods)))) == sentence


def test_verdict_without_a_success_to_keep(document: Document, write_results: Write) -> None:
    for row in document["rows"]:
        if row["method"] == "teacher":
            row["successes"] = 0
    document["summary"]["teacher"] = {"old": 0.0, "new": 0.0}
    sentence = verdict(load_results(write_results(document)))
    assert sentence.startswith("CRaFT succeeded in 95 % of old-task episodes (plain fine-tuning in 40 %)")


def test_verdict_counts_new_tasks(document: Document, write_results: Write) -> None:
    document["stream"] = {"old": ["push-v3"], "new": ["reach-v3", "window-close-v3"]}
    for row in document["rows"]:
        row["group"] = "old" if row["task"] == "push-v3" else "new"
    document["summary"] = {
        "teacher": {"old": 1.0, "new": 38 / 80},
        "plain": {"old": 6 / 40, "new": 66 / 80},
        "craft": {"old": 39 / 40, "new": 75 / 80},
    }
    assert "reached 94 % on the 2 new tasks (plain 82 %)." in verdict(load_results(write_results(document)))


@pytest.fixture
def results(document: Document, write_results: Write) -> Results:
    return load_results(write_results(document))


def test_training_sentences(results: Results, write_history: Callable[..., Path]) -> None:
    """λ ends at 0.02·40 = 0.8 and 0.02·20 = 0.4; half of all steps are conflicts; seed 1 is above ε in its 20 of 60."""
    write_history(0)
    write_history(1, num_steps=20, retention_loss=0.06, cosine=0.3)
    histories = load_histories(results)
    assert constraint_sentence(histories) == (
        "In the last tenth of training L_retain averages 5 % of the teacher's variance against a budget ε of 5 %, "
        "and λ ends at 0.6 (medians over 2 seeds). L_retain was above ε in 33 % of all steps."
    )
    assert conflict_sentence(histories) == (
        "The gradients conflicted in 50 % of all steps; the mean cosine between them was −0.10 (96°)."
    )


@pytest.mark.parametrize(
    ("cosine", "said"),
    [(0.0, "gradient was 0.00 (90°), a right angle."),
     (-0.002, "gradient was 0.00 (90°), a right angle."),
     (-0.006, "gradient was −0.01 (90°), a right angle."),
     (0.5, "gradient was 0.50 (60°): below a right angle, so on average the step raised L_retain"),
     (-0.5, "gradient was −0.50 (120°): above a right angle, so on average the step lowered L_retain")],
)  # fmt: skip
def test_the_angle_of_the_step_is_said_where_it_was_measured(tmp_path: Path, cosine: float, said: str) -> None:
    """cos 60° = ½; blank cells do not count. Seen to fail with raised and lowered exchanged, with
    blanks as 0, and with `−0.00 (90°): above a right angle`."""
    folder = write_history(tmp_path, num_steps=40, update_cosine="")
    lines = (folder / "lambda_history.csv").read_text().splitlines()
    lines[11] += str(cosine)
    (folder / "lambda_history.csv").write_text("\n".join(lines))
    assert said in conflict_sentence({0: load_history(folder / "lambda_history.csv")})


def test_what_is_not_finite_counts_as_above_the_budget(results: Results, write_history: Callable[..., Path]) -> None:
    write_history(0, retention_loss=float("nan"), cosine=float("nan"))
    assert "above ε in 100 % of all steps" in constraint_sentence(load_histories(results))


def test_missing_histories_are_named(results: Results, write_history: Callable[..., Path]) -> None:
    assert missing_sentence(results, load_histories(results)) == (
        "What the constraint did during training is not shown: no seed0/craft/lambda_history.csv beside results.json."
    )
    write_history(0)
    assert "seed 1 (expected seed1/craft/lambda_history.csv)" in missing_sentence(results, load_histories(results))
    write_history(1)
    assert missing_sentence(results, load_histories(results)) == ""
