"""What the commands of a suite read that no command of it makes: files and folders, known by their digests."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from craft_trainer.files import digest_of

# of all commands: the options that name a file or a folder which is read, and LeRobot's names of these
PLACES = (
    *("model", "teacher", "policy", "policies", "tuned", "compare", "adapt_to", "resume_from_checkpoint"),
    *("dataset", "new_dataset", "old_dataset", "eval_dataset", "anchors_dataset", "data", "mcq_data"),
    *("anchors", "cache", "caches", "correlations", "run", "results"),
    *("config", "deepspeed", "fsdp_config", "accelerator_config"),
    *("policy.path", "policy.pretrained_path", "dataset.repo_id", "dataset.root"),
)


def digests(commands: Iterable[Sequence[str]], folder: Path) -> dict[str, str]:
    """The files and folders that ``commands`` read from outside ``folder``, as they name them, each with its digest.

    The digest of a folder is of what lies in it, and not of where it is.
    """
    there = [word for word in places(commands) if os.path.exists(word)]  # noqa: PTH110  # `Path` refuses long words
    outside = sorted(word for word in there if not Path(word).resolve().is_relative_to(folder.resolve()))
    return {word: digest_of(Path(word)) for word in outside}


def places(commands: Iterable[Sequence[str]]) -> set[str]:
    """The values of those options of ``commands`` that name a place."""
    found = set()
    for argv in commands:
        option = ""
        for word in argv:
            if word.startswith("--"):
                option = word[2:].replace("-", "_")
            elif option in PLACES:
                found.add(word)
    return found
