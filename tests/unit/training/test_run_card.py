"""What the card of a run says of its settings."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from toy import ToyModel, ToyTask, toy_anchors
from transformers import TrainingArguments

from craft_trainer import CraftConfig, CraftTrainer, retaining_config
from craft_trainer.anchors.joining import join_caches
from craft_trainer.hub.card import body
from craft_trainer.hub.facts import RunFacts
from craft_trainer.training.run_card import held


@dataclasses.dataclass
class ClippingArguments(TrainingArguments):
    """Arguments that use a name of retention's for something else, as GRPO does."""

    epsilon: float = dataclasses.field(default=0.2, metadata={"help": "where the ratio is clipped"})


def test_the_card_of_arguments_with_a_renamed_setting(tmp_path: Path) -> None:
    """Seen to fail with the defaults of retention, whatever the run was given."""
    given = {"method": "weighted_sum", "retention_terms": ["hidden"], "retention_epsilon": 0.25}
    config = retaining_config(ClippingArguments)(output_dir=str(tmp_path), use_cpu=True, report_to="none", **given)
    trainer = CraftTrainer(ToyModel(), config, train_dataset=ToyTask(), anchors=toy_anchors(tmp_path / "anchors"))
    facts = trainer.run_facts()
    assert facts.method == "weighted_sum"
    assert facts.settings["epsilon"] == "0.25"
    assert facts.retained is not None
    assert facts.retained.terms == {"hidden": 1.0}


def run_facts(folder: Path, anchors: Any, **given: Any) -> RunFacts:
    """The facts of a run of the toy on ``anchors``, whoever made them."""
    given |= {"output_dir": str(folder), "use_cpu": True, "report_to": "none", "teacher_mismatch": "allow"}
    return CraftTrainer(ToyModel(), CraftConfig(**given), train_dataset=ToyTask(), anchors=anchors).run_facts()


def test_the_card_names_every_teacher_with_its_anchors(tmp_path: Path) -> None:
    """Seen to fail: it named the one whose cache was joined last as the teacher of all anchors."""
    caches = [toy_anchors(tmp_path / str(size), size=size, model=ToyModel(seed=size)) for size in (30, 6)]
    joined = join_caches(caches, tmp_path / "joined", num_anchors=36, seed=0)
    told = body(run_facts(tmp_path / "run", joined), None, None, "run")
    for number, (cache, size) in enumerate(zip(caches, (30, 6), strict=True), start=1):
        weights = cache.provenance.teachers[0]["weights"][:12]
        assert f"| teacher {number}, of {size} anchors | `toy`, not on the Hub, weights `{weights}` |" in told
    alone = body(run_facts(tmp_path / "run", caches[0]), None, None, "run")
    assert "| teacher | `toy`, not on the Hub, weights" in alone


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "while what the teacher did on 24 anchors is retained"),
        ({"method": "weighted_sum"}, "while what the teacher did on 24 anchors is retained"),
        ({"retention_terms": ["task"]}, "while the task loss on the labels of 24 anchors is held to the teacher's"),
        (
            {"retention_terms": ["hidden", "task"]},
            "while what the teacher did on 24 anchors is retained, and its task loss on their labels",
        ),
        ({"method": "replay"}, "while the task loss on the labels of 24 anchors is minimised with its own"),
        ({"method": "agem"}, "without the part of its gradient that would raise the task loss on the labels of 24"),
        ({"method": "l2"}, "while the weights are pulled back to those before training; the 24 anchors play no part"),
        ({"method": "ewc"}, "while the weights are pulled back to those before training, as the labels of 24 anchors"),
    ],
    ids=str,
)
def test_the_card_says_what_the_method_holds(given: dict[str, Any], said: str) -> None:
    """Seen to fail: of every method it said that what the teacher did was retained."""
    assert held(CraftConfig(use_cpu=True, **given), "24 anchors").startswith(said)


def test_the_card_of_replay_names_no_terms(tmp_path: Path) -> None:
    """Seen to fail: what the teacher did was retained, by hidden × 1, and replay reads the labels alone."""
    facts = run_facts(tmp_path / "run", toy_anchors(tmp_path / "anchors"), method="replay")
    told = body(facts, None, None, "run")
    assert "a new task is learned while the task loss on the labels of 24 anchors is minimised with its own." in told
    assert "| retention terms × weight |" not in told
    assert "| hidden features (pooling) | none |" in told
