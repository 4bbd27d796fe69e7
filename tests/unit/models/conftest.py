"""Tiny versions of LeRobot's policies; see tests/twins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from craft_trainer.models.lerobot import PolicyModel


@pytest.fixture(scope="session")
def make_twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., PolicyModel]]:
    """Makes a fresh policy of any type: ``make_twin(type, seed=0, cameras=("front",), **options)``."""
    from policies import tiny_policy_maker

    with tiny_policy_maker(tmp_path_factory.mktemp("tiny")) as make:
        yield make
