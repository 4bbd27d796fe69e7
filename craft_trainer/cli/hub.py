"""What goes wrong with the Hub, in one line that tells the way out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from httpx import HTTPError
from huggingface_hub import constants

LOGIN = "`hf auth login`, or set HF_TOKEN"


@contextmanager
def plain_errors(repo: str, kind: str, revision: str | None = None) -> Iterator[None]:
    """Calls to the Hub about ``repo``, a ``model`` or ``dataset`` repository; no error of theirs holds a token.

    Raises:
        FileNotFoundError: there is no such repository or revision, or it is private.
        PermissionError: the token is not known, or may not do this.
        ConnectionError: the Hub could not be reached, or broke off, or answered that it failed.
        OSError: what failed was not the Hub, such as a full disk.
    """
    try:
        yield
    except (HTTPError, OSError, RuntimeError) as error:
        answer = _answer(error)
        if answer is not None:
            raise _refusal(answer, repo, kind, revision) from error
        if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError) and not _broken(error):
            raise
        raise ConnectionError(
            f"{repo}: the connection to {constants.ENDPOINT} failed ({_line(error)}): try again"
        ) from error


def _refusal(answer: Any, repo: str, kind: str, revision: str | None) -> OSError:
    status, code = answer.status_code, answer.headers.get("X-Error-Code")
    if code == "RevisionNotFound":
        return FileNotFoundError(f"{repo} has no revision {revision!r}: give a branch, a tag or a commit of it")
    if code == "GatedRepo":
        return PermissionError(f"{repo} is gated: ask for access on its page {constants.ENDPOINT}")
    if code == "RepoNotFound":
        return FileNotFoundError(f"there is no {kind} repository {repo}, or it is private: check the name, or {LOGIN}")
    said = f"{repo}: the Hub answered {status}"
    if message := answer.headers.get("X-Error-Message"):
        said += f" ({' '.join(message.split())})"
    if status == 401:
        return PermissionError(f"{said}: {LOGIN}")
    if status == 403:
        return PermissionError(f"{said}: the token may not do this, take one that may")
    return ConnectionError(f"{said}: try again")


def _answer(error: BaseException | None) -> Any:
    """The response that ``error`` is about, or None if there was none."""
    return next((found for e in _chain(error) if (found := getattr(e, "response", None)) is not None), None)


def _broken(error: BaseException) -> bool:
    """Whether a broken connection is behind ``error``."""
    return any(isinstance(e, HTTPError | ConnectionError | TimeoutError) for e in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    """The first line of what ``error`` says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
