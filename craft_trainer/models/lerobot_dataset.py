"""LeRobot datasets as Trainer datasets: samples with the chunks of actions a policy learns from."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import datasets
import numpy as np
import torch
from jaxtyping import Int
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION
from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate

from craft_trainer.hub.resolve_path import HubPlace, parse, resolve_path
from craft_trainer.models.adapting import TEXTS
from craft_trainer.models.fit import own_names, require_fit
from craft_trainer.models.held_out import held_out_episodes
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.normalisation import num_normalised

Sample = dict[str, Any]
READ = ("observation.", ACTION)  # how names begin of what a policy reads
BLOCK, BLOCKS = 2**18, 64  # bytes of a block, and blocks of a video that its fingerprint is of: all of it up to 16 MiB


LARGEST_TABLE = 2**30  # bytes of all frames of a dataset without images that are held in memory


def bytes_of_frames(meta: LeRobotDatasetMetadata) -> int:
    """Bytes of the numbers of all frames of a dataset without images, as tensors."""
    numbers = [one for one in meta.features.values() if one["dtype"] not in TEXTS]
    return int(meta.total_frames * sum(np.prod(one["shape"]) * np.dtype(one["dtype"]).itemsize for one in numbers))


def load_metadata(dataset: str) -> LeRobotDatasetMetadata:
    """Metadata of a LeRobot dataset, a folder or a Hub repository; a FileNotFoundError if the folder is none."""
    return LeRobotDatasetMetadata(*_repo_and_root(dataset, only=("meta/*",)))


def first_sentences(dataset: str) -> list[str]:
    """The task sentence of the first frame of every episode; frames are read only where an episode has several."""
    meta = load_metadata(dataset)
    of_episodes: list[list[str]] = meta.episodes["tasks"][:]
    if all(len(sentences) == 1 for sentences in of_episodes):
        return [sentence for (sentence,) in of_episodes]
    repo_id, root = _repo_and_root(dataset)
    frames = LeRobotDataset(repo_id, root, video_backend=None if meta.video_keys else "pyav").hf_dataset
    first = frames.select(meta.episodes["dataset_from_index"][:]).with_format("numpy")["task_index"][:]
    return [list(meta.tasks.index)[index] for index in first]


class PolicyDataset(Dataset[Sample]):
    """The samples of a LeRobot dataset that ``config``'s policy trains on.

    Indexing gives what ``LeRobotDataset`` gives, but features by their names in ``named`` where it has them. When no
    feature is an image or video and all frames take no more than ``LARGEST_TABLE``, they are held in memory and a whole
    batch is gathered at once (``__getitems__``), which torch's DataLoader uses. Of others LeRobot reads every frame
    from disk: the same samples, more slowly.
    """

    def __init__(self, dataset: str, config: PreTrainedConfig, named: Mapping[str, str] | None = None) -> None:
        repo_id, root = _repo_and_root(dataset)
        self.source = dataset
        self.meta = meta = LeRobotDatasetMetadata(repo_id, root)
        self.frames = LeRobotDataset(
            repo_id,
            root=root,
            delta_timestamps=resolve_delta_timestamps(config, meta),
            video_backend=None if meta.video_keys else "pyav",
        )
        self._named = named or {}
        self._num_dropped: int = getattr(config, "drop_n_last_frames", 0)
        features = meta.features.items()
        self._texts = [name for name, feature in features if feature["dtype"] in TEXTS]
        self._single = [name for name, feature in features if tuple(feature["shape"]) == (1,) and name.startswith(READ)]
        fits = not meta.camera_keys and bytes_of_frames(meta) <= LARGEST_TABLE
        self._table = FrameTable(self.frames, self._texts) if fits else None

    @classmethod
    def of(cls, model: PolicyModel, dataset: str) -> Self:
        """The samples of ``dataset`` that ``model`` trains on.

        Raises:
            ValueError: its cameras are not those of the policy, or its states and actions those of another robot.
        """
        features = load_metadata(dataset).features
        require_fit(model.policy_config, dataset, features, renamed=model.renamed, normalised=num_normalised(model))
        return cls(dataset, model.policy_config, own_names(model.renamed, features))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        return self._of_policies(self.frames[index])

    def __getitems__(self, indices: list[int]) -> list[Sample] | Sample:
        if self._table is None:
            return [self[index] for index in indices]
        return self._of_policies(self._table.gather(indices))

    def _of_policies(self, sample: Sample) -> Sample:
        """Bring a sample into the form of policies: without columns of texts, and one number as a vector of one."""
        kept = {name: value for name, value in sample.items() if name not in self._texts}
        kept |= {name: kept[name][..., None] for name in self._single if name in kept}
        return {self._named.get(name, name): value for name, value in kept.items()}

    def without_last_frames(self, rows: Sequence[int] | None = None) -> "Dataset[Sample]":
        """Those of ``rows``, by default all, that LeRobot trains on.

        They are all but the last ``drop_n_last_frames`` of every episode, if that is set.

        Raises:
            ValueError: no frame is left.
        """
        kept = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=int)
        if self._num_dropped:
            ends = np.asarray(self.meta.episodes["dataset_to_index"])[self.episode_of_frame]
            kept = kept[kept < ends[kept] - self._num_dropped]
        if not len(kept):
            raise ValueError(f"{self.source}: no episode has more than drop_n_last_frames = {self._num_dropped} frames")
        return self if len(kept) == len(self) else Subset(self, kept.tolist())

    def rows_of(self, held_out: float, *, learned: bool) -> list[int] | None:
        """The frames that are ``learned`` when a share of the episodes is held out, or else those held out.

        None, which is all of them, where nothing is held out.

        Raises:
            ValueError: see :func:`models.held_out.held_out_episodes`.
        """
        if not held_out:
            return None
        episodes = self.episode_of_frame
        chosen = held_out_episodes(self.task_of_frame, episodes, held_out)
        return [row for row, episode in enumerate(episodes) if (episode in chosen) is not learned]

    def batch(self, rows: list[int]) -> Sample:
        """The samples at ``rows``, collated."""
        return collate(self.__getitems__(rows))

    @property
    def revision(self) -> str:
        """That of the Hub repository, if its name has one, or nothing: LeRobot has its version of the format there."""
        place = parse(self.source)
        return (place.revision if isinstance(place, HubPlace) else None) or ""

    @property
    def task_of_frame(self) -> list[str]:
        """The task sentence of every frame."""
        names = list(self.meta.tasks.index)
        return [names[index] for index in self.frames.hf_dataset.with_format("numpy")["task_index"][:]]

    @property
    def episode_of_frame(self) -> list[int]:
        """The episode of every frame."""
        return [int(index) for index in self.frames.hf_dataset.with_format("numpy")["episode_index"][:]]

    def fingerprint(self) -> str:
        """SHA-256 of the dataset's files: of their bytes, and of videos, which can be huge, of blocks all over them."""
        digest = hashlib.sha256()
        root = Path(self.meta.root)
        paths = [path for part in ("meta", "data", "videos") for path in (root / part).rglob("*")]
        for file in sorted(path for path in paths if path.is_file()):
            digest.update(str(file.relative_to(root)).encode())
            if file.suffix == ".mp4":
                digest.update(_blocks(file))
            else:
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()

    def rows_in_common(self, inputs: datasets.Dataset, learned: Sequence[int] | None = None) -> list[int]:
        """The rows of ``inputs``, those of anchors, that have the state and the sentence of one of these frames.

        Only the ``learned`` frames count, by default all. Numbers are compared bit by bit, pictures are not; none is
        found where there are no numbers.
        """
        sizes = {
            name: math.prod(feature["shape"])
            for name, feature in self.meta.features.items()
            if name.startswith(READ[0]) and name not in (*self.meta.camera_keys, *self._texts)
        }
        shared = {name: size for name, size in sizes.items() if name in inputs.column_names}
        if not shared or "task" not in inputs.column_names:
            return []
        frames = list(_frames_as_bytes(self.frames.hf_dataset, shared, self.task_of_frame))
        own = set(frames if learned is None else (frames[row] for row in learned))
        anchors = _frames_as_bytes(inputs, shared, inputs["task"])
        return [row for row, frame in enumerate(anchors) if frame in own]


