"""``craft-trainer cache build``: the teacher's features on old-task samples."""

from dataclasses import dataclass

from craft_trainer.cli.building import CacheArguments
from craft_trainer.cli.loading import LoadArguments
from craft_trainer.cli.sources import SourceArguments
from craft_trainer.options import option

EXAMPLE = "craft-trainer cache build --teacher outputs/teacher --source statistics --output_dir outputs/anchors"


@dataclass(kw_only=True)
class BuildArguments(SourceArguments, LoadArguments, CacheArguments):
    """The teacher and the samples."""

    teacher: str = option("LeRobot checkpoint whose behaviour is to be kept: a folder or a Hub repository")

    def __post_init__(self) -> None:
        SourceArguments.__post_init__(self)
        LoadArguments.__post_init__(self)
        if self.inputs == "reference" and (self.source != ["dataset"] or self.views):
            raise ValueError("inputs reference needs rows to refer to: take source dataset alone, without views")


def run(arguments: BuildArguments) -> None:
    """Build the cache and say what it holds; several processes (accelerate launch) share the work."""
    from craft_trainer.cli.sources import chosen_anchors

    processes = arguments.join()
    own = None if processes.num_processes == 1 or processes.device.type == "cpu" else str(processes.device)
    teacher = arguments.load(arguments.teacher, arguments.device or own)
    specs = arguments.specs(teacher, processes)
    samples, rows = chosen_anchors(
        arguments,
        teacher,
        arguments.anchors,
        seed=arguments.seed,
        choose=lambda source, count: arguments.rows(source, count, teacher, processes),
    )
    described = {"source": ",".join(arguments.source), **samples.description()}
    groups = [samples.groups[row] for row in rows]
    cache = arguments.build(teacher, samples, processes, rows=rows, groups=groups, specs=specs, source=described)
    features = ", ".join(f"{spec.path} ({spec.pooling})" for spec in cache.specs) or "no hidden features"
    num_groups, fingerprint = len(cache.provenance.groups), cache.provenance.fingerprint
    processes.print(f"{len(cache)} anchors of {num_groups} groups; {features}; output: {teacher.output_kind}")
    processes.print(f"fingerprint {fingerprint[:12]}: {arguments.output_dir}")
    given = f"--policy {arguments.teacher} --anchors {arguments.output_dir}"
    processes.print(f"next: craft-trainer train {given} --dataset NEW_TASK --output_dir outputs/craft")
