"""The teacher over some rows of a dataset: a ``datasets`` map job, and the Arrow types of what it makes."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import send_to_device
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from craft_trainer.anchors.cache import GROUP_COLUMN as GROUP
from craft_trainer.anchors.cache import (
    INPUT_PREFIX,
    OUTPUT_COLUMN,
    PACKED_PREFIX,
    TASK_COLUMN,
    TOKEN_COLUMNS,
    LoadBatch,
)
from craft_trainer.anchors.cache import ROW_COLUMN as ROW
from craft_trainer.anchors.columns import encoded
from craft_trainer.anchors.features import Features, FeatureSpec, evaluating, extract, teacher_features
from craft_trainer.models.base import AnchoredModel, Batch
from craft_trainer.progress import progress

POSITIONS = "position_ids"


class TeacherPass:
    """The teacher's pass over the rows of a shard."""

    def __init__(
        self,
        teacher: AnchoredModel,
        load_batch: LoadBatch,
        specs: Sequence[FeatureSpec],
        storage: dict[str, Any],
        num_workers: int,
    ) -> None:
        self._teacher, self._load_batch, self._specs = teacher, load_batch, specs
        self._storage, self._num_workers = storage, num_workers
        self._device = next(teacher.network.parameters()).device
        self._images = set(teacher.image_keys())
        self._types: dict[str, Any] = {}

    def run(self, rows: list[int], groups: list[str], bar: Any) -> datasets.Dataset:
        """The anchors of ``rows``."""
        index = datasets.Dataset.from_dict({ROW: rows, GROUP: groups})
        size = self._storage["batch_size"]
        batches = DataLoader(
            _Batches(raw_inputs(self._teacher, self._load_batch), rows, size),
            batch_size=None,
            num_workers=self._num_workers,
            collate_fn=_as_they_are,
            generator=torch.Generator(),  # so that the caller's random numbers stay as they are
        )
        loaded = iter(batches)
        first = [self._columns(next(loaded), rows[:size])]
        self._types = self._types or {name: _arrow_type(name, value) for name, value in first[0].items()}

        def teach(columns: dict[str, list[Any]]) -> dict[str, Any]:
            made = first.pop() if first else self._columns(next(loaded), columns[ROW])
            self._check_types(made)
            _check_numbers(made, columns[ROW])
            bar.update(len(columns[ROW]))
            return made

        return index.map(
            teach,
            batched=True,
            batch_size=size,
            features=datasets.Features(index.features | self._types),
            load_from_cache_file=False,
            new_fingerprint=rows_digest(rows)[:16],  # datasets would hash the teacher
        )

    def _columns(self, raw: dict[str, Any], rows: list[int]) -> dict[str, Any]:
        raw = with_own_actions(self._teacher, send_to_device(raw, self._device), rows)
        features = teacher_features(
            self._teacher,
            raw,
            self._specs,
            num_tokens=self._storage["num_tokens"],
            output=self._storage["output"],
            task=bool(self._storage["labels"]),
        )
        columns = {name: self._stored(name, value) for name, value in target_columns(features).items()}
        if self._storage["inputs"] == "reference":
            return columns
        packed = self._teacher.packed(raw)
        return columns | {
            (PACKED_PREFIX if key in packed else INPUT_PREFIX) + key: self._raw(key, value, packed)
            for key, value in raw.items()
        }

    def _check_types(self, columns: dict[str, Any]) -> None:
        """Every batch has what the first one had; only the first dimension of a sample may differ."""
        found = {name: _arrow_type(name, value) for name, value in columns.items()}
        for name in found.keys() | self._types.keys():
            if found.get(name) != self._types.get(name):
                raise ValueError(
                    f"{name} is {found.get(name)} in one batch and {self._types.get(name)} in an earlier one: samples "
                    "may differ in their first dimension only, and every batch must have the same keys"
                )

    def _raw(self, key: str, value: Any, packed: dict[str, list[int]]) -> Any:
        """The stored form of an input: strings, encoded images, or numbers sample by sample."""
        if not isinstance(value, Tensor):
            return value
        array = value.cpu().numpy()
        if key in self._images:
            return [encoded(image, key) for image in array]
        return np.split(array, np.cumsum(packed[key])[:-1]) if key in packed else array

    def _stored(self, name: str, value: Tensor) -> NDArray[Any]:
        """Numbers in the cache's precision, token indices in four bytes, masks as they are."""
        if value.is_floating_point():
            stored = value.to(getattr(torch, self._storage["dtype"]))
            if not torch.equal(stored.isfinite(), value.isfinite()):
                raise ValueError(
                    f"{name} is {value.abs().max():g} somewhere, beyond {self._storage['dtype']}: use dtype float32"
                )
            value = stored
        return (value.int() if value.dtype == torch.int64 else value).cpu().numpy()


def _check_numbers(columns: dict[str, Any], rows: list[int]) -> None:
    """Refuse samples with a number that is NaN, and features of the teacher that are NaN or infinite."""
    for name, values in columns.items():
        of_teacher = name in (OUTPUT_COLUMN, TASK_COLUMN) or name.startswith("hidden/")
        good = np.isfinite if of_teacher else lambda value: ~np.isnan(value)
        for row, value in zip(rows, values, strict=True):
            if getattr(value, "dtype", np.dtype(bool)).kind == "f" and not good(value).all():
                raise ValueError(
                    f"{name} is not finite for row {row}: look at that sample, or at the teacher's weights"
                )


