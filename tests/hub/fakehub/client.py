"""A process whose Hub is the double: huggingface_hub, datasets and evaluate read their settings when they are imported.

What runs in it is the package as users have it, but for one address that huggingface_hub hard-codes, and its waits
between attempts, which are short. One process serves many calls, because importing torch and datasets takes seconds.
"""

import importlib
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from fakehub.server import TOKEN

UNSET = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HUGGINGFACE_CO_STAGING", "HF_HUB_CACHE")
SECONDS = 300  # of one call
LONGEST_WAIT = 0.05


class Result(NamedTuple):
    """How a call ended: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


class Client:
    """Runs commands and snippets in a fresh process that knows no Hub but the one at ``url``.

    Args:
        xet: transfers over Xet; otherwise over LFS.
        home: a fresh folder, for HF_HOME.
    """

    def __init__(self, url, home, *, xet):
        self.xet, self.home = xet, Path(home)
        self.environment = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_ETAG_TIMEOUT": "5",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "50ms",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        self._answers = True
        self._pool = multiprocessing.get_context("spawn").Pool(1, _prepare, (self.environment,))

    def command(self, *words, **environment):
        """``craft-trainer WORDS``, with other variables of the ``environment`` if they are given (None: unset)."""
        return self._call(_command, [str(word) for word in words], environment)

    def python(self, code, **environment):
        """A snippet of Python; its status is 1 if it raises."""
        return self._call(_snippet, code, environment)

    def close(self):
        """End the process; it had its say, or is stopped."""
        self._pool.close() if self._answers else self._pool.terminate()
        self._pool.join()

    def _call(self, function, argument, environment):
        self._answers = False
        result = self._pool.apply_async(_captured, (function, argument, environment)).get(SECONDS)
        self._answers = True
        return Result(*result)


def _prepare(environment):
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ.update(environment)
    # the parent's folder of modules from the Hub, into which another process may write metrics later
    theirs = ("evaluate_modules", "transformers_modules", "datasets_modules")
    sys.path[:] = [place for place in sys.path if not any(Path(place, name).is_dir() for name in theirs)]
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, LONGEST_WAIT))


def _captured(function, argument, environment):
    """Status and output of a call, what native code writes included."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in environment.items() if value is not None})
    for name in [name for name, value in environment.items() if value is None]:
        os.environ.pop(name, None)
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            _redirect_hard_coded_calls(environment.get("HF_ENDPOINT") or os.environ["HF_ENDPOINT"])
            status = _status(function, argument)
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            os.close(kept[0]), os.close(kept[1])
            os.environ.clear(), os.environ.update(before)
        out.seek(0), err.seek(0)
        return status, out.read(), err.read()


def _status(function, argument):
    try:
        return function(argument)
    except SystemExit as end:
        return end.code or 0
    except BaseException:  # noqa: BLE001 (the parent reads it)
        traceback.print_exc()
        return 1


def _command(words):
    from craft_trainer.cli.main import main

    return main(words)


def _snippet(code):
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
    return 0


def http_library():
    """What huggingface_hub speaks with: httpx, since 2.0 httpx2."""
    from craft_trainer.hub.errors import HTTPError

    return importlib.import_module(HTTPError.__module__.partition(".")[0])


def _redirect_hard_coded_calls(url):
    """RepoCard.validate() asks https://huggingface.co whatever HF_ENDPOINT says; so does every card's push_to_hub."""
    import huggingface_hub
    from huggingface_hub.utils._http import hf_request_event_hook

    httpx = http_library()

    class ToDouble(httpx.HTTPTransport):
        def handle_request(self, request):
            request.url = httpx.URL(url).join(request.url.raw_path.decode())
            request.headers["Host"] = request.url.netloc.decode()
            return super().handle_request(request)

    def client():
        hooks, mounts = {"request": [hf_request_event_hook]}, {"https://huggingface.co": ToDouble()}
        return httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=None, mounts=mounts)

    huggingface_hub.set_client_factory(client)
