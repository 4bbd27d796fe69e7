"""Which episodes are held out: a share of every task, the same for every command."""

from pathlib import Path

import pytest

from craft_trainer.models.held_out import held_out_episodes

TASKS = ["push"] * 10 + ["open"] * 4
EPISODES = list(range(14))


@pytest.mark.parametrize(("share", "of_push", "of_open"), [(0.1, 1, 1), (0.3, 3, 1), (0.5, 5, 2)])
def test_every_task_gives_its_share_and_at_least_one(share: float, of_push: int, of_open: int) -> None:
    chosen = held_out_episodes(TASKS, EPISODES, share)
    assert len([episode for episode in chosen if episode < 10]) == of_push
    assert len([episode for episode in chosen if episode >= 10]) == of_open


def test_frames_and_episodes_give_the_same_choice() -> None:
    """`compare` counts by the table of episodes, `train` by frames."""
    lengths = [3, 1, 7, 2, 5, 4, 6, 1, 2, 3, 9, 1, 2, 4]
    episodes = [episode for episode, length in enumerate(lengths) for _ in range(length)]
    tasks = [TASKS[episode] for episode in episodes]
    assert held_out_episodes(tasks, episodes, 0.3) == held_out_episodes(TASKS, EPISODES, 0.3)


def test_they_are_spread_over_the_recording() -> None:
    chosen = sorted(held_out_episodes(["push"] * 100, list(range(100)), 0.1))
    assert [episode // 10 for episode in chosen] == list(range(10))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_above_0_and_below_1(share: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        held_out_episodes(TASKS, EPISODES, share)


def test_a_task_with_one_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="'alone' has 1 episode: none would be left"):
        held_out_episodes([*TASKS, "alone"], [*EPISODES, 14], 0.1)


def test_what_is_learned_and_what_is_held_out_are_all_frames(tiny_dataset: Path, tiny_policy) -> None:
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    data = PolicyDataset.of(tiny_policy(), str(tiny_dataset))
    learned, held_out = (data.rows_of(0.3, learned=learned) for learned in (True, False))
    assert learned is not None
    assert held_out is not None
    assert sorted(learned + held_out) == list(range(len(data)))
    episodes = data.episode_of_frame
    assert {episodes[row] for row in held_out} == held_out_episodes(data.task_of_frame, episodes, 0.3)
    assert len(data.without_last_frames(learned)) == len(learned)  # type: ignore[arg-type]
    assert data.rows_of(0.0, learned=True) is None
