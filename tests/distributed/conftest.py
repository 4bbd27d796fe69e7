"""Everything that two processes compute, once per session, and the same of one process."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, build_anchors, train
from filelock import FileLock
from launch import InProcessError, run_two_processes
from sharded_core import CORE_CASES, build_core_anchors, run_core

TIMEOUT_S = 600


class Together:
    """What two processes computed."""

    def __init__(self, folder: Path, complaint: str) -> None:
        self.folder, self.complaint = folder, complaint

    def result(self, name: str, rank: int = 0) -> Any:
        """What process ``rank`` made of ``name``."""
        file = self.folder / f"{name}.{rank}.pt"
        if not file.is_file():
            pytest.fail(f"process {rank} did not get to {name!r}: {self.complaint}")
        found = torch.load(file, weights_only=False)
        if isinstance(found, str) and found.startswith("Traceback"):
            raise InProcessError(f"process {rank}, {name!r}: {found}")
        return found


@pytest.fixture(scope="session")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Computed by the first of pytest-xdist's workers that asks; the others wait."""
    mine = tmp_path_factory.getbasetemp()
    known = (mine.parent if hasattr(request.config, "workerinput") else mine) / "two_processes.json"
    with FileLock(f"{known}.lock"):
        if not known.is_file():
            folder = tmp_path_factory.mktemp("two_processes")
            complaint = compute(folder, request.config.getoption("pythonwarnings") or ())
            draft = folder / "result.json"
            draft.write_text(json.dumps({"folder": str(folder), "complaint": complaint}))
            draft.replace(known)
    found = json.loads(known.read_text())
    return Together(Path(found["folder"]), found["complaint"])


def compute(folder: Path, warnings: Sequence[str]) -> str:
    """What was wrong, if anything was; ``warnings`` are filters given to pytest by -W."""
    build_anchors(folder / "anchors")
    build_core_anchors(folder / "anchors")
    script = Path(__file__).with_name("two_processes.py")
    return run_two_processes(script, folder, timeout_s=TIMEOUT_S, warnings=warnings)


@pytest.fixture(scope="session")
def alone(together: Together, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process makes of a case, and where its history is."""
    folder = tmp_path_factory.mktemp("one_process")

    @cache
    def of(name: str) -> tuple[dict[str, Any], Path]:
        return train(CASES[name], together.folder / "anchors", folder / name), folder / name

    return of


@pytest.fixture(scope="session")
def core_alone(together: Together) -> Any:
    """What one process makes of a case of the gradient core, on the whole batch and the whole model."""

    @cache
    def of(name: str) -> dict[str, Any]:
        return run_core(*CORE_CASES[name], together.folder / "anchors")

    return of
