"""References of a suite: wherever they stand in a value they are put in their place, or refused by name."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from test_suite import SEQUENCE, STORY, option

from craft_trainer.suites.expansion import cells, expand
from craft_trainer.suites.suite import Cell, Suite


def student(folder=Path("out"), **settings):
    """The command ``student`` with these settings, and the outputs that are made before it."""
    content = deepcopy(STORY) | {"methods": {"m": {"student": settings}}}
    content["streams"]["one"]["names"] = {"prompt": "question"}
    steps = expand(Suite.of("story", content), Cell("one", "m", 20, 1), folder)
    place = next(place for place, step in enumerate(steps) if step.label == "student")
    return steps[place], [step.output for step in steps[:place]]


def test_within_a_longer_text():
    """Seen to fail: the braces were passed on as they are, and the anchors were never built."""
    step, before = student(columns="of {anchors} and {seed}", model="{teacher}/last")
    assert option(step, "columns") == ["of out/one/seed1/budget20/anchors and 1"]
    assert option(step, "model") == ["out/one/seed1/teacher/last"]
    assert {path.name for path in step.after} == {"anchors", "teacher", "new_data"}
    assert set(step.after) <= set(before)
    assert step.output == Path("out/one/seed1/m-20/student")  # where its budget is told


def test_within_mappings_and_lists_of_a_value():
    """Seen to fail: the same, and a mapping in a list was no JSON."""
    step, before = student(
        policy_options={"cache": {"dataset": "{old_data}", "tasks": ["{old}", "x{seed}"]}, "n": "{budget}"},
        caches=[{"of": "{anchors}"}, "{old}"],
    )
    old = STORY["streams"]["one"]["old"]
    (options,) = option(step, "policy_options")
    assert json.loads(options) == {"cache": {"dataset": "out/one/old_data", "tasks": [*old, "x1"]}, "n": 20}
    cache, *tasks = option(step, "caches")
    assert (json.loads(cache), tasks) == ({"of": "out/one/seed1/budget20/anchors"}, old)
    assert {path.name for path in step.after} == {"teacher", "new_data", "old_data", "anchors"}
    assert set(step.after) <= set(before)


def test_lists_within_lists_are_words_but_stay_in_a_mapping():
    step, _ = student(caches=[["a", ["{old}"]], "b"], policy_options={"grid": [[1, 2], [3]], "of": [["{old}"], "c"]})
    old = STORY["streams"]["one"]["old"]
    assert option(step, "caches") == ["a", *old, "b"]
    assert json.loads(*option(step, "policy_options")) == {"grid": [[1, 2], [3]], "of": [old, "c"]}


@pytest.mark.parametrize(
    ("text", "passed_on"),
    [
        ("{{question}}", "{question}"),
        ("{{image}} {{question}} for {seed}", "{image} {question} for 1"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        (r"\d{3} or \d{1,2}", r"\d{3} or \d{1,2}"),
        ("{}", "{}"),
    ],
)
def test_doubled_braces_become_single_and_other_braces_stay(text, passed_on):
    assert option(student(columns=text)[0], "columns") == [passed_on]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a {teachr}", "'teachr' is none of seed, budget, item, before, old, new, names, old_data, new_data, teacher"),
        ({"a": ["{teachr}"]}, "'teachr' is none of seed"),
        ("{teachr}", "'teachr' is none of seed, .*double the braces that are to stay: {{teachr}}"),
        ("{teachr-1|frist}", "'teachr' is none of seed"),
        ("{teacher-1|frist}", "'frist' is none of seed"),
        ("{teacher-2}", "{teacher-2} is no reference: write {name}, or {name-1|first}"),
        ("{teacher|start}", "{teacher|start} is no reference"),
        ("{ teacher }", "{ teacher } is no reference"),
        ("{old data}/x", "{old data} is no reference"),
        ("x {old}", "{old} is .*, which has no place in a longer text"),
        ("x {names}", "{names} is .*, which has no place in a longer text"),
        ("{student}", "commands: student needs its own output"),
        ({"{old}": 1}, "{old} is the key of a mapping, but only a value can be a reference"),
        ({"teacher": None}, 'a reference stands in quotation marks: write "{teacher}"'),
        ([{"old": None}], 'a reference stands in quotation marks: write "{old}"'),
    ],
)
def test_what_refers_to_nothing_is_refused_with_its_key(value, message):
    with pytest.raises(ValueError, match="commands: student") as refused:
        student(columns=value)
    assert ("student: columns: " in str(refused.value)) or "own output" in message
    refused.match(message.replace("{", "[{]").replace("|", "[|]"))


def test_a_stream_says_no_reference():
    """What streams say is taken as it is. Seen to fail: the braces were passed on."""
    streams = {"one": {"old": ["{new}"], "new": ["a"]}}
    with pytest.raises(ValueError, match=r"old_data: tasks: {old} is \['{new}'\], and what streams say is taken as it"):
        cells(Suite.of("story", STORY | {"streams": streams}))


@pytest.mark.parametrize("reference", ["{item-1|first}", "{start-1|start}", "{seed-1|start}"])
def test_only_a_repeated_command_has_a_stage_before(reference):
    """Seen to fail: it was the item of this stage, and the same start in all of them."""
    stage = SEQUENCE["commands"]["stage"] | {"model": reference}
    suite = Suite.of("row", SEQUENCE | {"commands": SEQUENCE["commands"] | {"stage": stage}})
    with pytest.raises(ValueError, match=r"stage: model: .* is of the stage before, but .* is no command with each"):
        cells(suite)
