"""``craft-trainer rollout``: closed-loop success of policies on Meta-World tasks."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from craft_trainer.cli.arguments import option, parse, split_list

if TYPE_CHECKING:
    from craft_trainer.models.lerobot import PolicyModel

EXAMPLE = "craft-trainer rollout --policy outputs/craft --tasks push-v3,window-close-v3 --episodes 20"


@dataclass
class RolloutArguments:
    """Which policy, on what, how often."""

    policy: str = option("LeRobot checkpoint: a folder or a Hub repository")
    tasks: list[str] = option("Meta-World v3 task names")
    episodes: int = option("episodes per task, each with a goal of its own", 20)
    seed: int = option("chooses the goals; they are never those that `record` uses", 0)
    max_steps: int = option("actions before an episode counts as failed (Meta-World's own limit is 500)", 500)
    num_envs: int = option("environments that run at once", 20)
    image_size: int | None = option("rows and columns of rendered images; by default what the policy says", None)
    device: str | None = option("cpu, cuda, …; by default the policy's own", None)
    output: str | None = option("JSON file for the result", None)


def run(argv: Sequence[str]) -> None:
    """Roll out, print a line per task, write the JSON file."""
    arguments = parse("rollout", EXAMPLE, RolloutArguments, argv)
    from craft_trainer.benchmarks.metaworld import HORIZON, MetaWorldEnvs, check_task, draw_goals
    from craft_trainer.evaluation.rollout import rollout
    from craft_trainer.models.lerobot import PolicyModel

    tasks = [check_task(task) for task in split_list(arguments.tasks)]
    if not 0 < arguments.max_steps <= HORIZON:
        raise ValueError(f"max_steps is {arguments.max_steps}: Meta-World episodes have 1 to {HORIZON} actions")
    policy = PolicyModel.from_pretrained(arguments.policy, device=arguments.device)
    image_size = image_size_of(policy, arguments.image_size)
    rows = []
    with tqdm(total=len(tasks) * arguments.episodes, desc="rollout", unit="episode") as progress:
        for task in tasks:
            goals = draw_goals(task, arguments.episodes, arguments.seed, "evaluate")
            num_envs = min(arguments.num_envs, arguments.episodes)
            with closing(MetaWorldEnvs(task, num_envs, image_size=image_size)) as envs:
                outcomes = rollout(
                    policy, envs, goals, max_steps=arguments.max_steps, on_episode=lambda _: progress.update()
                )
            rows.append({"task": task, "episodes": len(outcomes), "successes": sum(outcomes)})
            tqdm.write(f"{task}: {sum(outcomes)} of {len(outcomes)}")
    if arguments.output is not None:
        content = {"policy": arguments.policy, "seed": arguments.seed, "max_steps": arguments.max_steps, "rows": rows}
        partial = Path(f"{arguments.output}.partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(arguments.output)


def image_size_of(policy: "PolicyModel", asked: int | None) -> int | None:
    """Rows and columns of the images for a policy: what is ``asked``, else what it says; None if it reads none.

    Raises:
        ValueError: it wants another camera than the one there is, or images that are not square.
    """
    from craft_trainer.benchmarks.camera import KEY

    cameras = policy.image_keys()
    if not cameras:
        return None
    if KEY not in cameras:
        raise ValueError(
            f"the policy looks through {', '.join(cameras)}; Meta-World is rendered as {KEY}: train it on data of "
            "`record --image_size`, or pass --rename to `train` if that data has another name for it"
        )
    if asked is not None:
        return asked
    rows, columns = policy.image_shape(KEY)
    if rows != columns:
        raise ValueError(
            f"the policy reads images of {rows} × {columns} pixels, Meta-World is rendered as squares: "
            "say of which size by --image_size"
        )
    return rows
