"""``craft-trainer cache push``: an anchor cache to the Hub, with its card."""

from dataclasses import dataclass
from pathlib import Path

from craft_trainer.options import option

PLACES = ("cache",)
EXAMPLE = "craft-trainer cache push --cache outputs/anchors --repo my-org/my-anchors"
DATA_FILES = ("*.arrow", "*.safetensors")  # of an earlier cache with other shards they go


@dataclass
class PushArguments:
    """The folder and the repository."""

    cache: str = option("folder of an anchor cache")
    repo: str = option("dataset repository of the Hub, owner/name; it is made if it is not there")
    private: bool = option("a repository that is made is private; one that is there and public is refused", False)
    revision: str | None = option("branch to push to, by default main; it is made if it is not there", None)


def run(arguments: PushArguments) -> None:
    """Check the cache and upload it in one commit: whoever pulls gets the earlier cache or this one.

    Its provenance goes without the folders of this machine.
    """
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.provenance import PROVENANCE_FILE
    from craft_trainer.files import as_json
    from craft_trainer.hub.repository import Repository
    from craft_trainer.hub.resolve_path import resolve_path

    cache = AnchorCache(resolve_path(arguments.cache, "dataset"))
    files: dict[str, Path | bytes] = {file.name: file for file in sorted(cache.folder.iterdir()) if file.is_file()}
    files[PROVENANCE_FILE] = as_json(cache.provenance.published().document()).encode()
    repository = Repository(arguments.repo, "dataset", arguments.revision, arguments.private or None).opened()
    message = f"{len(cache)} anchors, fingerprint {cache.provenance.fingerprint[:12]}"
    commit = repository.commit(files, message, replaces=DATA_FILES)
    print(f"{len(cache)} anchors: {repository.name} at {commit.oid}")
