"""The anchor cache: an Arrow dataset of old-task inputs with the teacher's features and outputs for them."""

import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import datasets
import numpy as np
import torch
from accelerate.utils import send_to_device
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from craft_trainer.anchors.columns import open_columns
from craft_trainer.anchors.features import DEFAULT_TOP_K, Features, FeatureSpec, TokenTargets, teacher_features
from craft_trainer.anchors.loss import TOKEN_SCALE
from craft_trainer.anchors.provenance import Provenance, file_digest
from craft_trainer.folders import appears_when_complete
from craft_trainer.models.base import AnchoredModel

STATISTICS_FILE = "statistics.safetensors"
OUTPUT_COLUMN = "output"
GROUP_COLUMN = "group"
INPUT_PREFIX = "input/"
TOKEN_COLUMNS = {name: f"token/{name}" for name in TokenTargets._fields}
SCALE_PREFIX = "scale/"

LoadBatch = Callable[[list[int]], dict[str, Any]]


class AnchorBatch(NamedTuple):
    """Raw inputs of some anchors, what the teacher made of them, and the old task each belongs to."""

    inputs: dict[str, Any]
    teacher: Features
    groups: list[str]


class AnchorCache:
    """A finished anchor cache on disk, checked when it is opened."""

    def __init__(self, folder: str | Path) -> None:
        """Open the cache at ``folder``.

        Raises:
            FileNotFoundError: ``folder`` is not an anchor cache.
            ValueError: it is damaged or of another version.
        """
        self.folder = Path(folder)
        self.provenance = Provenance.read(self.folder)
        self.specs = [FeatureSpec(**feature) for feature in self.provenance.features]
        self.dataset = datasets.load_from_disk(str(self.folder))
        self._columns = open_columns(self.dataset)
        statistics = load_file(self.folder / STATISTICS_FILE)
        self.mean = {key.removeprefix("mean/"): v for key, v in statistics.items() if key.startswith("mean/")}
        self.variance = {
            key.removeprefix("variance/"): v for key, v in statistics.items() if key.startswith("variance/")
        }
        self._token_scale = statistics.get(SCALE_PREFIX + TOKEN_SCALE)
        self.groups: list[str] = list(self.dataset[GROUP_COLUMN])

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, rows: Sequence[int]) -> AnchorBatch:
        """The anchors at ``rows``, on the CPU."""
        columns = {name: _tensor_or_list(column.gather(rows)) for name, column in self._columns.items()}
        inputs = {name.removeprefix(INPUT_PREFIX): columns[name] for name in columns if name.startswith(INPUT_PREFIX)}
        hidden = {spec.column: cast(Tensor, columns[spec.column]) for spec in self.specs}
        tokens = None
        if all(column in columns for column in TOKEN_COLUMNS.values()):
            tokens = TokenTargets(**{name: cast(Tensor, columns[column]) for name, column in TOKEN_COLUMNS.items()})
        teacher = Features(hidden, cast(Tensor | None, columns.get(OUTPUT_COLUMN)), tokens)
        return AnchorBatch(inputs, teacher, cast(list[str], columns[GROUP_COLUMN]))

    def scales(self) -> dict[str, Float[Tensor, ""]]:
        """What ε is measured in: the teacher's variance per feature (mean over dimensions), its entropy for tokens."""
        scales = {name: variance.mean() for name, variance in self.variance.items()}
        return scales if self._token_scale is None else scales | {TOKEN_SCALE: self._token_scale}

    def check_teacher(self, model: AnchoredModel) -> None:
        """Compare ``model``, before any training step, with the teacher that made this cache.

        Raises:
            ValueError: its weights or processors differ, so the cached features are not its own.
        """
        for part, digest in model.fingerprint().items():
            if digest != self.provenance.teacher[part]:
                raise ValueError(
                    f"anchor cache {self.folder} was made by a teacher with {part} "
                    f"{self.provenance.teacher[part][:12]}… ({self.provenance.teacher['path']}) but this run starts "
                    f"from {part} {digest[:12]}…: rebuild the cache with `craft-trainer cache`, start from its "
                    "teacher, or pass teacher_mismatch=allow if that is what you want"
                )


