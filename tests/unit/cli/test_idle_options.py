"""Options that change nothing beside another one are refused, with the names of both."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from craft_trainer.cli.building import Defaults
from craft_trainer.cli.cache_build import BuildArguments
from craft_trainer.cli.compare import CompareArguments
from craft_trainer.cli.demo import DemoArguments
from craft_trainer.cli.loss import LossArguments, require_held_out
from craft_trainer.cli.main import main
from craft_trainer.cli.mcq import McqArguments
from craft_trainer.cli.mcq_from_demos import QuestionArguments
from craft_trainer.cli.record import RecordArguments
from craft_trainer.cli.rollout import RolloutArguments
from craft_trainer.cli.sources import SourceArguments
from craft_trainer.cli.text_training import check_options
from craft_trainer.cli.train import TrainArguments

COMPARE = {"policy": "org/policy", "old_dataset": "org/old", "new_dataset": "org/new", "learning_rate": 1e-5}
ADAPTER = {
    "model": "org/lm",
    "dataset": "org/texts",
    "anchors": "adapter",
    "anchors_dataset": "org/old",
    "lora_rank": 4,
}
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
            PUSHT | {"max_steps": 10, "env_options": '{"episode_length": 20}'},
            "max_steps and the episode_length of env_options both end an episode",
        ),
        (RolloutArguments, PUSHT | {"episodes": 0}, "episodes is 0: it must be at least 1"),
        (RolloutArguments, PUSHT | {"num_envs": 0}, "num_envs is 0: it must be at least 1"),
        (QuestionArguments, {"private": True}, "private has no effect here: .*push_to_hub names none"),
        (DemoArguments, {"view_noise": 0.5}, "view_noise has no effect here: there are no views"),
        (DemoArguments, {"quick": True, "seeds": ["5", "6"]}, "seeds has no effect here: quick takes one seed"),
        (
            CompareArguments,
            COMPARE | {"old_tasks": ["push-v3"], "new_tasks": ["reach-v3"], "source": ["rollouts"]},
            "old_dataset has no effect here: rollouts decide, and source rollouts reads none",
        ),
    ],
)
def test_an_idle_option_is_refused(kind: Any, given: dict[str, Any], message: str) -> None:
    """Seen to fail: each was accepted, and the result was as without it."""
    with pytest.raises(ValueError, match=message):
        kind(**given)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (RolloutArguments, PUSHT),
        (RecordArguments, PUSHT | {"output_dir": "data"}),
        (SourceArguments, {"source": ["rollouts"], "env": "pusht"}),
    ],
)
def test_a_task_is_named_once(kind: Any, given: dict[str, Any]) -> None:
    """Seen to fail: it was recorded twice, with the same seeds; and tasks won over env_options without a word."""
    with pytest.raises(ValueError, match="tasks has PushT-v0 twice: name each once"):
        kind(**given, tasks=["PushT-v0,PushT-v1", "PushT-v0"])
    with pytest.raises(ValueError, match="tasks and the task of env_options are one thing"):
        kind(**given, tasks=["PushT-v0"], env_options={"task": "PushT-v1"})


def test_options_that_count_are_taken() -> None:
    """Beside those that they need, and where an option says what is so anyway."""
    McqArguments(**MCQ, compare="org/other", seed=1)
    McqArguments(**MCQ, chat=True)
    LossArguments(**LOSS, policy="org/policy")
    LossArguments(**LOSS, model="org/lm", retention_terms=["hidden,token_kl"])
    RolloutArguments(**PUSHT, env_options={"task": "PushT-v0", "episode_length": 20})
    QuestionArguments(private=True, push_to_hub="org/questions")
    DemoArguments(views=2, view_noise=0.5)
    CompareArguments(**COMPARE, old_tasks=["push-v3"], new_tasks=["reach-v3"])


@pytest.mark.parametrize(
    ("options", "terms", "message"),
    [
        (
            {"layers": ["-1"]},
            ["token_kl"],
            "layers has no effect here: retention_terms token_kl hold no hidden features",
        ),
        ({"pooling": ["none"]}, ["token_kl"], "pooling has no effect here: retention_terms token_kl hold no hidden"),
        ({"layers": ["-1"], "num_tokens": 4}, ["hidden"], "num_tokens has no effect here: .* hidden hold no tokens"),
        ({"pooling": ["none"]}, ["hidden", "token_kl"], "pooling has no effect here: no layers are named"),
        ({"group_column": "topic"}, ["token_kl"], "group_column has no effect here: it is of constraints per_group"),
        ({"layers": ["-1"], "pooling": ["none"]}, ["hidden"], ""),
        ({"num_tokens": 4}, ["hidden", "token_kl"], ""),
    ],
)
def test_what_an_adapters_anchors_do_not_hold(options: dict[str, Any], terms: list[str], message: str) -> None:
    """Seen to fail: each was accepted, and the weights were as without it."""
    arguments = TrainArguments(**ADAPTER | options)
    if not message:
        check_options(arguments, terms, "single")
        return
    with pytest.raises(ValueError, match=message):
        check_options(arguments, terms, "single")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["none"], "pooling": ["none"]}, "pooling has no effect here: no hidden layers are kept"),
        ({"output": False, "num_tokens": 4}, "num_tokens has no effect here: output is false, so no tokens are kept"),
    ],
)
def test_what_a_cache_does_not_keep(options: dict[str, Any], message: str) -> None:
    """Seen to fail: each was accepted, and the anchors were as without it."""
    arguments = BuildArguments(teacher="org/policy", dataset="org/data", output_dir="cache", **options)
    with pytest.raises(ValueError, match=message):
        arguments.fill(Defaults("-1", "none", 64))


def test_a_task_that_stands_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail after both were rolled out, in a report that takes no such file."""
    tasks = "push-v3,reach-v3,push-v3"
    assert main(["rollout", "--policy", "org/policy", "--tasks", tasks]) == 1
    assert re.search("tasks has push-v3 twice", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("told", "share", "message"),
    [
        ({}, 0.1, "with held_out 0.0: it has seen some .* Train with that held_out"),
        ({"held_out": 0.2}, 0.1, "with held_out 0.2: it has seen some .* Give held_out 0.2"),
        ({"held_out": 0.1}, 0.1, ""),
        ({"held_out": 0.2}, 0.0, ""),
        ({"dataset": "org/other"}, 0.1, ""),
    ],
)
@pytest.mark.parametrize("place", ["craft", "craft/checkpoint-5"])
def test_episodes_that_were_learned_are_not_held_out(
    told: dict[str, Any], share: float, message: str, place: str, tmp_path: Path
) -> None:
    """Seen to fail: the loss of a policy on what it had learned was that of held-out episodes."""
    (tmp_path / place).mkdir(parents=True)
    settings = {"dataset": str(tmp_path / "data")} | told
    (tmp_path / "craft/run.json").write_text(json.dumps({"settings": settings}))
    given = LossArguments(policy=str(tmp_path / place), dataset=str(tmp_path / "data"), held_out=share)
    if not message:
        require_held_out(given)
        return
    with pytest.raises(ValueError, match=message):
        require_held_out(given)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "was held by anchors on .*data with held_out 0.0: .* Build them with that held_out"),
        ({"parts": {"dataset": {"dataset": "data", "held_out": 0.2}}}, "with held_out 0.2: .* Give held_out 0.2"),
        ({"held_out": 0.1}, ""),
        ({"dataset": "org/other"}, ""),
    ],
)
def test_episodes_that_were_anchors_are_not_held_out(
    told: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail: the loss on old episodes on which the policy had been held was that of held-out episodes."""
    monkeypatch.chdir(tmp_path)
    for folder, file, content in (
        ("craft", "run.json", {"settings": {"dataset": "new", "anchors": "anchors"}}),
        ("anchors", "anchors.json", {"data": {"dataset": "data"} | told}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(json.dumps(content))
    given = LossArguments(policy="craft", dataset=str(tmp_path / "data"), held_out=0.1)
    if not message:
        require_held_out(given)
        return
    with pytest.raises(ValueError, match=message):
        require_held_out(given)
