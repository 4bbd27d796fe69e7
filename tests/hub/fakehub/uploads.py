"""Files into a repository: directly, through LFS, or through Xet; and the commits that name them."""

import base64
import fnmatch
import hashlib
import json
import time

from fakehub.storage import HubError

LFS_THRESHOLD = 10 * 1024 * 1024


class Uploads:
    """Answers to what writes."""

    def preupload(self, kind, repo_id, revision):
        """Which way each file has to take."""
        tree, files = self.repo(kind, repo_id, write=True).resolve(revision)["tree"], []
        rules = self.hub.blob(tree[".gitattributes"]["sha"]).read_text() if ".gitattributes" in tree else ""
        tracked = [line.split()[0] for line in rules.splitlines() if "filter=lfs" in line]
        for file in self.json()["files"]:
            sample, old = base64.b64decode(file.get("sample", "")), tree.get(file["path"])
            name = file["path"].rsplit("/", 1)[-1]
            large = file["size"] > LFS_THRESHOLD or b"\0" in sample
            lfs = large or any(fnmatch.fnmatch(name, pattern) for pattern in tracked)
            oid = (old["sha"] if old["lfs"] else old["oid"]) if old else None
            row = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}
            files.append(row)
        self.reply(200, {"files": files})

    def lfs_batch(self, kind, repo_id):
        self.repo(kind, repo_id, write=True)
        objects = []
        for wanted in self.json()["objects"]:
            row = {"oid": wanted["oid"], "size": wanted["size"]}
            if not self.hub.blob(wanted["oid"]).exists():
                href = f"{self.hub.url}/_lfs/{wanted['oid']}"
                row["actions"] = {"upload": {"href": href, "header": {}}, "verify": {"href": f"{href}/verify"}}
            objects.append(row)
        self.reply(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "sha256 mismatch")
        self.hub.blob(oid).write_bytes(self.body)
        self.reply(200, headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def lfs_verify(self, oid):
        if not self.hub.blob(oid).exists():
            raise HubError(404, "object not found")
        self.reply(200, {})

    def xet_token(self, kind, repo_id, mode, revision=None):
        """Where the client finds the Xet store; ``revision`` is of no matter here."""
        del revision
        self.repo(kind, repo_id, write=mode == "write")
        expires = int(time.time()) + 3600
        with self.hub.lock:
            store = f"local://{self.hub.xet.new(self.query.get('store'))}"
        head = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)}
        self.reply(200, {"accessToken": "xet", "exp": expires, "casUrl": store}, head)

    def make_commit(self, kind, repo_id, revision):
        repo = self.repo(kind, repo_id, write=True)
        head = repo.resolve(revision)
        if revision not in repo.refs:
            raise HubError(400, "can only commit to a branch")
        tree, title = dict(head["tree"]), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            what, value = operation["key"], operation["value"]
            if {"", ".", ".."} & set(value.get("path", "x").rstrip("/").split("/")):
                raise HubError(400, f"Invalid path in repo: {value['path']}")
            if what == "header":
                title = value["summary"]
                if value.get("parentCommit") and not head["oid"].startswith(value["parentCommit"]):
                    raise HubError(412, "The branch was updated since you opened this page.")
            else:
                self._apply(tree, what, value)
        request = None
        if self.query.get("create_pr"):
            repo.num_prs += 1
            request, revision = f"{self.hub.url}/{repo_id}/discussions/{repo.num_prs}", f"refs/pr/{repo.num_prs}"
            repo.refs[revision] = head["oid"]
        oid = self.hub.commit(repo, revision, tree, title, self.user()["name"])
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.address(kind, repo_id)}/commit/{oid}"}
        self.reply(200, answer | {"hookOutput": ""} | ({"pullRequestUrl": request} if request else {}))

    def _apply(self, tree, what, value):
        """One operation of a commit."""
        path = value["path"]
        if what == "file":
            data = base64.b64decode(value["content"])
            tree[path] = self.hub.entry(self.hub.put(data), len(data), lfs=False)
        elif what == "lfsFile":
            sha = value["oid"]
            if not self.hub.blob(sha).exists() and not self.hub.xet.materialize(sha, value["size"]):
                raise HubError(400, f"LFS object {sha} was not uploaded")
            tree[path] = self.hub.entry(sha, self.hub.blob(sha).stat().st_size, lfs=True)
        elif what in ("deletedFile", "deletedFolder"):
            base = path.rstrip("/")
            gone = [name for name in tree if name == base or name.startswith(f"{base}/")]
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {base}", "EntryNotFound")
            for name in gone:
                del tree[name]
