"""Suites: what a file says becomes cells and commands; what it cannot say is refused by name."""

from copy import deepcopy
from pathlib import Path

import pytest

from craft_trainer.cli.suite_run import SUITES, check_commands, chosen, read_suite
from craft_trainer.suites.expansion import cells, expand
from craft_trainer.suites.running import jobs_of, open_work
from craft_trainer.suites.suite import Cell, Suite

STORY = {
    "streams": {"one": {"old": ["push-v3", "reach-v3"], "new": ["door-open-v3"]}, "two": {"old": ["a"], "new": ["b"]}},
    "seeds": [0, 1],
    "budgets": [20, 50],
    "commands": {
        "old_data": {"run": "record", "tasks": ["{old}"], "episodes": 5},
        "new_data": {"run": "record", "tasks": ["{new}"], "episodes": 5},
        "teacher": {"run": "train", "policy_type": "act", "dataset": "{old_data}", "seed": "{seed}"},
        "anchors": {"run": "cache build", "teacher": "{teacher}", "dataset": "{old_data}", "anchors": "{budget}"},
        "student": {"run": "train", "model": "{teacher}", "dataset": "{new_data}", "seed": "{seed}"},
        "score": {"run": "rollout", "policy": "{student}", "tasks": ["{old}", "{new}"], "seed": "{seed}"},
    },
    "evaluations": ["score"],
    "methods": {
        "teacher": {"score": {"policy": "{teacher}"}},
        "plain": {},
        "replay": {"student": {"method": "replay", "anchors": "{anchors}"}},
        "craft": {"streams": ["one"], "seeds": [1], "budgets": [50], "student": {"anchors": "{anchors}"}},
    },
}
SEQUENCE = {
    "streams": {"row": {"first": ["a"], "tasks": ["b", "c", "d"]}},
    "seeds": [3],
    "commands": {
        "start_data": {"run": "record", "tasks": ["{first}"]},
        "data": {"run": "record", "each": "tasks", "tasks": "{item}"},
        "start": {"run": "train", "dataset": "{start_data}", "seed": "{seed}"},
        "stage": {"run": "train", "each": "tasks", "model": "{stage-1|start}", "dataset": "{data}", "seed": "{seed}"},
        "score": {"run": "rollout", "each": "tasks", "policy": "{stage}", "tasks": ["{first}", "{tasks}"]},
    },
    "evaluations": ["score"],
    "methods": {"plain": {}},
}


def story(**changed):
    return Suite.of("story", deepcopy(STORY) | changed)


def option(step, name):
    """The words behind ``--name``."""
    start = step.argv.index(f"--{name}") + 1
    ends = [place for place in range(start, len(step.argv)) if step.argv[place].startswith("--")]
    return list(step.argv[start : min(ends, default=len(step.argv))])


def test_methods_come_one_after_the_other_and_budgets_where_they_are_read():
    names = [cell.name for cell in cells(story())]
    assert names[:4] == ["one/teacher/seed0", "two/teacher/seed0", "one/teacher/seed1", "two/teacher/seed1"]
    assert names[4] == "one/plain/seed0"
    assert names[8:12] == [f"{s}/replay-20/seed{n}" for n in (0, 1) for s in ("one", "two")]
    assert names[-1] == "one/craft-50/seed1"
    assert len(names) == 4 + 4 + 8 + 1


