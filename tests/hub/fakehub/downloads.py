"""Files out of a repository."""

import re

from fakehub.storage import HubError


class Downloads:
    """Answers to what reads contents."""

    def resolve(self, kind, repo_id, revision, path):
        """The content of a file, or where it is."""
        commit = self.repo(kind, repo_id).resolve(revision)
        head = {"X-Repo-Commit": commit["oid"], "Accept-Ranges": "bytes"}
        entry = commit["tree"].get(path)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound", head)
        if not entry["lfs"]:
            self._send(entry["sha"], {**head, "ETag": f'"{entry["oid"]}"'})
            return
        head |= {"X-Linked-Etag": f'"{entry["sha"]}"', "X-Linked-Size": str(entry["size"])}
        if found := self.hub.xet.files.get(entry["sha"]):
            token = f"{self.hub.url}/api/{kind}s/{repo_id}/xet-read-token/{commit['oid']}?store={found[1]}"
            head |= {"X-Xet-Hash": found[0], "Link": f'<{token}>; rel="xet-auth"', "ETag": f'"{entry["sha"]}"'}
        # as on the Hub, contents come from another host ("localhost" is not "127.0.0.1"), where the token must not go
        self.reply(302, None, {**head, "Location": f"http://localhost:{self.hub.port}/_lfs/{entry['sha']}"})

    def lfs_get(self, oid):
        self._send(oid, {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _send(self, sha, head):
        """The bytes of a blob, or the range of them that was asked for."""
        path = self.hub.blob(sha)
        if not path.exists():
            raise HubError(404, "blob not found")
        data, status = path.read_bytes(), 200
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if span and any(span.groups()):
            size = len(data)
            first = int(span[1]) if span[1] else max(0, size - int(span[2]))
            last = min(int(span[2]), size - 1) if span[1] and span[2] else size - 1
            if first >= size:
                raise HubError(416, "range", headers={"Content-Range": f"bytes */{size}"})
            status, head = 206, {**head, "Content-Range": f"bytes {first}-{last}/{size}"}
            data = data[first : last + 1]
        self.reply(status, None, head, raw=data)
