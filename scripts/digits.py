"""Do the methods that CRaFT is compared with do what they should? Split and permuted digits, beside Avalanche's own.

A network of one hidden layer learns some handwritten digits (8 × 8 pixels, scikit-learn), then others. Every method
starts from the same teacher, with the same memory of old samples, the same number of steps and the same optimizer.
With --avalanche the strategies of Avalanche start from it too (`pip install avalanche-lib scikit-learn`). One raw
result is written for each cell, which `craft-trainer suite report` makes tables of.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.files import checked, write_json
from craft_trainer.models.torch_model import TorchModel
from craft_trainer.suites.running import SCHEMA, commit
from craft_trainer.training.run_record import machine

HIDDEN, CLASSES, BATCH, MEMORY = 64, 10, 32, 128
TEACHER_EPOCHS, EPOCHS, RATE = 10, 6, 0.1
TRAIN: dict[str, Any] = {
    "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 100,
    "dataloader_pin_memory": False, "per_device_train_batch_size": BATCH,
    "optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
}  # fmt: skip
EWC: dict[str, Any] = {"method": "ewc", "multiplier_init": 100.0, "multiplier_max": 100.0}
CRAFT: dict[str, Any] = {"retention_terms": ["hidden", "output"], "epsilon": 0.01}
METHODS: dict[str, tuple[str, str | None, dict[str, Any]]] = {  # in words; the inputs of the anchors; settings
    "plain": ("plain fine-tuning", None, {}),
    "replay": ("replay", "memory", {"method": "replay"}),
    "agem": ("A-GEM", "memory", {"method": "agem"}),
    "ewc": ("EWC, λ = 100", "memory", EWC),
    "l2": ("L2-SP, λ = 0.1", "memory", {"method": "l2", "multiplier_init": 0.1}),
    "lwf": ("logits held on the new inputs, λ = 1", "new", {"method": "weighted_sum", "retention_terms": ["output"]}),
    "craft": ("CRaFT on the memory", "memory", CRAFT),
    "craft_clipped": ("CRaFT on the memory, gradients clipped to 1", "memory", CRAFT | {"max_grad_norm": 1.0}),
}

type Samples = list[dict[str, Tensor]]


class Stage(NamedTuple):
    """One task: what is trained on, and what is asked."""

    name: str
    train: Samples
    test: Samples


def stream(name: str, seed: int) -> tuple[Stage, Stage]:
    """Digits 0 to 4 and then 5 to 9, or all digits and then the same with their pixels in another order."""
    pixels, digits = load_digits(return_X_y=True)
    pixels = torch.tensor(pixels / 16, dtype=torch.float32)
    digits = torch.tensor(digits)
    rows = train_test_split(np.arange(len(digits)), test_size=0.25, stratify=digits, random_state=seed)

    def stage(name: str, seen: Tensor, is_asked: Tensor) -> Stage:
        parts = [[{"pixels": seen[row][None], "label": digits[row]} for row in part if is_asked[row]] for part in rows]
        return Stage(name, *parts)

    every = torch.ones_like(digits, dtype=torch.bool)
    if name == "split":
        return stage("digits 0 to 4", pixels, digits < 5), stage("digits 5 to 9", pixels, digits >= 5)
    order = torch.randperm(pixels.shape[1], generator=torch.Generator().manual_seed(seed))
    return stage("digits", pixels, every), stage("permuted digits", pixels[:, order], every)


def network(seed: int) -> nn.Sequential:
    """One hidden layer of 64, and one output for all ten digits; a picture is a single token of 64 pixels."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES), nn.Flatten())


def anchored(layers: nn.Module) -> TorchModel:
    """The network as Trainer takes it."""
    return TorchModel(
        layers, ["pixels"], ["label"], lambda output, batch: cross_entropy(output, batch["label"]), layers=["1"]
    )


def correct(layers: nn.Module, samples: Samples) -> int:
    """How many samples the network names rightly, among all ten digits."""
    batch = torch.utils.data.default_collate(samples)
    with torch.no_grad():
        return int((layers(batch["pixels"]).argmax(dim=1) == batch["label"]).sum())


def train(layers: nn.Module, samples: Samples, folder: Path, anchors: AnchorCache | None, **settings: Any) -> None:
    """Train in place by CraftTrainer."""
    if anchors is not None:
        settings = {"retention_batch_size": BATCH} | settings
    CraftTrainer(
        anchored(layers),
        CraftConfig(str(folder), **TRAIN | settings),
        anchors=anchors,
        train_dataset=samples,
        data_collator=torch.utils.data.default_collate,
    ).train()


def anchors_of(teacher: nn.Module, samples: Samples, folder: Path) -> AnchorCache:
    """What the teacher makes of ``samples``."""
    model = anchored(teacher)
    return build_anchor_cache(
        model,
        lambda rows: torch.utils.data.default_collate([samples[row] for row in rows]),
        folder,
        rows=range(len(samples)),
        groups=["old"] * len(samples),
        specs=[FeatureSpec(model.module_path(-1), "mean_masked")],
        batch_size=64,
        source={"dataset": "digits of scikit-learn", "frames": len(samples)},
        teacher_path="digits",
    )


