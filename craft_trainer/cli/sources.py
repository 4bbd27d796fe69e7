"""The options that say where the anchors of a policy come from, and the sources that they name."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_trainer.cli.building import named_sources, weights_of
from craft_trainer.cli.loading import LoadArguments
from craft_trainer.cli.own_episodes import rollouts_source
from craft_trainer.cli.tasks import named_tasks
from craft_trainer.options import json_mapping, option, refuse_idle, require_at_least

if TYPE_CHECKING:
    from craft_trainer.anchors.sources.pictures import Pictures
    from craft_trainer.anchors.sources.source import AnchorSource
    from craft_trainer.models.lerobot import PolicyModel

OF_SOURCES = {  # options that some sources alone read
    "dataset": ("dataset", "new_task"),
    "new_dataset": ("new_task", "statistics"),
    "prompts_file": ("new_task", "statistics"),
    "correlations": ("statistics",),
    "state_width": ("statistics",),
    "tasks": ("rollouts",),
    "env": ("rollouts",),
    "env_options": ("rollouts",),
    "rollout_episodes": ("rollouts",),
    "failed": ("rollouts",),
    "held_out": ("dataset", "new_task"),
    "held_out_only": ("dataset", "new_task"),
}
CORRELATED = 2000  # frames from which correlations are estimated


@dataclass(kw_only=True)
class SourceArguments:
    """Choose the sources of the anchors."""

    heading = LoadArguments.heading
    source: list[str] = option("where anchors come from; `cache build` explains it", ["dataset"])
    source_weights: list[float] | None = option("of several sources: their shares, e.g. 7 1; by default equal", None)
    dataset: str | None = option("what sources dataset and new_task read", None)
    new_dataset: str | None = option(
        "LeRobot dataset of source new_task, where dataset is that of the old tasks; of statistics, for a policy with "
        "cameras: whose colours the noise has that stands in for pictures",
        None,
    )
    prompts_file: str | None = option(
        "text file with an old instruction on every line, for new_task and statistics: what is seen now is labelled "
        "under each of them",
        None,
    )
    correlations: str | None = option(
        "of states from statistics: LeRobot dataset whose numbers say which of them move together, e.g. that of the "
        "new task; by default they are independent",
        None,
    )
    state_width: float = option("of states from statistics: the widest has so many of the policy's deviations", 2.0)
    tasks: list[str] = option(
        "of rollouts: Meta-World v3 task names, in which the teacher acts; with env its own names, by default its "
        "default task",
        [],
    )
    env: str | None = option(
        "of rollouts: one of LeRobot's own environments (metaworld, pusht, aloha, …); by default Meta-World by this "
        "package",
        None,
    )
    env_options: dict | str | None = option(  # type: ignore[type-arg]  # argparse wants it bare
        "with env: fields of LeRobot's configuration of it, e.g. episode_length, obs_type (a mapping, or JSON)", None
    )
    rollout_episodes: int = option("of rollouts: episodes per task", 20)
    failed: str = option("of the teacher's failed episodes: drop them and try further goals, or keep them", "drop")
    held_out: float = option(
        "of dataset and new_task: share of the episodes of every task that gives no anchors, as in `train`; in [0, 1)",
        0.0,
    )
    held_out_only: bool = option("take the anchors from those episodes that held_out names, and from no others", False)
    views: int = option("perturbed copies of every anchor, each labelled by the teacher anew", 0)
    view_noise: float = option("of views: noise on states, in the policy's own deviations", 0.1)
    view_mix: float = option(
        "of views: how far a state moves at most towards that of another anchor of its group, in [0, 1]", 0.0
    )

    def __post_init__(self) -> None:
        self.check_sources()

    def check_sources(self) -> None:
        """Refuse, by a ValueError, sources that a policy has not, and options that none of them reads."""
        self.env_options = json_mapping("env_options", self.env_options)
        self.tasks = named_tasks(self.tasks, self.env_options)
        self.source = named_sources(self.source, SOURCES)
        require_at_least(self, 0, ["views"])
        require_at_least(self, 1, ["rollout_episodes"])
        if not 0 <= self.view_noise < math.inf or not 0 <= self.view_mix <= 1 or not 0 < self.state_width < math.inf:
            raise ValueError("view_noise must be ≥ 0, view_mix in [0, 1], state_width > 0, and all of them finite")
        if self.views and not self.view_noise and not self.view_mix:
            raise ValueError("views without view_noise and view_mix are copies: raise one of them, or drop views")
        for name, sources in OF_SOURCES.items():
            if not set(sources) & set(self.source):
                refuse_idle(self, [name], f"it is an option of source {' or '.join(sources)}")
        if not self.views:
            refuse_idle(self, ["view_noise", "view_mix"], "there are no views")
        if self.held_out_only and not self.held_out:
            raise ValueError("held_out_only takes the episodes that held_out names: give their share by held_out")
        self._check_places()

    def _check_places(self) -> None:
        if "rollouts" in self.source and not self.tasks and self.env is None:
            raise ValueError("source rollouts lets the teacher act: name Meta-World tasks by --tasks, or give --env")
        if self.env is None:
            refuse_idle(self, ["env_options"], "it is of LeRobot's environments, and no env is given")
        if self.failed not in ("drop", "keep"):
            raise ValueError("failed must be drop or keep")
        if "dataset" in self.source and self.dataset is None:
            raise ValueError("source dataset reads a dataset of the old tasks: give it by --dataset")
        if self.new_dataset is not None and "dataset" not in self.source:
            refuse_idle(self, ["dataset"], f"source {' '.join(self.source)} reads new_dataset")
        if "new_task" in self.source and self.new_dataset is None:
            if "dataset" in self.source:
                raise ValueError("sources dataset and new_task read two: give the one to be learned by --new_dataset")
            if self.dataset is None:
                raise ValueError("source new_task reads the dataset that is about to be learned: give it by --dataset")

    def prompts(self) -> list[str]:
        """Read the lines of ``prompts_file``, each once.

        Raises:
            ValueError: it has none.
        """
        if self.prompts_file is None:
            return []
        lines = [line.strip() for line in Path(self.prompts_file).read_text("utf-8").splitlines()]
        if not any(lines):
            raise ValueError(f"{self.prompts_file} is empty: write an instruction on every line")
        return list(dict.fromkeys(line for line in lines if line))


def dataset_source(arguments: SourceArguments, teacher: "PolicyModel", seed: int, count: int) -> "AnchorSource":
    """Old demonstrations with their labels."""
    from craft_trainer.anchors.sources.frames import FrameSource
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    assert arguments.dataset is not None
    dataset = PolicyDataset.of(teacher, arguments.dataset)
    frames = dataset.rows_of(arguments.held_out, learned=not arguments.held_out_only)
    return FrameSource(dataset, frames=frames, made_by=_held_out(arguments))


def new_task_source(arguments: SourceArguments, teacher: "PolicyModel", seed: int, count: int) -> "AnchorSource":
    """The data about to be learned as a source, without its labels: they are not the teacher's."""
    from craft_trainer.anchors.sources.frames import FrameSource
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    place = arguments.new_dataset or arguments.dataset
    assert place is not None
    dataset = PolicyDataset.of(teacher, place)
    frames = dataset.rows_of(arguments.held_out, learned=not arguments.held_out_only)
    without, made_by = teacher.target_keys(), _held_out(arguments)
    return FrameSource(dataset, prompts=arguments.prompts(), without=without, frames=frames, made_by=made_by)


