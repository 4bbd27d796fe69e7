"""Where a model or dataset is: a local folder, or a repository of the Hub, at a revision if one is named."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from craft_trainer.hub.errors import plain_errors

REPOSITORY_ID = re.compile(r"[\w.-]+/[\w.-]+")
CHECKPOINTS = ("checkpoint-*/*", "last-checkpoint/*")  # of a run that pushes them; only resuming reads them


class HubPlace(NamedTuple):
    """A repository of the Hub; without a ``revision`` its newest commit."""

    repo: str
    revision: str | None = None


def parse(place: str | Path) -> Path | HubPlace:
    """The file or folder at ``place``, or the repository it names: ``owner/name`` or ``owner/name@revision``.

    Raises:
        FileNotFoundError: it is neither; a missing folder inside an existing one is taken for a mistyped path.
    """
    folder = Path(place)
    if folder.exists():
        return folder
    repo, at, revision = str(place).partition("@")
    if REPOSITORY_ID.fullmatch(repo) and (revision or not at) and not Path(repo).parent.exists():
        return HubPlace(repo, revision or None)
    raise FileNotFoundError(
        f"there is no file or folder {place}, and it is not the id of a Hub repository (owner/name, or "
        "owner/name@revision)"
    )


def resolve_path(
    place: str | Path,
    kind: str = "model",
    *,
    revision: str | None = None,
    only: Sequence[str] | None = None,
    without: Sequence[str] = CHECKPOINTS,
) -> Path:
    """The folder at ``place``; that of a Hub repository is downloaded, into huggingface_hub's cache.

    Args:
        kind: ``model`` or ``dataset``.
        revision: of a Hub repository whose name has none.
        only, without: patterns of what to download.

    Raises:
        FileNotFoundError: there is nothing of that name, or not that revision: the error lists those there are.
        OSError: the Hub does not hand it out; see :func:`craft_trainer.hub.errors.plain_errors`.
    """
    found = parse(place)
    if isinstance(found, Path):
        return found
    revision = found.revision or revision
    patterns: dict[str, Any] = {"allow_patterns": only and list(only), "ignore_patterns": list(without)}
    try:
        with plain_errors(found.repo, kind, revision):
            return Path(snapshot_download(found.repo, repo_type=kind, revision=revision, **patterns))
    except (ConnectionError, LocalEntryNotFoundError) as error:
        if not constants.HF_HUB_OFFLINE:
            raise
        raise FileNotFoundError(
            f"{place} is not on this machine, and the Hub cannot be reached: HF_HUB_OFFLINE is set"
        ) from error