def test_a_cell_is_what_its_evaluation_needs_in_order():
    steps = expand(story(), Cell("one", "replay", 20, 1), Path("out"))
    assert [step.label for step in steps] == ["old_data", "teacher", "new_data", "anchors", "student", "score"]
    where = {step.label: str(step.output) for step in steps}
    assert where == {
        "old_data": "out/one/old_data",
        "new_data": "out/one/new_data",
        "teacher": "out/one/seed1/teacher",
        "anchors": "out/one/seed1/budget20/anchors",
        "student": "out/one/seed1/replay-20/student",
        "score": "out/one/seed1/replay-20/score.json",
    }
    by = {step.label: step for step in steps}
    assert by["anchors"].argv[:2] == ("cache", "build")
    assert option(by["anchors"], "anchors") == ["20"]
    assert option(by["score"], "tasks") == ["push-v3", "reach-v3", "door-open-v3"]
    assert option(by["score"], "output") == [where["score"]]
    assert option(by["student"], "anchors") == [where["anchors"]]
    assert (by["student"].result.name, by["score"].result) == ("trainer_state.json", by["score"].output)
    for step in steps:  # every output that it reads is in its words
        assert all(str(path) in step.argv for path in step.after)


def test_cells_share_what_does_not_depend_on_them(tmp_path):
    suite = story()
    work = open_work(suite, cells(suite), tmp_path, tmp_path / "raw")
    jobs = jobs_of(work, tmp_path)
    assert len({job.name for job in jobs}) == len({job.result for job in jobs}) == len(jobs)
    made = [job.argv[0] for job in jobs]
    assert made.count("record") == 4
    assert made.count("cache") == 2 * 2 * 2
    assert made.count("train") == 4 + 4 + 8 + 1
    assert made.count("rollout") == 17
    seen = set()
    for job in jobs:
        assert seen.issuperset(job.after)
        seen.add(job.name)


def test_a_sequence_goes_on_from_the_stage_before():
    steps = {
        step.output.stem: step for step in expand(Suite.of("row", SEQUENCE), Cell("row", "plain", None, 3), Path())
    }
    assert set(steps) == {"start_data", "start"} | {
        f"{name}{n}" for name in ("data", "stage", "score") for n in (1, 2, 3)
    }
    assert [option(steps[f"stage{n}"], "model") for n in (1, 2, 3)] == [
        ["row/seed3/start"],
        ["row/seed3/stage1"],
        ["row/seed3/stage2"],
    ]
    assert [option(steps[f"data{n}"], "tasks") for n in (1, 2, 3)] == [["b"], ["c"], ["d"]]
    assert option(steps["score2"], "tasks") == ["a", "b", "c", "d"]


def test_a_stage_knows_the_entries_before_its_own():
    score = SEQUENCE["commands"]["score"] | {"tasks": ["{first}", "{before}"]}
    suite = Suite.of("row", SEQUENCE | {"commands": SEQUENCE["commands"] | {"score": score}})
    steps = {step.output.stem: step for step in expand(suite, Cell("row", "plain", None, 3), Path())}
    assert [option(steps[f"score{n}"], "tasks") for n in (1, 2, 3)] == [["a"], ["a", "b"], ["a", "b", "c"]]


def test_no_two_outputs_of_a_cell_have_one_name():
    """Seen to fail: one of two evaluations was missing from the raw result."""
    before = {"run": "rollout", "policy": "{start}", "tasks": ["{first}"]}
    content = SEQUENCE | {"commands": SEQUENCE["commands"] | {"score1": before}, "evaluations": ["score1", "score"]}
    with pytest.raises(ValueError, match="row: commands: score1 and score both write score1 in the cell row/plain/s"):
        cells(Suite.of("row", content))


def test_a_command_reads_what_lies_in_the_output_of_another():
    """A learning curve: every checkpoint of one run."""
    streams = {"one": STORY["streams"]["one"] | {"steps": [50, 100]}}
    score = {"run": "rollout", "each": "steps", "policy": "{student}/checkpoint-{item}", "tasks": ["{new}"]}
    suite = story(streams=streams, commands=STORY["commands"] | {"score": score}, methods={"plain": {}})
    *_, student, first, second = expand(suite, Cell("one", "plain", None, 0), Path("out"))
    assert [option(step, "policy") for step in (first, second)] == [
        [f"{student.output}/checkpoint-{steps}"] for steps in (50, 100)
    ]
    assert first.after == second.after == (student.output,)


