"""Choose the episodes that are held out of a dataset: every command chooses the same."""

from collections.abc import Sequence

import numpy as np


def held_out_episodes(tasks: Sequence[str], episodes: Sequence[int], share: float) -> frozenset[int]:
    """Choose about ``share`` of the episodes of every task, evenly spread over them, and at least one.

    Args:
        tasks: of every frame; an episode has that of its first frame.
        episodes: of every frame.
        share: in (0, 1).

    Raises:
        ValueError: ``share`` is outside that range, or leaves no episode of a task to learn from.
    """
    if not 0 < share < 1:
        raise ValueError(f"held_out is {share:g}: it must be a share of the episodes, above 0 and below 1")
    by_task: dict[str, list[int]] = {}
    for episode, task in dict(zip(reversed(episodes), reversed(tasks), strict=True)).items():
        by_task.setdefault(task, []).append(episode)
    chosen: set[int] = set()
    for task, own in by_task.items():
        count = max(1, round(share * len(own)))
        if count == len(own):
            raise ValueError(
                f"held_out is {share:g}, and {task!r} has {len(own)} episode{'s' if len(own) > 1 else ''}: none would "
                "be left to learn from. Record more, or hold out less"
            )
        places = np.linspace(0, len(own) - 1, 2 * count + 1)[1::2].round().astype(int)  # the middles of equal parts
        chosen.update(sorted(own)[place] for place in places)
    return frozenset(chosen)
