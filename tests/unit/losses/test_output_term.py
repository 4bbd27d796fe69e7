"""The output in closed form."""

import torch

from craft_trainer.anchors.features import Features
from craft_trainer.losses.output import Output

TEACHER = Features({}, torch.ones(2, 8, 4))
MOVES = torch.tensor([1.0, 3.0])
SCALES = {"output": torch.tensor(2.0)}


def test_the_output_is_in_units_of_its_variance() -> None:
    """Seen to fail with the root of the variance."""
    moved = Features({}, TEACHER.output + 3 * MOVES[:, None, None])
    torch.testing.assert_close(Output()(moved, TEACHER, SCALES), MOVES**2 * 3**2 / 2.0)


def test_one_number_that_is_wrong_counts_by_its_share() -> None:
    wrong = TEACHER.output.clone()
    wrong[1, 7, 3] += 4
    torch.testing.assert_close(Output()(Features({}, wrong), TEACHER, SCALES), torch.tensor([0.0, 16 / 32 / 2.0]))


def test_half_precision_students_are_compared_in_float32() -> None:
    """300² is beyond the range of float16."""
    moved = Features({}, (TEACHER.output + 300).half())
    torch.testing.assert_close(Output()(moved, TEACHER, SCALES), torch.full((2,), 300.0**2 / 2))
