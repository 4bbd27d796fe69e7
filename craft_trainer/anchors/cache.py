"""The anchor cache: an Arrow dataset of old-task inputs with the teacher's features and outputs for them."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from craft_trainer.anchors.columns import open_columns
from craft_trainer.anchors.features import TASK_SCALE, TOKEN_SCALE, AnchorBatch, Features, FeatureSpec, TokenTargets
from craft_trainer.anchors.integrity import (
    AGAIN,
    check_columns,
    check_files,
    check_names,
    check_statistics,
    open_dataset,
)
from craft_trainer.anchors.lineage import Lineage
from craft_trainer.anchors.provenance import BUILD, DIGESTS, RELABEL, Provenance, same_model
from craft_trainer.anchors.statistics import SCALE_PREFIX, task_scale
from craft_trainer.models.base import AnchoredModel

STATISTICS_FILE = "statistics.safetensors"
OUTPUT_COLUMN = "output"
TASK_COLUMN = "task"  # the teacher's task loss
GROUP_COLUMN = "group"
ROW_COLUMN = "row"
INPUT_PREFIX = "input/"
PACKED_PREFIX = "packed/"  # inputs of which a batch holds one sample after the other
INPUTS = (INPUT_PREFIX, PACKED_PREFIX)
TOKEN_COLUMNS = {name: f"token/{name}" for name in TokenTargets._fields}
PADDING = {"input/labels": -100}  # what a shorter sample is filled up with on the right; 0 if not named

logger = logging.getLogger(__name__)
LoadBatch = Callable[[list[int]], dict[str, Any]]


class AnchorCache:
    """A finished anchor cache on disk, checked when it is opened."""

    def __init__(self, folder: str | Path, *, load_batch: LoadBatch | None = None) -> None:
        """Open the cache at ``folder``.

        Args:
            load_batch: the inputs of some rows of the cache's dataset, collated; for a cache that holds references.

        Raises:
            FileNotFoundError: ``folder`` is not an anchor cache.
            ValueError: it is damaged or of another version.
        """
        self.folder = Path(folder)
        made = self.provenance = Provenance.read(self.folder)
        check_files(self.folder, made.files, [STATISTICS_FILE])
        self.specs = [FeatureSpec(**feature) for feature in made.features]
        self.dataset = open_dataset(self.folder)
        self._load_batch = load_batch
        self._require_columns()
        self._columns = open_columns(self.dataset)
        statistics = load_file(self.folder / STATISTICS_FILE)
        self.mean, self.variance = (
            {key.removeprefix(kind): value for key, value in statistics.items() if key.startswith(kind)}
            for kind in ("mean/", "variance/")
        )
        self._token_scale = statistics.get(SCALE_PREFIX + TOKEN_SCALE)
        groups = self.dataset.data.table.column(GROUP_COLUMN)  # of millions of anchors, few are different
        self.groups = [sys.intern(group) for chunk in groups.chunks for group in chunk.to_pylist()]
        check_columns(self.folder, self._columns, self.groups, made)
        scales = {SCALE_PREFIX + TOKEN_SCALE} if TOKEN_COLUMNS["entropy"] in self._columns else set()
        check_statistics(self.folder, statistics, self._columns, feature_columns(self.dataset), scales)

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, rows: Sequence[int], *, output: bool = True) -> AnchorBatch:
        """The anchors at ``rows``, on the CPU; without ``output`` with the teacher's hidden features alone.

        Raises:
            ValueError: the cache holds references, and no ``load_batch`` was given to follow them.
        """
        hidden = {spec.column: self._features(spec.column, rows) for spec in self.specs}
        teacher = Features(hidden, None)
        if output:
            chunks = self._features(OUTPUT_COLUMN, rows) if OUTPUT_COLUMN in self._columns else None
            teacher = Features(hidden, chunks, self._tokens(rows), self.task_losses(rows))
        return AnchorBatch(self._inputs(rows), teacher, [self.groups[row] for row in rows])

    @property
    def has_labels(self) -> bool:
        """True if the anchors have targets of the task loss: demonstrated actions, the labels of texts."""
        return bool(self.provenance.storage["labels"])

    def task_losses(self, rows: Sequence[int]) -> Float[Tensor, " rows"] | None:
        """The teacher's task loss on the anchors at ``rows``, if the cache holds it."""
        return self._features(TASK_COLUMN, rows) if TASK_COLUMN in self._columns else None

    def holds_inputs(self, dataset: str | None) -> bool:
        """True if the inputs are in the cache: then a ``dataset``, to find references in, is refused (ValueError)."""
        embedded = bool(self.provenance.storage["inputs"] == "embedded")
        if embedded and dataset is not None:
            raise ValueError(f"{self.folder} holds its inputs and reads no dataset: leave out {dataset}")
        return embedded

    def embedded_inputs(self) -> datasets.Dataset | None:
        """The inputs of all anchors, a column each; None of a cache of references."""
        if self.provenance.storage["inputs"] != "embedded":
            return None
        names = {name: name.split("/", maxsplit=1)[1] for name in self._columns if name.startswith(INPUTS)}
        return self.dataset.select_columns(list(names)).rename_columns(names)

    def scales(self) -> dict[str, Float[Tensor, ""]]:
        """The units of ε: the teacher's variance per feature (mean over dimensions), its entropy for tokens."""
        scales = {name: variance.mean() for name, variance in self.variance.items()}
        if self._token_scale is not None:
            scales[TOKEN_SCALE] = self._token_scale
        if TASK_COLUMN in self._columns:
            scales[TASK_SCALE] = task_scale(self.provenance.storage["task_unit"], scales)
        return scales

    def following(self, load_batch: LoadBatch) -> "AnchorCache":
        """The same cache with a way to follow its references."""
        return type(self)(self.folder, load_batch=load_batch)

    def check_teacher(self, model: AnchoredModel) -> list[str]:
        """Compare ``model``, before any training step, with the teacher that made this cache; return what was compared.

        Raises:
            ValueError: its weights, processors or configuration differ, so the cached features are not its own.
        """
        ours = model.fingerprint()
        for theirs in self.provenance.teachers:
            if not same_model(theirs, ours):
                others = [part for part in DIGESTS if ours.get(part) != theirs.get(part)]
                raise ValueError(
                    f"anchor cache {self.folder} was made by a teacher with {_digests(theirs, others)} "
                    f"({theirs['path']}), but the given one has {_digests(ours, others)}: give the teacher that made "
                    f"it, make this one the teacher of all with {RELABEL}, or rebuild it with {BUILD}"
                )
        return list(ours)

    def _other_teacher(self, lineage: Lineage) -> tuple[str, list[str]]:
        """Say which teacher of this cache is neither a run's start nor its ancestor, and in what it differs."""
        family = [lineage.start, *lineage.ancestors]
        for theirs in self.provenance.teachers:
            if not any(same_model(theirs, ours) for ours in family):
                others = [part for part in DIGESTS if lineage.start.get(part) != theirs.get(part)]
                return (
                    f"anchor cache {self.folder} was made by a teacher with {_digests(theirs, others)} "
                    f"({theirs['path']}) but this run starts from {_digests(lineage.start, others)}{lineage.told}"
                ), others
        return "", []

    def warn_of_other_teacher(self, lineage: Lineage) -> None:
        """Say what ``teacher_mismatch: allow`` lets pass: retention pulls a run away from where it starts."""
        found, _ = self._other_teacher(lineage)
        if found:
            logger.warning(
                "%s: with teacher_mismatch allow, retention pulls towards that teacher, not this start", found
            )

    def check_start(self, lineage: Lineage) -> bool:
        """Make sure that every teacher of this cache is what a run starts from, or one of the ancestors of that.

        Returns:
            Whether the start is the only teacher, so that it has the cached features itself.

        Raises:
            ValueError: a teacher is neither: its weights, processors or configuration are others.
        """
        found, others = self._other_teacher(lineage)
        if found:
            alike = ", loaded with the same quantization," if "quantization" in others else ""
            raise ValueError(
                f"{found}: start from its teacher{alike} or what was trained from it, make this start the teacher of "
                f"all with {RELABEL}, rebuild it with {BUILD}, or pass teacher_mismatch=allow if that is what you want"
            )
        return all(same_model(theirs, lineage.start) for theirs in self.provenance.teachers)

    def rows_of(self, fingerprint: Mapping[str, str]) -> list[int]:
        """The anchors that the model with ``fingerprint`` is the teacher of."""
        rows: list[int] = []
        start = 0
        for teacher in self.provenance.teachers:
            end = start + teacher["anchors"]
            rows += range(start, end) if same_model(teacher, fingerprint) else ()
            start = end
        return rows

    def check_data(self, fingerprint: str) -> None:
        """Compare the dataset that references are followed into with the one they were made from.

        Raises:
            ValueError: it is another dataset, or another revision of it.
        """
        ours = str(self.provenance.data["fingerprint"])
        if fingerprint != ours:
            raise ValueError(
                f"anchor cache {self.folder} refers to rows of {self.provenance.data['dataset']} with fingerprint "
                f"{ours[:12]}… but the dataset found there has {fingerprint[:12]}…: restore that revision, or "
                f"rebuild it with {BUILD}"
            )

    def _require_columns(self) -> None:
        """Raise a ValueError unless there are the columns, and only those, that the provenance speaks of."""
        there, storage = set(self.dataset.column_names), self.provenance.storage
        tokens, outputs = there & set(TOKEN_COLUMNS.values()), there & {OUTPUT_COLUMN, *TOKEN_COLUMNS.values()}
        needed = {ROW_COLUMN, GROUP_COLUMN, *(spec.column for spec in self.specs)}
        needed |= {OUTPUT_COLUMN} if storage["output"] and not tokens else set()
        needed |= set(TOKEN_COLUMNS.values()) if tokens else set()
        needed |= {TASK_COLUMN} if storage["task_unit"] else set()
        allowed = needed | (outputs if storage["output"] else set())
        inputs = {name for name in there if name.startswith(INPUTS) and storage["inputs"] == "embedded"}
        if inputs or storage["inputs"] == "reference":
            check_names(self.folder, there, needed, allowed | inputs)
        else:
            raise ValueError(f"{self.folder} holds no inputs, but says that they are embedded; rebuild it with {BUILD}")

    def _inputs(self, rows: Sequence[int]) -> dict[str, Any]:
        if self.provenance.storage["inputs"] == "embedded":
            names = [name for name in self._columns if name.startswith(INPUTS)]
            return {name.split("/", maxsplit=1)[1]: self._joined(name, rows) for name in names}
        if self._load_batch is None:
            raise ValueError(
                f"anchor cache {self.folder} holds references to {self.provenance.data['dataset']}: open it with "
                "AnchorCache(folder, load_batch=…), or rebuild it with inputs=embedded"
            )
        return self._load_batch([int(row) for row in self._columns[ROW_COLUMN].gather(rows)])

    def _tokens(self, rows: Sequence[int]) -> TokenTargets | None:
        if any(column not in self._columns for column in TOKEN_COLUMNS.values()):
            return None
        tokens = TokenTargets(**{name: self._joined(column, rows) for name, column in TOKEN_COLUMNS.items()})
        return tokens._replace(indices=tokens.indices.long(), log_probs=tokens.log_probs.float())

    def _features(self, column: str, rows: Sequence[int]) -> Tensor:
        return cast(Tensor, self._joined(column, rows)).float()

    def _joined(self, column: str, rows: Sequence[int]) -> Any:
        """The values of ``column`` as a batch: stacked, padded on the right, or one sample's after the other."""
        try:
            values = self._columns[column].gather(rows)
        except ValueError as error:
            raise ValueError(f"{self.folder}: column {column} is damaged: {error}; {AGAIN}") from error
        if column.startswith(PACKED_PREFIX):
            return torch.from_numpy(np.concatenate(list(values)))
        if isinstance(values, np.ndarray):
            return torch.from_numpy(values)
        if isinstance(values[0], str):
            return values
        parts = [torch.from_numpy(value) for value in values]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=PADDING.get(column, 0))


def feature_columns(anchors: datasets.Dataset) -> list[str]:
    """The columns that hold what losses are measured in units of: hidden features and the output."""
    return [name for name in anchors.column_names if name == OUTPUT_COLUMN or name.startswith("hidden/")]


def _digests(fingerprint: Mapping[str, str], parts: Sequence[str]) -> str:
    """``weights 0123456789ab… and quantization 4bit``"""
    shown = {part: fingerprint.get(part, "none") for part in parts}
    return " and ".join(f"{part} {value[:12]}{'…' if len(value) > 12 else ''}" for part, value in shown.items())
