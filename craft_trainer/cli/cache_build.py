"""``craft-trainer cache build``: the teacher's features on old-task samples."""

from dataclasses import dataclass

from craft_trainer.cli.building import CacheArguments
from craft_trainer.cli.loading import LoadArguments
from craft_trainer.options import option

EXAMPLE = "craft-trainer cache build --teacher outputs/teacher --dataset outputs/data/old --output_dir outputs/anchors"


@dataclass(kw_only=True)
class BuildArguments(LoadArguments, CacheArguments):
    """The teacher and the samples."""

    teacher: str = option("LeRobot checkpoint whose behaviour is to be kept: a folder or a Hub repository")
    dataset: str = option("LeRobot dataset of the old tasks: a folder or a Hub repository")


def run(arguments: BuildArguments) -> None:
    """Build the cache and say what it holds; several processes (accelerate launch) share the work."""
    from craft_trainer.anchors.selection import phases
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    processes = arguments.join()
    own = None if processes.num_processes == 1 or processes.device.type == "cpu" else str(processes.device)
    teacher = arguments.load(arguments.teacher, arguments.device or own)
    dataset = PolicyDataset.of(teacher, arguments.dataset)
    specs = arguments.specs(teacher, processes)
    tasks, episodes = dataset.task_of_frame, dataset.episode_of_frame
    rows = arguments.rows(list(zip(tasks, phases(episodes), episodes, strict=True)), teacher, dataset, processes)
    source = {
        "dataset": arguments.dataset,
        "frames": len(dataset),
        "revision": str(dataset.meta.revision or ""),
        "fingerprint": dataset.fingerprint(),
    }
    groups = [tasks[row] for row in rows]
    cache = arguments.build(teacher, dataset, processes, rows=rows, groups=groups, specs=specs, source=source)
    features = ", ".join(f"{spec.path} ({spec.pooling})" for spec in cache.specs) or "no hidden features"
    num_tasks, fingerprint = len(cache.provenance.groups), cache.provenance.fingerprint
    processes.print(f"{len(cache)} anchors of {num_tasks} tasks; {features}; output: {teacher.output_kind}")
    processes.print(f"fingerprint {fingerprint[:12]}: {arguments.output_dir}")
    given = f"--policy {arguments.teacher} --anchors {arguments.output_dir}"
    processes.print(f"next: craft-trainer train {given} --dataset NEW_TASK --output_dir outputs/craft")
