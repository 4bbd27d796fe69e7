"""``craft-trainer film``: policies side by side in one episode, as an animated picture."""

from dataclasses import dataclass
from pathlib import Path

from craft_trainer.options import option, require_at_least, split_list

FILES = ("output",)
EXAMPLE = (
    "craft-trainer film --policies outputs/teacher,outputs/plain,outputs/craft --task door-open-v3 --output film.gif"
)
OF_SIZE = "`rollout --image_size` counts its successes, and no film is made of it"
ENDINGS = (".gif", ".webp")


@dataclass
class FilmArguments:
    """The policies, what they are asked to do, and the film."""

    policies: list[str] = option("LeRobot checkpoints, from left to right: folders or Hub repositories")
    task: str = option("a Meta-World v3 task")
    output: str = option("the film: a name that ends in .gif or .webp")
    names: list[str] = option("what is written above them; by default the last part of each checkpoint's name", [])
    episode: int = option("which of the goals that `rollout` draws with this seed, from 0", 0)
    seed: int = option("chooses the goals, as in `rollout`", 0)
    max_steps: int = option("actions after which an episode counts as failed", 200)
    size: int = option("rows and columns of each picture, in pixels", 200)
    shadows: bool = option(
        "false: policies with a camera see no shadows, as they learned by `record --shadows false`", True
    )
    device: str | None = option("cpu, cuda, …; by default each policy's own", None)

    def __post_init__(self) -> None:
        self.policies = split_list(self.policies)
        self.names = split_list(self.names) or [Path(policy).name for policy in self.policies]
        if not self.policies:
            raise ValueError("policies is empty: name at least one checkpoint")
        if len(self.names) != len(self.policies):
            raise ValueError(
                f"names has {len(self.names)} entries for {len(self.policies)} policies: give one for each"
            )
        if Path(self.output).suffix not in ENDINGS:
            raise ValueError(f"output={self.output} is no film: end its name in {' or '.join(ENDINGS)}")
        require_at_least(self, 0, ["episode", "seed"])
        require_at_least(self, 32, ["size"])


def run(arguments: FilmArguments) -> None:
    """Play the episode with every policy, write the film, and say how each of them did."""
    from lerobot.utils.random_utils import set_seed

    from craft_trainer.cli.rollout import image_size_of
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.simulation.film import play, save_film, side_by_side, verdict
    from craft_trainer.simulation.metaworld import HORIZON, check_task, draw_goals

    if not 0 < arguments.max_steps <= HORIZON:
        raise ValueError(f"max_steps is {arguments.max_steps}: Meta-World episodes have 1 to {HORIZON} actions")
    task = check_task(arguments.task)
    goal = draw_goals(task, arguments.episode + 1, arguments.seed, "evaluate")[-1]
    takes = []
    for name, path in zip(arguments.names, arguments.policies, strict=True):
        policy = PolicyModel.from_pretrained(path, device=arguments.device)
        image_size = image_size_of(policy, shadows=arguments.shadows, way_out=OF_SIZE)
        settings = {"size": arguments.size, "max_steps": arguments.max_steps, "shadows": arguments.shadows}
        set_seed(arguments.seed)  # of policies that sample
        takes.append(play(name, policy, task, goal, image_size=image_size, **settings))  # type: ignore[arg-type]
        print(f"{name}: {verdict(takes[-1])[0]}")
    save_film(side_by_side(takes), Path(arguments.output))
    print(f"film: {arguments.output}")
