"""The progress of a run that was ended: nothing finished is lost, nothing of another run is taken."""

import json

import pytest

from craft_trainer.evaluation.progress import ProgressFile

MINE = {"weights": "abc", "data": {"sha256": "1"}}
ONE = [[1]] * 5  # five questions of one choice of one token


def test_a_run_goes_on_from_what_was_finished(tmp_path):
    path = tmp_path / "out" / "progress.jsonl"
    first, lengths = ProgressFile(path, MINE), [[1], [1], [1], [2, 1]]
    assert first.read(lengths) == {}
    first.add(3, [[-1.5, -0.25], [-2.0]])
    first.add(0, [[-1.0]])
    assert ProgressFile(path, MINE).read(lengths) == {3: [[-1.5, -0.25], [-2.0]], 0: [[-1.0]]}


def test_half_a_line_is_dropped_and_the_next_one_starts_anew(tmp_path):
    """What a kill leaves. Seen to fail with the rest of the line left in the file."""
    path = tmp_path / "progress.jsonl"
    first = ProgressFile(path, MINE)
    first.read(ONE)
    first.add(3, [[-1.5]])
    first.add(4, [[-2.5]])
    path.write_text(path.read_text()[:-5])
    again = ProgressFile(path, MINE)
    assert again.read(ONE) == {3: [[-1.5]]}
    again.add(4, [[-2.5]])
    assert ProgressFile(path, MINE).read(ONE) == {3: [[-1.5]], 4: [[-2.5]]}


def test_results_of_another_model_are_not_taken(tmp_path):
    """Seen to fail without the comparison of the first line: the file's name says nothing of a model."""
    path = tmp_path / "progress.jsonl"
    first = ProgressFile(path, MINE)
    first.read(ONE)
    first.add(3, [[-1.5]])
    assert ProgressFile(path, MINE | {"weights": "other"}).read(ONE) == {}
    assert ProgressFile(path, MINE).read(ONE) == {}  # it was begun anew


def rewritten(line, **changes):
    number, sums, checksum = json.loads(line)
    given = {"number": number, "sums": sums, "checksum": checksum} | changes
    return json.dumps(list(given.values()))


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: rewritten(line, sums=[[-7.5]]),
        lambda line: rewritten(line, number=2),
        lambda line: rewritten(line, sums=[[float("nan")]]),
        lambda line: rewritten(line, number=10**9),
        lambda line: rewritten(line, checksum=None),
        lambda line: line[:-2],
        lambda line: "[" * 10_000,
        lambda line: "null",
        lambda line: line.replace("-1.5", "-1.4"),
        lambda line: "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ],
)
def test_a_damaged_line_is_scored_again_and_that_is_said(tmp_path, damage, capsys):
    """Each of them was taken as it was, or ended the run with an error that named no file."""
    path = tmp_path / "progress.jsonl"
    first = ProgressFile(path, MINE)
    first.read(ONE)
    first.add(0, [[-1.5]])
    first.add(1, [[-2.5]])
    head, line, other = path.read_text().splitlines()
    path.write_text("\n".join([head, damage(line), other, ""]))
    assert ProgressFile(path, MINE).read(ONE) == {1: [[-2.5]]}
    assert "progress.jsonl: 1 lines are damaged; their questions are scored again" in capsys.readouterr().out
    assert path.read_text() == f"{head}\n{other}\n"


def test_bytes_that_are_no_text_and_lines_of_other_shapes_or_runs_are_not_taken(tmp_path):
    path = tmp_path / "progress.jsonl"
    first = ProgressFile(path, MINE)
    first.read(ONE)
    first.add(0, [[-1.5]])
    line = path.read_text().splitlines()[1]
    assert ProgressFile(path, MINE).read([[2]]) == {}
    other = ProgressFile(path, MINE | {"weights": "other"})
    other.read(ONE)
    path.write_text(path.read_text() + line + "\n")
    assert other.read(ONE) == {}
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    assert other.read(ONE) == {}
