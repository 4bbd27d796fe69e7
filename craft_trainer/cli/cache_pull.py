"""``craft-trainer cache pull``: an anchor cache from the Hub, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from craft_trainer.cli.arguments import option, parse

EXAMPLE = "craft-trainer cache pull --repo my-org/my-anchors --output_dir outputs/anchors"


@dataclass
class PullArguments:
    """What goes where."""

    repo: str = option("dataset repository of the Hub, owner/name")
    output_dir: str = option("folder of the cache; it must not exist")
    revision: str | None = option("branch, tag or commit", None)


def run(argv: Sequence[str]) -> None:
    """Download it; the folder appears only when every byte was checked."""
    arguments = parse("cache pull", EXAMPLE, PullArguments, argv)
    from huggingface_hub import snapshot_download

    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.folders import appears_when_complete

    with appears_when_complete(Path(arguments.output_dir)) as partial:
        snapshot_download(arguments.repo, repo_type="dataset", revision=arguments.revision, local_dir=partial)
        cache = AnchorCache(partial)
    print(f"{len(cache)} anchors, fingerprint {cache.provenance.fingerprint[:12]}: {arguments.output_dir}")
