"""Frames of a robot's dataset: old demonstrations, the data about to be learned, or the teacher's own rollouts."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any, Protocol, runtime_checkable

from craft_trainer.anchors.selection import phases

SENTENCE = "task"  # the key of the instruction


@runtime_checkable
class Frames(Protocol):
    """A dataset of frames, as :class:`models.lerobot_dataset.PolicyDataset` is one."""

    source: str

    @property
    def revision(self) -> str: ...
    @property
    def task_of_frame(self) -> list[str]: ...
    @property
    def episode_of_frame(self) -> list[int]: ...
    def __len__(self) -> int: ...
    def batch(self, rows: list[int]) -> dict[str, Any]: ...
    def fingerprint(self) -> str: ...


class FrameSource:
    """Frames of ``dataset``, under their own instruction or under every one of ``prompts``.

    Input ``i`` of F frames and P prompts is frame ``i // P`` under prompt ``i % P``. ``without`` are keys that no input
    has: the actions of the dataset, where they are not the teacher's. ``frames`` are those that may become anchors, by
    default all: ``allowed`` lists their inputs. ``made_by`` is what the description says of how the frames came to be.
    """

    def __init__(
        self,
        dataset: Frames,
        *,
        prompts: Sequence[str] = (),
        without: Collection[str] = (),
        frames: Sequence[int] | None = None,
        made_by: Mapping[str, Any] | None = None,
    ) -> None:
        count = len(prompts) or 1
        self.allowed = frames and [frame * count + prompt for frame in frames for prompt in range(count)]
        self._dataset, self._prompts, self._without = dataset, list(prompts), frozenset(without)
        self._made_by = dict(made_by or {})
        tasks, episodes = dataset.task_of_frame, dataset.episode_of_frame
        strata = zip(tasks, phases(episodes), episodes, strict=True)
        if prompts:
            self.strata = [(prompt, phase, episode) for (_, phase, episode), prompt in product(strata, self._prompts)]
        else:
            self.strata = list(strata)
        self.groups = [str(task) for task, _, _ in self.strata]

    def __len__(self) -> int:
        return len(self.strata)

    def batch(self, rows: list[int]) -> dict[str, Any]:
        """The frames of ``rows`` with their instructions."""
        count = len(self._prompts) or 1
        found = self._dataset.batch([row // count for row in rows])
        kept = {key: value for key, value in found.items() if key not in self._without}
        return kept | ({SENTENCE: [self._prompts[row % count] for row in rows]} if self._prompts else {})

    def description(self) -> Mapping[str, Any]:
        """The dataset, its revision, what made it where that is known, and the prompts if there are any."""
        own = self._dataset.fingerprint()
        told = {"dataset": self._dataset.source, "frames": len(self), "revision": self._dataset.revision}
        told |= self._made_by
        if not self._prompts:
            return told | {"fingerprint": own}
        digest = hashlib.sha256(json.dumps([own, self._prompts]).encode()).hexdigest()
        return told | {"fingerprint": digest, "prompts": self._prompts}
