"""Options that change nothing beside another one are refused, with the names of both."""

import re
from typing import Any

import pytest

from craft_trainer.cli.loss import LossArguments
from craft_trainer.cli.main import main
from craft_trainer.cli.mcq import McqArguments
from craft_trainer.cli.mcq_from_demos import QuestionArguments
from craft_trainer.cli.rollout import RolloutArguments

MCQ = {"model": "org/model", "data": "org/questions"}
LOSS = {"dataset": "org/data", "anchors": "org/anchors", "hidden_distance": "cosine"}
PUSHT = {"policy": "org/policy", "env": "pusht"}


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (McqArguments, MCQ | {"seed": 1}, "seed has no effect here: .*compare is not given"),
        (McqArguments, MCQ | {"chat": True, "delimiter": "\n"}, "delimiter has no effect here: chat puts"),
        (LossArguments, LOSS | {"model": "org/lm"}, "hidden_distance has no effect here: retention_terms are token_kl"),
        (
            LossArguments,
            LOSS | {"policy": "org/policy", "retention_terms": ["output"]},
            "hidden_distance has no effect here: retention_terms are output, and hidden is not one",
        ),
        (
            RolloutArguments,
            PUSHT | {"tasks": ["PushT-v0"], "env_options": {"task": "PushT-v1"}},
            "tasks and the task of env_options are one thing",
        ),
        (
            RolloutArguments,
            PUSHT | {"max_steps": 10, "env_options": '{"episode_length": 20}'},
            "max_steps and the episode_length of env_options both end an episode",
        ),
        (RolloutArguments, PUSHT | {"episodes": 0}, "episodes is 0: it must be at least 1"),
        (RolloutArguments, PUSHT | {"num_envs": 0}, "num_envs is 0: it must be at least 1"),
        (QuestionArguments, {"private": True}, "private has no effect here: .*push_to_hub names none"),
    ],
)
def test_an_idle_option_is_refused(kind: Any, given: dict[str, Any], message: str) -> None:
    """Seen to fail: each was accepted, and the result was as without it."""
    with pytest.raises(ValueError, match=message):
        kind(**given)


def test_options_that_count_are_taken() -> None:
    """Beside those that they need, and where an option says what is so anyway."""
    McqArguments(**MCQ, compare="org/other", seed=1)
    McqArguments(**MCQ, chat=True)
    LossArguments(**LOSS, policy="org/policy")
    LossArguments(**LOSS, model="org/lm", retention_terms=["hidden,token_kl"])
    RolloutArguments(**PUSHT, env_options={"task": "PushT-v0", "episode_length": 20})
    QuestionArguments(private=True, push_to_hub="org/questions")


def test_a_task_that_stands_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail after both were rolled out, in a report that takes no such file."""
    tasks = "push-v3,reach-v3,push-v3"
    assert main(["rollout", "--policy", "org/policy", "--tasks", tasks]) == 1
    assert re.search("tasks has push-v3 twice", capsys.readouterr().err)
