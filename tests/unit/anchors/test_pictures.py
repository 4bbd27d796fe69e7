"""What stands in for pictures that nobody kept: a function of seed and row, with the colours of a frame."""

import torch

from craft_trainer.anchors.sources.pictures import Pictures
from craft_trainer.anchors.sources.statistics import StatisticsSource

CAMERA, STATE = "observation.images.top", "observation.state"
SIZE = 10


class Shown:
    """Five frames whose pictures are of 8 bits, and brighter the larger their number is."""

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


def pictures(seed=0):
    return Pictures(Shown(), [CAMERA], seed=seed)


def test_a_picture_is_a_function_of_seed_and_row():
    found = pictures().batch([3, 0, 11])[CAMERA]
    assert torch.equal(found[1], pictures().batch([0])[CAMERA][0])
    assert torch.equal(found[2], pictures().batch([11])[CAMERA][0])
    assert not torch.equal(found, pictures(seed=1).batch([3, 0, 11])[CAMERA])


def test_a_picture_has_8_bits_a_colour_and_the_colours_of_any_of_the_frames():
    found = pictures().batch(list(range(40)))[CAMERA] * 255
    torch.testing.assert_close(found, found.round())
    assert 0 <= found.min() <= found.max() <= 255
    assert set((found.mean(dim=(1, 2, 3)) // 40).int().tolist()) == set(range(5))


def test_it_has_the_colours_of_a_frame_and_nothing_of_its_shape():
    class Two(Shown):
        def batch(self, rows):
            frame = torch.full((3, 32, 32), 0.5)
            frame[:, :16] = 0.3
            return {CAMERA: torch.stack([frame for _ in rows])}

    found = Pictures(Two(), [CAMERA], seed=0).batch(list(range(8)))[CAMERA]
    assert abs(found.mean().item() - 0.4) < 0.01
    assert abs(found.std().item() - 0.1) < 0.01
    assert abs(found[:, :, :16].mean() - found[:, :, 16:].mean()) < 0.02


def test_states_from_statistics_come_with_pictures_and_say_so():
    moments = {STATE: (torch.zeros(2), torch.ones(2))}
    source = StatisticsSource(moments, 6, seed=0, pictures=pictures())
    found = source.batch([0, 5])
    assert torch.equal(found[CAMERA], pictures().batch([0, 5])[CAMERA])
    assert "action" not in found
    told, without = source.description(), StatisticsSource(moments, 6, seed=0).description()
    assert (told["pictures"], told["pictures_of"]) == ("noise", "my/frames")
    others = [StatisticsSource(moments, 6, seed=0, pictures=pictures(seed=1)).description(), without]
    assert told["fingerprint"] not in [other["fingerprint"] for other in others]
