"""``craft-trainer cache verify``: is the cache whole, and is it this teacher's?"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, cast

from craft_trainer.cli.loading import LoadArguments
from craft_trainer.options import option, refuse_idle, require_at_least

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.models.base import AnchoredModel
    from craft_trainer.models.lerobot import PolicyModel

PLACES = ("cache", "teacher", "dataset", "adapt_to")
EXAMPLE = "craft-trainer cache verify --cache outputs/anchors --teacher outputs/teacher"


@dataclass(kw_only=True)
class VerifyArguments(LoadArguments):
    """The cache and its teacher."""

    cache: str = option("anchor cache: a folder or a Hub repository")
    teacher: str | None = option(
        "checkpoint that should have made it, a policy or a language model; by default only the bytes are checked", None
    )
    teacher_dtype: str | None = option("of a language model's weights; by default what the cache was built with", None)
    dataset: str | None = option("where the dataset of a cache of references is now, if it was moved", None)
    rows: int = option("anchors to recompute with the teacher, spread over all", 64)
    batch_size: int = option("samples per forward pass of the teacher", 16)
    tolerance: float = option("largest deviation allowed, in standard deviations of a feature (nats, for tokens)", 1e-3)
    device: str | None = option("cpu, cuda, …; by default the teacher's own", None)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, ["rows", "batch_size"])
        require_at_least(self, 0, ["tolerance"])
        if self.teacher is None:
            others = [one.name for one in fields(self) if one.name not in ("cache", "teacher")]
            refuse_idle(self, others, "no teacher is given, and without one only the bytes are checked")


def run(arguments: VerifyArguments) -> None:
    """Check, and say what was checked; raises ValueError for the first thing that is not as it should be."""
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.verification import deviations, require_own_values
    from craft_trainer.hub.resolve_path import resolve_path

    cache = AnchorCache(resolve_path(arguments.cache, "dataset"))
    print(f"ok  {len(cache.provenance.files)} files of {len(cache)} anchors have the bytes they were written with")
    require_own_values(cache)
    print("ok  rows, and means and variances of the features, are those that it says it has")
    if arguments.teacher is None:
        return
    opened, teacher = with_teacher(arguments, cache)
    mine = len(cache.rows_of(teacher.fingerprint()))
    found = deviations(opened, teacher, num_rows=arguments.rows, batch_size=arguments.batch_size)
    for name, deviation in found.items():
        if not deviation <= arguments.tolerance:
            raise ValueError(
                f"{name}: the teacher's own features deviate by {deviation:.2g} from those in {arguments.cache} "
                f"(tolerance {arguments.tolerance:g}): rebuild it with `craft-trainer cache build`"
            )
        print(f"ok  {name} recomputed on {min(arguments.rows, mine)} anchors: within {deviation:.1e}")
    if mine < len(cache):
        print(f"the other {len(cache) - mine} anchors are of other teachers: `craft-trainer cache info` names them")


def with_teacher(arguments: VerifyArguments, cache: "AnchorCache") -> "tuple[AnchorCache, AnchoredModel]":
    """Load the cache with a way to follow its references, and the teacher, which is one that made it.

    Raises:
        ValueError: it is another.
    """
    from craft_trainer.cli.loading import load_teacher, open_cache
    from craft_trainer.language.source import followed

    assert arguments.teacher is not None
    teacher, checkpoint = load_teacher(
        arguments, cache, arguments.teacher, dtype=arguments.teacher_dtype, device=arguments.device
    )
    fingerprint = teacher.fingerprint()
    say_compared(list(fingerprint) if cache.rows_of(fingerprint) else cache.check_teacher(teacher))
    if checkpoint is None:
        return open_cache(arguments.cache, cast("PolicyModel", teacher), arguments.dataset), teacher
    return followed(cache, checkpoint, arguments.dataset), teacher


def say_compared(parts: Sequence[str]) -> None:
    """Say what of the teacher is that of the cache."""
    *most, last = parts
    print(f"ok  made by this teacher: {', '.join(most)} and {last}")
