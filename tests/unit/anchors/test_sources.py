"""Where anchors come from: every input is a function of seed and row, and is what its source says it is."""

import numpy as np
import pytest
import torch

from craft_trainer.anchors.sources.frames import FrameSource
from craft_trainer.anchors.sources.mixture import Mixture, shares
from craft_trainer.anchors.sources.statistics import StatisticsSource, correlation_of
from craft_trainer.anchors.sources.views import Views

STATE = "observation.state"
MEAN, STD = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 3.0, 0.01])
EPISODES = [0] * 6 + [1] * 4


class Recorded:
    """Ten frames of two tasks."""

    source, revision = "my/frames", "r1"
    task_of_frame = ["push"] * 6 + ["pull"] * 4
    episode_of_frame = EPISODES

    def __len__(self):
        return len(EPISODES)

    def batch(self, rows):
        numbers = torch.tensor(rows, dtype=torch.float32)
        tasks = [self.task_of_frame[row] for row in rows]
        return {STATE: numbers[:, None] + MEAN, "action": numbers[:, None], "task": tasks}

    def fingerprint(self):
        return "f" * 64


def states(count=2000, **options):
    return StatisticsSource({STATE: (MEAN, STD)}, count, **{"seed": 0} | options)


def views(source=None, rows=(0, 1, 7), num=4, **options):
    settings = {"noise": 0.1, "seed": 3, "moments": {STATE: (MEAN, STD)}, "labels": ["action"]} | options
    return Views(source or FrameSource(Recorded()), rows, num, **settings)


def assert_by_row(source):
    """However the rows are batched, an input is the same."""
    rows = list(range(len(source)))[::-3]
    whole = source.batch(rows)
    for place, row in enumerate(rows):
        for key, value in source.batch([row]).items():
            one = whole[key][place]
            assert torch.equal(one, value[0]) if isinstance(one, torch.Tensor) else one == value[0]


