"""mcq.json read back: its derived numbers are computed again, and a change of anything shows in its checksum."""

import json
import re

import pytest
from report_inputs import mcq_document, write_demo, write_json, write_mcq, write_rollout, write_run

from craft_trainer.files import checksum
from craft_trainer.report.choices import load_choices
from craft_trainer.report.results import load_results
from craft_trainer.report.rollouts import load_rollout
from craft_trainer.report.run import load_run

RIGHT_FIRST, WRONG_LAST = ("items", 0), ("items", 9)  # of the first checkpoint


def changed(document, path, value):
    """``document`` with ``value`` at ``path``, and its checksum made to fit."""
    *way, last = path
    place = document
    for key in way:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document | {"sha256": checksum(document)}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("comparison", "accuracy_difference"), 5, "accuracy_difference is 5, but the log-likelihoods give -0.3"),
        (("comparison", "accuracy_difference_ci"), [-0.6, 0.4], "accuracy_difference_ci is [-0.6, 0.4], but"),
        (("comparison", "margin_gold_change_ci"), [-9.0, -0.5], "margin_gold_change_ci is [-9.0, -0.5], but"),
        (("comparison", "mcnemar_p"), 0.01, "comparison.mcnemar_p is 0.01, but the log-likelihoods give 0.25"),
        (("comparison", "num_right_to_wrong"), 0, "comparison.num_right_to_wrong is 0, but"),
        (("comparison", "right_to_wrong"), ["q1"], "comparison.right_to_wrong is ['q1'], but"),
        (("comparison", "items_for_two_points"), 9, "comparison.items_for_two_points is 9, but"),
        (("comparison", "num_resamples"), 10**12, "comparison.num_resamples is 1000000000000, but"),
        (("comparison", "conclusion"), "All is well.", "comparison.conclusion is 'All is well.', but"),
        (("comparison", "seed"), None, "comparison.seed is missing"),
        (("comparison", "mcnemar_p"), None, "comparison.mcnemar_p is missing"),
        (("comparison", "other"), 1, "comparison.other is unknown"),
        ((*RIGHT_FIRST, "correct"), False, "items[0].correct is False, but the log-likelihoods give True"),
        ((*WRONG_LAST, "predicted_index"), 1, "items[9].predicted_index is 1, but"),
        ((*RIGHT_FIRST, "margin_gold"), 99, "items[0].margin_gold is 99, but the log-likelihoods give 1.0"),
        ((*RIGHT_FIRST, "answer_index"), 7, "items[0]: answer_index 7 is none of the 2 choices"),
        ((*RIGHT_FIRST, "log_likelihoods"), [-2.5, -1.0], "items[0].log_likelihoods is [-2.5, -1.0], but"),
        ((*RIGHT_FIRST, "token_log_likelihoods"), [[-2.5], [float("nan")]], "token_log_likelihoods[1][0] is nan"),
        ((*RIGHT_FIRST, "log_likelihoods"), [-2.5, 1.5], "log_likelihoods[1] is 1.5, expected a number ≤ 0.01"),
        ((*RIGHT_FIRST, "num_tokens"), [1, 2], "items[0].num_tokens is [1, 2], but"),
        ((*RIGHT_FIRST, "num_chars"), [1, 2, 3], "items[0]: 3 num_chars for 2 choices"),
        ((*RIGHT_FIRST, "unconditional_log_likelihoods"), {}, "items[0]: unconditional must be a list of numbers"),
        ((*RIGHT_FIRST, "id"), "q1", "items has 'q1' 2 times"),
        ((*RIGHT_FIRST, "boundary_ok"), "yes", "items[0].boundary_ok is 'yes', expected true or false"),
        (("compare", "items", 0, "correct"), False, "compare.items[0].correct is False, but"),
        (("metrics", "accuracy"), 0.9, "metrics.accuracy is 0.9, but the log-likelihoods give 0.8"),
        (("metrics", "ece"), None, "metrics.ece is missing"),
        (("metrics", "margin_gold"), True, "metrics.margin_gold is True, expected a finite number"),
        (("num_items",), 9, "num_items is 9, but the log-likelihoods give 10"),
        (("fingerprint",), "abc", "fingerprint is 'abc', expected a SHA-256"),
        (("settings", "chat"), "no", "settings.chat is 'no', expected true or false"),
        (("settings",), [], "settings is a list, expected an object"),
        (("refused",), [{"row": -1, "id": "", "reason": "?", "model": None}], "refused[0].row is -1"),
        (("refused",), {}, "refused is {}, expected an empty list"),
        (("compare",), None, "compare is missing"),
        (("comparison",), None, "comparison is missing"),
        (("extra",), 1, "extra is unknown"),
        (("seconds",), -1, "seconds is -1, expected a number ≥ 0"),
    ],
)  # fmt: skip
def test_a_number_that_does_not_follow_is_refused_although_the_checksum_fits(tmp_path, path, value, message):
    """Every one of them was accepted, but for the NaN."""
    load_choices(write_json(tmp_path / "mcq.json", changed(mcq_document(), ("seconds",), 2.5)))
    file = write_json(tmp_path / "mcq.json", changed(mcq_document(), path, value))
    with pytest.raises(ValueError, match=rf"mcq\.json: .*{re.escape(message)}"):
        load_choices(file)


