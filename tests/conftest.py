"""A tiny LeRobot dataset, ACT policies small enough for one thread, and an anchor cache of them.

LeRobot is imported inside the fixtures: tests that use none of them start without it. Where it is not installed (the
sessions `newest` and `lowest` of noxfile.py), whatever imports it is skipped: `OptionalPackages`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.features import FeatureSpec
    from craft_trainer.models.lerobot import PolicyModel

TINY_TASKS = ("push the puck", "open the door")
TINY_ACT: dict[str, Any] = {
    "chunk_size": 8,
    "n_action_steps": 4,
    "dim_model": 16,
    "n_heads": 2,
    "dim_feedforward": 32,
    "n_encoder_layers": 1,
    "n_decoder_layers": 1,
    "use_vae": False,
    "dropout": 0.1,
    "device": "cpu",
}
TINY_FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (4,), "names": None},
    "observation.environment_state": {"dtype": "float32", "shape": (39,), "names": None},
    "action": {"dtype": "float32", "shape": (4,), "names": None},
}

EXTRA_OF = {"lerobot": "lerobot", "draccus": "lerobot", "metaworld": "metaworld", "mujoco": "metaworld"}
MISSING = {package for package in EXTRA_OF if find_spec(package) is None}


class OptionalPackages(MetaPathFinder):
    """Importing one of the `MISSING` packages skips the test, or the file of tests, that did it."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Never finds anything."""
        package = name.partition(".")[0]
        if package in MISSING:
            reason = f"needs {package}: pip install 'craft-trainer[{EXTRA_OF[package]}]'"
            pytest.skip(reason, allow_module_level=True)