SOURCES = {
    "frames": lambda: FrameSource(Recorded()),
    "prompts": lambda: FrameSource(Recorded(), prompts=["a", "b"], without=["action"]),
    "statistics": lambda: states(30),
    "views": views,
    "mixed views": lambda: views(mix=0.5),
    "mixture": lambda: Mixture({"old": (FrameSource(Recorded()), [2, 9]), "drawn": (states(3), [0, 1, 2])}),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_an_input_is_a_function_of_its_row(make):
    """Fails if the generator of a view is that of its batch."""
    source = make()
    assert_by_row(source)
    assert len(source.groups) == len(source.strata) == len(source)


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_the_same_source_has_the_same_fingerprint(make):
    assert make().description() == make().description()


def test_frames_keep_their_labels_unless_they_are_left_out():
    assert FrameSource(Recorded()).batch([3])["action"].tolist() == [[3.0]]
    assert "action" not in FrameSource(Recorded(), without=["action"]).batch([3])


def test_every_frame_under_every_prompt():
    source = FrameSource(Recorded(), prompts=["lift", "turn", "wait"])
    assert len(source) == 30
    assert source.groups[:4] == ["lift", "turn", "wait", "lift"]
    made = source.batch([4, 3, 29])
    assert made["task"] == ["turn", "lift", "wait"]
    assert torch.equal(made[STATE], Recorded().batch([1, 1, 9])[STATE])
    assert source.description()["fingerprint"] != FrameSource(Recorded()).description()["fingerprint"]
    assert source.description()["prompts"] == ["lift", "turn", "wait"]


def test_states_have_the_mean_of_the_policy_and_widths_up_to_the_widest():
    """w ~ U(0, 2) gives E[w²] = 4/3."""
    drawn = states(20_000).batch(list(range(20_000)))[STATE]
    scaled = (drawn - MEAN) / STD
    assert scaled.mean(dim=0).abs().max() < 0.05
    assert (scaled.square().mean(dim=0) - 4 / 3).abs().max() < 0.1
    assert torch.equal(states(5).batch([4])[STATE], drawn[4:5])
    assert not torch.equal(states(5, seed=1).batch([4])[STATE], drawn[4:5])
    assert states(5).description()["fingerprint"] != states(5, width=1.0).description()["fingerprint"]


def test_states_move_together_as_frames_do():
    generator = np.random.default_rng(0)
    first = torch.from_numpy(generator.standard_normal((500, 1)))
    still, other = torch.full((500, 1), 7.0), torch.from_numpy(generator.standard_normal((500, 1)))
    found = correlation_of({"b": torch.cat([still, other], 1), "a": torch.cat([first, 2 * first + 5], 1)})
    assert found[0, 1] == pytest.approx(0.99)
    assert found[2].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert abs(found[0, 3]) < 0.1
    source = states(4000, correlation=correlation_of({STATE: torch.cat([first, -first, other], 1)}))
    drawn = (source.batch(list(range(4000)))[STATE] - MEAN) / STD
    assert np.corrcoef(drawn.numpy().T)[0, 1] < -0.9
    assert source.description()["fingerprint"] != states(4000).description()["fingerprint"]


def test_the_first_view_is_the_anchor_and_the_others_are_near_it():
    source = views(num=50, noise=0.1)
    made = source.batch(list(range(len(source))))
    moved = ((made[STATE].view(3, 51, 3) - Recorded().batch([0, 1, 7])[STATE][:, None]) / STD).numpy()
    assert not moved[:, 0].any()
    assert moved[:, 1:].std() == pytest.approx(0.1, rel=0.1)
    assert made["action"].view(3, 51).tolist() == [[0.0] * 51, [1.0] * 51, [7.0] * 51]
    assert source.groups[::51] == ["push", "push", "pull"]


def test_anchors_that_are_not_kept_have_views_alone():
    source = views(num=4, kept=False)
    made = source.batch(list(range(12)))
    assert len(source) == 12
    assert (made[STATE].view(3, 4, 3) != Recorded().batch([0, 1, 7])[STATE][:, None]).any(dim=2).all()


def test_inputs_that_the_policy_never_saw_are_brought_to_what_it_knows_before_they_are_perturbed():
    """Frame 7 lies 7 above the mean: 14 σ, 2.3 σ and 700 σ. Copies near it would forbid to learn it."""
    made = views(rows=(7,), num=400, noise=0.5, kept=False).batch(list(range(400)))[STATE]
    scaled = (made - MEAN) / STD
    assert scaled.mean(dim=0).tolist() == pytest.approx([3.0, 7 / 3, 3.0], abs=0.15)
    assert scaled.std(dim=0).tolist() == pytest.approx([0.5] * 3, rel=0.2)
    kept = views(rows=(7,), num=4, noise=0.5)
    assert torch.equal(kept.batch([0])[STATE], Recorded().batch([7])[STATE])


def test_views_that_are_mixed_stay_within_what_the_policy_knows():
    """Seen to fail when frames of the new task were mixed with others as they were: 700 σ."""
    source = views(rows=(7, 8, 9), num=40, noise=0.0, mix=1.0, kept=False)
    scaled = (source.batch(list(range(len(source))))[STATE] - MEAN) / STD
    assert scaled.abs().max() <= source.description()["within_deviations"] + 1e-4


def test_mixed_views_lie_between_frames_of_one_group_and_have_no_label():
    """Frames 0 and 5 are pushing, 7 is pulling and has no partner."""
    source = views(rows=(0, 5, 7), num=40, noise=1e-9, mix=1.0)
    made = source.batch(list(range(len(source))))
    values = (made[STATE] - MEAN)[:, 0].view(3, 41)
    assert values[:2].min() >= -1e-5
    assert values[:2].max() <= 5 + 1e-5
    assert values[0].std() > 0.5
    assert torch.allclose(values[2], torch.tensor(7.0), atol=1e-5)
    assert "action" not in made


def test_mixed_views_are_no_copies():
    """Seen to fail: half of the views of two frames were mixed with themselves, and all of a frame that was alone."""
    made = views(rows=(0, 5), num=40, noise=0.0, mix=1.0).batch(list(range(82)))[STATE]
    assert len(torch.unique(made, dim=0)) == 82
    with pytest.raises(ValueError, match="pull has one anchor, and view_mix moves an anchor towards others"):
        views(rows=(0, 5, 7), noise=0.0, mix=1.0)


@pytest.mark.parametrize("options", [{"kept": False}, {"mix": 0.5, "kept": False}, {}])
def test_whole_numbers_are_perturbed_as_fractions(options):
    """Counts of an encoder, or a gripper that is open or not. Seen to fail: μ and σ became whole numbers, so that σ of
    0.5 was 0, and every view of such a number was 0 or 1; with anchors that are kept the build was a RuntimeError."""

    class Whole(Recorded):
        def batch(self, rows):
            return super().batch(rows) | {STATE: torch.tensor(rows)[:, None] + MEAN.long()}

    every = list(range(len(views(**options))))
    assert torch.equal(views(FrameSource(Whole()), **options).batch(every)[STATE], views(**options).batch(every)[STATE])
    assert views(FrameSource(Whole()), **options).batch([0])[STATE].dtype == torch.float32  # of every batch the same


def test_pictures_are_changed_a_little():
    class Seen(Recorded):
        def batch(self, rows):
            return super().batch(rows) | {"picture": torch.rand(1, 3, 32, 32).expand(len(rows), 3, 32, 32)}

    source = views(FrameSource(Seen()), rows=[0], num=2, images=["picture"])
    torch.manual_seed(0)
    pictures = source.batch([0, 1, 2])["picture"]
    torch.manual_seed(0)
    again = source.batch([0, 1, 2])["picture"]
    assert torch.equal(pictures, again)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal((pictures[1:] * 255).round() / 255, pictures[1:])  # as a cache stores them
    assert len({picture.numpy().tobytes() for picture in pictures}) == 3


def test_a_mixture_has_what_all_parts_have_and_their_names_as_groups():
    source = Mixture({"old": (FrameSource(Recorded()), [2, 9]), "drawn": (states(3), [0, 2])})
    made = source.batch([3, 0, 1])
    assert made.keys() == {STATE, "task"}
    assert torch.equal(made[STATE][0], states(3).batch([2])[STATE][0])
    assert torch.equal(made[STATE][1:], Recorded().batch([2, 9])[STATE])
    assert source.groups == ["old", "old", "drawn", "drawn"]
    told = source.description()
    assert told["parts"]["old"]["anchors"] == 2
    assert told["parts"]["drawn"]["dataset"] == "states drawn from the policy's statistics"


def test_a_policy_of_several_frames_sees_one_state_in_all_of_them():
    alone, several = states(4).batch([2, 3])[STATE], states(4, num_steps=3).batch([2, 3])[STATE]
    assert several.shape == (2, 3, alone.shape[1])
    assert all(torch.equal(several[:, step], alone) for step in range(3))


@pytest.mark.parametrize(
    ("count", "weights", "expected"),
    [
        (11, [1, 1], [6, 5]),
        (10, [1, 1, 1], [4, 3, 3]),
        (400, [7, 1], [350, 50]),
        (11, [7, 1], [10, 1]),
        (3, [0.1, 0.2, 0.3], [1, 1, 1]),
        (100, [1e-3, 2e-3, 3e-3], [17, 33, 50]),
    ],
)
def test_anchors_are_shared_out_by_weight_to_the_largest_remainders(count, weights, expected):
    assert shares(count, weights) == expected


def test_a_source_that_would_get_no_anchor_is_refused():
    with pytest.raises(ValueError, match=r"^5 anchors of 2 sources would be \[5, 0\]"):
        shares(5, [99, 1])
