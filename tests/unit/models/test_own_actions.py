"""A policy's own actions, where nobody demonstrated any: LeRobot's own sampler, a function of the row."""

import pytest
import torch
from policies import batch_of

from craft_trainer.cli.sources import SourceArguments, chosen_anchors
from craft_trainer.models.noise import OWN_ACTIONS

ACTING = ["diffusion", "pi0", "pi05", "smolvla"]


def observed(model):
    return {key: value for key, value in batch_of(model).items() if key not in ("action", "action_is_pad")}


@pytest.mark.parametrize("kind", ACTING)
def test_they_are_those_of_lerobots_sampler(make_twin, kind):
    """In the environment's units, and of diffusion the part of the horizon that LeRobot acts by."""
    model = make_twin(kind)
    batch, demonstrated = observed(model), batch_of(model)
    own = model.own_actions(batch, [7, 8, 9])
    assert own["action"].shape == demonstrated["action"].shape
    assert own["action_is_pad"].shape == demonstrated["action_is_pad"].shape
    assert not own["action_is_pad"].any()
    seen = {key: value[1:2] for key, value in batch.items() if not key.startswith("noise/")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(OWN_ACTIONS + 8)
        model.reset()
        theirs = model.postprocessor(model.policy.predict_action_chunk(model.preprocessor(seen)))
    first = model.policy_config.n_obs_steps - 1 if kind == "diffusion" else 0
    torch.testing.assert_close(own["action"][1:2, first : first + theirs.shape[1]], theirs)


@pytest.mark.parametrize("kind", ACTING)
def test_they_are_a_function_of_the_row(make_twin, kind):
    """Fails if rows are drawn one after the other from one generator, which is left as it was."""
    model = make_twin(kind)
    one = {key: value[:1] for key, value in observed(model).items()}
    batch = {key: value * 3 if key == "task" else value.repeat_interleave(3, 0) for key, value in one.items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    actions = model.own_actions(batch, [5, 2, 5])["action"]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(actions[0], actions[2])
    assert not torch.equal(actions[0], actions[1])
    alone = model.own_actions(one, [2])["action"]
    assert torch.equal(alone[0], actions[1])


def test_tokens_that_need_not_be_actions_are_refused(make_twin):
    model = make_twin("pi0_fast")
    assert not model.can_act
    with pytest.raises(ValueError, match="source dataset"):
        model.own_actions(observed(model), [0, 1, 2])
    arguments = SourceArguments(source=["new_task"], dataset="never opened")
    with pytest.raises(ValueError, match=r"pi0_fast .* source new_task has none, .* take dataset"):
        chosen_anchors(arguments, model, 3, seed=0, choose=lambda _source, count: list(range(count)))
