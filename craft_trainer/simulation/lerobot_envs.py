"""LeRobot's own environments, made by its factory and run by its evaluation loop: what `lerobot-eval` would count."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from lerobot.configs.types import FeatureType
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env, make_env_config, make_env_pre_post_processors
from lerobot.envs.utils import env_to_policy_features
from lerobot.scripts.lerobot_eval import eval_policy
from lerobot.utils.random_utils import set_seed

from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.simulation import camera

OUTCOME = ("seed", "success", "max_reward", "sum_reward")
RECORDED_FROM = 2**30  # the first seed of episodes that are recorded; evaluations have smaller ones
EPISODE_LIMIT = "_max_episode_steps"  # where LeRobot's loop reads it
RENDERED_BY_MUJOCO = ("metaworld", "aloha", "libero")
SEEN_BY_NAME = (FeatureType.VISUAL, FeatureType.ENV)  # what an environment may show under another name, or not at all


def environment_config(env: str, task: str | None, options: Mapping[str, Any]) -> EnvConfig:
    """Make LeRobot's configuration of ``env`` (metaworld, pusht, …) for ``task``; ValueError if it has none such."""
    given = dict(options) if task is None else {**options, "task": task}
    try:
        return make_env_config(env, **given)
    except TypeError as error:
        raise ValueError(f"env_options of {env}: {error}") from error


def check_features(policy: PolicyModel, config: EnvConfig) -> None:
    """Refuse a ``policy`` that reads a camera or an environment's state that the environment does not show."""
    shown = env_to_policy_features(config)
    renamed = {new: old for old, new in policy.renamed.items()}
    read = [
        renamed.get(name, name)
        for name, feature in policy.policy_config.input_features.items()
        if feature.type in SEEN_BY_NAME and ".empty_camera_" not in name
    ]
    missing = [name for name in read if name not in shown]
    if missing:
        raise ValueError(
            f"the policy reads {', '.join(missing)}, LeRobot's {config.type} shows {', '.join(shown)}: if it is the "
            "same by another name, pass --rename (the environment's name to the policy's); else train on what is shown"
        )


def roll_out(
    policy: PolicyModel,
    env: str,
    tasks: Sequence[str],
    *,
    num_episodes: int,
    num_envs: int,
    seed: int,
    max_steps: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Yield for each task (by default the environment's own) a row for each of ``num_episodes`` episodes.

    A row holds the task, the seed that the environment was reset with (``seed``, ``seed`` + 1, …), and what came of it
    (OUTCOME) within ``max_steps`` actions, by default as many as LeRobot allows.

    Raises:
        ValueError: a seed would be one of those that recordings have, or the policy does not fit the environment.
    """
    if seed + num_episodes > RECORDED_FROM:
        raise ValueError(f"seed is {seed}: from {RECORDED_FROM} on they are those of `record`; take a smaller one")
    asked_for: Sequence[str | None] = tasks or [None]
    for asked in asked_for:
        config = environment_config(env, asked, options or {})
        check_features(policy, config)
        processors = make_env_pre_post_processors(config, policy.policy_config)
        made = make_envs(config, min(num_envs, num_episodes))
        for name, vector in made.items():
            with closing(vector):
                _limit(vector, max_steps)
                set_seed(seed)  # as `lerobot-eval`: policies that sample take the same path
                done = eval_policy(
                    vector,
                    policy.policy,
                    *processors,
                    policy.preprocessor,
                    policy.postprocessor,
                    n_episodes=num_episodes,
                    start_seed=seed,
                )
            yield [
                {"task": name} | {key: one[key] for key in OUTCOME} | {"success": bool(one["success"])}
                for one in done["per_episode"]
            ]


def make_envs(config: EnvConfig, num_envs: int) -> dict[str, Any]:
    """Task → its environments; a group of tasks, like metaworld's easy, gives several."""
    if config.type in RENDERED_BY_MUJOCO and camera.VARIABLE not in os.environ:
        os.environ[camera.VARIABLE] = camera.choose_backend()  # LeRobot leaves it to the user
    try:
        made = make_env(config, n_envs=num_envs)
    except ImportError as error:
        raise ImportError(
            f"LeRobot's environment {config.type} is not installed ({error}): pip install 'lerobot[{config.type}]'"
        ) from error
    vectors = [vector for group in made.values() for vector in group.values()]
    return {str(config.task): vectors[0]} if len(vectors) == 1 else {str(v.call("task")[0]): v for v in vectors}


def _limit(vector: Any, max_steps: int | None) -> None:
    own = vector.call(EPISODE_LIMIT)[0]
    if max_steps is None:
        return
    if not 0 < max_steps <= own:
        raise ValueError(f"max_steps is {max_steps}: LeRobot's episodes of this environment have 1 to {own} actions")
    vector.set_attr(EPISODE_LIMIT, max_steps)
