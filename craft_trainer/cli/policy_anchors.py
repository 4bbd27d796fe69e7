"""``craft-trainer cache build`` of a policy."""

from dataclasses import fields
from shlex import quote
from typing import TYPE_CHECKING

from craft_trainer.cli.building import Defaults, require_sources
from craft_trainer.cli.sources import SOURCES, chosen_anchors
from craft_trainer.cli.text_sources import TextSourceArguments
from craft_trainer.options import refuse_idle

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.processes import Processes
    from craft_trainer.cli.cache_build import BuildArguments

DEFAULTS = Defaults(layers="-1", pooling="none", batch_size=64)


def build(arguments: "BuildArguments", processes: "Processes") -> "AnchorCache":
    """Build the cache of a policy's features and actions, and say what it holds.

    Raises:
        ValueError: a source or an option is of language models.
    """
    from craft_trainer.anchors.sources.frames import FrameSource
    from craft_trainer.anchors.trial import reads_instructions

    require_sources(arguments.source, SOURCES, f"{arguments.teacher} is a policy")
    names = [field.name for field in fields(TextSourceArguments) if field.name != "dataset"]
    refuse_idle(arguments, names, f"it is an option of language models, and {arguments.teacher} is a policy")
    arguments.check_sources()
    if arguments.source == ["statistics"]:
        refuse_idle(arguments, ["selection"], "as many states are drawn as become anchors")
    arguments.fill(DEFAULTS)
    read = (arguments.dataset, arguments.new_dataset, arguments.correlations)
    arguments.require_fit(arguments.teacher, [place for place in read if place is not None])
    own = None if processes.num_processes == 1 or processes.device.type == "cpu" else str(processes.device)
    teacher = arguments.load(arguments.teacher, arguments.device or own)
    if teacher.output_kind != "logits":
        refuse_idle(arguments, ["num_tokens"], f"{teacher.policy_config.type} predicts no tokens")
    specs = arguments.specs(teacher, processes)
    samples, rows = chosen_anchors(
        arguments,
        teacher,
        arguments.anchors,
        seed=arguments.seed,
        choose=lambda source, count: arguments.rows(
            source, count, teacher, processes, source.allowed if isinstance(source, FrameSource) else None
        ),
    )
    if arguments.prompts_file is not None and not reads_instructions(teacher, samples.batch):
        refuse_idle(arguments, ["prompts_file"], f"this {teacher.policy_config.type} reads no instructions")
    described = {"source": ",".join(arguments.source), **samples.description()}
    groups = [samples.groups[row] for row in rows]
    cache = arguments.build(teacher, samples, processes, rows=rows, groups=groups, specs=specs, source=described)
    features = ", ".join(f"{spec.path} ({spec.pooling})" for spec in cache.specs) or "no hidden features"
    num_groups = len(cache.provenance.groups)
    processes.print(f"{len(cache)} anchors of {num_groups} groups; {features}; output: {teacher.output_kind}")
    given = f"--model {quote(arguments.teacher)} --anchors {quote(arguments.output_dir)}"
    processes.print(f"next: craft-trainer train {given} --dataset NEW_TASK --output_dir outputs/craft")
    return cache
