"""results.json is read as it is, or refused with the file, the place and the key."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from craft_trainer.report import Row, load_results

type Document = dict[str, Any]
type Write = Callable[[Document], Path]


def test_a_valid_file_is_read_whole(document: Document, write_results: Write) -> None:
    results = load_results(write_results(document))
    assert results.stream.old == ("push-v3", "reach-v3")
    assert results.seeds == (0, 1)
    assert results.methods == ("teacher", "plain", "craft")
    assert results.rows[7] == Row(seed=0, method="plain", task="reach-v3", group="old", episodes=20, successes=10)
    assert results.seconds == {"record": 12.3, "craft": 3725.0}
    assert results.settings["train"] == {"learning_rate": 1e-05, "layers": [-2, -1]}


def test_other_methods_come_after_the_three(document: Document, write_results: Write) -> None:
    for row in document["rows"]:
        row["method"] = {"teacher": "ewc", "plain": "craft", "craft": "teacher"}[row["method"]]
    document["summary"] = dict(zip(("ewc", "craft", "teacher"), document["summary"].values(), strict=True))
    assert load_results(write_results(document)).methods == ("teacher", "craft", "ewc")


def _set(*keys: str | int, value: object) -> Callable[[Document], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def _delete(*keys: str | int) -> Callable[[Document], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_set("schema", value=2), "schema is 2, expected 1", id="other schema"),
        pytest.param(_delete("seconds"), "seconds is missing", id="no key"),
        pytest.param(_set("extra", value=1), "extra is unknown", id="unknown key"),
        pytest.param(_set("stream", value=[]), "stream is a list, expected an object", id="stream no object"),
        pytest.param(_set("stream", "new", value=[]), "stream.new is [], expected a list", id="no task"),
        pytest.param(_set("stream", "new", value=["push-v3"]), "stream lists 'push-v3' twice", id="old and new"),
        pytest.param(_set("seeds", value=[0, 0]), "seeds is [0, 0], expected every seed once", id="seed twice"),
        pytest.param(_set("seeds", value=[0, True]), "seeds[1] is True", id="seed a bool"),
        pytest.param(_set("seeds", value=[0, 1, 2]), "rows has none for seeds [2]", id="seed without rows"),
        pytest.param(_set("rows", value=[]), "rows is []", id="no rows"),
        pytest.param(_delete("rows", 3, "task"), "rows[3].task is missing", id="row without a key"),
        pytest.param(_set("rows", 3, "note", value=""), "rows[3].note is unknown", id="row with another key"),
        pytest.param(_set("rows", 3, "seed", value=7), "rows[3].seed is 7", id="seed not listed"),
        pytest.param(_set("rows", 3, "method", value=""), "rows[3].method is ''", id="method without a name"),
        pytest.param(_set("rows", 3, "group", value="mid"), "rows[3].group is 'mid', expected old or new", id="group"),
        pytest.param(_set("rows", 3, "group", value="new"), "rows[3].task is 'push-v3'", id="task of another group"),
        pytest.param(_set("rows", 3, "episodes", value=0), "rows[3].episodes is 0, expected an integer ≥ 1", id="none"),
        pytest.param(_set("rows", 3, "successes", value=21), "rows[3].successes is 21", id="more than episodes"),
        pytest.param(_set("rows", 3, "successes", value=-1), "an integer from 0 to 20", id="fewer than none"),
        pytest.param(_set("rows", 3, "successes", value=19.0), "rows[3].successes is 19.0", id="a float"),
        pytest.param(_set("rows", 3, "seed", value=0), "rows[3] repeats seed, method and task", id="row twice"),
        pytest.param(_delete("rows", 3), "rows has no 'push-v3' for method 'teacher', seed 1", id="task not evaluated"),
        pytest.param(_set("summary", "craft", "old", value=1.5), "summary.craft.old is 1.5", id="not a fraction"),
        pytest.param(_set("summary", "craft", "old", value=0.94), "summary.craft.old is 0.94", id="summary differs"),
        pytest.param(_set("summary", "craft", "old", value=0.95 + 2e-9), "the rows give 0.95", id="differs by 2e-9"),
        pytest.param(_delete("summary", "plain", "new"), "summary.plain.new is missing", id="summary lacks a group"),
        pytest.param(_set("summary", "ewc", value={"old": 0.5}), "summary.ewc.old is 0.5, but no row", id="no rows"),
        pytest.param(_set("seconds", "craft", value=float("nan")), "seconds.craft is nan", id="seconds nan"),
        pytest.param(_set("settings", value=None), "settings is a NoneType", id="settings no object"),
    ],
)
def test_a_bad_file_is_refused(
    document: Document, write_results: Write, change: Callable[[Document], None], message: str
) -> None:
    change(document)
    path = write_results(document)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_results(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_summary_within_the_tolerance_is_accepted(document: Document, write_results: Write) -> None:
    document["summary"]["craft"]["old"] += 5e-10
    assert load_results(write_results(document)).summary["craft"]["old"] != 0.95


def test_a_teacher_evaluated_once_is_accepted(document: Document, write_results: Write) -> None:
    document["rows"] = [row for row in document["rows"] if (row["method"], row["seed"]) != ("teacher", 1)]
    document["summary"]["teacher"]["old"] = 38 / 40
    assert len(load_results(write_results(document)).rows) == 15


def test_a_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"results\.json: not JSON"):
        load_results(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file; pass the results\.json of a finished run"):
        load_results(tmp_path / "results.json")