def _held_out(arguments: SourceArguments) -> dict[str, Any]:
    """What the provenance says of episodes that were left out; `loss` asks for it."""
    names = ("held_out", "held_out_only")
    return {name: value for name in names if (value := getattr(arguments, name))}


def statistics_source(arguments: SourceArguments, teacher: "PolicyModel", seed: int, count: int) -> "AnchorSource":
    """States drawn from what the teacher normalises by."""
    from craft_trainer.anchors.selection import stratified_rows
    from craft_trainer.anchors.sources.frames import FrameSource
    from craft_trainer.anchors.sources.statistics import StatisticsSource, correlation_of
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    moments = teacher.observed_moments()
    correlation = None
    if arguments.correlations is not None:
        frames = PolicyDataset.of(teacher, arguments.correlations)
        seen = frames.batch(stratified_rows(FrameSource(frames).strata, min(len(frames), CORRELATED), seed=seed))
        sizes = {name: len(mean) for name, (mean, _) in moments.items()}
        correlation = correlation_of({name: seen[name].reshape(-1, sizes[name]) for name in moments})
    return StatisticsSource(
        moments,
        count,
        seed=seed,
        prompts=arguments.prompts(),
        width=arguments.state_width,
        correlation=correlation,
        num_steps=len(teacher.policy_config.observation_delta_indices or ()),
        pictures=stand_in_pictures(arguments, teacher, seed),
    )