@pytest.mark.parametrize("change", [{"model": "org/other"}, {"data": {"path": "x"}}, {"sha256": "0" * 64}])
def test_what_follows_from_nothing_is_covered_by_the_checksum(tmp_path, change):
    file = write_mcq(tmp_path / "mcq.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=r"mcq\.json: sha256 does not fit the rest.* run it again"):
        load_choices(file)


def test_an_interval_of_another_bootstrap_is_taken(tmp_path):
    """Another scipy may draw otherwise: a twentieth of the width, of accuracies one question more."""
    document = mcq_document()
    low, high = document["comparison"]["accuracy_difference_ci"]
    moved = changed(document, ("comparison", "accuracy_difference_ci"), [low + 0.1, high])
    moved["comparison"]["conclusion"] = moved["comparison"]["conclusion"].replace("-60.0 to", "-50.0 to")
    moved["sha256"] = checksum(moved)
    assert load_choices(write_json(tmp_path / "mcq.json", moved)).comparison["accuracy_difference_ci"][0] == low + 0.1


def test_a_file_of_brackets_is_no_json(tmp_path):
    """Seen to fail with a RecursionError that named no file."""
    file = tmp_path / "mcq.json"
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"mcq\.json: not JSON"):
        load_choices(file)


def test_results_and_rollouts_whose_checksum_does_not_fit_are_refused(tmp_path):
    """One may be put together by hand, without a checksum. Seen to fail: another seconds.total was accepted."""
    for file, load, change in (
        (write_demo(tmp_path / "demo"), load_results, {"seconds": {"total": 1.0}}),
        (write_rollout(tmp_path / "rollout.json"), load_rollout, {"seed": 9}),
    ):
        content = json.loads(file.read_text())
        write_json(file, content | {"sha256": checksum(content)})
        assert load(file) == load(write_json(file, content))
        write_json(file, content | change | {"sha256": checksum(content)})
        with pytest.raises(ValueError, match=rf"{file}: sha256 does not fit the rest.*again"):
            load(file)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("run.json", "end", "yesterday", "end is 'yesterday', expected an object or null"),
        ("run.json", "starts", [1], "starts is [1], expected a list of objects"),
        ("run.json", "provenance", ["x"], "provenance is ['x'], expected an object"),
        ("run.json", "units", 5, "units is 5, expected a list"),
        ("trainer_state.json", "log_history", [1], "log_history is [1], expected a list of objects"),
        (
            "trainer_state.json",
            "log_history",
            [{"step": "x", "loss": 1}],
            "log_history is [{'loss': 1, 'step': 'x'}], expected a list of objects with numbered",
        ),
    ],
)
def test_what_a_run_left_is_refused_by_name_if_it_is_damaged(tmp_path, name, key, value, message):
    """Each was an AttributeError, a TypeError or an error that named no file."""
    run = write_run(tmp_path / "run")
    write_json(run / name, json.loads((run / name).read_text()) | {key: value})
    with pytest.raises(ValueError, match=rf"{name}: {re.escape(message)}.*remove it"):
        load_run(run)


@pytest.mark.parametrize("damage", [b"\xff", b"\0", b'"'])
def test_a_history_that_is_no_text_is_refused_by_name(tmp_path, damage):
    """Seen to fail with a UnicodeDecodeError that named no file."""
    file = write_run(tmp_path / "run") / "lambda_history.csv"
    content = file.read_bytes()
    file.write_bytes(content[:100] + damage + content[100:])
    with pytest.raises(ValueError, match=r"lambda_history\.csv: "):
        load_run(file.parent)
