"""A small results.json whose numbers can be checked by hand, and histories to go with it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

type Document = dict[str, Any]

COLUMNS = (
    *("step", "task_loss", "retention_loss", "multiplier", "epsilon", "violation"),
    *("cosine", "conflict", "task_grad_norm", "retention_grad_norm"),
)

# successes of 20 episodes by seed, on (push-v3, reach-v3, window-close-v3)
SUCCESSES = {
    "teacher": {0: (20, 18, 0), 1: (20, 20, 0)},
    "plain": {0: (2, 10, 20), 1: (4, 16, 20)},
    "craft": {0: (19, 17, 20), 1: (20, 20, 18)},
}
TASKS = (("push-v3", "old"), ("reach-v3", "old"), ("window-close-v3", "new"))


def make_document() -> Document:
    """Teacher 78/80 = 0.975 on the old tasks, plain 32/80 = 0.4, craft 76/80 = 0.95; new 0/40, 40/40, 38/40."""
    rows = [
        {"seed": seed, "method": method, "task": task, "group": group, "episodes": 20, "successes": successes}
        for method, by_seed in SUCCESSES.items()
        for seed, counts in by_seed.items()
        for (task, group), successes in zip(TASKS, counts, strict=True)
    ]
    return {
        "schema": 1,
        "stream": {"old": ["push-v3", "reach-v3"], "new": ["window-close-v3"]},
        "seeds": [0, 1],
        "settings": {"policy": "act", "train": {"learning_rate": 1e-05, "layers": [-2, -1]}},
        "rows": rows,
        "summary": {
            "teacher": {"old": 0.975, "new": 0.0},
            "plain": {"old": 0.4, "new": 1.0},
            "craft": {"old": 0.95, "new": 0.95},
        },
        "seconds": {"record": 12.3, "craft": 3725.0},
        "provenance": {},
    }


@pytest.fixture
def document() -> Document:
    """A valid results.json as a dict, free to be changed."""
    return make_document()


@pytest.fixture
def write_results(tmp_path: Path) -> Callable[[Document], Path]:
    """Write a document as results.json and return its path."""

    def write(document: Document) -> Path:
        path = tmp_path / "results.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_history(tmp_path: Path) -> Callable[..., Path]:
    """Write seed{N}/craft/lambda_history.csv of ``num_steps`` steps; ``changes`` replace columns of every row."""

    def write(seed: int, num_steps: int = 40, **changes: object) -> Path:
        path = tmp_path / f"seed{seed}" / "craft" / "lambda_history.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, "update_cosine"])  # which is blank
            writer.writeheader()
            for step in range(1, num_steps + 1):
                row = dict.fromkeys(COLUMNS, 0.0) | {"step": step, "retention_loss": 0.04, "epsilon": 0.05}
                writer.writerow(row | {"multiplier": 0.02 * step, "cosine": -0.3, "conflict": step % 2} | changes)
        return path

    return write
