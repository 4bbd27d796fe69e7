"""Turn failures of the Hub into one line that tells the way out; a call that is never answered ends as well."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.errors import HfHubHTTPError

# of the library that huggingface_hub speaks with: httpx, since 2.0 httpx2
HTTPError: type[Exception] = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
LOGIN = "`hf auth login`, or set HF_TOKEN"
SECONDS = 300.0  # without a sign of life; huggingface_hub itself would wait for ever
SECONDS_VARIABLE = "CRAFT_TRAINER_HUB_TIMEOUT"
SECRET = re.compile(r"\b(hf|api_org)_\w{6,}|(?<=Bearer )[^\s'\"\\]+")
STATUS = re.compile(r"\b(4\d\d|5\d\d) (?:[A-Z][a-z]+|\()")  # in what hf_xet says, which keeps no response
ANOTHER_BRANCH = "or push to another branch (--revision)"
MEANINGS = {  # answers that another attempt would not change
    401: LOGIN,
    403: "the token may not do this, take one that may",
    409: f"something else is being written there, or has the name: wait for it, {ANOTHER_BRANCH}",
    413: "a file is too large for it",
}
PASSING = (408, 412, 429)  # and everything from 500 on


@contextmanager
def plain_errors(repo: str, kind: str, revision: str | None = None, token: str | None = None) -> Iterator[None]:
    """Calls to the Hub about ``repo``, a ``model`` or ``dataset`` repository; no error of theirs holds a token.

    Raises:
        FileNotFoundError: there is no such repository or revision, or it is private.
        PermissionError: the token is not known, or may not do this.
        ConnectionError: the Hub could not be reached, or broke off, or did not answer, or failed: what may pass.
        OSError: it refused for good; or what failed was not the Hub, such as a full disk.
    """
    session = get_session()
    if session.timeout.read is None:  # between two signs of life: uploads have no limit by default
        session.timeout = float(os.environ.get(SECONDS_VARIABLE, SECONDS))
    try:
        yield
    except (HTTPError, OSError, RuntimeError) as error:
        answer = _answer(error)
        if answer is not None:
            raise _refusal(answer, repo, kind, revision, token) from error
        is_broken = any(isinstance(one, HTTPError | ConnectionError | TimeoutError) for one in _chain(error))
        if isinstance(error, OSError) and not is_broken:
            raise
        if status := STATUS.search(str(error)):
            raise _meaning(f"{repo}: the Hub answered {status[1]}", int(status[1])) from error
        raise ConnectionError(
            f"{repo}: the connection to {constants.ENDPOINT} failed ({_line(error)}): try again"
        ) from error


def retry_after(error: BaseException) -> float:
    """Seconds that the Hub asked to wait before the next attempt; 0 if it did not say."""
    answer = _answer(error)
    said = "" if answer is None else answer.headers.get("Retry-After", "")
    return float(said) if said.isdigit() else 0.0


def masked(text: str) -> str:
    """``text`` without tokens."""
    return SECRET.sub("hf_…", text)


def _refusal(answer: Any, repo: str, kind: str, revision: str | None, token: str | None) -> OSError:
    status, code = answer.status_code, answer.headers.get("X-Error-Code")
    if code == "RevisionNotFound":
        there = f"; it has {names}" if (names := _revisions(repo, kind, token)) else ""
        return FileNotFoundError(f"{repo} has no revision {revision!r}{there}: give a branch, a tag or a commit of it")
    if code == "GatedRepo":
        return PermissionError(f"{repo} is gated: ask for access on its page {constants.ENDPOINT}")
    if code == "RepoNotFound":
        return FileNotFoundError(f"there is no {kind} repository {repo}, or it is private: check the name, or {LOGIN}")
    said = f"{repo}: the Hub answered {status}"
    if message := answer.headers.get("X-Error-Message"):
        said += f" ({masked(' '.join(message.split()))})"
    return _meaning(said, status)


def _meaning(said: str, status: int) -> OSError:
    """The error for an answer of ``status``."""
    if status in PASSING or status >= 500:
        return ConnectionError(f"{said}: try again" if status != 429 else f"{said}, too many requests: try again later")
    kind = PermissionError if status in (401, 403) else OSError
    return kind(": ".join(part for part in (said, MEANINGS.get(status)) if part))


def _revisions(repo: str, kind: str, token: str | None) -> str:
    """Branches and tags of ``repo``, or nothing if they cannot be had."""
    try:
        refs = HfApi(token=token).list_repo_refs(repo, repo_type=kind)
    except (HTTPError, OSError):
        return ""
    return ", ".join(ref.name for ref in (*refs.branches, *refs.tags))


def _answer(error: BaseException | None) -> Any:
    """The response that ``error`` is about, or None if there was none."""
    return next((found for e in _chain(error) if (found := getattr(e, "response", None)) is not None), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    """The first line of what ``error`` says, without tokens."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return masked(line)