class _Batches(Dataset[dict[str, Any]]):
    """Batches of consecutive rows."""

    def __init__(self, load_batch: LoadBatch, rows: list[int], size: int) -> None:
        self._load_batch, self._rows, self._size = load_batch, rows, size

    def __len__(self) -> int:
        return len(range(0, len(self._rows), self._size))

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._load_batch(self._rows[number * self._size : (number + 1) * self._size])


def raw_inputs(model: AnchoredModel, load_batch: Callable[[list[int]], Batch]) -> LoadBatch:
    """Loads what ``model`` reads of some rows: its inputs, their noise, and a mask where all tokens count."""
    keys = set(model.input_keys())

    def load(rows: list[int]) -> dict[str, Any]:
        raw = inputs_of(model, load_batch(rows))
        for side in ("", "decoder_"):  # samples of other lengths may be padded to meet these
            if f"{side}attention_mask" in keys and f"{side}input_ids" in raw:
                raw.setdefault(f"{side}attention_mask", torch.ones_like(raw[f"{side}input_ids"]))
        return raw | model.noise(rows)

    return load


def inputs_of(model: AnchoredModel, batch: Batch) -> dict[str, Any]:
    """What ``model`` reads of a raw ``batch``, positions for every row.

    Raises:
        ValueError: a row holds several texts, of which the later ones would see the earlier.
    """
    if any(len(texts) > 1 for texts in texts_of_rows(batch)):
        raise ValueError(
            "position_ids start anew within a row, as in packed training. Anchors have an attention_mask, and with one "
            "a model does not tell the texts of a row apart: the second would see the first. Give one text per row, "
            "and an attention_mask that is 0 at padding"
        )
    keys = set(model.input_keys())
    read = {key: value for key, value in batch.items() if key in keys}
    if POSITIONS in read:
        read[POSITIONS] = read[POSITIONS].expand(read["input_ids"].shape)
    return read


def texts_of_rows(batch: Batch) -> list[list[Int[Tensor, " tokens"]]]:
    """The columns of every text of every row: a text begins where ``position_ids`` do not grow, and has no padding.

    Empty without positions, and where a token has several, as the parts of a picture.
    """
    positions = batch.get(POSITIONS)
    if not isinstance(positions, Tensor) or positions.ndim > 2 or "input_ids" not in batch:
        return []
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    found = []
    for row, valid in zip(positions.expand(ids.shape), torch.ones_like(ids) if mask is None else mask, strict=True):
        columns = valid.nonzero()[:, 0]
        begins = row[columns].diff() <= 0
        found.append(list(columns.tensor_split((begins.nonzero()[:, 0] + 1).tolist())))
    return found


def with_own_actions(model: AnchoredModel, batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """``batch``, with the policy's own actions where it predicts from actions and nobody demonstrated any.

    They are there to be denoised, so that ``predict`` has an input. They are no labels: nobody showed them, and what
    the teacher makes of them is held by the output already.
    """
    if not getattr(model, "reads_actions", False) or any(key in batch for key in model.label_keys()):
        return batch
    with evaluating(model.network):
        own: dict[str, Any] = model.own_actions(batch, rows)  # type: ignore[attr-defined]
    return batch | own


@torch.no_grad()
def candidate_features(
    teacher: AnchoredModel, load_batch: LoadBatch, num_rows: int, *, batch_size: int
) -> Float[Tensor, "samples dim"]:
    """The last layer's mean over the tokens of every sample of a dataset, on the CPU."""
    spec = FeatureSpec(teacher.module_path(-1), "mean_masked")
    load, device, parts = raw_inputs(teacher, load_batch), next(teacher.network.parameters()).device, []
    for start in progress(range(0, num_rows, batch_size), desc="candidates", unit="batch"):
        rows = list(range(start, min(start + batch_size, num_rows)))
        raw = with_own_actions(teacher, send_to_device(load(rows), device), rows)
        features = extract(teacher, raw, [spec], output=False)
        parts.append(features.hidden[spec.column].float().cpu())
    return torch.cat(parts)


def target_columns(features: Features) -> dict[str, Tensor]:
    """Columns that a cache stores of the teacher's features, by name."""
    columns = dict(features.hidden)
    if features.output is not None:
        columns[OUTPUT_COLUMN] = features.output
    if features.task is not None:
        columns[TASK_COLUMN] = features.task
    if features.tokens is not None:
        columns |= {column: getattr(features.tokens, name) for name, column in TOKEN_COLUMNS.items()}
    return columns


def _arrow_type(name: str, value: Any) -> Any:
    """The Arrow type of a column of a batch; the first dimension of a sample may differ from sample to sample."""
    example = value[0]
    if isinstance(example, str):
        return datasets.Value("string")
    if not hasattr(example, "ndim"):
        return datasets.List(datasets.Image()) if isinstance(example, list) else datasets.Image()
    dtype = str(example.dtype)
    if example.ndim == 0:
        return datasets.Value(dtype)
    if example.ndim == 1:
        return datasets.List(datasets.Value(dtype), length=len(example) if name.startswith("hidden/") else -1)
    arrays = {2: datasets.Array2D, 3: datasets.Array3D, 4: datasets.Array4D, 5: datasets.Array5D}
    return arrays[example.ndim](shape=(None, *example.shape[1:]), dtype=dtype)


def _as_they_are(batch: Any) -> Any:
    return batch


def rows_digest(rows: Sequence[int]) -> str:
    """SHA-256 of row numbers."""
    return hashlib.sha256(np.asarray(rows, dtype=np.int64).tobytes()).hexdigest()
