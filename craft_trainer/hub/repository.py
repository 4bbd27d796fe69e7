"""A repository of the Hub to write to: made if it is not there, and one commit for everything that belongs together."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

from craft_trainer.hub.errors import plain_errors, retry_after

PAUSES = (5.0, 20.0)  # seconds before the second and before the third attempt
ADDED = {".gitattributes"}  # what the Hub adds
LONGEST_PAUSE = 120.0  # even if the Hub asks for more
logger = logging.getLogger(__name__)
Files = Mapping[str, Path | bytes]


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub to write to.

    Attributes:
        name: ``owner/name``, or ``name`` in the account of the token.
        kind: ``model`` or ``dataset``.
        revision: the branch; main if it is None.
        private: what it becomes if it is made; None is what its owner has set. One that is there stays as it is, and if
            that is public, True is refused.
        token: by default that of ``hf auth login``, or HF_TOKEN.
    """

    name: str
    kind: str = "model"
    revision: str | None = None
    private: bool | None = None
    token: str | None = field(default=None, repr=False)

    def opened(self) -> "Repository":
        """The same with its owner in its name, made with its branch if it was not there; it may be written to.

        Raises:
            PermissionError: it is to be private, and is there and public; or the token may not write.
        """
        return with_retries(self._open)

    def files(self) -> set[str]:
        """The paths of what is there, without what the Hub adds to every repository."""

        def ask() -> list[str]:
            with self._errors():
                hub, place = self._hub()
                return list(hub.list_repo_files(self.name, **place))

        return {*with_retries(ask)} - ADDED

    def text(self, file: str) -> str:
        """The text of a ``file`` that is there."""

        def ask() -> str:
            with self._errors():
                hub, place = self._hub()
                return Path(hub.hf_hub_download(self.name, file, **place)).read_text("utf-8")

        return with_retries(ask)

    def commit(self, files: Files, message: str, *, replaces: Sequence[str] = ()) -> CommitInfo:
        """Upload ``files`` (path in the repository → file, or its bytes) in one commit: all of them or none.

        What is there outside folders, fits a pattern of ``replaces`` and is not in ``files`` goes. OSError as
        :func:`craft_trainer.hub.errors.plain_errors`, after the attempts of ``with_retries``.
        """
        additions = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]

        def attempt() -> CommitInfo:
            with self._errors():
                hub, place = self._hub()
                there = hub.list_repo_files(self.name, **place)
                gone = [name for name in there if "/" not in name and name not in files]
                old = [name for name in gone if any(fnmatch(name, pattern) for pattern in replaces)]
                operations: list[Any] = [*additions, *map(CommitOperationDelete, old)]
                commit: CommitInfo = hub.create_commit(self.name, operations, commit_message=message, **place)
                return commit

        return with_retries(attempt)

    def _open(self) -> "Repository":
        with self._errors():
            hub, place = self._hub()
            made = hub.create_repo(self.name, repo_type=self.kind, private=self.private, exist_ok=True)
            if self.private and not hub.repo_info(made.repo_id, repo_type=self.kind).private:
                raise PermissionError(
                    f"{made.repo_id} is to be private, and there is a public {self.kind} repository of that name, "
                    "which a push would not hide; nothing was uploaded. Make it private in its settings on the Hub, "
                    "name another repository, or leave private out"
                )
            if self.revision is not None:
                hub.create_branch(made.repo_id, repo_type=self.kind, branch=self.revision, exist_ok=True)
            # the question that comes before every upload: that the repository exists does not say who may write
            hub.preupload_lfs_files(made.repo_id, [CommitOperationAdd("README.md", b"may I?")], **place)
        return replace(self, name=made.repo_id)

    def _hub(self) -> tuple[HfApi, dict[str, Any]]:
        return HfApi(token=self.token), {"repo_type": self.kind, "revision": self.revision}

    def _errors(self) -> AbstractContextManager[None]:
        return plain_errors(self.name, self.kind, self.revision, self.token)


def with_retries[Result](call: Callable[[], Result]) -> Result:
    """Return the result of ``call``, tried again after each of :data:`PAUSES` while it raises ConnectionError.

    Other errors are raised at once, and that of the last attempt.
    """
    for pause in PAUSES:
        try:
            return call()
        except ConnectionError as error:
            seconds = max(pause, min(retry_after(error), LONGEST_PAUSE))
            logger.warning("%s (once more in %.0f s)", error, seconds)
        time.sleep(seconds)
    return call()
