"""``craft-trainer record``: episodes of an expert, or of a policy, as a LeRobot dataset."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from craft_trainer.cli.rollout import OF_IMAGES, THEIR_IMAGES
from craft_trainer.cli.tasks import named_tasks
from craft_trainer.options import json_mapping, option, refuse_idle, require_at_least

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

EXAMPLE = "craft-trainer record --tasks push-v3,drawer-open-v3 --episodes 50 --output_dir outputs/data/old"
FAILED = ("drop", "keep")
ACTION_NOISE = 0.1


@dataclass
class RecordArguments:
    """The tasks, the episodes and the dataset."""

    output_dir: str = option("folder of the new LeRobot dataset; it must not exist")
    tasks: list[str] = option(
        "Meta-World v3 task names, e.g. push-v3,drawer-open-v3; with env its own names, by default its default task", []
    )
    policy: str | None = option(
        "LeRobot checkpoint that acts, instead of Meta-World's experts: its own actions are stored, and what it reads",
        None,
    )
    env: str | None = option(
        "one of LeRobot's own environments (metaworld, pusht, aloha, …), in which the policy acts as in `rollout "
        "--env`; by default Meta-World by this package",
        None,
    )
    env_options: dict | str | None = option(  # type: ignore[type-arg]  # argparse wants it bare
        "with env: fields of LeRobot's configuration of it, e.g. episode_length, obs_type (a mapping, or JSON)", None
    )
    rename: dict | str | None = option(  # type: ignore[type-arg]
        "with env: what it shows under another name than the policy's, e.g. cameras (a mapping, or JSON); stored "
        "under the policy's",
        None,
    )
    episodes: int = option("episodes per task; all successful, unless failed ones are kept", 50)
    seed: int = option("chooses the goals and the action noise; they are never those that `rollout` uses", 0)
    action_noise: float | None = option(
        "standard deviation of the noise on an expert's executed actions (their range is [-1, 1]); by default 0.1", None
    )
    image_size: int | None = option(
        "store rendered images of so many rows and columns as well; with policy by default what it reads", None
    )
    shadows: bool = option(
        "false: rendered images have no shadows, which takes a quarter of the time on a CPU; then `rollout` and `film` "
        "need the same, and whatever else renders shows a policy other pictures than it learned",
        True,
    )
    environment_state: bool = option(
        "store the simulator's whole state; false (with image_size) leaves what LeRobot's Meta-World environment shows",
        True,
    )
    failed: str = option("of a policy's failed episodes: drop them and try further goals, or keep them", "drop")
    num_envs: int = option("of a policy: environments that run at once", 20)
    device: str | None = option("of a policy: cpu, cuda, …; by default its own", None)

    def __post_init__(self) -> None:
        self.rename = json_mapping("rename", self.rename)
        self.env_options = json_mapping("env_options", self.env_options)
        self.tasks = named_tasks(self.tasks, self.env_options)
        if self.failed not in FAILED:
            raise ValueError(f"failed is {self.failed!r}: it must be one of {', '.join(FAILED)}")
        require_at_least(self, 1, ["episodes", "num_envs"])
        require_at_least(self, 0, ["seed", "action_noise"])
        if self.env is None:
            refuse_idle(self, ["env_options", "rename"], "it is of LeRobot's environments, and no env is given")
            if not self.tasks:
                raise ValueError("tasks is empty: name Meta-World tasks, or one of LeRobot's environments by env")
        else:
            refuse_idle(self, OF_IMAGES, THEIR_IMAGES)
        if self.policy is None:
            refuse_idle(self, ["env", "failed", "num_envs", "device"], "it is of a policy, and no policy is given")
            if self.image_size is None:
                refuse_idle(self, ["shadows"], "no images are rendered, and no image_size is given")
        elif self.action_noise:
            raise ValueError("action_noise is for experts: with policy every action is executed as it is; drop it")
        elif not self.environment_state:
            raise ValueError("environment_state has no effect with policy: what it reads is stored; drop it")


def run(arguments: RecordArguments) -> None:
    """Record and say where the dataset is."""
    dataset = by_experts(arguments) if arguments.policy is None else by_policy(arguments, arguments.policy)
    print(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames: {arguments.output_dir}")
    data = f"--dataset {quote(arguments.output_dir)}"
    if arguments.policy is not None:
        anchors = f"craft-trainer cache build --teacher {quote(arguments.policy)} {data} --output_dir outputs/anchors"
        print(f"next: {anchors}  # what it did, as anchors")
        return
    small = "--config configs/train/metaworld_teacher.yaml"  # minutes on a CPU, and a log line every 50 steps
    large = "--policy_type act --policy_min_std 0.01 --logging_steps 50"
    how = small if arguments.image_size is None else large
    teacher = f"craft-trainer train {how} {data} --output_dir outputs/teacher"
    print(f"next: {teacher}  # a teacher of these tasks")
    student = f"craft-trainer train --model TEACHER --anchors ANCHORS {data} --output_dir outputs/craft"
    print(f"or:   {student}  # these as its new task")


def by_experts(arguments: RecordArguments) -> "LeRobotDataset":
    """Demonstrations of Meta-World's scripted experts."""
    from craft_trainer.simulation.recording import record_demonstrations

    return record_demonstrations(
        arguments.tasks,
        Path(arguments.output_dir),
        num_episodes=arguments.episodes,
        seed=arguments.seed,
        action_noise=ACTION_NOISE if arguments.action_noise is None else arguments.action_noise,
        image_size=arguments.image_size,
        shadows=arguments.shadows,
        environment_state=arguments.environment_state,
    )


def by_policy(arguments: RecordArguments, path: str) -> "LeRobotDataset":
    """Episodes of the policy at ``path``."""
    from craft_trainer.cli.rollout import image_size_of
    from craft_trainer.models.lerobot import PolicyModel

    assert isinstance(arguments.rename, dict)
    assert isinstance(arguments.env_options, dict)
    policy = PolicyModel.from_pretrained(path, device=arguments.device, rename=arguments.rename)
    tasks, folder, failed = arguments.tasks, Path(arguments.output_dir), arguments.failed == "keep"
    given = {"num_episodes": arguments.episodes, "seed": arguments.seed, "num_envs": arguments.num_envs}
    if arguments.env is None:
        from craft_trainer.simulation.acting import record_policy

        size = image_size_of(policy, arguments.image_size, shadows=arguments.shadows)
        return record_policy(policy, tasks, folder, **given, failed=failed, image_size=size, shadows=arguments.shadows)
    from craft_trainer.simulation.lerobot_acting import record_in_lerobots

    options = arguments.env_options
    return record_in_lerobots(policy, arguments.env, tasks, folder, **given, failed=failed, options=options)