def test_a_method_takes_a_setting_back_by_null():
    suite = story(methods={"bare": {"student": {"seed": None}}})
    by = {step.label: step for step in expand(suite, Cell("one", "bare", None, 0), Path())}
    assert "--seed" not in by["student"].argv
    assert "--seed" in by["teacher"].argv


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"methodes": {}}, "story: 'methodes' is none of streams, seeds"),
        ({"seeds": [0, 0]}, "story: seeds is .*none twice"),
        ({"seeds": ["a"]}, "story: seeds is .*whole numbers"),
        ({"evaluations": ["scores"]}, "evaluations: 'scores' is none of"),
        ({"evaluations": ["anchors"]}, "evaluations: anchors runs none of rollout"),
        ({"methods": {"m": {"studnt": {}}}}, "methods: m: 'studnt' is none of"),
        ({"methods": {"m": {"streams": ["three"]}}}, "methods: m: streams: 'three' is none of one, two"),
        ({"methods": {"m": {"seeds": [-1]}}}, "methods: m: seeds is"),
        ({"methods": {"m": None}}, "methods: m is None"),
        ({"methods": {"m": {"anchors": {"views": 2}}}}, "m changes anchors, which none of its commands needs"),
        ({"methods": {"m": {"budgets": [20]}}}, "m has budgets, but no command of it refers to"),
        ({"methods": {"m": {"student": {"anchors": "{ancors}"}}}}, "student: anchors: 'ancors' is none of"),
        ({"methods": {"m": {"student": {"model": "{student-1}"}}}}, "nothing is repeated here: say each"),
        (
            {"methods": {"m": {"score": {"policy": "{student}/checkpoint-{item}"}}}},
            "policy: {item} has no value: it needs each",
        ),
        ({"methods": {"m": {"score": {"tasks": "{before}"}}}}, "tasks: {before} has no value: it needs each"),
        ({"commands": {"score": {"policy": "x"}}}, "commands: score does not say what to run"),
        ({"streams": {"one": {"teacher": 1}}}, "commands: teacher is also a key of streams: one"),
        ({"streams": {"one": {"seed": 1}}}, "streams: one: {seed} has a meaning already"),
        ({"methods": {"m": {"student": None}}}, "methods: m: student is None: expected `key: value` lines"),
        ({"methods": {"m": {"student": {"each": "new"}}}}, "methods: m: student: each: a method cannot change it"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changed, message):
    with pytest.raises(ValueError, match=message):
        cells(story(**changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"streams": {}}, "story: streams is {}: expected at least one"),
        ({"commands": {}}, "story: commands is {}: expected at least one"),
        ({"methods": {}}, "story: methods is {}: expected at least one"),
        ({"methods": None}, "story: methods is None: expected at least one"),
        ({"seeds": []}, r"story: seeds is \[\]: expected a list of at least one"),
        ({"budgets": []}, r"story: budgets is \[\]: expected a list of at least one"),
        ({"evaluations": []}, r"story: evaluations is \[\]: expected a list of at least one"),
        ({"methods": {"m": {"seeds": []}}}, r"methods: m: seeds is \[\]: expected a list of at least one"),
        ({"methods": {"m": {"budgets": []}}}, r"methods: m: budgets is \[\]: expected a list of at least one"),
        ({"methods": {"m": {"streams": []}}}, r"methods: m: streams is \[\]: expected a list of at least one"),
        (
            {"streams": {"one": {"old": [], "new": ["a"]}}},
            "old_data: tasks: .*{old}.* is empty in the cell one/",
        ),
        ({"methods": {"m": {"new_data": {"tasks": []}}}}, r"new_data: tasks: \[\] is empty in the cell one/m"),
    ],
)
def test_an_empty_list_is_refused_by_name(changed, message):
    """Seen to fail: a suite without seeds had no cell, and all of them were finished."""
    with pytest.raises(ValueError, match=message):
        cells(story(**changed))


