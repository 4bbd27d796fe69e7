"""``craft-trainer dryrun``: three CRaFT steps, and a line for every part that was seen to work."""

import csv
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from craft_trainer.training.config import CraftConfig

EXAMPLE = "accelerate launch -m craft_trainer dryrun --config configs/train/dryrun.yaml"
TASKS = {"old": "push-v3", "new": "window-close-v3"}
MIN_STD = 0.2  # of the teacher's normalisation: two episodes of one task say little of another
TEACHER = {"max_steps": 30, "learning_rate": 1e-3, "per_device_train_batch_size": 8, "logging_steps": 10}
QUIETLY = {"report_to": "none", "save_strategy": "no"}
CLOSE = 1e-3  # of a cosine squared, computed from inner products of float32

type Step = Mapping[str, float]


def run(config: "CraftConfig") -> None:
    """Record, train a teacher for some steps, cache its anchors, train; RuntimeError at the first check that fails."""
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.training.config import retention_settings

    if config.max_steps < 2 or config.retention_every != 1:
        raise ValueError("a dry run needs max_steps of at least 2 and retention_every 1: it compares successive steps")
    folder = Path(config.output_dir) / "dryrun"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    teacher, anchors = prepare(folder, str(config.device.type))
    config.output_dir = str(folder / "craft")
    steps = train(config, folder, teacher, anchors)
    check("training", len(steps) == config.max_steps, f"{config.max_steps} steps")
    with logged(folder):
        student, before = (PolicyModel.from_pretrained(path, device="cpu") for path in (folder / "craft", teacher))
    pairs = zip(student.parameters(), before.parameters(), strict=True)
    moved = max((after - start).abs().max().item() for after, start in pairs)
    check("policy", moved > 0, f"a LeRobot checkpoint that loads; parameters moved by up to {moved:.1e}")
    first, last = steps[0], steps[-1]
    check("task backward", first["task_grad_norm"] > 0, f"|g_task| = {first['task_grad_norm']:.3g}")
    check("start", first["retention_loss"] < 1e-6, f"L_retain = {first['retention_loss']:.1e}: still the teacher")
    check("retention backward", last["retention_grad_norm"] > 0, f"|g_retain| = {last['retention_grad_norm']:.3g}")
    check("optimizer", last["retention_loss"] > 0, f"L_retain = {last['retention_loss']:.2g}: the student moved")
    rule = retention_settings(config).recipe.surgery
    check_surgery(steps, config.conflict_threshold, whole=rule == "one_sided" and config.granularity == "model")
    expected = min(config.multiplier_max, max(0.0, first["multiplier"] + config.multiplier_lr * first["violation"]))
    check("λ", abs(steps[1]["multiplier"] - expected) < 1e-9, f"{first['multiplier']:.4f} → {last['multiplier']:.4f}")
    print(f"dry run: every part works (what its commands said is in {folder / 'commands.log'})")


def prepare(folder: Path, device: str) -> tuple[Path, Path]:
    """Record both tasks, train a teacher of the old one, cache its anchors; give the last two's folders."""
    from craft_trainer.suites.demo import POLICY

    data, teacher, anchors = folder / "data", folder / "teacher", folder / "anchors"
    for name, task in TASKS.items():
        status = quietly(folder, "record", {"tasks": task, "episodes": 2, "output_dir": data / name})
        check("data", status == 0, f"{task} recorded as a LeRobot dataset")
    new = {"policy_type": POLICY["policy_type"], "policy_min_std": MIN_STD, "dataset": data / "old"}
    new |= {"policy_options": json.dumps(POLICY["policy_options"]), "use_cpu": device == "cpu"}
    status = quietly(folder, "train", new | TEACHER | QUIETLY | {"output_dir": teacher})
    check("teacher", status == 0, f"{TEACHER['max_steps']} steps of plain training on {TASKS['old']}")
    cache = {"anchors": 32, "teacher": teacher, "dataset": data / "old", "output_dir": anchors}
    check("anchors", quietly(folder, "cache build", cache) == 0, f"{anchors} holds the teacher's features")
    return teacher, anchors


def train(config: "CraftConfig", folder: Path, teacher: Path, anchors: Path) -> list[Step]:
    """Train on the new task by CRaFT, and read the history of its steps."""
    from craft_trainer.cli.policy_training import train
    from craft_trainer.cli.train import TrainArguments

    given = TrainArguments(model=str(teacher), dataset=str(folder / "data/new"), anchors=str(anchors))
    with logged(folder):
        train(given, config)
    with (folder / "craft" / "lambda_history.csv").open() as file:
        steps: list[Step] = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    if any("cosine" not in step for step in steps):
        raise ValueError("a dry run compares the two gradients of a step: leave backward: joint out")
    return steps


def check_surgery(steps: Sequence[Step], threshold: float, *, whole: bool) -> None:
    """Check that conflicts are those of the cosine; where one gradient is projected ``whole``, one and what it took."""
    for number, step in enumerate(steps, 1):
        conflict, cosine = step["cosine"] < threshold, step["cosine"]
        taken = f": a conflict, {100 * step['projected_energy']:.0f} % of |g_task|² projected away" if conflict else ""
        said = f"step {number}: L_retain/ε {step['retention_loss'] / step['epsilon']:.2f}, cosine {cosine:+.3f}{taken}"
        fits = not whole or math.isclose(step["projected_energy"], cosine**2 if conflict else 0.0, abs_tol=CLOSE)
        check("surgery", not whole or (step["conflict"] == conflict and fits), said)
    seen = sum(step["cosine"] < threshold for step in steps)
    check("conflicts", seen > 0, f"at {seen} of {len(steps)} steps")


def quietly(folder: Path, command: str, options: Mapping[str, object]) -> int:
    """Run a command whose lines go to a file."""
    from craft_trainer.cli.main import main

    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with logged(folder):
        return main([*command.split(), *words])


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Send what is printed to a file; what is said of an error stays in the terminal."""
    with (folder / "commands.log").open("a", encoding="utf-8") as log, redirect_stdout(log):
        yield


def check(part: str, holds: bool, what: str) -> None:
    """Print that ``part`` works, or raise RuntimeError."""
    if not holds:
        raise RuntimeError(f"{part}: check failed ({what})")
    print(f"ok  {part:<18} {what}", flush=True)