QUICK = {  # of every folder a file whose tests take seconds: what --quick runs
    "architecture": "test_sessions.py",
    "distributed": "test_launch.py",
    "docs": "test_links.py",
    "hub": "test_spaces.py",
    "integration": "test_settings.py",
    "peers": "test_as_craft_trainer.py",
    "reliability": "test_mutations.py",
    "unit/anchors": "test_sampling.py",
    "unit/cli": "test_arguments.py",
    "unit/costs": "test_mcq_bench.py",
    "unit/evaluation": "test_prompts.py",
    "unit/files": "test_leftovers.py",
    "unit/hub": "test_facts.py",
    "unit/language": "test_one_text.py",
    "unit/losses": "test_hidden.py",
    "unit/models": "test_base.py",
    "unit/optim": "test_dual.py",
    "unit/report": "test_report_table.py",
    "unit/simulation": "test_camera.py",
    "unit/suites": "test_jobs.py",
    "unit/training": "test_surgery_step.py",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--quick``, which runs one file of every folder."""
    parser.addoption("--quick", action="store_true", help="one file of every folder of tests, a few minutes in all")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--quick`` leave out all other files, without importing them."""
    if not config.getoption("--quick") or not collection_path.name.startswith("test_"):
        return None
    folder = collection_path.parent.relative_to(Path(__file__).parent).as_posix()
    return collection_path.name != QUICK.get(folder) or None


def pytest_configure(config: pytest.Config) -> None:
    """What is not installed is skipped from here on."""
    sys.meta_path.append(OptionalPackages())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Policies at their real size are built only for ``-m full_size``, journeys of minutes walked for ``-m walk``."""
    not_asked_for = [name for name in ("full_size", "walk") if name not in config.option.markexpr]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in not_asked_for)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module", autouse=True)
def _imported_stays() -> None:
    """Every training ends with a garbage collection, which need not walk through all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """No test takes the power away, so what it writes need not reach the disk. Commands of their own still wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LeRobotDataset (v3) without images: two tasks, three episodes each, of 20 to 30 frames."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = tmp_path_factory.mktemp("data") / "tiny"
    dataset = LeRobotDataset.create(
        "local/tiny", fps=80, features=TINY_FEATURES, root=root, use_videos=False, video_backend="pyav"
    )
    generator = np.random.default_rng(0)
    for episode in range(6):
        length = int(generator.integers(20, 31))
        for frame in _smooth_walk(generator, length):
            dataset.add_frame(
                {
                    "observation.state": frame[:4],
                    "observation.environment_state": frame[4:43],
                    "action": np.tanh(frame[43:]),
                    "task": TINY_TASKS[episode % 2],
                }
            )
        dataset.save_episode()
    dataset.finalize()
    return root


@pytest.fixture(scope="session")
def tiny_policy(tiny_dataset: Path) -> Callable[..., PolicyModel]:
    """Makes a fresh ACT policy for the tiny dataset: ``tiny_policy(seed=0, min_std=0.0, **options)``."""
    import torch

    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.lerobot_dataset import load_metadata

    def make(*, seed: int = 0, min_std: float = 0.0, **options: Any) -> PolicyModel:
        torch.manual_seed(seed)
        return PolicyModel.from_config("act", load_metadata(str(tiny_dataset)), TINY_ACT | options, min_std=min_std)

    return make


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Callable[..., PolicyModel]) -> Path:
    """The folder of a tiny policy."""
    folder = tmp_path_factory.mktemp("teacher")
    tiny_policy().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_specs() -> list[FeatureSpec]:
    """What the tiny anchors hold: the encoder's tokens averaged, and every token of the decoder."""
    from craft_trainer.anchors.features import FeatureSpec

    return [
        FeatureSpec("policy.model.encoder.layers.0", "mean_masked"),
        FeatureSpec("policy.model.decoder", "none"),
    ]


@pytest.fixture(scope="session")
def build_tiny_anchors(tiny_dataset: Path, tiny_specs: list[FeatureSpec]) -> Callable[..., AnchorCache]:
    """Builds a cache of a policy on every fifth frame: ``build_tiny_anchors(policy, folder)``."""
    from craft_trainer.anchors.building import build_anchor_cache
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    def build(policy: PolicyModel, folder: Path) -> AnchorCache:
        dataset = PolicyDataset(str(tiny_dataset), policy.policy_config)
        rows = list(range(0, len(dataset), 5))
        tasks = dataset.task_of_frame
        return build_anchor_cache(
            policy,
            dataset.batch,
            folder,
            rows=rows,
            groups=[tasks[row] for row in rows],
            specs=tiny_specs,
            batch_size=7,
            source={"dataset": str(tiny_dataset), "frames": len(dataset)},
            teacher_path="tiny",
        )

    return build


@pytest.fixture(scope="session")
def tiny_anchors(
    tiny_policy: Callable[..., PolicyModel],
    build_tiny_anchors: Callable[..., AnchorCache],
    tmp_path_factory: pytest.TempPathFactory,
) -> AnchorCache:
    """The anchors of ``tiny_policy()``; do not write into its folder."""
    return build_tiny_anchors(tiny_policy(), tmp_path_factory.mktemp("anchors") / "cache")


@pytest.fixture(scope="session")
def image_policy() -> PolicyModel:
    """An ACT policy that sees a state and one 32 × 32 camera, with random weights, in evaluation mode."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    from craft_trainer.models.lerobot import PolicyModel

    torch.manual_seed(0)
    config = ACTConfig(
        **TINY_ACT,
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
            "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 32, 32)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
        pretrained_backbone_weights=None,
        push_to_hub=False,
    )
    unit = {"mean": torch.zeros(4), "std": torch.ones(4)}
    pixels = {"mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1)}
    statistics = {"observation.state": unit, "action": unit, "observation.images.front": pixels}
    return PolicyModel(ACTPolicy(config), *make_pre_post_processors(config, dataset_stats=statistics)).eval()


@pytest.fixture(scope="session")
def rendering() -> None:
    """Skips, with what to install, where no image can be rendered."""
    from craft_trainer.simulation.camera import choose_backend

    try:
        choose_backend()
    except RuntimeError as error:
        pytest.skip(str(error))


def _smooth_walk(generator: np.random.Generator, length: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Sums of slow sines with random phases: (length, 47)."""
    time = np.arange(length)[:, None] / length
    frequency, phase, offset = generator.uniform([[0.5], [0.0], [-1.0]], [[2.0], [6.28], [1.0]], (3, 47))
    walk = offset + np.sin(2 * np.pi * frequency * time + phase)
    return walk.astype(np.float32)
