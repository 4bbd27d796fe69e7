"""Tables of sequences of tasks: what was forgotten, and which rollouts are their stages."""

import pytest
from test_tables import COMMANDS, table

from craft_trainer.files import checked, write_json

FORGETS = [(1.0, 0.0, 0.0), (0.5, 0.75, 0.0), (0.25, 0.5, 1.0)]
# Just learned (100 + 75 + 100) / 3. BWT (−75 − 25) / 2. NBT: task a lost 50 and 75, b lost 25.
# AUC: a 1.75/3, b 1.25/2, c 1.
SHOWN = ["plain", "0", "58.3", "58.3", "91.7", "−50.0", "43.8", "73.6"]


def sequence(raw, stream, method, matrix, *, names=("score1", "score2", "score3"), commands=COMMANDS, tasks=None):
    """The raw result of tasks a, b and c: success after every stage, by the ``names`` of the evaluations."""
    evaluations = {}
    for name, rates in zip(names, matrix, strict=False):
        rows = [{"task": task, "episodes": 4, "successes": int(4 * s)} for task, s in zip("abc", rates, strict=True)]
        evaluations[name] = {"rows": rows}
    content = {
        "schema": 1,
        "suite": "row",
        "stream": stream,
        "tasks": tasks or {"tasks": ["a", "b", "c"]},
        "method": method,
    }
    content |= {"label": method, "budget": None, "seed": 0, "seconds": {}, "commands": commands}
    content |= {"evaluations": evaluations}
    write_json(raw / f"row/{stream}/{method}/seed0.json", checked(content))


def test_a_sequence_is_shown_by_what_it_forgot(tmp_path):
    sequence(tmp_path, "long", "plain", FORGETS)
    assert table(tmp_path, "row/long")[2] == SHOWN


def test_stages_are_in_the_order_of_the_commands(tmp_path):
    """No name of an evaluation changes a figure, and no order of keys, which the checksum leaves open. Without commands
    it is the order of the file. Seen to fail with evaluations sorted by the lengths of their names.
    """
    names = ("teacher_score", "score1", "score2")
    sequence(tmp_path, "of_the_file", "plain", FORGETS, names=names)
    commands = [["rollout", "--policy", "p", "--output", f"row/{name}.json"] for name in names]
    sequence(tmp_path, "of_the_commands", "plain", FORGETS[::-1], names=names[::-1], commands=commands)
    for stream in ("of_the_file", "of_the_commands"):
        assert table(tmp_path, f"row/{stream}")[2] == SHOWN


@pytest.mark.parametrize("what", ["", " matrix"])
def test_a_rollout_that_is_no_stage_is_refused(what, tmp_path):
    """Seen to fail: an untrained teacher was the first of four stages, and no task had been just learned."""
    sequence(tmp_path, "long", "plain", [(0.0, 0.0, 0.0), *FORGETS], names=["before", "score1", "score2", "score3"])
    with pytest.raises(ValueError, match=r"row/long/plain/seed0.json has 4 rollouts, of 3, 3, 3, 3 tasks: .*Leave"):
        table(tmp_path, f"row/long{what}")


def test_joint_training_stands_beside_a_sequence(tmp_path):
    """It is one stage of all tasks. Seen to fail: three tasks could not have been learned in one stage."""
    sequence(tmp_path, "long", "plain", FORGETS)
    sequence(tmp_path, "together", "joint", [(1.0, 0.5, 0.75)])
    rows = table(tmp_path, "row")
    assert [row[:3] for row in rows[2:]] == [["plain", "0", "58.3"], ["joint", "0", "75.0"]]
    assert rows[3][3:] == ["75.0", *["–"] * 4]


@pytest.mark.parametrize("listed", ["acb", "cba"])
def test_rollouts_in_another_order_than_the_stream_are_refused(listed, tmp_path):
    """Seen to fail: a perfect learner had a BWT of +50, because the second task counted as the first."""
    sequence(tmp_path, "long", "plain", FORGETS, tasks={"first": [listed[0]], "tasks": list(listed[1:])})
    with pytest.raises(ValueError, match=r"in this order, and the stream has .* in the order of the stream"):
        table(tmp_path, "row/long")
