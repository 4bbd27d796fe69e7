"""Hold the teacher's output, an action chunk."""

from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import Features
from craft_trainer.losses.term import Need, RetentionTerm, Scales


class Output(RetentionTerm):
    """mean((s − t)²) / Var(t) over all numbers of the output: the fraction of its variance that the student misses."""

    name = "output"
    needs = Need.OUTPUT
    unit = "variance"

    def __call__(self, student: Features, teacher: Features, scales: Scales) -> Float[Tensor, " batch"]:
        """Compare the outputs."""
        assert student.output is not None
        assert teacher.output is not None
        return (student.output.float() - teacher.output).square().flatten(1).mean(dim=1) / scales["output"]