def sequence(tasks, **changed):
    return Suite.of("row", SEQUENCE | {"streams": {"row": {"first": ["a"], "tasks": tasks}}} | changed)


def test_a_cell_without_an_evaluation_is_refused_and_one_that_keeps_another_is_not():
    """Seen to fail: its raw result would have been written without any command. Joint training needs the second."""
    with pytest.raises(ValueError, match=r"streams: row: no evaluation is left in the cell row/plain/seed3.*score"):
        cells(sequence([]))
    score0 = {"run": "rollout", "policy": "{start}", "tasks": ["{first}", "{tasks}"]}
    suite = sequence([], commands=SEQUENCE["commands"] | {"score0": score0}, evaluations=["score0", "score"])
    (cell,) = cells(suite)
    assert [step.label for step in expand(suite, cell, Path())] == ["start_data", "start", "score0"]


@pytest.mark.parametrize("tasks", ["abc", {"a": 1}, None])
def test_what_a_command_is_repeated_for_is_a_list(tasks):
    """Seen to fail: a stage for every letter of a name."""
    with pytest.raises(ValueError, match=r"streams: row: tasks is .*: expected a list, because the command \w+ is rep"):
        cells(sequence(tasks))


@pytest.mark.parametrize(
    "methods",
    [
        {"bare-20": {}, "bare": {"student": {"anchors": "{anchors}"}}},
        {"plain": {"streams": ["one", "one"]}},
    ],
)
def test_two_cells_of_one_name_are_refused(methods):
    """Their raw results would be one file. Seen to fail: the second was never written."""
    with pytest.raises(ValueError, match=r"methods: 2 cells are called .*: name a stream once, and rename a method"):
        cells(story(methods=methods))


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="story: seeds, evaluations missing"):
        Suite.of("story", {key: value for key, value in STORY.items() if key not in ("seeds", "evaluations")})
    with pytest.raises(ValueError, match=r"{budget} has no value: it needs budgets"):
        cells(Suite.of("story", {key: value for key, value in STORY.items() if key != "budgets"}))


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_command_of_a_shipped_suite_is_understood(path, tmp_path):
    suite = read_suite(path.stem)
    work = open_work(suite, cells(suite), tmp_path, tmp_path / "raw")
    assert jobs_of(work, tmp_path)
    check_commands(suite, work)


@pytest.mark.parametrize(
    ("label", "change", "message"),
    [
        ("student", {"learning_rat": 1}, "commands: student of one/plain/seed0 is refused by `craft-trainer train`"),
        ("student", {"epsilon": -1}, "commands: student of one/plain/seed0: epsilon"),
        ("score", {"run": "rolout"}, "run: 'rolout' is none of"),
    ],
)
def test_a_command_that_is_not_understood_is_refused_before_anything_runs(label, change, message, tmp_path):
    content = deepcopy(STORY)
    content["methods"] = {"plain": {}}
    content["commands"][label] |= change
    if label == "score":
        content["evaluations"] = ["student"]
        content["commands"]["student"]["model"] = "{score}"
        content["commands"]["score"]["policy"] = "x"
    suite = Suite.of("story", content)
    with pytest.raises(ValueError, match=message):
        check_commands(suite, open_work(suite, cells(suite), tmp_path, tmp_path / "raw"))


def test_cells_are_chosen_by_pattern_and_a_pattern_that_fits_none_is_refused():
    assert [cell.name for cell in chosen(story(), "one/craft*")] == ["one/craft-50/seed1"]
    with pytest.raises(ValueError, match=r"no cell of story is called one/craft: .*streams one, two .*replay-20"):
        chosen(story(), "one/craft")
    with pytest.raises(ValueError, match=r"no suite nothing: name a YAML file, or one of .*metaworld-2"):
        read_suite("nothing")