def _frames_as_bytes(
    rows: datasets.Dataset, sizes: Mapping[str, int], sentences: Iterable[str]
) -> Iterator[tuple[bytes, str]]:
    """Of every row the numbers of its present frame, the last of those it has, and its sentence."""
    columns = rows.select_columns(list(sizes)).with_format("numpy")
    parts = [np.stack(columns[name][:]).reshape(len(rows), -1)[:, -size:] for name, size in sizes.items()]
    numbers = np.concatenate(parts, axis=1).astype(np.float32)
    return ((row.tobytes(), sentence) for row, sentence in zip(numbers, sentences, strict=True))


def _blocks(file: Path) -> bytes:
    """SHA-256 of the size of ``file`` and of blocks spread over it; its table of frames is at one of the ends."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as content:
        for place in np.linspace(0, max(0, size - BLOCK), BLOCKS, dtype=np.int64).tolist():
            content.seek(place)
            digest.update(content.read(BLOCK))
    return digest.digest()


def collate(samples: list[Sample] | Sample) -> Sample:
    """A batch from samples; batches gathered at once pass through."""
    return samples if isinstance(samples, dict) else default_collate(samples)


class FrameTable:
    """All frames of an image-free LeRobotDataset as tensors, with its windows of past and future frames."""

    def __init__(self, dataset: LeRobotDataset, texts: Sequence[str] = ()) -> None:
        columns = dataset.hf_dataset.remove_columns(list(texts)).with_format("numpy")
        self._columns = {name: torch.from_numpy(np.stack(columns[name][:])) for name in columns.column_names}
        self._deltas = {key: torch.tensor(deltas) for key, deltas in (dataset.reader.delta_indices or {}).items()}
        self._tasks = list(dataset.meta.tasks.index)
        episodes = self._columns["episode_index"]
        starts = torch.searchsorted(episodes, episodes, side="left")
        ends = torch.searchsorted(episodes, episodes, side="right")
        self._first, self._last = starts, ends - 1

    def gather(self, indices: list[int]) -> Sample:
        """The batch of samples at ``indices``, equal to collating ``LeRobotDataset[i]`` for each."""
        rows = torch.tensor(indices)
        batch: Sample = {name: column[rows] for name, column in self._columns.items() if name not in self._deltas}
        for key, deltas in self._deltas.items():
            batch[key], batch[f"{key}_is_pad"] = self._window(key, rows, deltas)
        batch["task"] = [self._tasks[index] for index in batch["task_index"]]
        return batch

    def _window(self, key: str, rows: Int[Tensor, " batch"], deltas: Int[Tensor, " window"]) -> tuple[Tensor, Tensor]:
        """Frames at ``rows + deltas``, clamped to the episode, and which of them are such padding."""
        wanted = rows[:, None] + deltas
        clamped = wanted.clamp(self._first[rows, None], self._last[rows, None])
        return self._columns[key][clamped], wanted != clamped


def _repo_and_root(dataset: str, only: Sequence[str] | None = None) -> tuple[str, Path | None]:
    """LeRobot's name of the dataset, and its folder; None where LeRobot itself downloads it.

    A revision is downloaded here: LeRobot would take a copy under its own home without asking which revision that is.
    """
    place = parse(dataset)
    if isinstance(place, HubPlace) and place.revision is None:
        return place.repo, None
    root = resolve_path(dataset, "dataset", only=only)
    if isinstance(place, HubPlace):
        return place.repo, root
    if not (root / "meta" / "info.json").is_file():
        raise FileNotFoundError(f"{dataset} holds no meta/info.json: it is not a LeRobot dataset (v3)")
    return f"local/{root.name}", root
