"""Source rollouts: episodes of the teacher in a simulator, recorded beside the cache; its actions are the labels."""

import json
from typing import TYPE_CHECKING, Any

from craft_trainer.files import locked, write_json

if TYPE_CHECKING:
    from craft_trainer.anchors.sources.source import AnchorSource
    from craft_trainer.models.lerobot import PolicyModel

NUM_ENVS = 20  # in which the teacher acts at once
OF_SIZE = "record its episodes by `record --policy … --image_size N`, and build from them by --source dataset"


def rollouts_source(arguments: Any, teacher: "PolicyModel", seed: int, count: int) -> "AnchorSource":
    """Record the teacher's episodes and open them.

    The main process records for all. A recording of the same teacher and settings, of a build that was interrupted, is
    used again. What was recorded stands in a file beside it, which is written under the lock that the recording holds.

    Raises:
        FileExistsError: there is a recording of another teacher or other settings.
        RuntimeError: another process is recording there.
    """
    from craft_trainer.anchors.sources.frames import FrameSource
    from craft_trainer.cli.rollout import image_size_of
    from craft_trainer.hub.storage import local_folder
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    cache = local_folder(arguments.output_dir, "source rollouts")
    folder = cache.with_name(f"{cache.name}.rollouts")
    mark, lock = (folder.with_name(f"{folder.name}.{ending}") for ending in ("json", "lock"))
    settings = {"tasks": arguments.tasks, "num_episodes": arguments.rollout_episodes, "seed": seed}
    settings["failed"] = arguments.failed == "keep"
    place = {} if arguments.env is None else {"env": arguments.env, "env_options": arguments.env_options}
    written = {"teacher": teacher.fingerprint(), **settings, **place}

    def record() -> None:
        if folder.exists():
            if not mark.is_file() or json.loads(mark.read_text("utf-8")) != written:
                raise FileExistsError(f"{folder} exists, of another teacher or other settings: delete it")
            return
        write_json(mark, written)
        given = {"output_dir": folder, "num_envs": NUM_ENVS, **settings}
        if arguments.env is None:
            from craft_trainer.simulation.acting import record_policy

            record_policy(teacher, image_size=image_size_of(teacher, way_out=OF_SIZE), **given)
            return
        from craft_trainer.simulation.lerobot_acting import record_in_lerobots

        record_in_lerobots(teacher, arguments.env, options=arguments.env_options, **given)

    def record_alone() -> None:
        refusal = f"another process is recording {folder}: wait until it is done, or choose another --output_dir"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, refusal):
            try:
                record()
            finally:
                if not folder.exists():
                    mark.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)  # while it is held

    arguments.processes.once(record_alone)
    told = {"tasks": arguments.tasks, "rollout_episodes": arguments.rollout_episodes, "failed": arguments.failed}
    made_by = {name: value for name, value in (told | place | {"seed": seed}).items() if value not in (None, [], {})}
    return FrameSource(PolicyDataset.of(teacher, str(folder)), made_by=made_by)
