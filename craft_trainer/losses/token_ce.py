"""Hold the teacher's most probable next token."""

from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import TOKEN_SCALE, Features
from craft_trainer.losses.term import Need, RetentionTerm, Scales
from craft_trainer.losses.token_kl import log_probs_at
from craft_trainer.models.task_loss import mean_valid


class TokenCE(RetentionTerm):
    """mean(log p(y) − log q(y)) / H with y = argmax p, over the valid positions; p teacher, q student.

    The cross-entropy against the teacher's most probable token, above the teacher's own, in units of the teacher's
    mean entropy H. It may be negative: a student surer than its teacher has kept what it knew.
    """

    name = "token_ce"
    needs = Need.TOKENS
    unit = "mean entropy"

    def __call__(self, student: Features, teacher: Features, scales: Scales) -> Float[Tensor, " batch"]:
        """Compare the log-probabilities of the most probable tokens."""
        assert student.output is not None
        assert teacher.tokens is not None
        log_probs = log_probs_at(student.output, teacher.tokens)[..., 0]
        return mean_valid(teacher.tokens.log_probs[..., 0] - log_probs, teacher.tokens.valid) / scales[TOKEN_SCALE]
