"""Six CRaFT steps on the toy for each of the loggers, that report to it: python logged_run.py FOLDER LOGGER…"""

import sys
import traceback
from pathlib import Path

from runs import BASE
from toy import ToyModel, ToyTask, toy_anchors

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.cache import AnchorCache


def train(logger: str, output_dir: Path, anchors: AnchorCache) -> None:
    """One run."""
    options = {
        "output_dir": str(output_dir),
        "report_to": logger,
        "run_name": "toy",
        "project": "craft",
        "trackio_space_id": None,  # on this machine; Trainer's default is a Space of the Hub
        "logging_steps": 3,
        "update_angle_every": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "constraints": "per_group",
    }
    config = CraftConfig(**BASE | options)
    CraftTrainer(
        ToyModel(), config, anchors=anchors, train_dataset=ToyTask(), eval_dataset=ToyTask(size=8, seed=9)
    ).train()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    toy = toy_anchors(folder / "anchors", groups=["push the puck", "drawer"] * 12)
    for name in sys.argv[2:]:
        try:
            train(name, folder / name / "run", toy)
        except Exception:  # noqa: BLE001 the other loggers' tests go on; this one's say it
            (folder / name / "error.txt").write_text(traceback.format_exc())
