"""Every family in the same five ways: nothing without anchors, nothing at the start, then it is held, and goes on."""

import pytest
import torch
from every_family import FAMILIES
from peft import LoraConfig, get_peft_model
from runs import BASE, assert_same_weights, history, logs, weights
from second_device import SECOND, second_device
from torch.nn.attention import SDPBackend, sdpa_kernel

from craft_trainer import retaining, retaining_config
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.anchors.verification import deviations
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.torch_model import TorchModel

NUM_ANCHORS = 16
PLAIN = {
    **{name: BASE[name] for name in ("report_to", "disable_tqdm", "use_cpu", "dataloader_pin_memory", "logging_steps")},
    "per_device_train_batch_size": 8,
    "save_strategy": "no",
    "learning_rate": 5e-3,
    "max_steps": 4,
    "remove_unused_columns": False,
}
HELD = {"retention_batch_size": 8, "epsilon": 1e-4, "multiplier_init": 10.0}
SAVING = {"save_strategy": "steps", "save_steps": 2}


class Toys:
    """The models of a family, its anchors, and its runs."""

    def __init__(self, family, make, folder):
        self.family, self.make, self.folder = family, make, folder
        teacher = as_anchored_model(make())
        self.has_output = family.terms != ("hidden",)
        self.specs = [FeatureSpec(teacher.module_path(family.layer), "mean_masked")]
        self.anchors = build_anchor_cache(
            teacher,
            self.old_rows,
            folder / "anchors",
            rows=range(NUM_ANCHORS),
            groups=["old"] * NUM_ANCHORS,
            specs=self.specs,
            batch_size=8,
            source={"dataset": "old", "frames": NUM_ANCHORS},
            teacher_path="tiny",
            output=self.has_output,
        )

    def old_rows(self, rows):
        known = self.family.samples(seed=2)
        return self.family.collate([known[row] for row in rows])

    def student(self):
        return self.adapted() if self.family.is_adapted else self.make()

    def adapted(self):
        """The model with a fresh adapter, put on in the way of its library."""
        settings = {"r": 2, "target_modules": list(self.family.adapted)}
        config = LoraConfig(**settings, task_type=self.family.task_type, lora_dropout=0.0)
        model = self.make()
        torch.manual_seed(4)
        if isinstance(model, TorchModel):
            model.wrapper = get_peft_model(model.wrapper, config)
        elif hasattr(model, "policy"):
            model.add_adapter(settings)
        else:
            return get_peft_model(model, config)
        return model

    def trained(self, name, *, anchors=None, student=None, resume=None, plain=False, **changes):
        """The trainer after its run in the folder ``name``."""
        kind, config = self.family.trainer()
        if not plain:
            kind, config = retaining(kind), retaining_config(config)
        held = {} if anchors is None else HELD | {"retention_terms": list(self.family.terms)}
        model = student or self.student()
        trainer = kind(
            model=model,
            args=config(output_dir=str(self.folder / name), **PLAIN | held | changes),
            **({} if plain else {"anchors": anchors}),
            **self.family.given(self.family, model),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer


@pytest.fixture(scope="module", params=FAMILIES)
def toys(request, tmp_path_factory):
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp("family")
    with family.models(folder) as make:
        yield Toys(family, make, folder)


@pytest.fixture(scope="module")
def whole(toys):
    """A run that is held, with a checkpoint after half of its steps."""
    return toys.trained("whole", anchors=toys.anchors, **SAVING)


def test_without_anchors_it_is_trainer(toys):
    """Bit for bit: weights, and every number that is logged. Seen to fail with one random number drawn before."""
    plain, ours = toys.trained("plain", plain=True), toys.trained("craft")
    assert_same_weights(weights(plain), weights(ours))
    assert logs(plain) == logs(ours)
    assert not (toys.folder / "craft" / "lambda_history.csv").exists()


def test_an_untouched_student_has_lost_nothing(toys, whole):
    """L_retain is 0 at the first pass, and not later."""
    rows = history(toys.folder / "whole")
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-5)
    assert all(row["retention_loss"] > 1e-5 and row["retention_grad_norm"] > 0 for row in rows[1:])


