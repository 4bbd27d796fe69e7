"""Repositories of the double: commits, branches and tags in memory, contents on disk by their SHA-256."""

import hashlib
import json
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

LFS_SUFFIXES = (
    "7z arrow bin bz2 ckpt gz h5 jpg jpeg mp3 mp4 msgpack npy npz onnx parquet pkl png pt pth safetensors zip"
)
GITATTRIBUTES = "".join(f"*.{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES.split()).encode()


class HubError(Exception):
    """An answer other than 2xx; ``code`` is what huggingface_hub makes an exception class of (X-Error-Code)."""

    def __init__(self, status, message, code=None, headers=None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


class Repository:
    """What is at one id: ``refs`` (branches) and ``tags`` name ``commits``."""

    def __init__(self, kind, repo_id, private):
        self.kind, self.id, self.private, self.gated = kind, repo_id, private, False
        self.commits, self.refs, self.tags, self.num_prs = {}, {}, {}, 0
        self.created = now()

    def resolve(self, revision):
        """The commit that a branch, a tag, or (the start of) a commit's id means."""
        revision = revision or "main"
        oid = self.refs.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)
        oid = oid or next((c for c in self.commits if len(revision) >= 7 and c.startswith(revision)), None)
        if oid is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]


class Storage:
    """All repositories, and the contents of their files."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="fakehub-", ignore_cleanup_errors=True)
        self.root = Path(self._folder.name)
        (self.root / "blobs").mkdir()
        self.repos, self.lock = {}, threading.RLock()

    def remove(self):
        self._folder.cleanup()

    def blob(self, sha):
        return self.root / "blobs" / sha

    def put(self, data):
        sha = hashlib.sha256(data).hexdigest()
        self.blob(sha).write_bytes(data)
        return sha

    def entry(self, sha, size, lfs):
        """What a commit knows of a file."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n".encode()
        oid = git_sha1(pointer if lfs else self.blob(sha).read_bytes())
        return {"sha": sha, "size": size, "lfs": lfs, "oid": oid, "pointer": len(pointer)}

    def commit(self, repo, branch, tree, title, who="double"):
        parent = repo.refs.get(branch)
        content = sorted((path, entry["oid"]) for path, entry in tree.items())
        oid = hashlib.sha1(json.dumps([repo.id, parent, title, content, time.time_ns()]).encode()).hexdigest()
        for entry in tree.values():
            entry.setdefault("last", {"id": oid, "title": title, "date": now()})
        repo.commits[oid] = {"oid": oid, "parent": parent, "tree": tree, "title": title, "date": now(), "who": who}
        repo.refs[branch] = oid
        return oid

    def create(self, kind, repo_id, *, private=False, who="double"):
        """An empty repository; ``kind`` is model, dataset or space."""
        repo = self.repos[kind, repo_id] = Repository(kind, repo_id, private)
        first = {".gitattributes": self.entry(self.put(GITATTRIBUTES), len(GITATTRIBUTES), lfs=False)}
        self.commit(repo, "main", first, "initial commit", who)
        return repo

    def upload(self, kind, repo_id, files):
        """A repository with ``files`` (path → bytes), without a client: for tests that only read."""
        repo = self.repos.get((kind, repo_id)) or self.create(kind, repo_id)
        new = {path: self.entry(self.put(data), len(data), lfs=False) for path, data in files.items()}
        return self.commit(repo, "main", repo.resolve("main")["tree"] | new, "files")


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
