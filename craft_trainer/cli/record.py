"""``craft-trainer record``: expert demonstrations as a LeRobot dataset."""

from dataclasses import dataclass
from pathlib import Path

from craft_trainer.options import option, split_list

EXAMPLE = "craft-trainer record --tasks push-v3,drawer-open-v3 --episodes 50 --output_dir outputs/data/old"


@dataclass
class RecordArguments:
    """The tasks, the episodes and the dataset."""

    tasks: list[str] = option("Meta-World v3 task names, e.g. push-v3,drawer-open-v3")
    output_dir: str = option("folder of the new LeRobot dataset; it must not exist")
    episodes: int = option("successful episodes per task", 50)
    seed: int = option("chooses the goals and the action noise", 0)
    action_noise: float = option("standard deviation of the noise on executed actions (their range is [-1, 1])", 0.1)
    image_size: int | None = option("store rendered images of so many rows and columns as well", None)
    environment_state: bool = option(
        "store the simulator's whole state; false (with image_size) leaves what LeRobot's Meta-World environment shows",
        True,
    )


def run(arguments: RecordArguments) -> None:
    """Record and say where the dataset is."""
    from craft_trainer.simulation.recording import record_demonstrations

    dataset = record_demonstrations(
        split_list(arguments.tasks),
        Path(arguments.output_dir),
        num_episodes=arguments.episodes,
        seed=arguments.seed,
        action_noise=arguments.action_noise,
        image_size=arguments.image_size,
        environment_state=arguments.environment_state,
    )
    print(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames: {arguments.output_dir}")
    data = f"--dataset {arguments.output_dir}"
    teacher = f"craft-trainer train --policy_type act --policy_min_std 0.01 {data} --output_dir outputs/teacher"
    print(f"next: {teacher}  # a teacher of these tasks")
    student = f"craft-trainer train --policy TEACHER --anchors ANCHORS {data} --output_dir outputs/craft"
    print(f"or:   {student}  # these as its new task")
