"""``craft-trainer cache build``: the teacher's features on old-task samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from craft_trainer.cli.arguments import parse
from craft_trainer.cli.loading import LoadArguments
from craft_trainer.options import option, split_list

if TYPE_CHECKING:
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.lerobot_dataset import PolicyDataset

EXAMPLE = "craft-trainer cache build --teacher outputs/teacher --dataset outputs/data/old --output_dir outputs/anchors"


@dataclass(kw_only=True)
class BuildArguments(LoadArguments):
    """Which teacher, which samples, which features."""

    teacher: str = option("LeRobot checkpoint whose behaviour is to be kept: a folder or a Hub repository")
    dataset: str = option("LeRobot dataset of the old tasks: a folder or a Hub repository")
    output_dir: str = option("folder of the new anchor cache; it must not exist")
    layers: list[str] = option("hidden layers: indices (-1 is the last) or module paths; none for no features", ["-1"])
    pooling: list[str] = option(
        "of every layer: none (every token), mean_masked, mean_image_tokens, last_token, cls_token, or several",
        ["none"],
    )
    anchors: int = option("number of samples", 1000)
    selection: str = option(
        "which samples: stratified (evenly over tasks, phases and episodes), uniform, or k_center (spread over the "
        "features of the last layer, which takes a pass of the teacher over all samples)",
        "stratified",
    )
    seed: int = option("chooses the samples", 0)
    output: bool = option(
        "keep the policy's output (action chunk or tokens) as well; false is hidden features only", True
    )
    inputs: str = option("embedded (the samples are in the cache) or reference (only their rows are)", "embedded")
    dtype: str = option("of the features in the cache: float32 or float16", "float32")
    num_tokens: int = option("likeliest tokens kept per position, of a policy whose actions are tokens", 32)
    batch_size: int = option("samples per forward pass of the teacher", 64)
    num_workers: int = option("processes that load samples ahead of the teacher", 0)
    device: str | None = option("cpu, cuda, …; by default the teacher's own", None)


def run(argv: Sequence[str]) -> None:
    """Build the cache and say what it holds; several processes (accelerate launch) share the work."""
    arguments = parse("cache build", EXAMPLE, BuildArguments, argv)
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from craft_trainer.anchors.building import build_anchor_cache
    from craft_trainer.anchors.features import feature_specs, layer_paths
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    if Path(arguments.output_dir).exists():
        raise FileExistsError(f"{arguments.output_dir} exists: delete it, or choose another folder")
    patience = timedelta(days=7)  # shares may be uneven
    processes = PartialState(cpu=not torch.cuda.is_available(), timeout=patience)
    own = None if processes.num_processes == 1 or processes.device.type == "cpu" else str(processes.device)
    teacher = arguments.load(arguments.teacher, arguments.device or own)
    dataset = PolicyDataset.of(teacher, arguments.dataset)
    paths = layer_paths(teacher, split_list(arguments.layers))
    for layer, path in paths.items():
        processes.print(f"layer {layer} → {path}")
    tasks, chosen = dataset.task_of_frame, [select(arguments, teacher, dataset) if processes.is_main_process else []]
    rows = list(broadcast_object_list(chosen)[0])
    cache = build_anchor_cache(
        teacher,
        dataset.batch,
        Path(arguments.output_dir),
        rows=rows,
        groups=[tasks[row] for row in rows],
        specs=feature_specs(paths.values(), split_list(arguments.pooling)),
        batch_size=arguments.batch_size,
        source={
            "dataset": arguments.dataset,
            "frames": len(dataset),
            "revision": str(dataset.meta.revision or ""),
            "fingerprint": dataset.fingerprint(),
        },
        teacher_path=arguments.teacher,
        num_tokens=arguments.num_tokens,
        output=arguments.output,
        inputs=arguments.inputs,
        dtype=arguments.dtype,
        num_workers=arguments.num_workers,
        processes=processes,
    )
    features = ", ".join(f"{spec.path} ({spec.pooling})" for spec in cache.specs) or "no hidden features"
    groups, fingerprint = len(cache.provenance.groups), cache.provenance.fingerprint
    processes.print(f"{len(cache)} anchors of {groups} tasks; {features}; output: {teacher.output_kind}")
    processes.print(f"fingerprint {fingerprint[:12]}: {arguments.output_dir}")
    given = f"--policy {arguments.teacher} --anchors {arguments.output_dir}"
    processes.print(f"next: craft-trainer train {given} --dataset NEW_TASK --output_dir outputs/craft")


def select(arguments: BuildArguments, teacher: "PolicyModel", dataset: "PolicyDataset") -> list[int]:
    """The rows that become anchors.

    Raises:
        ValueError: unknown rule, or more anchors than samples.
    """
    from craft_trainer.anchors.selection import chosen_rows, phases
    from craft_trainer.anchors.teacher_pass import candidate_features

    episodes = dataset.episode_of_frame
    return chosen_rows(
        arguments.selection,
        list(zip(dataset.task_of_frame, phases(episodes), episodes, strict=True)),
        arguments.anchors,
        seed=arguments.seed,
        features=lambda: candidate_features(teacher, dataset.batch, len(dataset), batch_size=arguments.batch_size),
    )
