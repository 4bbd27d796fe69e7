"""How long a cache of a million anchors takes to open, what memory that takes, and what a batch of it costs.

    python tests/reliability/million.py --anchors 1000000

Memory is what the process has to itself (``VmData`` grows by): a memory-mapped file is no part of it.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import datasets
import numpy as np

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.provenance import Provenance
from craft_trainer.anchors.shards import write_cache
from craft_trainer.anchors.teacher_pass import rows_digest

DIM, BATCH, DRAWS, GROUPS = 64, 64, 200, 10


def private_bytes() -> int:
    """What this process has to itself."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmData:")).split()[1])


def write(folder: Path, number: int) -> None:
    """A cache of ``number`` anchors of 64 features and 64 inputs, in pieces of 50,000."""
    parts = []
    for start in range(0, number, 50_000):
        size = min(50_000, number - start)
        rng = np.random.default_rng(start)
        rows = np.arange(start, start + size)
        columns = {
            "row": rows,
            "group": [f"task {row % GROUPS}" for row in rows],
            "hidden/layer/none": list(rng.standard_normal((size, DIM), dtype=np.float32)),
            "input/state": list(rng.standard_normal((size, DIM), dtype=np.float32)),
        }
        vectors = datasets.List(datasets.Value("float32"), length=DIM)
        types = {"row": datasets.Value("int64"), "group": datasets.Value("string")}
        features = datasets.Features(types | {"hidden/layer/none": vectors, "input/state": vectors})
        part = folder.with_name(f"part{start}")
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(part))
        parts.append(datasets.load_from_disk(str(part)))
    made = Provenance(
        teachers=[{"weights": "w", "processors": "p", "configuration": "c", "path": "teacher", "anchors": number}],
        data={"dataset": "d", "revision": "", "fingerprint": "f", "frames": number, "rows": rows_digest(range(number))},
        features=[{"path": "layer", "pooling": "none"}],
        storage={"inputs": "embedded", "output": False, "dtype": "float32", "num_tokens": 0, "batch_size": 64,
                 "labels": [], "task_unit": ""},
        groups={f"task {group}": len(range(group, number, GROUPS)) for group in range(GROUPS)},
        files={},
        sizes={},
        versions={"torch": "2"},
    )  # fmt: skip
    write_cache(datasets.concatenate_datasets(parts), folder, made)


def main() -> None:
    """Write, open, draw; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=int, default=1_000_000)
    number = parser.parse_args().anchors
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "cache"
        write(folder, number)
        size = sum(file.stat().st_size for file in folder.iterdir())
        before, started = private_bytes(), time.process_time()
        cache = AnchorCache(folder)
        opened = time.process_time() - started
        memory = private_bytes() - before
        rng, draws = np.random.default_rng(0), []
        for _ in range(DRAWS):
            rows = rng.integers(number, size=BATCH).tolist()
            started = time.process_time()
            cache.batch(rows)
            draws.append(time.process_time() - started)
    print(
        f"{len(cache):,} anchors, {size / 1e6:,.0f} MB: opened in {opened:.1f} s of processor time, checksums included"
    )
    print(f"memory of its own: {memory / 1e6:,.0f} MB, {memory / number:.0f} bytes an anchor")
    print(f"a batch of {BATCH}: {1000 * median(draws):.2f} ms, the slowest of {DRAWS} {1000 * max(draws):.2f} ms")


if __name__ == "__main__":
    main()
