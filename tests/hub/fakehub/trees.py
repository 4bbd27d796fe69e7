"""What is in a repository at some revision."""

import re
from urllib.parse import parse_qs, quote

import yaml

from fakehub.storage import HubError, git_sha1

YES = ("1", "True", "true")


class Trees:
    """Answers about the files of a commit."""

    def info(self, kind, repo_id, revision=None):
        repo = self.repo(kind, repo_id)
        commit = repo.resolve(revision)
        card = self._card(commit)
        files = [self._sibling(path, entry) for path, entry in sorted(commit["tree"].items())]
        answer = {"_id": git_sha1(repo_id.encode())[:24], "id": repo_id, "modelId": repo_id, "sha": commit["oid"]}
        answer |= {"author": repo_id.split("/")[0], "private": repo.private, "gated": repo.gated, "disabled": False}
        answer |= {"lastModified": commit["date"], "createdAt": repo.created, "downloads": 0, "likes": 0}
        self.reply(
            200, answer | {"tags": card.get("tags") or [], "cardData": card, "usedStorage": 0, "siblings": files}
        )

    def tree(self, kind, repo_id, revision, path=""):
        commit = self.repo(kind, repo_id).resolve(revision)
        base, deep, expand = (path or "").strip("/"), self.query.get("recursive") in YES, self._expand(self.query)
        found = {}
        for name, entry in sorted(commit["tree"].items()):
            if base and not name.startswith(f"{base}/"):
                continue
            inside = name[len(base) + 1 :] if base else name
            *folders, _file = inside.split("/")
            for depth in range(1, (len(folders) if deep else min(len(folders), 1)) + 1):
                folder = "/".join([*([base] if base else []), *folders[:depth]])
                found.setdefault(folder, self._folder(folder, commit, expand))
            if deep or not folders:
                found[name] = self._file(name, entry, expand)
        if base and not found:
            raise HubError(404, f'{base} does not exist on "{revision}"', "EntryNotFound")
        self._page(list(found.values()))

    def paths_info(self, kind, repo_id, revision):
        commit = self.repo(kind, repo_id).resolve(revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            asked = self.json()
        else:  # huggingface_hub sends a form here
            asked = parse_qs(self.body.decode())
            asked["expand"] = asked.get("expand", ["False"])[0]
        expand, found = self._expand(asked), []
        paths = asked.get("paths", [])
        for path in [paths] if isinstance(paths, str) else paths:
            name = path.strip("/")
            if name in commit["tree"]:
                found.append(self._file(name, commit["tree"][name], expand))
            elif any(file.startswith(f"{name}/") for file in commit["tree"]):
                found.append(self._folder(name, commit, expand))
        self.reply(200, found)

    def _page(self, rows):
        start, limit, more = int(self.query.get("cursor", 0)), int(self.query.get("limit", 1000)), {}
        if start + limit < len(rows):
            kept = "&".join(f"{key}={quote(value)}" for key, value in self.query.items() if key != "cursor")
            more = {"Link": f'<{self.hub.url}{self.route}?{kept}&cursor={start + limit}>; rel="next"'}
        self.reply(200, rows[start : start + limit], more)

    def _card(self, commit):
        entry = commit["tree"].get("README.md")
        match = entry and re.match(r"---\s*\n(.*?)\n---", self.hub.blob(entry["sha"]).read_text(), re.DOTALL)
        return (match and yaml.safe_load(match[1])) or {}

    def _sibling(self, path, entry):
        if not self.query.get("blobs"):
            return {"rfilename": path}
        lfs = {"sha256": entry["sha"], "size": entry["size"], "pointerSize": entry["pointer"]}
        more = {"lfs": lfs} if entry["lfs"] else {}
        return {"rfilename": path, "size": entry["size"], "blobId": entry["oid"], **more}

    @staticmethod
    def _expand(asked):
        return asked.get("expand") in (*YES, True)

    @staticmethod
    def _file(path, entry, expand):
        row = {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"]}
        if entry["lfs"]:  # without "xetHash": downloads then ask /resolve, which knows the folder of the Xet store
            row["lfs"] = {"oid": entry["sha"], "size": entry["size"], "pointerSize": entry["pointer"]}
        return {**row, "lastCommit": entry["last"]} if expand else row

    @staticmethod
    def _folder(path, commit, expand):
        inside = [entry["last"] for name, entry in commit["tree"].items() if name.startswith(f"{path}/")]
        row = {"type": "directory", "path": path, "oid": git_sha1(path.encode()), "size": 0}
        return {**row, "lastCommit": max(inside, key=lambda last: last["date"])} if expand else row
