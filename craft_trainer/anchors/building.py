"""Build an anchor cache: a ``datasets`` map job in shards that survive a kill and that processes share."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets

from craft_trainer.anchors.cache import AnchorCache, LoadBatch
from craft_trainer.anchors.constant_features import ConstantFeatureCheck
from craft_trainer.anchors.features import DEFAULT_TOP_K, FeatureSpec, labels_of, task_loss_of
from craft_trainer.anchors.processes import Processes
from craft_trainer.anchors.provenance import PROVENANCE_FILE, Provenance
from craft_trainer.anchors.shards import Shards
from craft_trainer.anchors.teacher_pass import TeacherPass, raw_inputs, rows_digest
from craft_trainer.anchors.trial import require_held
from craft_trainer.hub.resolve_path import resolve_path
from craft_trainer.hub.storage import exists, place_of
from craft_trainer.models.base import AnchoredModel
from craft_trainer.progress import progress
from craft_trainer.version import __version__

SHARD_BATCHES = 8
INPUTS = ("embedded", "reference")
DTYPES = ("float32", "float16")


def build_anchor_cache(
    teacher: AnchoredModel,
    load_batch: LoadBatch,
    output_dir: Path | str,
    *,
    rows: Sequence[int],
    groups: Sequence[str],
    specs: Sequence[FeatureSpec],
    batch_size: int,
    source: Mapping[str, Any],
    teacher_path: str,
    num_tokens: int = DEFAULT_TOP_K,
    output: bool = True,
    inputs: str = "embedded",
    dtype: str = "float32",
    num_workers: int = 0,
    processes: Processes | None = None,
) -> AnchorCache:
    """Run the teacher over ``rows`` of a dataset in a ``datasets`` map job and write the cache to ``output_dir``.

    The work is done in shards of eight batches, each written whole, in ``<output_dir>.partial``; the same call goes on
    where an earlier one was killed. ``output_dir`` appears only when it is complete, with the same bytes however often
    the work was interrupted and however many processes shared it.

    Args:
        load_batch: raw samples of some rows, collated: what the teacher's ``forward`` takes.
        groups: the old task of each of ``rows``.
        source: ``dataset`` (name or folder), ``frames`` (its length) and, where they are known, its ``revision`` and
            ``fingerprint``, for the provenance.
        num_tokens: k, how many tokens are kept per position of a teacher that predicts tokens.
        output: whether the teacher's output (actions or tokens) is kept beside hidden features; without it the forward
            pass ends at the deepest of their layers.
        inputs: ``embedded`` (the samples are in the cache) or ``reference`` (only their rows are).
        dtype: of the teacher's features and log-probabilities, ``float32`` or ``float16``.
        num_workers: processes that load samples ahead of the teacher.
        processes: those that share the work; by default this process does all of it.

    Raises:
        FileExistsError: ``output_dir`` exists.
        ValueError: a feature of the teacher is constant over the anchors (seen as soon as there are some of every old
            task), or ``<output_dir>.partial`` holds shards of another cache.
        RuntimeError: another build of the same cache is at work.
    """
    output_dir = place_of(output_dir)
    refuse_existing(output_dir)
    storage: dict[str, Any] = {"inputs": inputs, "output": output, "dtype": dtype}
    storage |= {"num_tokens": num_tokens, "batch_size": batch_size}
    _require_possible(storage, specs)
    provenance = Provenance(
        teachers=[teacher.fingerprint() | {"path": teacher_path, "anchors": len(rows)}],
        data={"revision": "", "fingerprint": "", **source, "rows": rows_digest(rows)},
        features=[spec._asdict() for spec in specs],
        storage=storage,
        groups=dict(sorted(Counter(groups).items())),
        files={},
        sizes={},
        versions={"craft-trainer": __version__} | {name: version(name) for name in ("torch", "datasets")},
    )
    work = Shards(output_dir, len(rows), batch_size * SHARD_BATCHES)
    processes = processes or Processes()
    rank, world = processes.process_index, processes.num_processes
    raw = raw_inputs(teacher, load_batch)
    require_held(teacher, lambda first: raw([rows[index] for index in first]), specs)
    with ExitStack() as until_finished:
        with processes.main_process_first() as is_main:
            if is_main:
                until_finished.enter_context(work.locked())
                refuse_existing(output_dir)  # while it was looked at, and then locked
            first_samples = load_batch(list(rows[:2]))
            storage.update(_labelling(teacher, first_samples, output=output))
            if is_main:
                work.begin(provenance, groups, first_samples)
            else:
                work.require_begun()
        job, constancy = TeacherPass(teacher, load_batch, specs, storage, num_workers), ConstantFeatureCheck(groups)
        with (
            work.kept_once_begun(alone=world == 1),
            _quiet_datasets(),
            progress(total=len(rows), initial=work.done(), unit="anchor", desc="anchors") as bar,
        ):
            for number in work.missing(rank, world):
                processes.check()
                part = slice(number * work.size, (number + 1) * work.size)
                shard = job.run(list(rows[part]), list(groups[part]), bar)
                constancy.add(shard)
                work.write(number, shard)
        processes.wait_for_everyone()
        with processes.main_process_first() as is_main, work.kept_once_begun(alone=False), _quiet_datasets():
            if is_main:
                work.finish(provenance)
    return AnchorCache(resolve_path(output_dir, "dataset"), load_batch=raw)


def _labelling(teacher: AnchoredModel, samples: Mapping[str, Any], *, output: bool) -> dict[str, Any]:
    """Name the labels of the ``samples``, and the unit of the teacher's loss on them if it is kept."""
    labels, loss = labels_of(teacher, samples), task_loss_of(teacher)
    kept = loss is not None and output and bool(labels)
    return {"labels": labels, "task_unit": loss.unit if loss is not None and kept else ""}


def _require_possible(storage: Mapping[str, Any], specs: Sequence[FeatureSpec]) -> None:
    for name, known in (("inputs", INPUTS), ("dtype", DTYPES)):
        if storage[name] not in known:
            raise ValueError(f"{name} is {storage[name]!r}: it must be one of {', '.join(known)}")
    if not specs and not storage["output"]:
        raise ValueError("neither hidden features nor the output are asked for: name a layer, or keep the output")


def refuse_existing(output: Path | str) -> None:
    """Refuse, by a FileExistsError, a folder that exists; but not one elsewhere to which a build was being copied."""
    is_unfinished = (
        isinstance(output, str) and exists(f"{output}.partial") and not exists(f"{output}/{PROVENANCE_FILE}")
    )
    if exists(output) and not is_unfinished:
        raise FileExistsError(f"{output} exists: delete it, or choose another folder")


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Without a progress bar for every shard."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
