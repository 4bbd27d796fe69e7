"""Who asks, for which repository: accounts, rights, creation, references."""

import re

import yaml

from fakehub.storage import HubError


class Repositories:
    """Answers about repositories as a whole."""

    def user(self, needed=True):
        """The account of the request's token, or None without one."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not token:
            if needed:
                raise HubError(401, "Invalid username or password.")
            return None
        if token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def writer(self, owner):
        user = self.user()
        if user["role"] != "write" or owner not in (user["name"], *user["orgs"]):
            raise HubError(403, f"You don't have the rights to write in the namespace {owner}")
        return user

    def repo(self, kind, repo_id, write=False):
        """The repository, if the request may see it (``write``: change it)."""
        user, owner = self.user(needed=False), repo_id.split("/")[0]
        member = user is not None and owner in (user["name"], *user["orgs"])
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not member):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        if repo.gated and "/resolve/" in self.route and not member:
            raise HubError(403, f"Access to {kind} {repo_id} is restricted.", "GatedRepo")
        if write:
            self.writer(owner)
        return repo

    def address(self, kind, repo_id):
        return f"{self.hub.url}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"

    def whoami(self):
        user = self.user()
        token = {"type": "access_token", "accessToken": {"displayName": "double", "role": user["role"]}}
        orgs = [{"type": "org", "name": name, "roleInOrg": "admin"} for name in user["orgs"]]
        me = {"type": "user", "id": user["name"], "name": user["name"], "fullname": user["name"], "isPro": False}
        self.reply(200, me | {"email": "x@example.invalid", "auth": token, "orgs": orgs})

    def repos_create(self):
        asked, user = self.json(), self.user()
        kind, repo_id = asked.get("type") or "model", f"{asked.get('organization') or user['name']}/{asked['name']}"
        self.writer(repo_id.split("/", maxsplit=1)[0])
        url = self.address(kind, repo_id)
        if (kind, repo_id) in self.hub.repos:
            self.reply(409, {"error": f"You already created this {kind} repo: {repo_id}", "url": url})
            return
        private = bool(asked.get("private") or asked.get("visibility") == "private")
        self.hub.create(kind, repo_id, private=private, who=user["name"])
        self.reply(200, {"url": url, "name": repo_id, "id": repo_id})

    def repos_delete(self):
        asked, user = self.json(), self.user()
        kind, repo_id = asked.get("type") or "model", f"{asked.get('organization') or user['name']}/{asked['name']}"
        self.repo(kind, repo_id, write=True)
        del self.hub.repos[kind, repo_id]
        self.reply(200, {})

    def settings(self, kind, repo_id):
        repo, asked = self.repo(kind, repo_id, write=True), self.json()
        repo.private = asked.get("private", {"private": True, "public": False}.get(asked.get("visibility"), False))
        repo.gated = asked.get("gated", repo.gated)
        self.reply(200, {"private": repo.private})

    def validate_yaml(self):
        match = re.match(r"---\s*\n(.*?)\n---", self.json()["content"], re.DOTALL)
        warnings = [] if match else [{"message": "empty or missing yaml metadata in repo card"}]
        errors = []
        try:
            if match and not isinstance(yaml.safe_load(match[1]) or {}, dict):
                errors = [{"message": "metadata is not a mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        self.reply(400 if errors else 200, {"errors": errors, "warnings": warnings})

    def refs(self, kind, repo_id):
        repo = self.repo(kind, repo_id)

        def rows(names, prefix):
            return [{"name": n, "ref": prefix + n, "targetCommit": oid} for n, oid in names.items()]

        requests = {name: oid for name, oid in repo.refs.items() if name.startswith("refs/pr/")}
        heads = {name: oid for name, oid in repo.refs.items() if name not in requests}
        answer = {"branches": rows(heads, "refs/heads/"), "tags": rows(repo.tags, "refs/tags/"), "converts": []}
        self.reply(200, answer | {"pullRequests": rows(requests, "")})

    def commits(self, kind, repo_id, revision):
        repo, history = self.repo(kind, repo_id), []
        commit = repo.resolve(revision)
        while commit:
            row = {"id": commit["oid"], "title": commit["title"], "message": "", "date": commit["date"]}
            history.append(row | {"authors": [{"user": commit["who"]}]})
            commit = repo.commits.get(commit["parent"])
        self.reply(200, history)

    def make_ref(self, kind, repo_id, what, revision):
        repo, asked = self.repo(kind, repo_id, write=True), self.json()
        name, source = (revision, asked.get("startingPoint")) if what == "branch" else (asked["tag"], revision)
        names, start = repo.refs if what == "branch" else repo.tags, repo.resolve(source)["oid"]
        if re.search(r"[\s~^:?*\[\\]|\.\.", name):
            raise HubError(400, f"Invalid reference name: {name}")
        if name in names:
            raise HubError(409, f"Reference refs/{'heads' if what == 'branch' else 'tags'}/{name} already exists")
        names[name] = start
        self.reply(201, {})

    def drop_ref(self, kind, repo_id, what, revision):
        repo = self.repo(kind, repo_id, write=True)
        if what == "branch" and revision == "main":
            raise HubError(403, "Cannot delete refs/heads/main")
        if (repo.refs if what == "branch" else repo.tags).pop(revision, None) is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        self.reply(200, {})
