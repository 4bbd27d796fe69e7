"""What is done on a device that is not the CPU: nothing is left behind, and every number is the CPU's.

Training of every family there is in test_families.py.
"""

import copy

import pytest
import torch
from every_family import FAMILIES
from lm_folders import save_tiny_lm
from runs import assert_same_weights, history, run, weights
from second_device import SECOND, second_device
from torch.nn.attention import SDPBackend, sdpa_kernel
from toy import toy_anchors
from transformers import AutoModelForCausalLM, AutoTokenizer

from craft_trainer.evaluation.choices.text import TextChoices
from craft_trainer.evaluation.scoring import score
from craft_trainer.language.examples import Example
from craft_trainer.language.own_texts import from_nothing, written_by
from craft_trainer.training.interpolation import WeightLine

RUNS = {
    "no surgery": {"surgery": "none"},
    "one-sided": {},
    "symmetric": {"surgery": "symmetric"},
    "barrier": {"surgery": "barrier", "multiplier_lr": 0.1},
    "by layers": {"granularity": "layer"},
    "one backward pass": {"surgery": "none", "backward": "joint", "update_angle_every": 10},
    "groups": {"constraints": "per_group"},
    "a probe": {"epsilon_probe_steps": 2, "epsilon": 0.5},
    "every second step": {"retention_every": 2, "gradient_accumulation_steps": 2},
    "weighted sum": {"method": "weighted_sum"},
    "replay": {"method": "replay"},
    "A-GEM": {"method": "agem"},
    "L2-SP": {"method": "l2"},
    "EWC": {"method": "ewc"},
}
ENCODED = [("the red puck", [" red", " door opens"]), ("open the", [" door", " red door", " puck"])]


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    groups = ["one", "other"] * 12
    return toy_anchors(tmp_path_factory.mktemp("anchors") / "cache", groups=groups)


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_training_equals_the_cpus(tmp_path, anchors, changes):
    """Bit for bit."""
    alike = {"optim": "adamw_torch", **changes}
    here = run(tmp_path / "cpu", anchors, **alike)
    with second_device():
        there = run(tmp_path / "second", anchors, use_cpu=False, **alike)
        assert {one.device for one in there.model.parameters()} == {SECOND}
        moved = {name: value.to("cpu") for name, value in weights(there).items()}
    assert_same_weights(weights(here), moved)
    assert history(tmp_path / "cpu") == history(tmp_path / "second")


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = save_tiny_lm(tmp_path_factory.mktemp("model"))
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def on_both(work, model):
    """What ``work`` makes of ``model`` here and there, attention computed alike."""
    with sdpa_kernel(SDPBackend.MATH):
        here = work(model)
        with second_device():
            moved = copy.deepcopy(model).to(SECOND)
            assert {one.device for one in moved.parameters()} == {SECOND}
            return here, work(moved)


@pytest.mark.parametrize("method", ["packed", "prefix", "separate"])
def test_choices_are_scored_there(language_model, method):
    model, tokenizer = language_model

    def work(model):
        choices = TextChoices(model, tokenizer)
        encoded = [choices.encode(prompt, many) for prompt, many in ENCODED]
        return dict(score(choices, encoded, method=method))

    here, there = on_both(work, model)
    assert here == there


def test_own_texts_are_written_there(language_model):
    model, tokenizer = language_model
    questions = [Example("the red"), Example("open the door"), *from_nothing(1)]

    def work(model):
        return written_by(model, tokenizer, questions, new_tokens=8, batch_size=2, seed=3).batch(range(3))

    here, there = on_both(work, model)
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_weights_are_interpolated_there(language_model):
    model, _ = language_model

    def work(teacher):
        tuned = copy.deepcopy(teacher)
        with torch.no_grad():
            for parameter in tuned.parameters():
                parameter.add_(0.5)
        WeightLine(teacher, tuned).move(0.25)
        return {name: value.to("cpu") for name, value in tuned.state_dict().items()}

    assert_same_weights(*on_both(work, model))


@pytest.mark.parametrize("name", ["ACT", "diffusion", "SmolVLA", "VQ-BeT"])
def test_policies_act_there(tmp_path, name):
    """Their batches come from the CPU, and so do their actions go back."""
    family = FAMILIES[name]
    with family.models(tmp_path) as make:
        batch = family.collate([family.samples()[row] for row in range(4)])

        def work(model):
            torch.manual_seed(0)
            model.reset()
            return model.eval().select_action(batch)

        model = make()
        if name in ("diffusion", "VQ-BeT"):
            batch = {key: value[:, -1] if key.startswith("observation") else value for key, value in batch.items()}
        here, there = on_both(work, model)
        assert there.device.type == "cpu"
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)
