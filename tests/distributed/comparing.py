"""Two runs that should be one: their weights, their history files, their logs."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

HISTORIES = ("lambda_history.csv", "lambda_history_groups.csv")


def assert_same_run(one: dict[str, Any], one_folder: Path, two: dict[str, Any], two_folder: Path) -> None:
    """The same to 1e-6, but for what is measured as a difference of nearly equal float32 numbers (1e-5)."""
    assert_same_tensors(one["weights"], two["weights"])
    assert two["multipliers"] == pytest.approx(one["multipliers"], rel=2e-6)
    for file in HISTORIES:
        assert_same_rows(read(one_folder / file), read(two_folder / file))
    assert_same_rows(one["logs"], two["logs"])


def assert_identical(first: dict[str, Any], second: dict[str, Any]) -> None:
    """The same model and multipliers, bit for bit."""
    assert first["multipliers"] == second["multipliers"]
    assert first["weights"].keys() == second["weights"].keys()
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name


def assert_same_tensors(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_same_rows(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        assert right.pop("group", None) == left.pop("group", None)
        assert right == pytest.approx(left, rel=1e-5, abs=1e-6)


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a history file, if there is one."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [{key: value if key == "group" else float(value) for key, value in row.items() if value} for row in rows]


def without_flos(run: dict[str, Any]) -> dict[str, Any]:
    """Trainer counts them by the sizes of the parameters, of which a process has parts under ZeRO 3 and FSDP 1."""
    return run | {"logs": [{name: value for name, value in log.items() if name != "total_flos"} for log in run["logs"]]}
