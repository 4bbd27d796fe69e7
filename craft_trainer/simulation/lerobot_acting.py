"""A policy's own episodes in LeRobot's environments as a LeRobotDataset (v3), acted as `lerobot-eval` lets it act."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env_pre_post_processors
from lerobot.envs.utils import NEW_ROLLOUT_OPTION, preprocess_observation
from lerobot.utils.random_utils import set_seed

from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.simulation.acting import advice_on, observed
from craft_trainer.simulation.lerobot_envs import (
    EPISODE_LIMIT,
    RECORDED_FROM,
    check_features,
    environment_config,
    make_envs,
)
from craft_trainer.simulation.recording import ATTEMPTS_PER_EPISODE, Attempt, Frame, wanted, write_dataset

ACTION = "action"


def record_in_lerobots(
    policy: PolicyModel,
    env: str,
    tasks: Sequence[str],
    output_dir: Path,
    *,
    num_episodes: int,
    seed: int,
    failed: bool,
    num_envs: int,
    options: Mapping[str, Any] | None = None,
) -> LeRobotDataset:
    """Let ``policy`` act in LeRobot's environment ``env``; record ``num_episodes`` of each task (by default its own).

    A frame holds the features that the policy reads, by its own names and as the environment's processors hand them to
    it, and the action that it chose, before those processors. The environments are reset with :func:`recorded_seeds`,
    which no evaluation takes. Failed episodes are kept with ``failed``, else further seeds are tried. The folder
    appears only when it is complete.

    Raises:
        ValueError: there is no such environment or option of it, or it is not what the policy reads and moves.
        FileExistsError: ``output_dir`` exists.
        ImportError: the environment's package is not installed.
        RuntimeError: the policy fails too often, or the environment does not say when it succeeds.
    """
    asked_for: Sequence[str | None] = tasks or [None]
    configs = [environment_config(env, task, options or {}) for task in asked_for]
    for config in configs:
        check_features(policy, config)
    set_seed(seed)  # of policies that sample
    attempts = num_episodes * (1 if failed else ATTEMPTS_PER_EPISODE)

    def episodes() -> Iterator[list[Frame]]:
        done: list[str] = []
        for config in configs:
            for name, vector in make_envs(config, min(num_envs, num_episodes)).items():
                with closing(vector):
                    tried = attempts_in(vector, policy, config, name, recorded_seeds(seed, attempts))
                    yield from wanted(tried, num_episodes, failed=failed, advice=advice_on(name, tasks, done))
                done.append(name)

    return write_dataset(output_dir, episodes(), total=num_episodes * len(configs), fps=configs[0].fps)


def recorded_seeds(seed: int, count: int) -> Sequence[int]:
    """``count`` seeds of episodes that are recorded, in a row from a place between 2³⁰ and 2³¹ that ``seed`` draws."""
    (drawn,) = np.random.SeedSequence([seed]).generate_state(1)
    first = RECORDED_FROM + int(drawn) % RECORDED_FROM
    return range(first, first + count)


def attempts_in(
    vector: Any, policy: PolicyModel, config: EnvConfig, task: str, seeds: Sequence[int]
) -> Iterator[Attempt]:
    """Yield an episode for each of the ``seeds``, as many in lockstep as ``vector`` has environments.

    ``task`` is what a frame's task is called where the environment has no sentence for it.
    """
    for start in range(0, len(seeds), vector.num_envs):
        block = [*seeds[start : start + vector.num_envs]]
        spare = [block[-1]] * (vector.num_envs - len(block))  # a vector is reset as a whole
        yield from run_lerobots_block(vector, policy, config, task, block + spare)[: len(block)]


@torch.inference_mode()
def run_lerobots_block(
    vector: Any, policy: PolicyModel, config: EnvConfig, task: str, seeds: Sequence[int]
) -> list[Attempt]:
    """Run the episodes that begin with ``seeds`` together, until all have ended; see ``lerobot_eval.rollout``.

    Raises:
        ValueError: the policy reads what the environment does not show.
    """
    before, after = make_env_pre_post_processors(config, policy.policy_config)
    episodes: list[list[Frame]] = [[] for _ in seeds]
    solved, ended = (np.zeros(len(seeds), dtype=bool) for _ in range(2))
    policy.reset()
    seen, _ = vector.reset(seed=[*seeds], options={NEW_ROLLOUT_OPTION: True})
    for _ in range(vector.call(EPISODE_LIMIT)[0]):
        sentences = _sentences(vector)
        observation = before(preprocess_observation(seen) | {"task": sentences})
        read = observed(policy, [name for name in observation if name != "task"], f"LeRobot's {config.type}")
        action = policy.select_action(observation)
        for index in np.flatnonzero(~ended):
            frame = frame_of(policy, {name: observation[name][index] for name in read})
            taken = action[index].float().cpu().numpy()
            episodes[index].append({**frame, ACTION: taken, "task": sentences[index] or task})
        executed = after({ACTION: action})[ACTION].cpu().numpy()
        seen, _, terminated, truncated, told = vector.step(executed)
        solved |= _successes(told, len(seeds)) & ~ended
        ended |= terminated | truncated
        if ended.all():
            break
    return list(zip(episodes, solved.tolist(), strict=True))


def frame_of(policy: PolicyModel, seen: Mapping[str, Any]) -> Frame:
    """The policy's observation under its own names: pictures of 8 bits a colour (rows, columns, 3), and numbers."""
    pictures = set(policy.image_keys())
    return {
        policy.renamed.get(name, name): (value.movedim(0, -1) * 255).round().byte().cpu().numpy()
        if name in pictures
        else value.float().cpu().numpy()
        for name, value in seen.items()
    }


def _sentences(vector: Any) -> list[str]:
    """The instruction of each environment in words; "" where it has none."""
    for attribute in ("task_description", "task"):
        try:
            return [str(sentence) for sentence in vector.call(attribute)]
        except (AttributeError, NotImplementedError):
            continue
    return [""] * int(vector.num_envs)


def _successes(told: Mapping[str, Any], num_envs: int) -> Bool[np.ndarray[Any, Any], " envs"]:
    """The environments that say that the task is done."""
    last = told.get("final_info", told)
    return np.broadcast_to(np.asarray(last.get("is_success", False), dtype=bool), num_envs)
