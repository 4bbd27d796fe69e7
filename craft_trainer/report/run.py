"""The output folder of one training run: what it was told, what the constraint did, how far it came."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from craft_trainer.report.choices import Choices, load_choices
from craft_trainer.report.history import History, Series, Trajectory, history_path, load_history
from craft_trainer.report.reading import Rule, check, json_object
from craft_trainer.report.results import Json, Results

HISTORY_FILE, STATE_FILE, RECORD_FILE, CHOICES_FILE = "lambda_history.csv", "trainer_state.json", "run.json", "mcq.json"
WITHOUT_IT = "remove it to write the report without it"
VARIANCE, COSINE = "variance", "cosine distance"  # units of terms
CRAFT = "craft"  # the only method with a constraint
NEW_TASKS = "new_tasks"  # of settings
OBJECT = Rule("an object or null", lambda value: value is None or isinstance(value, dict))
OBJECTS = Rule(
    "a list of objects", lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value)
)
STATE = {
    "log_history": Rule(
        "a list of objects with numbered steps", lambda value: OBJECTS.holds(value) and _numbered(value)
    )
}
RECORD = {
    **dict.fromkeys(("units", "groups"), Rule("a list", lambda value: value is None or isinstance(value, list))),
    "starts": OBJECTS,
    **dict.fromkeys(("settings", "provenance", "end"), OBJECT),
}
FROM_STATE = ("max_steps", "num_train_epochs", "train_batch_size")  # settings of a run without run.json


@dataclass(frozen=True)
class Run:
    """The files that a training run left; every part but ``path`` may be missing.

    ``step`` of ``max_steps`` optimizer steps were made. ``losses`` and ``known`` are (steps, values): the logged task
    loss, and the fraction of the questions right before training that is right still; up to ``kept_step``.
    ``recorded`` says whether ``settings`` and ``provenance`` are those of run.json; ``ended`` whether that tells of an
    end, None without it. ``new_tasks`` are the sentences of the tasks that a policy learned, as recorded. ``kept_step``
    is the step whose weights were loaded at the end as the best; None where they are those of the last step.
    ``groups`` are the old tasks that have a constraint of their own.
    """

    path: Path
    files: tuple[Path, ...]
    history: History | None
    step: int | None
    max_steps: int | None
    losses: tuple[Series, Series]
    known: tuple[Series, Series]
    seconds: float | None
    units: tuple[str, ...]
    settings: Mapping[str, Json]
    provenance: Mapping[str, Json]
    recorded: bool
    ended: bool | None
    choices: Choices | None
    new_tasks: tuple[str, ...] = ()
    kept_step: int | None = None
    groups: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """What protected the old tasks."""
        return str(self.settings.get("method", CRAFT))

    @property
    def constrained(self) -> History | None:
        """The history up to the step whose weights are kept; None for a baseline, which has no constraint."""
        return self.history.until(self.kept_step) if self.history is not None and self.method == CRAFT else None

    @property
    def fall_of_loss(self) -> float | None:
        """1 − (mean of the last tenth of the logged task losses) / (that of the first); None if fewer than two."""
        losses = self.losses[1]
        if len(losses) < 2:
            return None
        part = max(1, len(losses) // 10)
        first = float(losses[:part].mean())
        return None if first <= 0 else 1 - float(losses[-part:].mean()) / first


def teachers_scale(units: Iterable[str]) -> str:
    """Name what L_retain is a fraction of, if its terms have ``units``; the teacher's variance if none is known."""
    known = set(units) or {VARIANCE}
    own = " or ".join(sorted(known - {COSINE}))
    pieces = [f"the teacher's {own}" if own else "", "a cosine distance of 1" if COSINE in known else ""]
    return " or ".join(filter(None, pieces))


def load_run(folder: Path) -> Run:
    """Read the ``output_dir`` of any CraftTrainer; ValueError where it is no run's, or a file in it is damaged."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; pass the output_dir of a training run")
    history, record, choices = (folder / name for name in (HISTORY_FILE, RECORD_FILE, CHOICES_FILE))
    state = _newest_state(folder)
    files = tuple(path for path in (history, state, record, choices) if path.is_file())
    if not {history, state, record} & set(files):
        names = f"{HISTORY_FILE}, {STATE_FILE}, {RECORD_FILE}"
        raise ValueError(f"{folder}: holds none of {names}; pass the output_dir of a training run")
    trained = _checked(state, STATE) if state in files else {}
    told = _checked(record, RECORD) if record in files else {}
    kept = _whole((told.get("end") or {}).get("kept_step"))
    log: list[dict[str, Any]] = trained.get("log_history", [])
    of_weights = [entry for entry in log if kept is None or entry.get("step", 0) <= kept]
    return Run(
        path=folder,
        files=files,
        history=load_history(history) if history in files else None,
        step=_whole(trained.get("global_step")),
        max_steps=_whole(trained.get("max_steps")),
        losses=_logged(of_weights, "loss"),
        known=_logged(of_weights, "mcq/kept"),
        seconds=next((entry["train_runtime"] for entry in log if "train_runtime" in entry), None),
        units=tuple(map(str, told.get("units") or ())),
        settings=told.get("settings") or {name: trained[name] for name in FROM_STATE if name in trained},
        provenance=_when(told),
        recorded=bool(told.get("settings")),
        ended=told["end"] is not None if "end" in told else None,
        choices=load_choices(choices) if choices in files else None,
        new_tasks=tuple(map(str, (told.get("settings") or {}).get(NEW_TASKS) or ())),
        kept_step=kept,
        groups=tuple(map(str, told.get("groups") or ())),
    )


def load_histories(results: Results) -> Trajectory:
    """Histories of the craft runs by seed; a seed without a file is left out, a damaged file is a ValueError."""
    paths = {seed: history_path(results, seed) for seed in results.seeds}
    found = {seed: load_run(path.parent).constrained for seed, path in paths.items() if path.is_file()}
    return {seed: history for seed, history in found.items() if history is not None}


def _checked(path: Path, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """The object in ``path``; of ``rules`` those hold whose keys it has."""
    found = json_object(path, WITHOUT_IT)
    check(found, {key: rule for key, rule in rules.items() if key in found}, f"{path}: ", again=WITHOUT_IT)
    return found


def _numbered(log: list[dict[str, Any]]) -> bool:
    return all(type(entry.get("step", 0)) in (int, float) for entry in log)


def _newest_state(folder: Path) -> Path:
    """trainer_state.json of the finished run, or else of its last checkpoint, if there is one."""
    found = [path for path in folder.glob(f"checkpoint-*/{STATE_FILE}") if path.parent.name[11:].isdigit()]
    newest = max(found, key=lambda path: int(path.parent.name[11:]), default=folder / STATE_FILE)
    return folder / STATE_FILE if (folder / STATE_FILE).is_file() else newest


def _logged(log: list[dict[str, Any]], name: str) -> tuple[Series, Series]:
    """(steps, values) of one logged number; what is not finite is left out."""
    pairs = [(entry["step"], entry[name]) for entry in log if name in entry and "step" in entry]
    points = [pair for pair in pairs if isinstance(pair[1], int | float) and isfinite(pair[1])]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _when(told: Mapping[str, Any]) -> dict[str, Json]:
    """Provenance as recorded, with the times at which the run began and ended."""
    if not told:
        return {}
    starts = [start.get("time", "") for start in told.get("starts") or [] if isinstance(start, dict)]
    end = told.get("end")
    times = {"started": starts[0] if len(starts) == 1 else starts, "ended": end.get("time") if end else "not recorded"}
    return dict(told.get("provenance") or {}) | times