def stand_in_pictures(arguments: SourceArguments, teacher: "PolicyModel", seed: int) -> "Pictures | None":
    """Pictures for states that nobody saw; None for a policy without cameras.

    Raises:
        ValueError: the policy has cameras and there is no dataset of pictures, or the other way round.
    """
    from craft_trainer.anchors.sources.frames import FrameSource
    from craft_trainer.anchors.sources.pictures import Pictures
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    if not teacher.image_keys():
        if arguments.new_dataset is not None and "new_task" not in arguments.source:
            raise ValueError(
                "new_dataset has no effect: source statistics takes the colours of pictures from it, and the policy "
                "reads none"
            )
        return None
    place = arguments.new_dataset or (arguments.dataset if "new_task" in arguments.source else None)
    if place is None:
        raise ValueError(
            "source statistics draws states, and the policy reads pictures as well: noise stands in for them, so give "
            "a dataset whose colours it takes, e.g. that of the new task, by --new_dataset"
        )
    return Pictures(FrameSource(PolicyDataset.of(teacher, place)), teacher.image_keys(), seed=seed)


SOURCES: Mapping[str, Callable[[SourceArguments, Any, int, int], "AnchorSource"]] = {
    "dataset": dataset_source,
    "new_task": new_task_source,
    "rollouts": rollouts_source,
    "statistics": statistics_source,
}
WITH_LABELS = ("dataset", "rollouts")


def chosen_anchors(
    arguments: SourceArguments,
    teacher: "PolicyModel",
    count: int,
    *,
    seed: int,
    choose: Callable[["AnchorSource", int], list[int]],
) -> "tuple[AnchorSource, Sequence[int]]":
    """Open the sources, let ``choose`` take the rows of each, and add the views; with the rows that become anchors.

    Raises:
        ValueError: a source would get no anchor, or a source does not fit the teacher.
    """
    from craft_trainer.anchors.sources.mixture import mixed, shares
    from craft_trainer.anchors.sources.views import Views

    parts: dict[str, tuple[AnchorSource, Sequence[int]]] = {}
    counts = shares(count, weights_of(arguments.source, arguments.source_weights))
    for name, share in zip(arguments.source, counts, strict=True):
        if name not in WITH_LABELS and not teacher.can_act:
            raise ValueError(
                f"what a {teacher.policy_config.type} predicts depends on demonstrated actions, source {name} has "
                f"none, and its own tokens need not be actions: take {' or '.join(WITH_LABELS)}"
            )
        source = SOURCES[name](arguments, teacher, seed, share)
        parts[name] = (source, choose(source, share))
    if arguments.views:
        moments = teacher.observed_moments()
        for name, (source, rows) in parts.items():
            views = Views(
                source,
                rows,
                arguments.views,
                noise=arguments.view_noise,
                mix=arguments.view_mix,
                seed=seed,
                moments=moments,
                images=teacher.image_keys(),
                labels=teacher.target_keys(),
                kept=name != "new_task" or arguments.prompts_file is not None,
            )
            parts[name] = (views, range(len(views)))
    return mixed(parts)
