"""The double as a server on 127.0.0.1, with faults on demand."""

import re
import threading
from http.server import ThreadingHTTPServer

from fakehub.handler import Handler
from fakehub.storage import Storage
from fakehub.xet import XetFolders

TOKEN, READ_ONLY_TOKEN = "hf_doubletokenwrite", "hf_doubletokenread"


class HubDouble(Storage):
    """A Hub at ``url`` while the context is open.

    Attributes:
        repos: repositories by (kind, id), kind being model, dataset or space.
        tokens: who they belong to; ``TOKEN`` may write to ``org``, ``READ_ONLY_TOKEN`` only read.
        calls: every request that was answered: ``method``, ``path``, ``authorized``, ``status``.
    """

    def __init__(self):
        super().__init__()
        self.tokens = {
            TOKEN: {"name": "writer", "orgs": ["org", "my-org"], "role": "write"},
            READ_ONLY_TOKEN: {"name": "reader", "orgs": ["org"], "role": "read"},
        }
        self.calls, self.faults = [], []
        self.xet = XetFolders(self.root, self.blob)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()
        self.remove()

    def fail(
        self, pattern, status=500, *, method=None, times=1, drop=False, after=0, half=False, silent=False, slow=0.0
    ):
        """Let requests whose path matches ``pattern`` fail.

        Args:
            times: so many of them.
            after: not the first so many.
            drop: close the connection instead of answering.
            half: answer as usual, but close the connection in the middle of the content.
            silent: keep the connection open and never answer.
            slow: answer as usual, after so many seconds.
        """
        self.faults.append(
            {
                "pattern": re.compile(pattern),
                "status": status,
                "method": method,
                "left": times,
                "drop": drop,
                "after": after,
                "half": half,
                "silent": silent,
                "slow": slow,
            }
        )

    def fault(self, method, path):
        """The fault that this request meets, or None."""
        for fault in self.faults:
            if fault["left"] and fault["pattern"].search(path) and fault["method"] in (None, method):
                if fault["after"]:
                    fault["after"] -= 1
                    continue
                fault["left"] -= 1
                return fault
        return None

    def forget(self):
        """Empty: no repositories, faults, calls."""
        for kept in (self.repos, self.faults, self.calls):
            kept.clear()
