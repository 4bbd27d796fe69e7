"""Any Trainer and its arguments with retention: names, defaults, pickles, and what retention cannot follow."""

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import HfArgumentParser, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

import craft_trainer
from craft_trainer import CraftConfig, CraftTrainer, retaining, retaining_config
from craft_trainer.training.guards import own_step, require_followed
from craft_trainer.training.mixin import RetentionMixin
from craft_trainer.training.settings import RetentionSettings


@dataclasses.dataclass
class ClippingArguments(TrainingArguments):
    """Arguments that use a name of retention's for something else, as GRPO does."""

    epsilon: float = dataclasses.field(default=0.2, metadata={"help": "where the ratio is clipped"})
    learning_rate: float = 1e-6


def settings_of(config: object) -> dict[str, object]:
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(RetentionSettings)}


def test_the_classes_of_transformers_are_the_public_ones() -> None:
    assert retaining(Trainer) is retaining(CraftTrainer) is CraftTrainer
    assert retaining_config(TrainingArguments) is retaining_config(CraftConfig) is CraftConfig
    assert {"retaining", "retaining_config"} <= set(craft_trainer.__all__)


def test_a_made_class_is_made_once_and_named_after_its_base() -> None:
    made, config = retaining(Seq2SeqTrainer), retaining_config(Seq2SeqTrainingArguments)
    assert (made.__name__, config.__name__) == ("CraftSeq2SeqTrainer", "CraftSeq2SeqTrainingArguments")
    assert made is retaining(Seq2SeqTrainer)
    assert issubclass(made, RetentionMixin)
    assert issubclass(made, Seq2SeqTrainer)
    assert getattr(sys.modules[made.__module__], made.__name__) is made
    for kind in (made, config):
        assert pickle.loads(pickle.dumps(kind)) is kind


def test_arguments_are_loaded_in_a_new_process(tmp_path: Path) -> None:
    """``training_args.bin`` is a pickle of them."""
    config = retaining_config(Seq2SeqTrainingArguments)(output_dir="out", epsilon=0.125, use_cpu=True, report_to="none")
    torch.save(config, tmp_path / "training_args.bin")
    code = "import sys, torch; print(torch.load(sys.argv[1], weights_only=False).epsilon)"
    command = [sys.executable, "-c", code, str(tmp_path / "training_args.bin")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "0.125"


@pytest.mark.parametrize("base", [Seq2SeqTrainingArguments, ClippingArguments])
def test_every_default_of_the_base_is_kept(base: type[TrainingArguments], tmp_path: Path) -> None:
    made = retaining_config(base)(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    plain = base(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    names = [item.name for item in dataclasses.fields(base) if item.init and item.name != "logging_dir"]
    assert {name for name in names if str(getattr(made, name)) != str(getattr(plain, name))} == set()
    assert settings_of(made.retention_settings) == settings_of(RetentionSettings())


def test_a_name_that_the_base_uses_gets_a_prefix(tmp_path: Path) -> None:
    kind = retaining_config(ClippingArguments)
    made = kind(output_dir=str(tmp_path), epsilon=0.3, retention_epsilon=0.05, use_cpu=True, report_to="none")
    assert (made.epsilon, made.retention_settings.epsilon) == (0.3, 0.05)
    made.retention_epsilon = -1.0
    with pytest.raises(ValueError, match=r"epsilon is -1\.0: it must be positive") as caught:
        _ = made.retention_settings
    assert caught.value.__notes__ == ["epsilon is called retention_epsilon here"]
    (parsed,) = HfArgumentParser(kind).parse_args_into_dataclasses(["--retention_epsilon", "0.5", "--use_cpu"])
    assert (parsed.epsilon, parsed.retention_settings.epsilon) == (0.2, 0.5)


@pytest.mark.parametrize(
    ("make", "wrong"), [(retaining, TrainingArguments), (retaining_config, Trainer), (retaining, 3)]
)
def test_other_things_are_refused(make: object, wrong: object) -> None:
    with pytest.raises(TypeError, match="takes a subclass of transformers"):
        make(wrong)  # type: ignore[operator]


class OwnBackward(Trainer):  # type: ignore[misc]
    def training_step(self, model: torch.nn.Module, inputs: dict[str, object], num: object = None) -> torch.Tensor:
        loss: torch.Tensor = self.compute_loss(model, inputs)
        self.accelerator.backward(loss)
        return loss.detach()


class OwnLoop(Trainer):  # type: ignore[misc]
    def train(self) -> None:
        self.optimizer.step()


class OnTop(CraftTrainer):
    training_step = OwnBackward.training_step


class Following(CraftTrainer):
    def training_step(self, *args: object, **kwargs: object) -> torch.Tensor:
        return super().training_step(*args, **kwargs) * 1.0


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (retaining(OwnLoop), "OwnLoop.train does not call super"),
        (OnTop, "OnTop.training_step does not call super"),
    ],
)
def test_a_trainer_that_retention_cannot_follow_is_named(kind: type, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        require_followed(kind)


def test_a_step_that_retention_calls_may_go_its_own_way() -> None:
    """Its one backward pass can be joined, unless it comes before retention: then retention is never called."""
    assert own_step(retaining(OwnBackward)) == f"{__name__}.OwnBackward.training_step"
    require_followed(retaining(OwnBackward))
    assert own_step(CraftTrainer) is None
    assert own_step(OnTop) is None


@pytest.mark.parametrize("kind", [CraftTrainer, Following, retaining(Seq2SeqTrainer)])
def test_a_trainer_that_calls_super_is_followed(kind: type) -> None:
    require_followed(kind)
