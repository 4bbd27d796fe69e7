"""``craft-trainer rollout``: closed-loop success of policies, on Meta-World tasks or in LeRobot's own environments."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from craft_trainer.cli.tasks import named_tasks
from craft_trainer.files import checked, write_json
from craft_trainer.options import json_mapping, option, refuse_idle, require_at_least
from craft_trainer.progress import progress

if TYPE_CHECKING:
    from craft_trainer.models.lerobot import PolicyModel

PLACES = ("policy",)
OF_IMAGES = ("image_size", "shadows")
THEIR_IMAGES = "LeRobot's environments say how large their images are, and render them"
FILES = ("output",)
EXAMPLE = "craft-trainer rollout --policy outputs/craft --tasks push-v3,window-close-v3 --episodes 20"


@dataclass
class RolloutArguments:
    """The policy, the tasks, and how often."""

    policy: str = option("LeRobot checkpoint: a folder or a Hub repository")
    env: str | None = option(
        "one of LeRobot's own environments (metaworld, pusht, aloha, …), through its factory and its evaluation loop, "
        "as lerobot-eval; by default Meta-World by this package, with the simulator's state, many at once",
        None,
    )
    tasks: list[str] = option("Meta-World v3 task names; with env its own names, by default its default task", [])
    episodes: int = option("episodes per task, each with a goal of its own", 20)
    seed: int = option("chooses the goals; they are never those that `record` uses; with env the first of its seeds", 0)
    max_steps: int | None = option(
        "actions before an episode counts as failed; by default the environment's own limit (Meta-World: 500)", None
    )
    num_envs: int = option("environments that run at once", 20)
    image_size: int | None = option("rows and columns of rendered images; by default what the policy says", None)
    shadows: bool = option(
        "false: rendered images have no shadows, as those that the policy learned by `record --shadows false`", True
    )
    rename: dict | str | None = option(  # type: ignore[type-arg]  # argparse wants it bare
        "with env: what it shows under another name than the policy's, e.g. cameras (a mapping, or JSON)", None
    )
    env_options: dict | str | None = option(  # type: ignore[type-arg]
        "with env: fields of LeRobot's configuration of it, e.g. episode_length, obs_type (a mapping, or JSON)", None
    )
    device: str | None = option("cpu, cuda, …; by default the policy's own", None)
    output: str | None = option("JSON file for the result; by default it is only printed", None)

    def __post_init__(self) -> None:
        self.rename = json_mapping("rename", self.rename)
        self.env_options = json_mapping("env_options", self.env_options)
        self.tasks = named_tasks(self.tasks, self.env_options)
        if self.env is None and not self.tasks:
            raise ValueError("tasks is empty: name Meta-World tasks, or one of LeRobot's environments by env")
        if self.env is None and (self.rename or self.env_options):
            raise ValueError("rename and env_options are for LeRobot's environments: give env as well, or drop them")
        if self.env is not None:
            refuse_idle(self, OF_IMAGES, THEIR_IMAGES)
        if self.max_steps is not None and "episode_length" in self.env_options:
            raise ValueError("max_steps and the episode_length of env_options both end an episode: give one of them")
        require_at_least(self, 1, ["episodes", "num_envs"])
        require_at_least(self, 0, ["seed"])


def run(arguments: RolloutArguments) -> None:
    """Roll out, print a line per task, write the JSON file."""
    if arguments.output is not None:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)  # before hours of episodes
    content = {"policy": arguments.policy, "seed": arguments.seed}
    content |= on_stream(arguments) if arguments.env is None else in_lerobots(arguments)
    if arguments.output is not None:
        write_json(Path(arguments.output), checked(content))


def on_stream(arguments: RolloutArguments) -> dict[str, Any]:
    """Measure Meta-World tasks in this package's own environments."""
    from lerobot.utils.random_utils import set_seed

    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.simulation.metaworld import HORIZON, MetaWorldEnvs, check_tasks, describe, draw_goals
    from craft_trainer.simulation.rollout import rollout

    tasks = check_tasks(arguments.tasks)
    max_steps = HORIZON if arguments.max_steps is None else arguments.max_steps
    if not 0 < max_steps <= HORIZON:
        raise ValueError(f"max_steps is {max_steps}: Meta-World episodes have 1 to {HORIZON} actions")
    policy = PolicyModel.from_pretrained(arguments.policy, device=arguments.device)
    image_size = image_size_of(policy, arguments.image_size, shadows=arguments.shadows)
    rows = []
    with progress(total=len(tasks) * arguments.episodes, desc="rollout", unit="episode") as bar:
        for task in tasks:
            goals = draw_goals(task, arguments.episodes, arguments.seed, "evaluate")
            num_envs = min(arguments.num_envs, arguments.episodes)
            with closing(MetaWorldEnvs(task, num_envs, image_size=image_size, shadows=arguments.shadows)) as envs:
                set_seed(arguments.seed)  # of policies that sample: a task's path does not depend on the others
                outcomes = rollout(policy, envs, goals, max_steps=max_steps, on_episode=lambda _: bar.update())
            rows.append(counted(task, outcomes) | {"sentence": describe(task)})
    return {"max_steps": max_steps, "image_size": image_size, "shadows": arguments.shadows, "rows": rows}


def in_lerobots(arguments: RolloutArguments) -> dict[str, Any]:
    """Measure tasks in one of LeRobot's environments, and list every episode by itself."""
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.simulation.lerobot_envs import roll_out

    assert arguments.env is not None
    assert isinstance(arguments.rename, dict)
    assert isinstance(arguments.env_options, dict)
    rows, episodes = [], []
    for outcomes in roll_out(
        PolicyModel.from_pretrained(arguments.policy, device=arguments.device, rename=arguments.rename),
        arguments.env,
        arguments.tasks,
        num_episodes=arguments.episodes,
        num_envs=arguments.num_envs,
        seed=arguments.seed,
        max_steps=arguments.max_steps,
        options=arguments.env_options,
    ):
        rows.append(counted(outcomes[0]["task"], [outcome["success"] for outcome in outcomes]))
        episodes += outcomes
    given = {name: getattr(arguments, name) for name in ("env", "env_options", "rename", "max_steps")}
    return {**given, "rows": rows, "per_episode": episodes}


def counted(task: str, outcomes: Sequence[bool]) -> dict[str, Any]:
    """Make the row of a task, after a line about it. Its ``outcomes`` has a 1 or a 0 for every episode."""
    tqdm.write(f"{task}: {sum(outcomes)} of {len(outcomes)}")
    each = "".join("1" if success else "0" for success in outcomes)
    return {"task": task, "episodes": len(outcomes), "successes": sum(outcomes), "outcomes": each}


def image_size_of(
    policy: "PolicyModel",
    asked: int | None = None,
    *,
    shadows: bool = True,
    way_out: str = "say of which size by --image_size",
) -> int | None:
    """Choose rows and columns of the images for a policy: what is ``asked``, else what it says; None if it reads none.

    Raises:
        ValueError: it wants another camera than the one there is, or images that are not square (with the ``way_out``),
            or reads none though their size is ``asked``, or no ``shadows``.
    """
    from craft_trainer.simulation.camera import KEY

    cameras = policy.image_keys()
    if not cameras:
        if asked is not None or not shadows:
            raise ValueError("image_size and shadows have no effect here: the policy reads no images. Leave them out")
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
            f"the policy reads images of {rows} × {columns} pixels, Meta-World is rendered as squares: {way_out}"
        )
    return rows
