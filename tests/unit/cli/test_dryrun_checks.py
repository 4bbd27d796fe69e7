"""The dry run checks what surgery did, against the square of the cosine."""

import pytest

from craft_trainer.cli.dryrun import check_surgery


def step(cosine, projected, conflict):
    return {
        "cosine": cosine,
        "projected_energy": projected,
        "conflict": conflict,
        "retention_loss": 0.01,
        "epsilon": 0.02,
    }


def test_a_conflict_and_what_was_projected_are_shown(capsys):
    check_surgery([step(0.0, 0.0, 0), step(-0.5, 0.25, 1)], 0.0, whole=True)
    told = capsys.readouterr().out
    assert "step 2: L_retain/ε 0.50, cosine -0.500: a conflict, 25 % of |g_task|² projected away" in told
    assert "at 1 of 2 steps" in told


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ([step(-0.5, 0.3, 1)], "surgery"),
        ([step(-0.5, 0.0, 0)], "surgery"),
        ([step(0.5, 0.25, 0)], "surgery"),
        ([step(0.5, 0.0, 0)], "conflicts"),
    ],
    ids=["too much", "not seen", "without a conflict", "none"],
)
def test_what_does_not_fit_ends_it(wrong, part):
    with pytest.raises(RuntimeError, match=f"{part}: check failed"):
        check_surgery(wrong, 0.0, whole=True)


def test_blocks_have_conflicts_of_their_own():
    """A layer or a tensor is projected by itself: the whole gradient's cosine says nothing of it."""
    check_surgery([step(-0.5, 0.4, 0.3)], 0.0, whole=False)
