"""Blocks of a page that do not fit the results: what to write instead. Budgets of other things than anchors."""

import pytest
from test_agreement import changed
from test_sequence_tables import FORGETS, sequence
from test_tables import cell, curve, table, text_cell

from craft_trainer.cli.main import main
from craft_trainer.suites.page import written
from craft_trainer.suites.runs import read_runs


def test_times_of_runs_whose_training_was_not_timed(tmp_path):
    """Seen to fail: KeyError 'train', of a plain run that had trained by a configuration file."""
    for name in ("plain", "craft"):
        cell(tmp_path, name, 0, (4, 4, 4))
    path = tmp_path / "tiny/one/plain/seed0.json"
    changed(path, commands=[["cache", "build", "--output_dir", "anchors"]], seconds={"anchors": 3.0})
    assert table(tmp_path, "tiny seconds")[2:] == [["craft", "1", "10", "–", "–"]]


def test_differences_need_old_and_new_tasks(tmp_path):
    """Seen to fail: no raw result of plain; there are craft, plain."""
    for method in ("plain", "craft"):
        sequence(tmp_path, "long", method, FORGETS)
        text_cell(tmp_path, method, 0, [2.0, 1.5], [-1, 0], [-0.4, 0.0])
        curve(tmp_path, "one", method, 0, (0, 4, 4))
    for name in ("row", "texts", "pace"):
        with pytest.raises(ValueError, match="success on old and on new tasks, and no stream has both: of sequences"):
            table(tmp_path, f"{name} against plain")


def test_a_rival_is_chosen_among_what_is_compared(tmp_path):
    """Seen to fail: no raw result of craft; there are craft, plain."""
    cell(tmp_path, "plain", 0, (4, 4, 4))
    sequence(tmp_path, "long", "craft", FORGETS)
    path = tmp_path / "row/long/craft/seed0.json"
    (tmp_path / "tiny/long/craft").mkdir(parents=True)
    path.rename(tmp_path / "tiny/long/craft/seed0.json")
    changed(tmp_path / "tiny/long/craft/seed0.json", suite="tiny")
    with pytest.raises(ValueError, match=r"no raw result of craft; there are plain$"):
        table(tmp_path, "tiny against craft")


@pytest.mark.parametrize("head", ["pace", "pace/one", "pace matrix"])
def test_curves_have_blocks_of_their_own(head, tmp_path):
    """Seen to fail: refused as a sequence of 3 rollouts of one task each."""
    curve(tmp_path, "one", "plain", 0, (0, 4, 4))
    with pytest.raises(
        ValueError, match=r"seed0.json holds a learning curve: show it by <!-- suite: NAME steps --> or <"
    ):
        table(tmp_path, head)


def test_texts_are_shown_stream_by_stream(tmp_path):
    """Seen to fail: refused as a sequence of 0 rollouts."""
    text_cell(tmp_path, "plain", 0, [2.0, 1.5], [-1, 0], [-0.4, 0.0])
    with pytest.raises(ValueError, match="of other texts: choose one stream, as <!-- suite: NAME/STREAM -->"):
        table(tmp_path, "texts")


def of_steps(raw, *, anchors="400", **content):
    """Runs whose budget is the number of steps; they have 400 anchors."""
    for budget in (400, 1600):
        cell(raw, "plain", 0, (budget // 400, 4, 4), budget=budget)
        student = ["train", "--max_steps", str(budget), "--output_dir", "student"]
        commands = [["cache", "build", "--anchors", anchors, "--output_dir", "anchors"], student]
        changed(raw / f"tiny/one/plain-{budget}/seed0.json", commands=commands, **content)


def test_a_budget_of_steps_is_not_called_anchors(tmp_path):
    """Seen to fail: "plain, 1,600 anchors", "With 400 anchors plain keeps 62 %", and an axis of anchors."""
    of_steps(tmp_path, anchors="20")
    assert [row[0] for row in table(tmp_path, "tiny/one")[2:]] == ["plain, budget 400", "plain, budget 1,600"]
    page = written("<!-- suite: tiny budgets -->\n<!-- end of suite -->\n", tmp_path, "images")
    assert "With the budget 400 plain keeps 62 % of the old tasks" in page.text
    (picture,) = page.pictures.values()
    assert "anchors" not in page.text
    assert b"anchors" not in picture


def test_the_references_of_the_suite_tell_what_a_budget_counts(tmp_path):
    """The first budget is by chance the number of anchors. Without templates the commands alone tell."""
    of_steps(tmp_path)
    assert [run.label for run in read_runs(tmp_path, "tiny")] == ["plain, 400 anchors", "plain, budget 1,600"]
    of_steps(tmp_path, templates=[["cache", "build", "--anchors", "400"], ["train", "--max_steps", "{budget}"]])
    assert [run.label for run in read_runs(tmp_path, "tiny")] == ["plain, budget 400", "plain, budget 1,600"]
    of_steps(tmp_path, templates=[["cache", "build", "--anchors", "{budget}"]])
    assert [run.label for run in read_runs(tmp_path, "tiny")] == ["plain, 400 anchors", "plain, 1,600 anchors"]


def test_a_page_keeps_its_line_ends(tmp_path):
    """Seen to fail: all of them became \\n."""
    cell(tmp_path, "plain", 0, (4, 4, 4))
    page = tmp_path / "page.md"
    before = "# mine\r\n\r\ntext\r\n<!-- suite: tiny/one -->\r\n<!-- end of suite -->\r\nmore\n"
    page.write_bytes(before.encode())
    assert main(["suite", "report", "--raw", str(tmp_path), "--page", str(page)]) == 0
    after = page.read_bytes().decode()
    begins, ends = "# mine\r\n\r\ntext\r\n<!-- suite: tiny/one -->\r\n", "<!-- end of suite -->\r\nmore\n"
    assert after.startswith(begins)
    assert after.endswith(ends)
    written_anew = after.removeprefix(begins).removesuffix(ends)
    assert "| plain | 0 |" in written_anew
    assert written_anew.count("\r\n") == written_anew.count("\n") == 5
