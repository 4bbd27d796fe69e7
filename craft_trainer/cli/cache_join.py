"""``craft-trainer cache join``: caches of one model's stages, as one of a fixed size."""

from dataclasses import dataclass

from craft_trainer.options import option, require_at_least, split_list

EXAMPLE = (
    "craft-trainer cache join --caches outputs/anchors outputs/anchors2 --anchors 1000 --output_dir outputs/joined"
)

DEFAULT = 1000


@dataclass(kw_only=True)
class JoinArguments:
    """The caches, and how much of them is kept."""

    caches: list[str] = option("two or more anchor caches, the oldest first: folders or Hub repositories")
    output_dir: str = option("folder of the joined cache; it must not exist")
    anchors: int | None = option(
        "how many to keep, shared out evenly over the old tasks; all if there are no more; by default 1000", None
    )
    frames: int | None = option("how many frames to keep, each with all of its views, instead of anchors", None)
    seed: int = option("chooses which", 0)

    def __post_init__(self) -> None:
        require_at_least(self, 1, ["anchors", "frames"])
        require_at_least(self, 0, ["seed"])


def run(arguments: JoinArguments) -> None:
    """Join them and say what of each teacher is kept."""
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.joining import join_caches
    from craft_trainer.hub.resolve_path import resolve_path
    from craft_trainer.hub.storage import local_folder

    output_dir = local_folder(arguments.output_dir, "cache join")
    caches = [AnchorCache(resolve_path(cache, "dataset")) for cache in split_list(arguments.caches)]
    num_anchors = DEFAULT if arguments.anchors is None and arguments.frames is None else arguments.anchors
    joined = join_caches(caches, output_dir, seed=arguments.seed, num_anchors=num_anchors, num_frames=arguments.frames)
    made = joined.provenance
    print(f"{len(joined)} anchors: " + ", ".join(f"{count} of {group}" for group, count in made.groups.items()))
    for teacher in made.teachers:
        print(f"{teacher['anchors']} of teacher {teacher['path']}, weights {teacher['weights'][:12]}")
    print(f"fingerprint {made.fingerprint[:12]}: {arguments.output_dir}")