def test_a_run_resumes_bit_for_bit(toys, whole):
    """Weights, λ and the history. Seen to fail with λ left as it begins."""
    resumed = toys.trained("again", anchors=toys.anchors, resume=str(toys.folder / "whole" / "checkpoint-2"), **SAVING)
    assert_same_weights(weights(whole), weights(resumed))
    assert whole.dual.state() == resumed.dual.state()
    assert history(toys.folder / "whole")[2:] == history(toys.folder / "again")[-2:]


def test_what_was_lost_comes_back(toys):
    """L_retain falls from a student that has forgotten, where λ makes it count a hundred times the task.

    Seen to fail with a gradient of retention that is 0.
    """
    student, generator = toys.student(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in student.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.requires_grad:
                parameter.add_(noise, alpha=0.1 * parameter.std(correction=0).item() or 0.02)
    toys.trained(
        "lost",
        anchors=toys.anchors,
        student=student,
        max_steps=12,
        learning_rate=toys.family.recovery_rate,
        multiplier="fixed",
        multiplier_init=100.0,
        teacher_mismatch="allow",
    )
    rows = history(toys.folder / "lost")
    assert rows[0]["retention_loss"] > 1e-3
    assert rows[-1]["retention_loss"] < 0.5 * rows[0]["retention_loss"]


def test_a_cache_holds_what_a_live_teacher_does(toys):
    """The base of an adapter, asked beforehand or at every step; where no adapter is, the model in other batches.

    Seen to fail with the teacher asked with its adapter on.
    """
    teacher = as_anchored_model(toys.make())
    assert max(deviations(toys.anchors, teacher, num_rows=NUM_ANCHORS, batch_size=5).values()) < 1e-4
    if not toys.family.adapted:
        return
    model = toys.adapted()
    groups = ["old"] * NUM_ANCHORS
    live = AdapterAnchors(as_anchored_model(model), toys.old_rows, groups, toys.specs, output=toys.has_output)
    runs = [
        toys.trained(name, anchors=anchors, student=student)
        for name, anchors, student in (("live", live, model), ("cached", toys.anchors, toys.adapted()))
    ]
    rows = [history(toys.folder / name) for name in ("live", "cached")]
    assert rows[0][-1]["retention_loss"] > 1e-6
    for mine, theirs in zip(*rows, strict=True):
        assert mine["retention_loss"] == pytest.approx(theirs["retention_loss"], rel=1e-3, abs=1e-6)
    for key, value in weights(runs[0]).items():
        torch.testing.assert_close(value, weights(runs[1])[key], rtol=1e-5, atol=1e-6)


def test_another_device_gives_what_the_cpu_gives(toys):
    """Nothing that is computed there meets what stayed on the CPU, and every number is the same but for rounding.

    Seen to fail with anchors that are not sent to the device, and with a policy whose preprocessor stays behind.
    """
    alike = {"anchors": toys.anchors, "optim": "sgd"}  # Adam makes steps of rounding errors
    with sdpa_kernel(SDPBackend.MATH):  # the only attention there is on both
        here = toys.trained("here", **alike)
        with second_device():
            there = toys.trained("there", **alike, use_cpu=False)
            assert {one.device for one in there.model.parameters()} == {SECOND}
            moved = {name: value.to("cpu") for name, value in weights(there).items()}
            teacher = as_anchored_model(toys.make())
            teacher.network.to(SECOND)
            assert max(deviations(toys.anchors, teacher, num_rows=NUM_ANCHORS, batch_size=5).values()) < 1e-4
    for name, value in weights(here).items():
        torch.testing.assert_close(moved[name], value, rtol=1e-5, atol=1e-6)
    for row, other in zip(*(history(toys.folder / name) for name in ("here", "there")), strict=True):
        measured = {name: value for name, value in row.items() if value is not None}
        assert {name: other[name] for name in measured} == pytest.approx(measured, rel=1e-4, abs=1e-6)
