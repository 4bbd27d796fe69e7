"""Find a model, dataset or checkpoint: a local folder, or a repository of the Hub, at a revision if it is named."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from craft_trainer.hub.errors import plain_errors
from craft_trainer.hub.run_folder import HISTORIES, STATE_FILE
from craft_trainer.hub.storage import downloaded, place_of

NAMED = re.compile(r"([\w.-]+/[\w.-]+)/(last-checkpoint|checkpoint-\d+)((?:@.+)?)")
FILES = {".json", ".jsonl", ".csv", ".parquet", ".yaml"}  # endings that no repository's name has
OUTPUTS = "outputs"  # where this package writes to by default: no owner of repositories is meant
REPOSITORY_ID = re.compile(r"[\w.-]+/[\w.-]+")
CHECKPOINTS = ("checkpoint-*/*", "last-checkpoint/*")  # of a run that pushes them; only resuming reads them


class HubPlace(NamedTuple):
    """A repository of the Hub; without a ``revision`` its newest commit."""

    repo: str
    revision: str | None = None

    @classmethod
    def of(cls, name: str, revision: str | None = None) -> "HubPlace":
        """That of ``owner/name`` or ``owner/name@revision``, at ``revision`` if that is given; see :meth:`at`."""
        repo, _, at = name.partition("@")
        return cls(repo, at or None).at(revision)

    @property
    def name(self) -> str:
        """``owner/name``, or ``owner/name@revision``."""
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    def at(self, revision: str | None) -> "HubPlace":
        """The same at ``revision``, if that is given; a ValueError if it has another already."""
        if revision and self.revision not in (None, revision):
            raise ValueError(
                f"{self.name} is at revision {self.revision}, and revision {revision} is asked for as "
                "well: give one of them"
            )
        return self._replace(revision=revision or self.revision)


def parse(place: str | Path) -> Path | HubPlace:
    """The file or folder at ``place``, or the repository it names: ``owner/name`` or ``owner/name@revision``.

    Raises:
        FileNotFoundError: it is neither; a missing folder inside an existing one, or in ``outputs``, is taken for
            a mistyped path, unless a revision of it is named.
    """
    folder = Path(place)
    if folder.exists():
        return folder
    repo, at, revision = str(place).partition("@")
    is_file = folder.suffix in FILES or folder.parts[0] == OUTPUTS
    if not is_file and REPOSITORY_ID.fullmatch(repo) and (revision or not at):
        if revision or not Path(repo).parent.exists():
            return HubPlace(repo, revision or None)
        raise FileNotFoundError(
            f"there is no file or folder {place}. If you mean the Hub repository of that name, which the folder "
            f"{Path(repo).parent} here hides, give its revision as well (owner/name@revision), e.g. {repo}@main"
        )
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

    A dataset may also be a URL that fsspec knows; see :func:`craft_trainer.hub.storage.downloaded`.

    ``revision`` is for a repository whose name has no other; ``only`` and ``without`` are patterns of what to download.

    Raises:
        FileNotFoundError: there is nothing of that name, or not that revision: the error lists those there are.
        OSError: the Hub does not hand it out; see :func:`craft_trainer.hub.errors.plain_errors`.
        ValueError: ``revision`` is not the one that ``place`` names.
    """
    if kind == "dataset" and "://" in str(place):
        elsewhere = place_of(place)
        return elsewhere if isinstance(elsewhere, Path) else downloaded(elsewhere)
    found = parse(place)
    if isinstance(found, Path):
        return found
    revision = found.at(revision).revision
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


def resolve_checkpoint(place: str | Path, output_dir: Path | None = None) -> Path:
    """The folder of the checkpoint ``place``, downloaded if it is on the Hub; OSError if there is none.

    Args:
        place: a folder; or ``owner/name`` or ``owner/name@revision``, of which the checkpoint with the most steps is
            taken; or one of them, as ``owner/name/checkpoint-500@revision``.
        output_dir: where the histories of λ go that the run had pushed, unless there are some already; None is nowhere.
    """
    if Path(place).exists():
        return Path(place)
    named = NAMED.fullmatch(str(place))
    try:
        found = parse(named[1] + named[3] if named else place)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Can't find a valid checkpoint at {place}: {error}") from error
    if not isinstance(found, HubPlace):
        others = ", ".join(sorted(path.name for path in found.glob("checkpoint-*"))) or "none"
        raise FileNotFoundError(f"Can't find a valid checkpoint at {place}: {found} has {others}")
    with plain_errors(found.repo, "model", found.revision):
        files = HfApi().list_repo_files(found.repo, revision=found.revision)
        there = [name.removesuffix(f"/{STATE_FILE}") for name in files if name.endswith(f"/{STATE_FILE}")]
        if not there or (named and named[2] not in there):
            raise _no_checkpoint(found, there)
        if named:
            chosen = named[2]
        else:
            states = _download(found, [f"{name}/{STATE_FILE}" for name in there])
            steps = {name: json.loads((states / name / STATE_FILE).read_text())["global_step"] for name in there}
            chosen = max(there, key=lambda name: int(steps[name]))
        snapshot = _download(found, [f"{chosen}/*", *HISTORIES])
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name in HISTORIES:
            if (snapshot / name).is_file() and not (output_dir / name).is_file():
                shutil.copyfile(snapshot / name, output_dir / name)
    return snapshot / chosen


def _download(place: HubPlace, patterns: list[str]) -> Path:
    return Path(snapshot_download(place.repo, revision=place.revision, allow_patterns=patterns))


def _no_checkpoint(place: HubPlace, there: list[str]) -> FileNotFoundError:
    if there:
        return FileNotFoundError(f"{place.name} has no such checkpoint; it has {', '.join(sorted(there))}")
    return FileNotFoundError(
        f"{place.name} holds no checkpoint to resume from: runs push them with hub_strategy checkpoint or "
        "all_checkpoints. To start a new run from its weights, give it as model"
    )
