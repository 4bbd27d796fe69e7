"""Rollouts that tables can show, known before anything runs: which are merged, and which follow one another."""

import json
from copy import deepcopy

import pytest
from pretending import pretend
from test_agreement import changed
from test_sequence_tables import FORGETS, SHOWN, sequence
from test_suite import SEQUENCE
from test_tables import cell, table

from craft_trainer.suites.expansion import cells
from craft_trainer.suites.running import open_work, run_work
from craft_trainer.suites.suite import Suite

ROLLOUT = {"run": "rollout", "policy": "{student}", "seed": "{seed}"}


def story(stream, **evaluations):
    """A suite of one stream and of one method, which is evaluated by these commands."""
    made_of = {"record": {"run": "record", "tasks": ["a"]}}
    made_of |= {"student": {"run": "train", "dataset": "{record}", "seed": "{seed}"}}
    content = {"streams": {"one": stream}, "seeds": [0], "methods": {"plain": {}}, "evaluations": [*evaluations]}
    return Suite.of("tiny", content | {"commands": made_of | evaluations})


def go(suite, tmp_path):
    work = open_work(suite, cells(suite), tmp_path / "work", tmp_path / "raw")
    run_work(suite, work, tmp_path / "work", execute=pretend, num_workers=1)


@pytest.mark.parametrize(
    ("stream", "tasks"),
    [
        ({"old": ["a"], "new": ["b"]}, ["{old}", "{new}"]),
        ({"known": ["a", "b"]}, ["{known}"]),  # of two tasks, so that two rollouts look like a sequence
    ],
)
def test_two_rollouts_of_one_task_are_refused_before_anything_runs(stream, tasks, tmp_path):
    """Seen to fail: both were run. The table showed the second alone, or a BWT of −100 between the two."""
    suite = story(stream, score=ROLLOUT | {"tasks": tasks}, score_short=ROLLOUT | {"tasks": tasks, "max_steps": 100})
    with pytest.raises(ValueError, match="plain/seed0: score and score_short both evaluate a, and a table shows one"):
        go(suite, tmp_path)
    assert not (tmp_path / "work").exists()


def test_a_name_with_a_number_makes_no_stage(tmp_path):
    """Only `each` does. Seen to fail: both rollouts were run, and the second counted as a later stage."""
    again = ROLLOUT | {"tasks": ["{known}"]}
    with pytest.raises(ValueError, match="score1 and score2 both evaluate a"):
        go(story({"known": ["a", "b"]}, score1=again, score2=again | {"max_steps": 100}), tmp_path)
    apart = {f"score{number}": ROLLOUT | {"tasks": [f"{{{group}}}"]} for number, group in ((1, "old"), (2, "new"))}
    go(story({"old": ["a"], "new": ["b"]}, **apart), tmp_path)
    assert table(tmp_path / "raw", "tiny/one")[2][2:] == ["50 (9–91)", "50", "50 (9–91)", "50"]


def test_raw_results_of_two_rollouts_of_one_task_are_refused(tmp_path):
    """Those of an earlier version. Seen to fail: the table showed the second alone, which has 0 % and not 100 %."""
    cell(tmp_path, "plain", 0, (4, 4, 4))
    path = tmp_path / "tiny/one/plain/seed0.json"
    rows = json.loads(path.read_text())["evaluations"]["score"]["rows"]
    short = [row | {"successes": 0} for row in rows]
    for tasks, kept in (({"old": ["a", "b"], "new": ["c"]}, 3), ({"known": ["a", "b"]}, 2)):
        changed(path, tasks=tasks, evaluations={"score": {"rows": rows[:kept]}, "score_short": {"rows": short[:kept]}})
        with pytest.raises(ValueError, match=r"seed0.json: score and score_short both evaluate a"):
            table(tmp_path, "tiny/one")


def test_rollouts_of_other_tasks_are_merged(tmp_path):
    """Seen to fail: KeyError 'a'. The table looked for the old tasks in the last rollout."""
    apart = {f"score_{group}": ROLLOUT | {"tasks": [f"{{{group}}}"]} for group in ("old", "new")}
    go(story({"old": ["a", "b"], "new": ["c"]}, **apart), tmp_path)
    assert table(tmp_path / "raw", "tiny/one")[2] == ["plain", "0", "50 (15–85)", "50", "50 (9–91)", "50"]


def test_a_task_alone_is_a_list_of_one(tmp_path):
    """Seen to fail: KeyError 'p', the first letter of push-v3."""
    go(story({"old": "push-v3", "new": "reach-v3"}, score=ROLLOUT | {"tasks": ["{old}", "{new}"]}), tmp_path)
    assert table(tmp_path / "raw", "tiny/one")[2] == ["plain", "0", "50 (9–91)", "50", "50 (9–91)", "50"]


