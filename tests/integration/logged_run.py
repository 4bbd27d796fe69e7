"""Six CRaFT steps on the toy that report to a logger: python logged_run.py LOGGER FOLDER"""

import sys
from pathlib import Path

from runs import BASE
from toy import ToyModel, ToyTask, toy_anchors

from craft_trainer import CraftConfig, CraftTrainer

if __name__ == "__main__":
    logger, folder = sys.argv[1], Path(sys.argv[2])
    options = {
        "output_dir": str(folder / "run"),
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
    anchors = toy_anchors(folder / "anchors", groups=["push the puck", "drawer"] * 12)
    config = CraftConfig(**BASE | options)
    CraftTrainer(
        ToyModel(), config, anchors=anchors, train_dataset=ToyTask(), eval_dataset=ToyTask(size=8, seed=9)
    ).train()
