"""Write docs/settings.md from the settings themselves: python scripts/settings.py

Help texts, choices, ranges and defaults come from the dataclasses, values in use from configs/train. What is said of
HuggingFace's own keys, and the units, are here; a setting without a unit ends the script. A test compares the page.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from craft_trainer.cli.described import FILE, as_file, headings
from craft_trainer.cli.train import SHOWN, TrainArguments
from craft_trainer.losses.terms import TERMS
from craft_trainer.options import default_of, help_of
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.language_config import LanguageConfig
from craft_trainer.training.settings import ABOVE_ZERO, BELOW_ONE, CHOICES, RANGES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/settings.md"
UNITS = {  # of the settings that are numbers
    "retention_weights": "—",
    "retention_batch_size": "anchors per device",
    "retention_every": "optimizer steps",
    "conflict_threshold": "cosine",
    "barrier_strength": "—",
    "multiplier_init": "λ",
    "multiplier_lr": "λ per unit of violation and pass",
    "dual_kp": "retention passes",
    "dual_ema": "—",
    "multiplier_max": "λ",
    "retention": "—",
    "epsilon": "teacher's variance (tokens: its entropy)",
    "epsilon_final": "as epsilon",
    "epsilon_per_group": "as epsilon",
    "epsilon_probe_steps": "optimizer steps",
    "task_kl_samples": "samples",
    "update_angle_every": "optimizer steps",
}
RANGES_ELSEWHERE = {  # checked by a method of the configuration
    "retention_terms": "one or several of " + ", ".join(f"`{term}`" for term in TERMS),
    "retention_weights": "≥ 0, one for each term, one above 0",
    "multiplier_init": "[0, multiplier_max]",
    "epsilon_final": "> 0",
    "epsilon_per_group": "> 0",
}
HUGGINGFACE = {  # keys of TrainingArguments in configs/train: unit, meaning
    "output_dir": ("folder", "checkpoints, `lambda_history.csv`, and in the end the policy"),
    "max_steps": ("optimizer steps", "length of the training"),
    "per_device_train_batch_size": ("samples per device", "of one micro-batch"),
    "gradient_accumulation_steps": ("micro-batches", "of one optimizer step; retention comes at the end of them"),
    "learning_rate": ("—", "of the optimizer (AdamW); the largest of its schedule"),
    "lr_scheduler_type": ("—", "path of the learning rate: cosine, linear, constant, …"),
    "warmup_steps": ("optimizer steps", "rise of the learning rate from 0"),
    "max_grad_norm": ("norm", "the merged gradient is clipped to it"),
    "weight_decay": ("per step, times the learning rate", "AdamW's"),
    "adam_beta2": ("—", "AdamW's second moment"),
    "logging_steps": ("optimizer steps", "between two log lines, which hold the means of the retention passes"),
    "save_strategy": ("—", "no, steps or epoch: checkpoints to resume from"),
    "save_steps": ("optimizer steps", "between two checkpoints"),
    "save_total_limit": ("checkpoints", "kept at most"),
    "report_to": ("—", "none, tensorboard, wandb, …"),
    "dataloader_num_workers": ("processes", "that load samples ahead"),
    "dataloader_pin_memory": ("—", "for GPUs; false where there is none"),
    "disable_tqdm": ("—", "no progress bar"),
    "use_cpu": ("—", "even where there is a GPU"),
}
HUGGINGFACE_FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}
HEAD = """# Every setting

