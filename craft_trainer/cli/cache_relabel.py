"""``craft-trainer cache relabel``: one checkpoint becomes the teacher of all anchors of a cache."""

from dataclasses import dataclass
from shlex import quote

from craft_trainer.cli.loading import LoadArguments
from craft_trainer.options import option, require_at_least

PLACES = ("cache", "teacher", "adapt_to")
EXAMPLE = "craft-trainer cache relabel --cache outputs/joined --teacher outputs/craft --output_dir outputs/relabelled"


@dataclass(kw_only=True)
class RelabelArguments(LoadArguments):
    """The cache and its new teacher."""

    cache: str = option("anchor cache with embedded inputs: a folder or a Hub repository")
    teacher: str = option("checkpoint that becomes the teacher, a policy or a language model")
    output_dir: str = option("folder of the new anchor cache; it must not exist")
    teacher_dtype: str | None = option("of a language model's weights; by default what the cache was built with", None)
    batch_size: int | None = option("samples per forward pass of the teacher; by default as the cache was built", None)
    num_workers: int = option("processes that read samples ahead of the teacher", 0)
    device: str | None = option("cpu, cuda, …; by default the teacher's own", None)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, ["batch_size"])
        require_at_least(self, 0, ["num_workers"])


def run(arguments: RelabelArguments) -> None:
    """Compute the targets anew and say what comes next."""
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.relabelling import relabel_cache
    from craft_trainer.cli.loading import load_teacher
    from craft_trainer.hub.resolve_path import resolve_path
    from craft_trainer.language.source import TEACHER_DTYPE

    cache = AnchorCache(resolve_path(arguments.cache, "dataset"))
    teacher, _ = load_teacher(
        arguments, cache, arguments.teacher, dtype=arguments.teacher_dtype, device=arguments.device
    )
    made = relabel_cache(
        cache,
        teacher,
        arguments.output_dir,
        teacher_path=arguments.teacher,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        source={} if arguments.teacher_dtype is None else {TEACHER_DTYPE: arguments.teacher_dtype},
    )
    print(f"{len(made)} anchors, all of teacher {arguments.teacher}")
    print(f"fingerprint {made.provenance.fingerprint[:12]}: {arguments.output_dir}")
    print(f"next: craft-trainer train --model {quote(arguments.teacher)} --anchors {quote(arguments.output_dir)} …")
