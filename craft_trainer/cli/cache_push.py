"""``craft-trainer cache push``: an anchor cache to the Hub, with its card."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from craft_trainer.cli.arguments import option, parse

EXAMPLE = "craft-trainer cache push --cache outputs/anchors --repo my-org/my-anchors"
DATA_FILES = ("*.arrow", "*.safetensors")  # of an earlier cache with other shards they go


@dataclass
class PushArguments:
    """What goes where."""

    cache: str = option("folder of an anchor cache")
    repo: str = option("dataset repository of the Hub, owner/name; it is made if it is not there")
    private: bool = option("a repository that is made is private", False)
    revision: str | None = option("branch to push to; it is made if it is not there", None)


def run(argv: Sequence[str]) -> None:
    """Check the cache and upload it as it is, in one commit: whoever pulls gets the earlier cache or this one."""
    arguments = parse("cache push", EXAMPLE, PushArguments, argv)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.cli.hub import plain_errors

    cache, hub, branch = AnchorCache(arguments.cache), HfApi(), arguments.revision
    files = {file.name: file for file in sorted(Path(arguments.cache).iterdir()) if file.is_file()}
    with plain_errors(arguments.repo, "dataset", branch):
        made = hub.create_repo(arguments.repo, repo_type="dataset", private=arguments.private, exist_ok=True)
        repo = made.repo_id  # with its owner
        if branch is not None:
            hub.create_branch(repo, repo_type="dataset", branch=branch, exist_ok=True)
        there = hub.list_repo_files(repo, repo_type="dataset", revision=branch)
        old = [name for name in there if name not in files and any(fnmatch(name, data) for data in DATA_FILES)]
        commit = hub.create_commit(
            repo,
            [CommitOperationAdd(name, file) for name, file in files.items()]
            + [CommitOperationDelete(name) for name in old],
            repo_type="dataset",
            revision=branch,
            commit_message=f"{len(cache)} anchors, fingerprint {cache.provenance.fingerprint[:12]}",
        )
    print(f"{len(cache)} anchors: {repo} at {commit.oid}")