Of `craft-trainer train` and its YAML files. Made by `python scripts/settings.py` from the settings themselves: do not
edit it. `craft-trainer train --help` explains the settings to begin with, and `--help all` every one, with all of
HuggingFace's `TrainingArguments`. Below each heading, the settings to begin with come first. The others are for
advanced use: leave them as they are until you know why you change one.
"""


def page() -> str:
    """The page, in Markdown."""
    used = values_in_use()
    kinds = (CraftConfig, TrainArguments)
    own = {field.name for kind in kinds for field in dataclasses.fields(kind) if is_ours(field)}
    others = sorted(key for key in used if key not in own)
    parts = [
        HEAD,
        "`model` decides the family. An option of the other one is refused by name before the model is loaded.\n",
        *by_heading(),
        f"The command `train` has other defaults for language models: {other_defaults()}. In a script you set them.\n",
        "## Retention: `CraftConfig`\n",
        "Without `anchors` none of these has an effect, and a baseline `method` is refused. "
        "λ, ε and the terms are explained in [the method](method.md).\n",
        *in_two(("key", "unit", "range", "default", "what it is"), knob_row, fields_of(CraftConfig)),
        "## HuggingFace's keys in `configs/train`\n",
        "All others of `TrainingArguments` work too.\n",
        *in_two(
            ("key", "unit", "what it is", "in these files"),
            lambda field: huggingface_row(field.name, used[field.name]),
            [HUGGINGFACE_FIELDS[key] for key in others],
        ),
    ]
    return "\n".join(parts)


def by_heading() -> list[str]:
    """What is said of the model, the data and the anchors, for every family and then for each."""
    below, parts = headings(TrainArguments), []
    for heading in dict.fromkeys(below.values()):
        fields = [field for field in fields_of(TrainArguments) if below[field.name] == heading]
        parts += [
            f"## {heading[0].upper()}{heading[1:]}\n",
            *in_two(("key", "default", "what it is"), place_row, fields),
        ]
    return parts


def in_two(
    head: tuple[str, ...], row: Callable[["dataclasses.Field[Any]"], tuple[str, ...]], fields: Iterable[Any]
) -> list[str]:
    """A table of what `--help` shows and one of the rest, where there are both."""
    shown_first, rest = [], []
    for field in fields:
        (shown_first if field.name in SHOWN else rest).append(row(field))
    parts = [table(head, rows) for rows in (shown_first, rest) if rows]
    return [parts[0], "### Advanced\n", *parts[1:]] if len(parts) > 1 else parts


def other_defaults() -> str:
    """What LanguageConfig has instead of CraftConfig's defaults."""
    usual = CraftConfig.__dataclass_fields__
    fields = [field for field in dataclasses.fields(LanguageConfig) if field is not usual[field.name]]
    return ", ".join(f"`{field.name}` {shown(default_of(field))}" for field in fields)


def is_ours(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field is of this package, or has another default here than in TrainingArguments."""
    return HUGGINGFACE_FIELDS.get(field.name) is not field


def fields_of(*kinds: type) -> "list[dataclasses.Field[Any]]":
    """Fields of dataclasses, each once: without a default first, HuggingFace's with another default last."""
    found = {field.name: field for kind in kinds for field in dataclasses.fields(kind) if is_ours(field)}
    return sorted(
        found.values(),
        key=lambda field: (default_of(field) is not dataclasses.MISSING, field.name in HUGGINGFACE_FIELDS),
    )


def place_row(field: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """Key, default, meaning."""
    return f"`{field.name}`", shown(default_of(field)), cell(help_of(field))


def knob_row(field: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """Key, unit, range, default, meaning."""
    default = default_of(field)
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    unit = UNITS[field.name] if is_number else UNITS.get(field.name, "—")
    return f"`{field.name}`", unit, range_of(field.name), shown(default), cell(help_of(field))


def huggingface_row(key: str, files: dict[str, Any]) -> tuple[str, ...]:
    """Key, unit, meaning, values in the files."""
    unit, meaning = HUGGINGFACE[key]
    by_value: dict[str, list[str]] = defaultdict(list)
    for name, value in files.items():
        by_value[shown(value)].append(name)
    return f"`{key}`", unit, meaning, "; ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())


def range_of(name: str) -> str:
    """Choices or interval of a setting, as the configuration checks them."""
    if name in CHOICES:
        return ", ".join(f"`{choice}`" for choice in CHOICES[name])
    if name in RANGES_ELSEWHERE:
        return RANGES_ELSEWHERE[name]
    if name not in RANGES:
        return "—"
    low, high, _ = RANGES[name]
    if (low, high) == (ABOVE_ZERO, BELOW_ONE):
        return "(0, 1)"
    if math.isinf(high):
        return "> 0" if low == ABOVE_ZERO else f"≥ {low}"
    return f"[{low}, 1)" if high == BELOW_ONE else f"[{low}, {high}]"


def cell(text: str) -> str:
    """``text`` fit for a cell of a table."""
    return text.replace("|", "\\|")


def shown(value: Any) -> str:
    """A value as YAML has it; — for none, and for one that must be given."""
    if value is dataclasses.MISSING:
        return "must be given"
    if value is None:
        return "—"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`[{', '.join(map(str, value))}]`" if isinstance(value, list) else f"`{value}`"


def values_in_use() -> dict[str, dict[str, Any]]:
    """Key → file → value, of configs/train."""
    used: dict[str, dict[str, Any]] = defaultdict(dict)
    for path in sorted(ROOT.glob("configs/train/*.yaml")):
        for key, value in yaml.safe_load(path.read_text()).items():
            used[key][path.stem] = value
    return used


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    FILE.write_text(as_file())
    print(PAGE.relative_to(ROOT), FILE.relative_to(ROOT))
