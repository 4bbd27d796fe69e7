"""``craft-trainer cache pull``: an anchor cache from the Hub, checked."""

import shutil
from dataclasses import dataclass
from shlex import quote

from craft_trainer.options import option

EXAMPLE = "craft-trainer cache pull --repo my-org/my-anchors --output_dir outputs/anchors"
NOT_OF_THE_CACHE = [".gitattributes"]  # what the Hub adds
DOWNLOAD_NOTES = ".cache"  # what huggingface_hub adds


@dataclass
class PullArguments:
    """The repository and the folder."""

    repo: str = option("dataset repository of the Hub, owner/name or owner/name@revision")
    output_dir: str = option("folder of the cache; it must not exist")
    revision: str | None = option("branch, tag or commit; by default that of repo, else main", None)


def run(arguments: PullArguments) -> None:
    """Download it; the folder appears only when every data file has the checksum it was written with."""
    from huggingface_hub import snapshot_download

    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.files import appears_when_complete
    from craft_trainer.hub.errors import plain_errors
    from craft_trainer.hub.resolve_path import HubPlace
    from craft_trainer.hub.storage import local_folder

    repo, revision = HubPlace.of(arguments.repo, arguments.revision)
    with appears_when_complete(local_folder(arguments.output_dir, "cache pull")) as partial:
        with plain_errors(repo, "dataset", revision):
            snapshot_download(
                repo, repo_type="dataset", revision=revision, local_dir=partial, ignore_patterns=NOT_OF_THE_CACHE
            )
        shutil.rmtree(partial / DOWNLOAD_NOTES, ignore_errors=True)
        try:
            cache = AnchorCache(partial)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(str(error).replace(str(partial), repo)) from error
    print(f"{len(cache)} anchors, fingerprint {cache.provenance.fingerprint[:12]}: {arguments.output_dir}")
    for number, teacher in enumerate(dict.fromkeys(one["path"] for one in cache.provenance.teachers)):
        step = "or:   " if number else "next: "
        print(f"{step}craft-trainer cache verify --cache {quote(arguments.output_dir)} --teacher {quote(teacher)}")
