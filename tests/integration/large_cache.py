"""Trains on an anchor cache with less memory to itself than the cache has, and says how many anchors it read."""

import resource
import sys
from pathlib import Path

from tiny_lm import TokenTask, collate, tiny_llama

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.families import as_anchored_model

NUM_ANCHORS, BATCH = 4096, 32
NUM_LAYERS = 12
OLD, NEW = TokenTask(NUM_ANCHORS, seed=2), TokenTask()


def private_bytes() -> int:
    """What a process has to itself, which no file can give back, and what the limit is on."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def wide_llama():
    return tiny_llama(hidden_size=128, num_hidden_layers=NUM_LAYERS)


def build(folder):
    """Every token of all layers: 74 kB an anchor."""
    teacher = as_anchored_model(wide_llama())
    build_anchor_cache(
        teacher,
        lambda rows: collate([OLD[row] for row in rows]),
        folder,
        rows=range(NUM_ANCHORS),
        groups=["old"] * NUM_ANCHORS,
        specs=[FeatureSpec(teacher.module_path(layer), "none") for layer in range(NUM_LAYERS)],
        batch_size=BATCH,
        source={"dataset": "tokens", "frames": NUM_ANCHORS},
        teacher_path="wide",
    )


def train(output_dir, anchors, **options):
    config = CraftConfig(
        output_dir=str(output_dir),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        retention_batch_size=BATCH,
        per_device_train_batch_size=2,
        **options,
    )
    CraftTrainer(wide_llama(), config, anchors=anchors, train_dataset=NEW, data_collator=collate).train()


def main(folder, more):
    """Train on ``folder/cache``.

    Private memory may grow by ``more`` bytes after a first run has imported and started what it needs.
    """
    train(folder / "first", None, max_steps=2)
    limit = private_bytes() + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    anchors = AnchorCache(folder / "cache")
    rows, read = set(), anchors.batch

    def counted(wanted, **options):
        rows.update(wanted)
        return read(wanted, **options)

    anchors.batch = counted
    train(folder / "run", anchors, retention_terms=["hidden"], max_steps=NUM_ANCHORS // BATCH)
    return len(rows)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2])))
