"""Time a save of CraftTrainer beside one of transformers' Trainer: the same model, in turn, in one process.

    python tests/reliability/saving.py FOLDER [--width 1024] [--repeats 9]

A save of Trainer is over when the system has its bytes. One of CraftTrainer is over when the disk has them, with a
checksum of every file. So Trainer's is also timed with `os.sync` behind it.
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

ALL = {"report_to": "none", "use_cpu": True, "max_steps": 1, "save_strategy": "no", "disable_tqdm": True}


def trained(kind: Any, config: Any, folder: Path, width: int) -> Any:
    """A trainer that has made one step, so that its optimizer has states."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, **sizes))
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
    trainer = kind(model, config(output_dir=str(folder), **ALL), train_dataset=rows)
    trainer.train()
    return trainer


def seconds_of_a_save(trainer: Any, *, syncs: bool) -> float:
    """Save a checkpoint, of which nothing is there before."""
    for checkpoint in Path(trainer.args.output_dir).glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    os.sync()
    begin = time.perf_counter()
    trainer._save_checkpoint(trainer.model, None)
    if syncs:
        os.sync()
    return time.perf_counter() - begin


def num_bytes(folder: Path) -> int:
    """Of all files of its checkpoint."""
    return sum(file.stat().st_size for file in folder.glob("checkpoint-*/**/*") if file.is_file())


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    ours = trained(CraftTrainer, CraftConfig, given.folder / "craft", given.width)
    theirs = trained(Trainer, TrainingArguments, given.folder / "plain", given.width)
    found: dict[str, list[float]] = {"craft": [], "plain": [], "plain, synced": []}
    for _ in range(given.repeats):
        found["craft"].append(seconds_of_a_save(ours, syncs=False))
        found["plain"].append(seconds_of_a_save(theirs, syncs=False))
        found["plain, synced"].append(seconds_of_a_save(theirs, syncs=True))
    sizes = {name: num_bytes(given.folder / name) for name in ("craft", "plain")}
    parameters = sum(one.numel() for one in ours.model.parameters())
    print(
        f"{parameters:,} parameters; a checkpoint of CraftTrainer has {sizes['craft'] / sizes['plain']:.5f} × the bytes"
    )
    for name, seconds in found.items():
        print(f"{name:<14} median {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f} s")
    for name in ("plain", "plain, synced"):
        ratios = [one / other for one, other in zip(found["craft"], found[name], strict=True)]
        print(f"craft / {name}: {statistics.median(ratios):.2f} (of each pair {min(ratios):.2f} to {max(ratios):.2f})")
