"""Half precision where the CPU has no instructions for it is a warning, and nothing else is."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from craft_trainer.models import precision
from craft_trainer.models.precision import is_emulated, warn_if_emulated


@pytest.fixture(autouse=True)
def an_old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_emulated", precision.SUPPORT.__contains__)


@pytest.mark.parametrize(
    ("network", "mixed_precision", "told"),
    [
        (nn.Linear(2, 2), "no", None),
        (nn.Linear(2, 2), "bf16", "bfloat16"),
        (nn.Linear(2, 2), "fp16", "float16"),
        (nn.Linear(2, 2).bfloat16(), "no", "bfloat16"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half()), "bf16", "bfloat16 and float16"),
        (nn.Linear(2, 2).to("meta"), "bf16", None),  # computes elsewhere
        (nn.Identity(), "bf16", None),
    ],
)
def test_what_the_cpu_cannot_compute_is_named(
    network: nn.Module, mixed_precision: str, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert warn_if_emulated(network, mixed_precision) is (told is not None)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * (told is not None)
    if told is not None:
        assert f"no instructions for {told}: " in caplog.text


def test_a_cpu_that_has_the_instructions_is_found() -> None:
    """By Linux's own list of what it has."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("no list of an x86 CPU's instructions")
    assert not is_emulated(torch.float32)
    if {"avx512bw", "avx512vl", "avx512dq"} <= set(flags):
        assert not is_emulated(torch.bfloat16)
    elif "avx_ne_convert" not in flags:
        assert is_emulated(torch.bfloat16)
