"""run.json: with what settings, on what machine and when a training run was made."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.lineage import LINEAGE_FILE, Lineage
from craft_trainer.files import as_json, write_json
from craft_trainer.hub.run_folder import RUN_FILE, remove_earlier_results, step_of_weights
from craft_trainer.losses.terms import units
from craft_trainer.options import default_of
from craft_trainer.training.config import retention_settings, samples_per_device
from craft_trainer.training.distribution import is_partitioned, splits_parameters

SCHEMA = 1
PACKAGES = ("craft-trainer", "torch", "transformers", "accelerate", "datasets", "lerobot", "peft")
SECRET = ("token", "password", "secret", "api_key")  # ends of names
ALWAYS = ("learning_rate", "per_device_train_batch_size", "max_steps", "seed")  # told even where they are the default
ANCHORED = (  # the same with anchors
    *("method", "retention_terms", "epsilon", "surgery", "granularity", "multiplier", "multiplier_max"),
)
# filled in by Trainer and by `craft-trainer train`:
DERIVED = (
    *("accelerator_config", "fsdp_config", "disable_tqdm", "dataloader_pin_memory", "prediction_loss_only"),
    "remove_unused_columns",
)
CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")  # and these where they are False


class RunRecord(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Writes ``run.json`` into the output folder when training begins and when it ends.

    Attributes:
        inputs: what the run was given besides its configuration: policy, dataset, anchors.
        anchored: whether it has anchors. A run with neither anchors nor ``inputs`` leaves no file, nor an earlier
            run's.
        groups: the old tasks of its anchors. They are told where each has a constraint of its own.
        lineage: the weights that it starts from, their ancestors, and the anchors that hold it; None where it is not
            known.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        anchored: bool = False,
        groups: Sequence[str] = (),
        lineage: Lineage | None = None,
    ) -> None:
        self.inputs = dict(inputs or {})
        self.lineage = lineage
        self.anchored = anchored
        self.groups = sorted(set(groups))
        self._starts: list[dict[str, Any]] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Write settings, machine and the time of the start; a resumed run adds its start to those of the file.

        Such a start has the settings that were ``changed`` since the one before.
        """
        if state.global_step == 0 and state.is_world_process_zero:
            remove_earlier_results(Path(args.output_dir), () if self._writes(state) else (RUN_FILE, LINEAGE_FILE))
        if not self._writes(state):
            return
        path = Path(args.output_dir) / RUN_FILE
        start, settings = {"step": state.global_step, "time": now()}, self._settings(args, state)
        changed = _changed(recorded(path, "settings"), settings) if state.global_step else {}
        self._starts = [
            *(_starts(path) if state.global_step else []),
            start | ({"changed": changed} if changed else {}),
        ]
        self._write(path, args, state, None)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Write the time of the end; without it the run was ended by something else."""
        if self._writes(state):
            end = {"step": state.global_step, "time": now()}
            if (kept := step_of_weights(args, state)) != state.global_step:
                end["kept_step"] = kept
            self._write(Path(args.output_dir) / RUN_FILE, args, state, end)

    def _writes(self, state: TrainerState) -> bool:
        return bool(self.anchored or self.inputs) and state.is_world_process_zero

    def _settings(self, args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
        batch = {"per_device_train_batch_size": samples_per_device(args, state.train_batch_size)}
        return told_settings(self.inputs, args, anchored=self.anchored) | batch

    def _write(self, path: Path, args: TrainingArguments, state: TrainerState, end: dict[str, Any] | None) -> None:
        place = {"processes": args.world_size, "device": str(args.device), "mixed_precision": args.mixed_precision}
        per_group = retention_settings(args).constraints == "per_group"
        document = {
            "schema": SCHEMA,
            "units": units(retention_settings(args)) if self.anchored else [],
            "groups": self.groups if per_group else [],
            "settings": self._settings(args, state),
            "provenance": machine() | place,
            "lineage": None if self.lineage is None else asdict(self.lineage),
            "starts": self._starts,
            "end": end,
        }
        write_json(path, document)


def lineage_of(trainer: Any) -> Lineage | None:
    """Tell what a run starts from; None of a model that cannot be anchored, or whose weights are in parts."""
    if is_partitioned(trainer.model):
        return None
    held_by = None
    if isinstance(trainer.anchors, AnchorCache):
        made = trainer.anchors.provenance
        held_by = {"fingerprint": made.fingerprint, "teachers": [one["weights"] for one in made.teachers]}
    try:
        return Lineage.of(trainer.anchored_model, held_by)
    except TypeError:
        if trainer.anchors is not None:
            raise
        return None


def write_lineage(trainer: Any, folder: Path) -> None:
    """Write what the weights in ``folder`` were trained from, in a run that has a record; whole weights only."""
    for record in trainer.callback_handler.callbacks:
        if isinstance(record, RunRecord) and record.lineage is not None and not splits_parameters(trainer.accelerator):
            record.lineage.write(folder, trainer.anchored_model.fingerprint()["weights"])


def told_settings(inputs: Mapping[str, Any], args: TrainingArguments, *, anchored: bool) -> dict[str, Any]:
    """``inputs``, every training argument that is not its default, and the few that one always asks for; no secrets."""
    asked = {name: getattr(args, name) for name in ALWAYS}
    if anchored:
        settings = retention_settings(args)
        asked |= {name: getattr(settings, name) for name in ANCHORED}
    shown = args.to_dict()  # enums are plain values in it
    changed = {name: shown[name] for name in changed_fields(args) if name in shown}
    left_out = {*DERIVED, *(name for name in CHECKPOINTING if not changed.get(name))}
    left_out -= {"fsdp_config"} if args.fsdp else set()
    found = dict(inputs) | asked | {name: value for name, value in changed.items() if name not in left_out}
    shown = {name: value for name, value in found.items() if value not in (None, {}, [], "")}
    return {name: value for name, value in shown.items() if not name.lower().endswith(SECRET)}


def changed_fields(arguments: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not their defaults."""
    values = {
        field.name: (getattr(arguments, field.name), default_of(field)) for field in fields(arguments) if field.init
    }
    return {name: value for name, (value, default) in values.items() if value != default}


def machine() -> dict[str, Any]:
    """Python, platform and package versions: plain JSON values."""
    return {"python": platform.python_version(), "platform": platform.platform(), "versions": versions()} | (
        {"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    )


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, those that are installed; every save asks for them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _starts(path: Path) -> list[dict[str, Any]]:
    """Earlier starts of a run that is resumed; none where the file is damaged or of an older version."""
    found = recorded(path, "starts")
    return found if isinstance(found, list) else []


def _changed(before: Any, settings: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The settings that a resumed run has changed: what they were, and are; {} where the earlier ones are not known."""
    if not isinstance(before, dict):
        return {}
    now = json.loads(as_json(settings))
    names = (before.keys() | now.keys()) - {"resume_from_checkpoint"}
    pairs = {name: [before.get(name), now.get(name)] for name in sorted(names)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def recorded(path: Path, *keys: str | int) -> Any:
    """What a file of an earlier start has under ``keys``; None where it is missing, damaged or of an older version."""
    try:
        found = json.loads(path.read_text("utf-8"))
        for key in keys:
            found = found[key]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found


def now() -> str:
    """The time as ``run.json`` has it: later is greater."""
    return datetime.now(UTC).isoformat(timespec="seconds")
