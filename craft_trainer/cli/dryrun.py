"""``craft-trainer dryrun``: three CRaFT steps, and a line for every part that was seen to work."""

import csv
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from craft_trainer.training.config import CraftConfig

EXAMPLE = "accelerate launch -m craft_trainer dryrun --config configs/train/dryrun.yaml"
TASKS = {"old": "push-v3", "new": "window-close-v3"}


def run(config: "CraftConfig") -> None:
    """Record, make a teacher and its anchors, train; raises RuntimeError at the first check that fails."""
    import torch

    from craft_trainer.cli.main import main
    from craft_trainer.cli.policy_training import train
    from craft_trainer.cli.train import TrainArguments
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.lerobot_dataset import load_metadata
    from craft_trainer.suites.demo import POLICY

    if config.max_steps < 2 or config.retention_every != 1:
        raise ValueError("a dry run needs max_steps of at least 2 and retention_every 1: it compares successive steps")
    folder = Path(config.output_dir) / "dryrun"
    shutil.rmtree(folder, ignore_errors=True)
    data = {name: folder / "data" / name for name in TASKS}
    for name, task in TASKS.items():
        status = main(["record", "--tasks", task, "--episodes", "2", "--output_dir", str(data[name])])
        check("data", status == 0, f"{task} recorded as a LeRobot dataset")
    options = POLICY["policy_options"] | {"device": config.device.type}
    torch.manual_seed(config.seed)
    teacher = PolicyModel.from_config(
        POLICY["policy_type"], load_metadata(str(data["old"])), options, min_std=POLICY["policy_min_std"]
    )
    teacher.save_pretrained(folder / "teacher")

    anchors = folder / "anchors"
    cache = {"anchors": 32, "teacher": folder / "teacher", "dataset": data["old"], "output_dir": anchors}
    status = main(["cache", "build", *(word for key, value in cache.items() for word in (f"--{key}", str(value)))])
    check("anchors", status == 0, f"{anchors} holds the teacher's features")
    config.output_dir = str(folder / "craft")
    given = TrainArguments(model=str(folder / "teacher"), dataset=str(data["new"]), anchors=str(anchors))
    train(given, config)
    with (folder / "craft" / "lambda_history.csv").open() as file:
        steps = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    check("training", len(steps) == config.max_steps, f"{config.max_steps} steps")
    first, last = steps[0], steps[-1]
    student = PolicyModel.from_pretrained(folder / "craft", device="cpu")
    moved = max((a - b).abs().max().item() for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
    check("policy", moved > 0, f"a LeRobot checkpoint that loads; parameters moved by up to {moved:.1e}")
    check("task backward", first["task_grad_norm"] > 0, f"|g_task| = {first['task_grad_norm']:.3f}")
    check("start", first["retention_loss"] < 1e-6, f"L_retain = {first['retention_loss']:.1e}: still the teacher")
    check("retention backward", last["retention_grad_norm"] > 0, f"|g_retain| = {last['retention_grad_norm']:.3f}")
    agree = all(step["conflict"] == (step["cosine"] < config.conflict_threshold) for step in steps)
    check("surgery", agree, f"cosine {last['cosine']:+.3f}, conflict {last['conflict']:.0f}")
    check("optimizer", last["retention_loss"] > 0, f"L_retain = {last['retention_loss']:.1e}: the student moved")
    expected = min(config.multiplier_max, max(0.0, first["multiplier"] + config.multiplier_lr * first["violation"]))
    check("λ", abs(steps[1]["multiplier"] - expected) < 1e-9, f"{first['multiplier']:.4f} → {last['multiplier']:.4f}")
    print("dry run: every part works")


def check(part: str, holds: bool, what: str) -> None:
    """Print that ``part`` works, or raise RuntimeError."""
    if not holds:
        raise RuntimeError(f"{part}: check failed ({what})")
    print(f"ok  {part:<18} {what}", flush=True)
