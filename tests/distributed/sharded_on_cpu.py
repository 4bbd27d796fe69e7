"""Lets accelerate shard a model on the CPU, which it does on accelerators only; all else is accelerate's own.

As a script it is ``craft-trainer`` with that: ``accelerate launch --config_file … sharded_on_cpu.py train …``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


@contextmanager
def cpu_may_be_sharded() -> Iterator[None]:
    """Within it the processes of a launcher may shard a model."""
    original = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    with (
        mock.patch.object(AcceleratorState, "__init__", init),
        mock.patch("craft_trainer.training.config.require_device_of_engine"),  # for version 1
    ):
        yield


if __name__ == "__main__":
    from craft_trainer.cli.main import main

    with cpu_may_be_sharded():
        sys.exit(main())
