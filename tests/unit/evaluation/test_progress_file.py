"""The progress of a run that was ended: nothing finished is lost, nothing of another run is taken."""

from craft_trainer.evaluation.mcq import ProgressFile

MINE = {"weights": "abc", "data": {"sha256": "1"}}


def test_a_run_goes_on_from_what_was_finished(tmp_path):
    path = tmp_path / "out" / "progress.jsonl"
    first = ProgressFile(path, MINE)
    assert first.read() == {}
    first.add(3, [[-1.5, -0.25], [-2.0]])
    first.add(0, [[-1.0]])
    assert ProgressFile(path, MINE).read() == {3: [[-1.5, -0.25], [-2.0]], 0: [[-1.0]]}


def test_half_a_line_is_dropped_and_the_next_one_starts_anew(tmp_path):
    """What a kill leaves. Seen to fail with the rest of the line left in the file."""
    path = tmp_path / "progress.jsonl"
    first = ProgressFile(path, MINE)
    first.read()
    first.add(3, [[-1.5]])
    first.add(4, [[-2.5]])
    path.write_text(path.read_text()[:-5])
    again = ProgressFile(path, MINE)
    assert again.read() == {3: [[-1.5]]}
    again.add(4, [[-2.5]])
    assert ProgressFile(path, MINE).read() == {3: [[-1.5]], 4: [[-2.5]]}


def test_results_of_another_model_are_not_taken(tmp_path):
    """Seen to fail without the comparison of the first line: the file's name says nothing of a model."""
    path = tmp_path / "progress.jsonl"
    first = ProgressFile(path, MINE)
    first.read()
    first.add(3, [[-1.5]])
    assert ProgressFile(path, MINE | {"weights": "other"}).read() == {}
    assert ProgressFile(path, MINE).read() == {}  # it was begun anew
