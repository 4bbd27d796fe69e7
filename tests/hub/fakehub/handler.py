"""From a request to the method that answers it."""

import contextlib
import json
import re
import time
import traceback
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from fakehub.downloads import Downloads
from fakehub.repositories import Repositories
from fakehub.storage import HubError
from fakehub.trees import Trees
from fakehub.uploads import Uploads

ID = r"(?P<repo_id>[^/]+/[^/]+?)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{ID}"
WEB = rf"/(?:(?P<kind>datasets|spaces)/)?{ID}"
ROUTES = [
    (re.compile(pattern), methods.split(), name)
    for pattern, methods, name in [
        (r"/api/whoami-v2", "GET", "whoami"),
        (r"/api/repos/create", "POST", "repos_create"),
        (r"/api/repos/delete", "DELETE", "repos_delete"),
        (r"/api/validate-yaml", "POST", "validate_yaml"),
        (API, "GET HEAD", "info"),
        (API + r"/revision/(?P<revision>[^/]+)", "GET HEAD", "info"),
        (API + r"/settings", "PUT", "settings"),
        (API + r"/tree/(?P<revision>[^/]+)(?P<path>/.*)?", "GET", "tree"),
        (API + r"/paths-info/(?P<revision>[^/]+)", "POST", "paths_info"),
        (API + r"/refs", "GET", "refs"),
        (API + r"/commits/(?P<revision>[^/]+)", "GET", "commits"),
        (API + r"/(?P<what>branch|tag)/(?P<revision>[^/]+)", "POST", "make_ref"),
        (API + r"/(?P<what>branch|tag)/(?P<revision>[^/]+)", "DELETE", "drop_ref"),
        (API + r"/preupload/(?P<revision>[^/]+)", "POST", "preupload"),
        (API + r"/commit/(?P<revision>[^/]+)", "POST", "make_commit"),
        (API + r"/xet-(?P<mode>read|write)-token(?:/(?P<revision>[^/]+))?", "GET", "xet_token"),
        (WEB + r"\.git/info/lfs/objects/batch", "POST", "lfs_batch"),
        (WEB + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "GET HEAD", "resolve"),
        (r"/_lfs/(?P<oid>[0-9a-f]{64})", "GET HEAD", "lfs_get"),
        (r"/_lfs/(?P<oid>[0-9a-f]{64})", "PUT", "lfs_put"),
        (r"/_lfs/(?P<oid>[0-9a-f]{64})/verify", "POST", "lfs_verify"),
    ]
]


class Handler(Repositories, Trees, Uploads, Downloads, BaseHTTPRequestHandler):
    """One connection to ``hub``."""

    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    server_version = "fakehub"

    def log_message(self, *words):
        """Nothing on stderr."""

    def handle_request(self):
        split = urlsplit(self.path)
        self.route, self.status, self.fault = split.path, None, None
        self.query = {key: values[0] for key, values in parse_qs(split.query).items()}
        self.body = self.read()
        try:
            self.answer()
        except HubError as error:
            head = {"X-Error-Message": error.message, **({"X-Error-Code": error.code} if error.code else {})}
            self.reply(error.status, {"error": error.message}, head | error.headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 (a mistake of the double is an answer, too)
            traceback.print_exc()
            self.reply(500, {"error": f"{type(error).__name__}: {error}"})
        finally:
            call = {"method": self.command, "path": self.path, "status": self.status}
            self.hub.calls.append(call | {"authorized": "Authorization" in self.headers})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815 (names of the standard library)

    def answer(self):
        self.fault = self.hub.fault(self.command, self.route)
        if self.fault and self.fault["drop"]:
            self.close_connection = True
            self.connection.close()
            return
        if self.fault and self.fault["slow"]:
            time.sleep(self.fault["slow"])
            self.fault = None
        if self.fault and self.fault["silent"]:
            self.connection.recv(1)  # until the client gives up
            self.close_connection = True
            return
        if self.fault and not self.fault["half"]:
            self.reply(self.fault["status"], {"error": "injected"})
            return
        for pattern, methods, name in ROUTES:
            match = pattern.fullmatch(self.route)
            if match and self.command in methods:
                found = {key: value and unquote(value) for key, value in match.groupdict().items()}
                if "kind" in found:
                    found["kind"] = (found["kind"] or "models").removesuffix("s")
                # reads take no lock: a client may stop half-way through one download to start another
                with contextlib.nullcontext() if self.command in ("GET", "HEAD") else self.hub.lock:
                    getattr(self, name)(**found)
                return
        self.refuse_unknown()

    def refuse_unknown(self):
        repo = re.match(API + r"(?:/|$)", self.route)
        known = repo and (repo["kind"][:-1], repo["repo_id"]) in self.hub.repos
        if not known and re.match(r"/api/(models|datasets|spaces)/|/.+/resolve/", self.route):
            raise HubError(404 if self.user(needed=False) else 401, "Repository not found", "RepoNotFound")
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    def read(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def json(self):
        return json.loads(self.body or b"{}")

    def reply(self, status, data=None, headers=None, raw=None):
        """Answer with ``data`` as JSON, or with ``raw`` bytes."""
        payload = raw if raw is not None else b"" if data is None else json.dumps(data).encode()
        self.status = status
        self.send_response(status)
        head = {"X-Request-Id": "double", "Content-Length": str(len(payload))}
        if data is not None:
            head["Content-Type"] = "application/json"
        for key, value in (head | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault["half"]:
            self.close_connection = True
            payload = payload[: len(payload) // 2]
        self.wfile.write(payload)
