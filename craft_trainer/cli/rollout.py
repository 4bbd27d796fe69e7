"""``craft-trainer rollout``: closed-loop success of policies on Meta-World tasks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from craft_trainer.cli.arguments import option, parse, split_list

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
    rows = []
    with tqdm(total=len(tasks) * arguments.episodes, desc="rollout", unit="episode") as progress:
        for task in tasks:
            envs = MetaWorldEnvs(task, min(arguments.num_envs, arguments.episodes))
            goals = draw_goals(task, arguments.episodes, arguments.seed, "evaluate")
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
