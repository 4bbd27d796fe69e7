"""The option that names tasks of a simulator, in the commands that act in one."""

from collections.abc import Mapping, Sequence
from typing import Any

from craft_trainer.options import refuse_twice, split_list


def named_tasks(tasks: Sequence[Any], env_options: Mapping[str, Any]) -> list[str]:
    """The names in ``tasks``; a ValueError if one stands twice, or beside the task of ``env_options``."""
    names = split_list(tasks)
    refuse_twice("tasks", names)
    if names and "task" in env_options:
        raise ValueError("tasks and the task of env_options are one thing: leave that of env_options out")
    return names
