"""One of two processes that are told different things, or of which one is ended: leaves what became of it in files."""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from runs import BASE
from toy import ToyModel, ToyTask
from transformers import TrainerCallback

from craft_trainer import CraftConfig, CraftTrainer

CASES = {  # what the second process is told
    "epsilon": {"epsilon": 2e-3},
    "learning_rate": {"learning_rate": 0.1},
    "seed": {"seed": 7},
    "surgery": {"surgery": "none"},
    "retention_every": {"retention_every": 2},
    "anchors": {"anchors": None},
    "num_samples": {"samples": 24},
}


def refused(folder: Path, samples: int = 64, **told: object) -> str:
    """What a trainer says that is told so; "" if it is made."""
    anchors = told.pop("anchors", str(folder / "anchors"))
    config = CraftConfig(output_dir=str(folder / "run"), **BASE | told)
    try:
        CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=ToyTask(samples))
    except ValueError as error:
        return str(error)
    return ""


class Sent(TrainerCallback):
    """SIGTERM in the midst of step 3, for this process alone."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)


def ended(folder: Path, *, is_signalled: bool) -> str:
    """The exit status of a training of which the second process is told to end."""
    config = CraftConfig(output_dir=str(folder / "ended"), **BASE)
    sent = [Sent()] if is_signalled else []
    anchors = str(folder / "anchors")
    trainer = CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=ToyTask(), callbacks=sent)
    try:
        trainer.train()
    except SystemExit as status:
        return f"{status.code} at step {trainer.state.global_step}"
    return "not ended"


def main(folder: Path) -> None:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    said = [refused(folder, **(told if rank else {})) for told in [{}, *CASES.values()]]
    (folder / f"said.{rank}").write_text("\n".join(said))
    (folder / f"status.{rank}").write_text(ended(folder, is_signalled=rank == 1))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
