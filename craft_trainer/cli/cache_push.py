"""``craft-trainer cache push``: an anchor cache to the Hub, with its card."""

from dataclasses import dataclass
from pathlib import Path

from craft_trainer.options import option

PLACES = ("cache",)
EXAMPLE = "craft-trainer cache push --cache outputs/anchors --repo my-org/my-anchors"
DATA_FILES = ("data-*.arrow",)  # of an earlier cache with other shards they go


@dataclass
class PushArguments:
    """The folder and the repository."""

    cache: str = option("folder of an anchor cache")
    repo: str = option("dataset repository of the Hub, owner/name or owner/name@branch; it is made if it is not there")
    private: bool = option("a repository that is made is private; one that is there and public is refused", False)
    revision: str | None = option("branch to push to, by default main; it is made if it is not there", None)


def run(arguments: PushArguments) -> None:
    """Check the cache and upload it in one commit: whoever pulls gets the earlier cache or this one.

    Its provenance goes without the folders of this machine, and what else lies in the folder stays here.

    Raises:
        ValueError: the repository holds something else than a cache.
    """
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.provenance import PROVENANCE_FILE
    from craft_trainer.files import as_json
    from craft_trainer.hub.readme import README, renewed, text_of
    from craft_trainer.hub.repository import Repository
    from craft_trainer.hub.resolve_path import HubPlace, resolve_path

    cache = AnchorCache(resolve_path(arguments.cache, "dataset"))
    files: dict[str, Path | bytes] = {name: cache.folder / name for name in cache.provenance.files}
    files[PROVENANCE_FILE] = as_json(cache.provenance.published().document()).encode()
    repo, revision = HubPlace.of(arguments.repo, arguments.revision)
    repository = Repository(repo, "dataset", revision, arguments.private or None).opened()
    there = repository.files()
    if others := sorted(there - {README}) if PROVENANCE_FILE not in there else []:
        raise ValueError(
            f"{repository.name} holds {', '.join(others[:3])}{' …' * (len(others) > 3)} and no {PROVENANCE_FILE}, so "
            "it is no anchor cache, and nothing was uploaded: name another repository"
        )
    card = text_of(cache.folder)
    before = repository.text(README) if README in there else None
    if card is not None and (card := renewed(card, before)) is not None:
        files[README] = card.encode()
    elif before is not None:
        print(f"{README} of {repository.name} is by hand and stays: delete it there to get that of the cache")
    message = f"{len(cache)} anchors, fingerprint {cache.provenance.fingerprint[:12]}"
    commit = repository.commit(files, message, replaces=DATA_FILES)
    print(f"{len(cache)} anchors: {repository.name} at {commit.oid}")
