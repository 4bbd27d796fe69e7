"""run.json: with what settings, on what machine and when a training run was made."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

RUN_FILE = "run.json"
SCHEMA = 1
PACKAGES = ("craft-trainer", "torch", "transformers", "accelerate", "datasets", "lerobot", "peft")
SECRET = ("token", "password", "secret", "api_key")  # ends of names
DERIVED = (
    "accelerator_config",
    "fsdp_config",
    "disable_tqdm",
    "dataloader_pin_memory",
)  # Trainer fills them in by itself


class RunRecord(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Writes ``run.json`` into the output folder when training begins and when it ends.

    Attributes:
        inputs: what the run was given besides its configuration: policy, dataset, anchors.
        wanted: whether the file is written at all.
    """

    def __init__(self, inputs: Mapping[str, Any] | None = None, *, wanted: bool = True) -> None:
        self.inputs = dict(inputs or {})
        self.wanted = wanted
        self._starts: list[dict[str, Any]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Settings, machine, time of the start; a resumed run adds its start to those of the file."""
        del control, kwargs
        if not self.wanted or not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / RUN_FILE
        self._starts = [*(_starts(path) if state.global_step else []), {"step": state.global_step, "time": _now()}]
        self._write(path, args, None)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The time of the end; without it the run was ended by something else."""
        del control, kwargs
        if self.wanted and state.is_world_process_zero:
            self._write(Path(args.output_dir) / RUN_FILE, args, {"step": state.global_step, "time": _now()})

    def _write(self, path: Path, args: TrainingArguments, end: dict[str, Any] | None) -> None:
        document = {
            "schema": SCHEMA,
            "settings": changed_settings(self.inputs, args),
            "provenance": machine() | {"processes": args.world_size, "device": str(args.device)},
            "starts": self._starts,
            "end": end,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.partial")
        draft.write_text(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n", "utf-8")
        draft.replace(path)


def changed_settings(inputs: Mapping[str, Any], args: TrainingArguments) -> dict[str, Any]:
    """``inputs`` that are given, and every training argument that is not its default; nothing that is a secret."""
    shown = args.to_dict()  # enums are plain values in it
    changed = {
        field.name: shown[field.name]
        for field in fields(args)
        if field.init and field.name in shown and getattr(args, field.name) != _default(field)
    }
    for name in DERIVED:
        if name != "fsdp_config" or not args.fsdp:
            changed.pop(name, None)
    found = dict(inputs) | changed
    return {name: value for name, value in found.items() if value not in (None, {}, [], "") and not _is_secret(name)}


def _is_secret(name: str) -> bool:
    return name.lower().endswith(SECRET)


def machine() -> dict[str, Any]:
    """Python, platform and package versions: plain JSON values."""
    return {"python": platform.python_version(), "platform": platform.platform(), "versions": versions()} | (
        {"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    )


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _default(field: "Field[Any]") -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _starts(path: Path) -> list[dict[str, Any]]:
    """Earlier starts of a run that is resumed; none where the file is damaged or of an older version."""
    try:
        found = json.loads(path.read_text("utf-8"))["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return found if isinstance(found, list) else []


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
