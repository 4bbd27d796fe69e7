"""Processes that were started together train together, or not at all."""

from types import SimpleNamespace

import pytest

from craft_trainer.training.distribution import require_joined_processes


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    """Seen to fail when the two numbers are not compared."""
    args = SimpleNamespace(world_size=1, output_dir="outputs/craft")
    require_joined_processes(args)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"2 processes were started but 1 would .* in outputs/craft"):
        require_joined_processes(args)
