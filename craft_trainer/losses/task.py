"""Hold the task loss on the anchors' own labels: replay as a constraint."""

from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import TASK_SCALE, Features
from craft_trainer.losses.term import Need, RetentionTerm, Scales


class Task(RetentionTerm):
    """L_task(student) − L_task(teacher) on the anchor's own labels: by how much the old task got worse.

    Both are computed in evaluation mode at the anchor's own noise, so the difference is 0 at the teacher. The unit is
    that of the terms beside it (:class:`~craft_trainer.models.task_loss.TaskLoss`). It is below 0 where the student
    does better than its teacher, and what one anchor gains another may lose.
    Source: the constraint of GEM, Lopez-Paz and Ranzato 2017, arXiv 1706.08840, eq. (1), whose previous model is the
    teacher here.
    """

    name = "task"
    needs = Need.TASK
    unit = "output spread"
    way_out = (
        "build the cache from samples with labels (demonstrations, recorded rollouts, texts) and with its output; "
        "anchors without labels have hidden, output and token terms alone"
    )

    def __call__(self, student: Features, teacher: Features, scales: Scales) -> Float[Tensor, " batch"]:
        """Compare the task losses."""
        assert student.task is not None
        assert teacher.task is not None
        return (student.task - teacher.task) / scales[TASK_SCALE]
