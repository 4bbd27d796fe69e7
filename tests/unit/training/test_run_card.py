"""What the card of a run says of its settings."""

import dataclasses
from pathlib import Path

from toy import ToyModel, ToyTask, toy_anchors
from transformers import TrainingArguments

from craft_trainer import CraftTrainer, retaining_config


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