@pytest.mark.parametrize(
    ("stream", "tasks", "message"),
    [
        ({"old": ["a"], "new": ["b"]}, ["{old}"], r"has new: \['b'\], and the rollouts are of a: tables need"),
        (
            {"old": ["a"], "new": []},
            ["{old}"],
            r"has new: \[\], and the rollouts are of a: tables need .* at least one",
        ),
        ({"old": "data/old", "new": ["b"]}, ["{new}"], "has old: data/old, and the rollouts are of b: .* other names"),
        ({"tasks": ["a", "b"]}, ["b,a"], None),  # of one rollout, the order is free
    ],
)
def test_old_and_new_tasks_that_are_not_evaluated_are_refused_before_anything_runs(stream, tasks, message, tmp_path):
    """Seen to fail: all was run, and the table ended in a KeyError, or in ZeroDivisionError where there was no task."""
    suite = story(stream, score=ROLLOUT | {"tasks": tasks})
    if message is None:
        assert open_work(suite, cells(suite), tmp_path / "work", tmp_path / "raw")
        return
    with pytest.raises(ValueError, match=f"tiny: one/plain/seed0: the stream {message}"):
        open_work(suite, cells(suite), tmp_path / "work", tmp_path / "raw")


def test_raw_results_without_the_new_tasks_are_refused(tmp_path):
    """Seen to fail: KeyError 'c'."""
    cell(tmp_path, "plain", 0, (4, 4, 4))
    path = tmp_path / "tiny/one/plain/seed0.json"
    rows = json.loads(path.read_text())["evaluations"]["score"]["rows"]
    changed(path, evaluations={"score": {"rows": rows[:2]}})
    with pytest.raises(ValueError, match=r"seed0.json: the stream has new: \['c'\], and the rollouts are of a, b"):
        table(tmp_path, "tiny/one")


def test_a_stream_of_texts_may_call_its_files_old_and_new(tmp_path):
    """They are no tasks where nothing is rolled out."""
    loss = {"run": "loss", "model": "{student}", "dataset": "{old}"}
    suite = story({"old": "old.jsonl", "new": "new.jsonl"}, general=loss)
    assert open_work(suite, cells(suite), tmp_path / "work", tmp_path / "raw")


def row(**evaluations):
    content = deepcopy(SEQUENCE) | {"evaluations": [*evaluations]}
    return Suite.of("row", content | {"commands": content["commands"] | evaluations})


def test_a_sequence_that_no_table_shows_is_refused_before_anything_runs(tmp_path):
    """Seen to fail: the report refused it, after all stages of all methods had been trained."""
    score = SEQUENCE["commands"]["score"]
    start = {"run": "rollout", "policy": "{start}", "tasks": score["tasks"]}
    with pytest.raises(ValueError, match="row/plain/seed3 has 3 rollouts, of 4, 4, 4 tasks: a sequence has one after"):
        go(row(score=score), tmp_path)
    with pytest.raises(ValueError, match="score1 and short1 both evaluate a"):
        go(row(start_score=start, score=score, short=score | {"max_steps": 9}), tmp_path)
    suite = row(start_score=start, score=score)
    assert open_work(suite, cells(suite), tmp_path / "work", tmp_path / "raw")


def test_raw_results_say_which_rollouts_are_stages(tmp_path):
    """Of earlier ones the names tell it."""
    score = SEQUENCE["commands"]["score"]
    go(row(start_score={"run": "rollout", "policy": "{start}", "tasks": score["tasks"]}, score=score), tmp_path)
    raw = json.loads((tmp_path / "raw/row/row/plain/seed3.json").read_text())
    assert raw["stages"] == {"score1": 1, "score2": 2, "score3": 3}
    sequence(tmp_path, "long", "plain", FORGETS)
    assert table(tmp_path, "row/long")[2] == SHOWN
    changed(tmp_path / "row/long/plain/seed0.json", stages={})
    with pytest.raises(ValueError, match="score1 and score2 both evaluate a"):
        table(tmp_path, "row/long")


@pytest.mark.parametrize("more", [{"env": "libero"}, {"config": "r.yaml"}, {"tasks": None, "config": "r.yaml"}])
def test_tasks_that_the_command_line_does_not_name_are_not_judged(more, tmp_path):
    """LeRobot's environments have several tasks under one name, and a file may say others."""
    suite = story({"old": ["first"], "new": ["second"]}, score=ROLLOUT | {"tasks": ["libero_goal"]} | more)
    assert open_work(suite, cells(suite), tmp_path / "work", tmp_path / "raw")
