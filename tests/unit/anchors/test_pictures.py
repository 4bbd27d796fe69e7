"""What stands in for pictures that nobody kept: a function of seed and row, and what its kind says it is."""

import pytest
import torch

from craft_trainer.anchors.sources.pictures import CHANGES, PATCHES, Pictures
from craft_trainer.anchors.sources.statistics import StatisticsSource

CAMERA, STATE = "observation.images.top", "observation.state"
SIZE = 10  # not a multiple of the patches: a rest stays


class Shown:
    """Five frames whose pictures are of 8 bits; the first rows of frame i are brighter the larger i is."""

    groups = strata = ["shown"] * 5

    def __len__(self):
        return len(self.groups)

    def batch(self, rows):
        pictures = [torch.randint(40 * row, 40 * row + 40, (3, SIZE, SIZE), generator=seeded(row)) for row in rows]
        return {CAMERA: torch.stack(pictures) / 255, "action": torch.tensor(rows)}

    def description(self):
        return {"dataset": "my/frames", "fingerprint": "f" * 64}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def pictures(change, seed=0):
    return Pictures(Shown(), [CAMERA], change=change, seed=seed)


def patches(picture):
    """The 16 patches [3 rows columns] of a picture, in their order."""
    size = SIZE // PATCHES
    cut = picture[:, : size * PATCHES, : size * PATCHES].unfold(1, size, size).unfold(2, size, size)
    return [patch.flatten().tolist() for patch in cut.permute(1, 2, 0, 3, 4).flatten(0, 1)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_picture_is_a_function_of_seed_and_row(change):
    whole = pictures(change).batch([3, 0, 11])[CAMERA]
    assert torch.equal(whole[1], pictures(change).batch([0])[CAMERA][0])
    assert torch.equal(whole[2], pictures(change).batch([11])[CAMERA][0])
    assert not torch.equal(whole, pictures(change, seed=1).batch([3, 0, 11])[CAMERA])


@pytest.mark.parametrize("change", CHANGES)
def test_a_picture_has_8_bits_a_colour(change):
    found = pictures(change).batch(list(range(20)))[CAMERA] * 255
    torch.testing.assert_close(found, found.round())
    assert 0 <= found.min() <= found.max() <= 255


def test_whole_pictures_are_those_of_frames():
    frames = Shown().batch(range(5))[CAMERA]
    found = pictures("whole").batch(list(range(40)))[CAMERA]
    chosen = [[torch.equal(picture, frame) for frame in frames].index(True) for picture in found]
    assert set(chosen) == set(range(5))


def test_a_shuffled_picture_has_the_patches_of_a_frame_in_another_order():
    (picture,) = pictures("shuffled").batch([2])[CAMERA]
    (frame,) = (one for one in Shown().batch(range(5))[CAMERA] if sorted(patches(one)) == sorted(patches(picture)))
    assert patches(picture) != patches(frame)
    rest = SIZE // PATCHES * PATCHES
    assert torch.equal(picture[:, rest:], frame[:, rest:])


def test_a_mixed_picture_lies_between_two_frames():
    frames = Shown().batch(range(5))[CAMERA]
    found = pictures("mixed").batch(list(range(30)))[CAMERA]
    assert frames.min() <= found.min() <= found.max() <= frames.max()
    means = found.mean(dim=(1, 2, 3))
    between = (means[:, None] - frames.mean(dim=(1, 2, 3))).abs().min(dim=1).values
    assert (between > 0.02).sum() > 10  # brightness of none of the frames


def test_noise_has_the_colours_of_a_frame_and_nothing_of_its_shape():
    class Two(Shown):
        def batch(self, rows):
            frame = torch.full((3, 32, 32), 0.5)
            frame[:, :16] = 0.3
            return {CAMERA: torch.stack([frame for _ in rows])}

    found = Pictures(Two(), [CAMERA], change="noise", seed=0).batch(list(range(8)))[CAMERA]
    assert abs(found.mean().item() - 0.4) < 0.01
    assert abs(found.std().item() - 0.1) < 0.01
    assert abs(found[:, :, :16].mean() - found[:, :, 16:].mean()) < 0.02


def test_states_from_statistics_come_with_pictures_and_say_so():
    moments = {STATE: (torch.zeros(2), torch.ones(2))}
    source = StatisticsSource(moments, 6, seed=0, pictures=pictures("whole"))
    found = source.batch([0, 5])
    assert torch.equal(found[CAMERA], pictures("whole").batch([0, 5])[CAMERA])
    assert "action" not in found
    told, without = source.description(), StatisticsSource(moments, 6, seed=0).description()
    assert (told["pictures"], told["pictures_of"]) == ("whole", "my/frames")
    others = [StatisticsSource(moments, 6, seed=0, pictures=pictures("noise")).description(), without]
    assert told["fingerprint"] not in [other["fingerprint"] for other in others]
