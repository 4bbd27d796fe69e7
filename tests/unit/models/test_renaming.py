"""Data that names a feature otherwise than the policy, as the policy does, or in both ways."""

import pytest
import torch

from craft_trainer.models.fit import own_names
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset

OWN, WORLD = "observation.environment_state", "observation.world"


@pytest.fixture(scope="module")
def renaming(teacher):
    return PolicyModel.from_pretrained(teacher, rename={WORLD: OWN})


@pytest.mark.parametrize("names", [(WORLD, OWN), (OWN, WORLD)])
def test_what_is_renamed_takes_the_place_of_what_has_the_name(renaming, teacher, tiny_dataset, names):
    """Seen to fail where the other came last: the policy saw that."""
    batch = PolicyDataset.of(PolicyModel.from_pretrained(teacher), str(tiny_dataset)).batch([0, 1])
    world = batch.pop(OWN)
    both = {name: world if name == WORLD else torch.full_like(world, 7) for name in names}
    expected = renaming.preprocessed(batch | {WORLD: world})[OWN]
    torch.testing.assert_close(renaming.preprocessed(batch | both)[OWN], expected)


def test_a_swap_of_two_names_is_a_swap():
    assert own_names({OWN: WORLD, WORLD: OWN}, {OWN, WORLD}) == {}
    assert own_names({WORLD: OWN}, {OWN}) == {OWN: WORLD}


def test_data_may_have_the_policys_own_name(renaming, teacher, tiny_dataset):
    """Seen to fail: the policy's own recordings were refused, with advice that was refused too."""
    samples = PolicyDataset.of(renaming, str(tiny_dataset))
    assert OWN not in samples[0]
    assert WORLD in samples[0]
    plain = PolicyModel.from_pretrained(teacher)
    expected = plain.predict(plain.prepare(PolicyDataset.of(plain, str(tiny_dataset)).batch([3, 5])))
    torch.testing.assert_close(renaming.predict(renaming.prepare(samples.batch([3, 5]))), expected)


def test_anchors_of_data_with_the_policys_names_go_with_new_data_of_others(renaming, teacher, tiny_dataset):
    """Seen to fail: the teacher with `rename` was a stranger to its own anchors, and could not read them."""
    plain = PolicyModel.from_pretrained(teacher)
    assert renaming.fingerprint() == plain.fingerprint()
    batch = PolicyDataset.of(plain, str(tiny_dataset)).batch([3, 5])
    torch.testing.assert_close(renaming.predict(renaming.prepare(batch)), plain.predict(plain.prepare(batch)))


def test_samples_without_a_number_that_is_read_are_refused(renaming, teacher, tiny_dataset):
    """Seen to fail: they were prepared without it."""
    batch = PolicyDataset.of(PolicyModel.from_pretrained(teacher), str(tiny_dataset)).batch([0])
    del batch[OWN]
    with pytest.raises(ValueError, match=f"and no {WORLD}, which the policy reads.*rename"):
        renaming.prepare(batch)