def build_anchor_cache(
    teacher: AnchoredModel,
    load_batch: LoadBatch,
    output_dir: Path,
    *,
    rows: Sequence[int],
    groups: Sequence[str],
    specs: Sequence[FeatureSpec],
    batch_size: int,
    source: dict[str, str | int],
    teacher_path: str,
    num_tokens: int = DEFAULT_TOP_K,
) -> AnchorCache:
    """Run the teacher over ``rows`` of a dataset in a ``datasets`` map job and write the cache to ``output_dir``.

    Args:
        load_batch: raw samples of some rows, collated: what the teacher's ``forward`` takes.
        groups: the old task of each of ``rows``.
        source: ``dataset`` (name or folder) and ``frames`` (its length), for the provenance.
        num_tokens: k, how many tokens are kept per position of a teacher that predicts tokens.

    The folder appears only when it is complete.

    Raises:
        FileExistsError: ``output_dir`` exists.
        ValueError: a feature of the teacher is constant over the anchors.
    """
    keys = teacher.input_keys()

    def teach(columns: dict[str, list[Any]]) -> dict[str, Any]:
        inputs = {key: value for key, value in load_batch(columns["row"]).items() if key in keys}
        inputs |= teacher.noise(columns["row"])
        placed = send_to_device(inputs, next(teacher.network.parameters()).device)
        targets = target_columns(teacher_features(teacher, placed, specs, num_tokens=num_tokens))
        return {INPUT_PREFIX + key: _array_or_list(value) for key, value in inputs.items()} | {
            name: _storable(value).cpu().numpy() for name, value in targets.items()
        }

    with appears_when_complete(output_dir) as partial:
        index = datasets.Dataset.from_dict({"row": list(rows), GROUP_COLUMN: list(groups)})
        probe = teach({"row": list(rows[:2])})
        anchors = index.map(
            teach,
            batched=True,
            batch_size=batch_size,
            features=datasets.Features(index.features | {name: _feature(value) for name, value in probe.items()}),
            load_from_cache_file=False,
            desc="anchors",
        )
        partial.mkdir()
        save_file(cache_statistics(anchors), partial / STATISTICS_FILE)
        anchors.save_to_disk(str(partial))
        files = [file for file in partial.iterdir() if file.suffix in {".arrow", ".safetensors"}]
        Provenance(
            teacher=teacher.fingerprint() | {"path": teacher_path},
            data=source | {"rows": hashlib.sha256(np.asarray(rows, dtype=np.int64).tobytes()).hexdigest()},
            features=[spec._asdict() for spec in specs],
            groups=dict(sorted(Counter(groups).items())),
            files={file.name: file_digest(file) for file in sorted(files)},
            versions={name: importlib.metadata.version(name) for name in ("craft-trainer", "torch", "datasets")},
        ).write(partial)
    return AnchorCache(output_dir)


def target_columns(features: Features) -> dict[str, Tensor]:
    """What a cache stores of the teacher's features, by column."""
    columns = dict(features.hidden)
    if features.output is not None:
        columns[OUTPUT_COLUMN] = features.output
    if features.tokens is not None:
        columns |= {column: getattr(features.tokens, name) for name, column in TOKEN_COLUMNS.items()}
    return columns


def cache_statistics(anchors: datasets.Dataset) -> dict[str, Tensor]:
    """``mean/<column>``, ``variance/<column>`` of hidden features and outputs, ``scale/token`` of tokens."""
    arrays = open_columns(anchors)
    everything = range(len(anchors))
    statistics: dict[str, Tensor] = {}
    for column in anchors.column_names:
        if column == OUTPUT_COLUMN or column.startswith("hidden/"):
            statistics |= feature_statistics(column, torch.from_numpy(arrays[column].gather(everything)))
    if TOKEN_COLUMNS["entropy"] in anchors.column_names:
        entropy, valid = (
            torch.from_numpy(arrays[TOKEN_COLUMNS[name]].gather(everything)) for name in ("entropy", "valid")
        )
        statistics[SCALE_PREFIX + TOKEN_SCALE] = token_scale(entropy, valid)
    return statistics


def feature_statistics(column: str, values: Float[Tensor, "anchors *tokens dim"]) -> dict[str, Float[Tensor, " dim"]]:
    """Mean and (biased) variance per dimension over anchors and tokens, as ``mean/<column>`` and ``variance/<column>``.

    Raises:
        ValueError: a column has no variance, so a distance in units of it would be infinite.
    """
    flat = values.double().flatten(0, -2)
    variance = flat.var(dim=0, correction=0)
    if variance.mean() == 0:
        raise ValueError(f"the teacher's {column} is the same for all {len(values)} anchors: take more of them")
    return {f"mean/{column}": flat.mean(dim=0).float(), f"variance/{column}": variance.float()}


def token_scale(entropy: Float[Tensor, "anchors tokens"], valid: Bool[Tensor, "anchors tokens"]) -> Float[Tensor, ""]:
    """Mean entropy of the teacher's next token over the valid positions, in nats: the unit of token losses.

    Raises:
        ValueError: it is 0, or no position is valid, so a loss in units of it would be infinite.
    """
    scale = entropy[valid].double().mean().float()
    if not scale > 0:
        raise ValueError(
            f"the teacher's next token has a mean entropy of {scale.item():g} nats at {int(valid.sum())} valid "
            "positions: token losses are measured in it, so take anchors that leave the teacher some doubt"
        )
    return scale


def _storable(value: Tensor) -> Tensor:
    """Numbers as float32; token indices and masks as they are."""
    return value.float() if value.is_floating_point() else value


def _feature(value: NDArray[Any] | list[str]) -> Any:
    """The Arrow type of a batched column."""
    if isinstance(value, list):
        return datasets.Value("string")
    if value.ndim == 1:
        return datasets.Value(str(value.dtype))
    if value.ndim == 2:
        return datasets.List(datasets.Value(str(value.dtype)), length=value.shape[1])
    arrays = {3: datasets.Array2D, 4: datasets.Array3D, 5: datasets.Array4D}
    return arrays[value.ndim](shape=value.shape[1:], dtype=str(value.dtype))


def _array_or_list(value: Tensor | list[str]) -> NDArray[Any] | list[str]:
    return value.cpu().numpy() if isinstance(value, Tensor) else value


def _tensor_or_list(column: NDArray[Any] | list[str]) -> Tensor | list[str]:
    return column if isinstance(column, list) else torch.from_numpy(column)
