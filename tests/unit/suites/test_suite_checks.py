"""What is refused before anything runs: names that no page can show, empty options, wrong values of any cell."""

from copy import deepcopy

import pytest
from test_suite import STORY, story

from craft_trainer.cli.suite_run import check_commands
from craft_trainer.suites.expansion import cells
from craft_trainer.suites.running import open_work
from craft_trainer.suites.suite import Suite


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"streams": {"my stream": {"old": ["a"]}}},
            "streams: 'my stream' is no name: expected letters, digits, _ and",
        ),
        (
            {"streams": {1: {"old": ["a"]}}},
            "streams: 1 is no name: .* in quotation marks if YAML takes it for a number",
        ),
        ({"methods": {False: {}}}, "methods: False is no name: .* or a truth value"),
        ({"methods": {"a+b": {}}}, r"methods: 'a\+b' is no name"),
        (
            {"methods": {"m": {"label": 5}}},
            "methods: m: label is 5: expected a text, in quotation marks if it is a num",
        ),
        ({"methods": {"m": {"label": ""}}}, "methods: m: label is '': expected a text"),
    ],
)
def test_a_name_that_no_page_shows_is_refused(changed, message):
    """Seen to fail: all was run, and no comment of a page could name it, or its raw result was refused."""
    with pytest.raises(ValueError, match=message):
        story(**{"methods": {"plain": {}}} | changed)


def test_a_suite_whose_name_no_page_shows_is_refused():
    """Seen to fail: its tables had no comment."""
    with pytest.raises(ValueError, match=r"the suite 'my\.suite' is no name: expected letters, digits, _ and -"):
        Suite.of("my.suite", deepcopy(STORY))


@pytest.mark.parametrize("value", ["", [], {}, "{empty}"])
def test_an_empty_option_is_refused(value):
    """Seen to fail: an empty text was passed on as a word, and so was an empty mapping."""
    streams = {"one": STORY["streams"]["one"] | {"empty": ""}}
    with pytest.raises(
        ValueError, match=r"student: dataset: .* is empty in the cell one/m.*: fill it, or leave the option"
    ):
        cells(story(streams=streams, methods={"m": {"student": {"dataset": value}}}))


@pytest.mark.parametrize(("axis", "place"), [("stream", "two/plain/seed0"), ("budget", "one/craft-0/seed0")])
def test_a_wrong_value_of_a_later_stream_or_budget_is_refused_before_anything_runs(axis, place, tmp_path):
    """Seen to fail: of every command and method the first was read, and the wrong one failed after days."""
    content = deepcopy(STORY) | {"budgets": [50, 0], "seeds": [0], "methods": {"plain": {}, "craft": {}}}
    if axis == "budget":
        content["methods"]["craft"]["score"] = {"episodes": "{budget}"}
    else:
        content["streams"]["one"]["episodes"], content["streams"]["two"]["episodes"] = 5, "five"
        content["commands"]["new_data"]["episodes"] = "{episodes}"
    suite = Suite.of("story", content)
    with pytest.raises(ValueError, match=f"commands: .* of {place}"):
        check_commands(suite, open_work(suite, cells(suite), tmp_path, tmp_path / "raw"))


def test_cells_that_differ_in_outputs_alone_are_read_once(tmp_path, monkeypatch):
    """Hundreds of cells are checked in seconds."""
    read = []
    monkeypatch.setattr("craft_trainer.cli.main.understood", lambda command, words, **_: read.append((command, words)))
    suite = story(streams={"one": STORY["streams"]["one"], "two": STORY["streams"]["one"]}, methods={"plain": {}})
    check_commands(suite, open_work(suite, cells(suite), tmp_path, tmp_path / "raw"))
    assert sorted(command for command, _ in read) == ["record"] * 2 + ["rollout"] * 2 + ["train"] * 4  # of two seeds
