"""``craft-trainer cache``: the teacher's features on old-task samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from craft_trainer.cli.arguments import option, parse, split_list

EXAMPLE = "craft-trainer cache --teacher outputs/teacher --dataset outputs/data/old --output_dir outputs/anchors"


@dataclass
class CacheArguments:
    """Which teacher, which samples, which features."""

    teacher: str = option("LeRobot checkpoint whose behaviour is to be kept: a folder or a Hub repository")
    dataset: str = option("LeRobot dataset of the old tasks: a folder or a Hub repository")
    output_dir: str = option("folder of the new anchor cache; it must not exist")
    layers: list[str] = option("hidden layers: indices (-1 is the last) or module paths", ["-1"])
    pooling: str = option("none (every token), mean_masked, mean_image_tokens, last_token or cls_token", "none")
    anchors: int = option("number of samples, as many from every task", 1000)
    seed: int = option("chooses the samples", 0)
    batch_size: int = option("samples per forward pass of the teacher", 64)
    device: str | None = option("cpu, cuda, …; by default the teacher's own", None)


def run(argv: Sequence[str]) -> None:
    """Build the cache and say what it holds."""
    arguments = parse("cache", EXAMPLE, CacheArguments, argv)
    from craft_trainer.anchors.building import build_anchor_cache
    from craft_trainer.anchors.features import FeatureSpec
    from craft_trainer.anchors.sampling import stratified_rows
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    teacher = PolicyModel.from_pretrained(arguments.teacher, device=arguments.device)
    dataset = PolicyDataset(arguments.dataset, teacher.policy_config)
    tasks = dataset.task_of_frame
    rows = stratified_rows(tasks, arguments.anchors, seed=arguments.seed)
    layers = [int(layer) if layer.lstrip("-").isdigit() else layer for layer in split_list(arguments.layers)]
    cache = build_anchor_cache(
        teacher,
        dataset.batch,
        Path(arguments.output_dir),
        rows=rows,
        groups=[tasks[row] for row in rows],
        specs=[FeatureSpec(teacher.module_path(layer), arguments.pooling) for layer in layers],
        batch_size=arguments.batch_size,
        source={"dataset": arguments.dataset, "frames": len(dataset)},
        teacher_path=arguments.teacher,
    )
    features = ", ".join(f"{spec.path} ({spec.pooling})" for spec in cache.specs)
    print(f"{len(cache)} anchors of {len(cache.provenance.groups)} tasks; features: {features}; output: action chunk")
    print(f"fingerprint {cache.provenance.fingerprint[:12]}: {arguments.output_dir}")
