"""Whether memory, open files, step time and disk stay flat in a long run that retains, logs, evaluates and saves.

    python tests/reliability/flat.py FOLDER --minutes 120

A sample is taken every 10 s and appended to FOLDER/samples.csv. After the first tenth, which is warm-up, a line is
fitted to each quantity: its slope per hour with the 95 % interval, by least squares with Newey and West's errors
(neighbouring samples are alike; 30 lags, which are 5 minutes).
"""

import argparse
import csv
import sys
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "integration"))

import numpy as np
import psutil
import statsmodels.api as sm
from runs import BASE
from toy import ToyModel, ToyTask, toy_anchors
from transformers import TrainerCallback

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.hub.run_folder import all_files

EVERY_S = 10
QUANTITIES = {"rss": ("memory (RSS)", "KB", 1e3), "files": ("open files", "", 1), "step": ("step time", "µs", 1e-6),
              "save": ("time of a save", "ms", 1e-3), "disk": ("disk", "KB", 1e3)}  # fmt: skip
OPTIONS: dict[str, Any] = {"max_steps": 10**9, "logging_steps": 100, "save_strategy": "steps", "save_steps": 200}
OPTIONS |= {"save_total_limit": 2, "eval_strategy": "steps", "eval_steps": 500, "update_angle_every": 10}


class Sampling(TrainerCallback):
    """Writes a line of samples every 10 s, and ends the run after ``minutes``."""

    def __init__(self, folder: Path, minutes: float, pause_ms: float) -> None:
        self.folder, self.ends, self.pause_s = folder, time.monotonic() + 60 * minutes, pause_ms / 1000
        self.process, self.steps, self.saves = psutil.Process(), [], []
        self.began, self.next = time.monotonic(), time.monotonic() + EVERY_S
        with (folder / "samples.csv").open("w") as file:
            csv.writer(file).writerow(["hours", *QUANTITIES])

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        time.sleep(self.pause_s)
        self.since = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Processor time: what else the machine does is no part of it."""
        self.steps.append(time.process_time() - self.since)
        self.since = time.process_time()
        if time.monotonic() >= self.next and self.saves:
            self._sample(Path(args.output_dir))
        control.should_training_stop = time.monotonic() > self.ends

    def on_save(self, *_: Any, **__: Any) -> None:
        self.saves.append(time.process_time() - self.since)

    def _sample(self, output: Path) -> None:
        disk = sum(file.stat().st_size for file in all_files(output).values())
        found = [self.process.memory_info().rss, self.process.num_fds(), median(self.steps), median(self.saves), disk]
        with (self.folder / "samples.csv").open("a") as file:
            csv.writer(file).writerow([(time.monotonic() - self.began) / 3600, *found])
        self.steps, self.saves, self.next = [], [], self.next + EVERY_S


def report(file: Path) -> None:
    """Print the slope of every quantity, in units per hour."""
    with file.open() as opened:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(opened)]
    rows = rows[len(rows) // 10 :]
    hours = np.array([row["hours"] for row in rows])
    print(f"{len(rows)} samples in {hours[-1] - hours[0]:.2f} h, after {hours[0]:.2f} h of warm-up")
    for name, (label, unit, scale) in QUANTITIES.items():
        values = np.array([row[name] for row in rows]) / scale
        line = sm.OLS(values, sm.add_constant(hours)).fit(cov_type="HAC", cov_kwds={"maxlags": 30})
        low, high = line.conf_int()[1]
        print(
            f"{label}: mean {fmean(values):.5g} {unit}, slope {line.params[1]:+.4g} [{low:+.4g}, {high:+.4g}] an hour"
        )


def main() -> None:
    """Train and report, or report on the samples that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=120, help="0: only report on FOLDER/samples.csv")
    parser.add_argument("--pause-ms", type=float, default=0, help="wait before every step, to leave the processor free")
    given = parser.parse_args()
    if given.minutes:
        given.folder.mkdir(parents=True)
        trainer = CraftTrainer(
            ToyModel(),
            CraftConfig(output_dir=str(given.folder / "run"), **BASE | OPTIONS),
            anchors=toy_anchors(given.folder / "anchors"),
            train_dataset=ToyTask(),
            eval_dataset=ToyTask(8),
            callbacks=[Sampling(given.folder, given.minutes, given.pause_ms)],
        )
        trainer.train()
        print(f"{trainer.state.global_step:,} steps, {len(trainer.state.log_history):,} entries in the log")
    report(given.folder / "samples.csv")


if __name__ == "__main__":
    main()
