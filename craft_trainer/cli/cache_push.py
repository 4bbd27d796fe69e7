"""``craft-trainer cache push``: an anchor cache to the Hub, with its card."""

from collections.abc import Sequence
from dataclasses import dataclass

from craft_trainer.cli.arguments import option, parse

EXAMPLE = "craft-trainer cache push --cache outputs/anchors --repo my-org/my-anchors"


@dataclass
class PushArguments:
    """What goes where."""

    cache: str = option("folder of an anchor cache")
    repo: str = option("dataset repository of the Hub, owner/name; it is made if it is not there")
    private: bool = option("a repository that is made is private", False)
    revision: str | None = option("branch to push to; it is made if it is not there", None)


def run(argv: Sequence[str]) -> None:
    """Check the cache and upload it as it is."""
    arguments = parse("cache push", EXAMPLE, PushArguments, argv)
    from huggingface_hub import HfApi

    from craft_trainer.anchors.cache import AnchorCache

    cache, hub = AnchorCache(arguments.cache), HfApi()
    hub.create_repo(arguments.repo, repo_type="dataset", private=arguments.private, exist_ok=True)
    if arguments.revision is not None:
        hub.create_branch(arguments.repo, repo_type="dataset", branch=arguments.revision, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=arguments.repo,
        repo_type="dataset",
        folder_path=arguments.cache,
        revision=arguments.revision,
        commit_message=f"{len(cache)} anchors, fingerprint {cache.provenance.fingerprint[:12]}",
        delete_patterns=["*.arrow", "*.safetensors"],  # of an earlier cache with other shards
    )
    print(f"{len(cache)} anchors: {arguments.repo} at {commit.oid[:12]}")
