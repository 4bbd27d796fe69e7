"""Runs of two or four steps of a tiny policy, by the command, and what they leave on the double."""

REPO = "org/craft"
STEPS = {
    "per_device_train_batch_size": 4,
    "retention_batch_size": 4,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "max_steps": 2,
    "save_steps": 1,
    "learned_inputs": "allow",  # the tiny dataset is both what is known and what is learned
}


def words(**options):
    """``--key value`` of every option that is not None."""
    return [str(word) for key, value in options.items() if value is not None for word in (f"--{key}", value)]


def in_repository(hub, name=REPO, kind="model", revision="main"):
    """Path → bytes of a repository of the double."""
    tree = hub.repos[kind, name].resolve(revision)["tree"]
    return {path: hub.blob(entry["sha"]).read_bytes() for path, entry in tree.items()}


def titles(hub, name=REPO, kind="model"):
    """Titles of the commits, the oldest first."""
    repo, found = hub.repos[kind, name], []
    commit = repo.resolve("main")
    while commit:
        found.append(commit["title"])
        commit = repo.commits.get(commit["parent"])
    return found[::-1]


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
