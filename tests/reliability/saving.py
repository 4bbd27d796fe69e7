"""Time a save of CraftTrainer beside one of transformers' Trainer: the same model, in turn, in one process.

    python tests/reliability/saving.py FOLDER [--width 1024] [--repeats 9] [--steps 0]

CraftTrainer's training goes on when the files are written; the checkpoint is whole when the disk has them, with a
checksum of every file. Both are timed. A save of Trainer is over when the system has its bytes, so Trainer's is also
timed with `os.sync` behind it. With --steps whole trainings are timed too, which save now and then.
"""

import argparse
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from craft_trainer import CraftConfig, CraftTrainer

ALL = {"report_to": "none", "use_cpu": True, "save_strategy": "steps", "disable_tqdm": True, "logging_strategy": "no"}
KINDS: dict[str, tuple[Any, Any]] = {"craft": (CraftTrainer, CraftConfig), "plain": (Trainer, TrainingArguments)}


def made(kind: Any, config: Any, folder: Path, width: int, **options: Any) -> Any:
    """A trainer of a language model."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, **sizes))
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
    return kind(model, config(output_dir=str(folder), **ALL | options), train_dataset=rows)


def trained(kind: Any, config: Any, folder: Path, width: int) -> Any:
    """A trainer that has made one step, so that its optimizer has states."""
    trainer = made(kind, config, folder, width, max_steps=1, save_strategy="no")
    trainer.train()
    return trainer


def seconds_of_a_save(trainer: Any, *, syncs: bool) -> tuple[float, float]:
    """Save a checkpoint, of which nothing is there before: until training would go on, and until it is whole."""
    for checkpoint in Path(trainer.args.output_dir).glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    os.sync()
    trainer.is_in_train = True
    begin = time.perf_counter()
    trainer._save_checkpoint(trainer.model, None)
    if syncs:
        os.sync()
    goes_on = time.perf_counter() - begin
    if isinstance(trainer, CraftTrainer):
        trainer.finish_saving()
    return goes_on, time.perf_counter() - begin


def seconds_of_a_training(kind: Any, config: Any, folder: Path, given: argparse.Namespace) -> float:
    """Train for ``--steps`` steps, with four saves."""
    trainer = made(kind, config, folder, given.width, max_steps=given.steps, save_steps=given.steps // 4)
    os.sync()
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    shutil.rmtree(folder)
    return seconds


def num_bytes(folder: Path) -> int:
    """Of all files of its checkpoint."""
    return sum(file.stat().st_size for file in folder.glob("checkpoint-*/**/*") if file.is_file())


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=0, help="of whole trainings, which save four times")
    parser.add_argument("--trainings", type=int, default=5, help="so many of each")
    given = parser.parse_args()
    ours, theirs = (trained(kind, config, given.folder / name, given.width) for name, (kind, config) in KINDS.items())
    found: dict[str, list[float]] = {name: [] for name in ("craft", "craft, whole", "plain", "plain, synced")}
    for _ in range(given.repeats):
        for name, seconds in zip(found, seconds_of_a_save(ours, syncs=False), strict=False):
            found[name].append(seconds)
        found["plain"].append(seconds_of_a_save(theirs, syncs=False)[0])
        found["plain, synced"].append(seconds_of_a_save(theirs, syncs=True)[0])
    sizes = {name: num_bytes(given.folder / name) for name in KINDS}
    parameters = sum(one.numel() for one in ours.model.parameters())
    print(
        f"{parameters:,} parameters; a checkpoint of CraftTrainer has {sizes['craft'] / sizes['plain']:.5f} × the bytes"
    )
    del ours, theirs
    pairs = [("craft", "plain"), ("craft, whole", "plain"), ("craft, whole", "plain, synced")]
    if given.steps:
        pairs.append(("craft, training", "plain, training"))
        found |= {name: [] for name in pairs[-1]}
    for _ in range(given.trainings if given.steps else 0):
        for name, (kind, config) in KINDS.items():
            seconds = seconds_of_a_training(kind, config, given.folder / f"{name}-training", given)
            found[f"{name}, training"].append(seconds)
    for name, seconds in found.items():
        print(f"{name:<15} median {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f} s")
    for name, other in pairs:
        ratios = [one / two for one, two in zip(found[name], found[other], strict=True)]
        print(
            f"{name} / {other}: {statistics.median(ratios):.2f} (of each pair {min(ratios):.2f} to {max(ratios):.2f})"
        )