def avalanche_strategies() -> dict[str, tuple[str, Callable[[nn.Module, Any], Any]]]:
    """Avalanche's own, by name, with settings that say the same as ours.

    Its penalty has no ½, so its λ is half of ours. Its replay averages new and old samples in one batch, so its
    learning rate is twice ours.
    """
    from avalanche.training import supervised

    common = {"train_mb_size": 1, "train_epochs": 0, "eval_every": -1}  # the first experience is the teacher's

    def sgd(layers: nn.Module, rate: float = RATE) -> Any:
        return torch.optim.SGD(layers.parameters(), rate)

    def of(kind: Any, rate: float = RATE, **options: Any) -> Callable[[nn.Module, Any], Any]:
        return lambda layers, told: kind(
            model=layers, optimizer=sgd(layers, rate), criterion=nn.CrossEntropyLoss(), **options, **common, **told
        )

    return {
        "avalanche_plain": ("plain fine-tuning, Avalanche", of(supervised.Naive)),
        "avalanche_replay": ("replay, Avalanche", of(supervised.Replay, 2 * RATE, mem_size=MEMORY)),
        "avalanche_agem": (
            "A-GEM, Avalanche",
            of(supervised.AGEM, patterns_per_exp=MEMORY, sample_size=BATCH),
        ),
        "avalanche_ewc": ("EWC, λ = 100, Avalanche", of(supervised.EWC, ewc_lambda=EWC["multiplier_init"] / 2)),
    }


def train_by_avalanche(make: Callable[[nn.Module, Any], Any], layers: nn.Module, memory: Samples, new: Samples) -> None:
    """Train in place: the memory is the first experience, on which no step is taken."""
    from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from torch.utils.data import TensorDataset

    def dataset(samples: Samples) -> Any:
        batch = torch.utils.data.default_collate(samples)
        made = TensorDataset(batch["pixels"], batch["label"])
        made.targets = batch["label"].tolist()  # type: ignore[attr-defined]  # where Avalanche looks for them
        return as_classification_dataset(made)

    benchmark = benchmark_from_datasets(train=[dataset(memory), dataset(new)])
    strategy = make(layers, {"evaluator": silent()})
    first, second = benchmark.train_stream
    strategy.train(first)
    strategy.train_mb_size, strategy.train_epochs = BATCH, EPOCHS
    strategy.train(second)


def silent() -> Any:
    """An evaluator that measures and prints nothing."""
    from avalanche.training.plugins import EvaluationPlugin

    return EvaluationPlugin(loggers=[])


def cells(name: str, seed: int, folder: Path, with_avalanche: bool) -> dict[str, tuple[str, nn.Module, float]]:
    """Every method on one stream: in words, the network that it made, and the seconds of its training."""
    old, new = stream(name, seed)
    teacher = network(seed)
    train(teacher, old.train, folder / "teacher", None, seed=seed, num_train_epochs=TEACHER_EPOCHS)
    drawn = np.random.default_rng(seed).choice(len(old.train), MEMORY, replace=False)
    memory = [old.train[row] for row in drawn]
    anchors = {
        "memory": anchors_of(teacher, memory, folder / "memory"),
        "new": anchors_of(teacher, new.train, folder / "new"),
    }
    found: dict[str, tuple[str, nn.Module, float]] = {"teacher": ("the teacher itself", teacher, 0.0)}
    for method, (words, inputs, settings) in METHODS.items():
        student, start = copy.deepcopy(teacher), perf_counter()
        cache = anchors[inputs] if inputs else None
        train(student, new.train, folder / method, cache, seed=seed, num_train_epochs=EPOCHS, **settings)
        found[method] = (words, student, perf_counter() - start)
    student, start = network(seed), perf_counter()
    epochs = TEACHER_EPOCHS + EPOCHS
    train(student, old.train + new.train, folder / "joint", None, seed=seed, num_train_epochs=epochs)
    found["joint"] = ("joint training on old and new", student, perf_counter() - start)
    for method, (words, make) in avalanche_strategies().items() if with_avalanche else ():
        torch.manual_seed(seed)
        student, start = copy.deepcopy(teacher), perf_counter()
        train_by_avalanche(make, student, memory, new.train)
        found[method] = (words, student, perf_counter() - start)
    return found


def main() -> None:
    """Write the raw results of both streams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw results of all suites")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--avalanche", action="store_true", help="also its own strategies, from the same teachers")
    told = parser.parse_args()
    for seed in told.seeds:
        for name in ("split", "permuted"):
            with TemporaryDirectory() as folder:
                found = cells(name, seed, Path(folder), told.avalanche)
            stages = stream(name, seed)
            for method, (words, layers, seconds) in found.items():
                counts = {"successes": [correct(layers, stage.test) for stage in stages]}
                rows = [
                    {"task": stage.name, "episodes": len(stage.test), "successes": count}
                    for stage, count in zip(stages, counts["successes"], strict=True)
                ]
                print(name, seed, method, json.dumps([f"{row['successes']}/{row['episodes']}" for row in rows]))
                content = {"schema": SCHEMA, "suite": "classic", "stream": name, "method": method, "label": words}
                content |= {"tasks": {"old": [stages[0].name], "new": [stages[1].name]}, "budget": None, "seed": seed}
                content |= {"commit": commit(), "machine": machine(), "seconds": {"student": round(seconds, 1)}}
                content |= {"evaluations": {"score": {"rows": rows}}, "commands": [["digits.py", *sys.argv[1:]]]}
                write_json(told.raw / "classic" / name / method / f"seed{seed}.json", checked(content))


if __name__ == "__main__":
    main()
