"""Join anchor caches under a fixed budget: every anchor keeps the target of the teacher it was cached from."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from craft_trainer.anchors.cache import ROW_COLUMN, AnchorCache
from craft_trainer.anchors.provenance import BUILD, Provenance, same_model
from craft_trainer.anchors.selection import stratified_rows
from craft_trainer.anchors.shards import save, write_cache
from craft_trainer.anchors.sources.views import KEPT, VIEWS
from craft_trainer.anchors.teacher_pass import rows_digest
from craft_trainer.files import appears_when_complete, temporary

PARTS = "parts"  # under which the provenance has the data of the caches that were joined
FRAMES = (VIEWS, KEPT)  # what the provenance has where a cache holds whole frames with their views
OF_THE_BUILD = "batch_size"  # the one entry of the storage that anchors of two caches need not share


def join_caches(
    caches: Sequence[AnchorCache],
    output_dir: Path,
    *,
    seed: int,
    num_anchors: int | None = None,
    num_frames: int | None = None,
) -> AnchorCache:
    """Write ``num_anchors`` anchors of ``caches`` (all, if there are no more) to ``output_dir`` as one cache.

    With ``num_frames`` instead, so many frames are kept with all of their views. Every group gets the same number, as
    far as it has so many; within a group every teacher does, of every cache that has some by it; which those are is
    drawn by ``seed``. Groups of the same name are one group. Columns are copied as they are, in the order of the
    caches; the units of the losses are measured anew over what was kept. The provenance names the teachers and the
    data of what was kept.

    Raises:
        FileExistsError: ``output_dir`` exists.
        ValueError: the caches differ in what they hold, refer to different data, or of some group nothing would be
            kept; both numbers are given, or none; or frames are asked for, and a cache has no views of each.
    """
    require_alike(caches)
    groups = [
        (group, (number, teacher))
        for number, cache in enumerate(caches)
        for group, teacher in zip(cache.groups, _teacher_of_each(cache), strict=True)
    ]
    units = [[row] for row in range(len(groups))] if num_frames is None else _frames(caches)
    wanted = num_anchors if num_frames is None else num_frames
    if wanted is None or wanted < 1 or None not in (num_anchors, num_frames):
        raise ValueError("anchors, frames: say how many of one to keep, 1 or more")
    if wanted < (num_groups := len({group for group, _ in groups})):
        raise ValueError(
            f"{'anchors' if num_frames is None else 'frames'} is {wanted}, and there are {num_groups} old tasks: "
            f"of some nothing would be kept. Keep {num_groups} or more"
        )
    drawn = stratified_rows([groups[rows[0]] for rows in units], min(wanted, len(units)), seed=seed)
    kept = [row for place in drawn for row in units[place]]
    parts: list[tuple[AnchorCache, list[int]]] = []
    teachers, start = [], 0
    for cache in caches:
        rows = [row - start for row in kept if start <= row < start + len(cache)]
        parts += [(cache, rows)] if rows else []
        teachers += _shares(cache.provenance.teachers, rows)
        start += len(cache)
    chosen = [groups[row][0] for row in kept]
    sources = [cache.provenance for cache, _ in parts]
    with appears_when_complete(output_dir) as folder, temporary(output_dir, "copies") as copies:
        anchors = datasets.concatenate_datasets([_copied(*part, f"{copies}/{n}") for n, part in enumerate(parts)])
        first = sources[0]
        provenance = Provenance(
            teachers=_merged(teachers),
            data=_joined_data([one.data for one in sources], anchors[ROW_COLUMN][:], cut=_cuts_frames(caches, kept)),
            features=first.features,
            storage=first.storage | {OF_THE_BUILD: max(one.storage[OF_THE_BUILD] for one in sources)},
            groups=dict(sorted(Counter(chosen).items())),
            files={},
            sizes={},
            versions=first.versions,
        )
        write_cache(anchors, folder, provenance)
    return AnchorCache(output_dir)


def _frames(caches: Sequence[AnchorCache]) -> list[list[int]]:
    """The rows of every frame, its views among them, counted over all ``caches``. They lie one behind the other."""
    found: list[list[int]] = []
    start = 0
    for cache in caches:
        data = cache.provenance.data
        if not _has_frames(cache):
            raise ValueError(
                f"{cache.folder} has no views of every frame: give the number of anchors instead of frames"
            )
        each = data[VIEWS] + data[KEPT]
        before, last = None, -1
        for place, (row, group) in enumerate(zip(cache.dataset[ROW_COLUMN][:], cache.groups, strict=True)):
            frame = (group, row // each)
            if frame != before or row <= last:
                found.append([])
            found[-1].append(start + place)
            before, last = frame, row
        start += len(cache)
    return found


def _has_frames(cache: AnchorCache) -> bool:
    return {*FRAMES} <= cache.provenance.data.keys()


def _cuts_frames(caches: Sequence[AnchorCache], kept: Sequence[int]) -> bool:
    """True if of some frame with views only a part is ``kept``."""
    chosen = set(kept)
    frames = _frames(caches) if all(map(_has_frames, caches)) else []
    return any(0 < sum(row in chosen for row in frame) < len(frame) for frame in frames)


def _copied(cache: AnchorCache, rows: list[int], place: str) -> datasets.Dataset:
    """``rows`` of ``cache`` as a dataset of their own at ``place``: memory-mapped, whatever their size."""
    save(cache.dataset.select(rows), place)
    return datasets.load_from_disk(place)


def require_alike(caches: Sequence[AnchorCache]) -> None:
    """Refuse, by a ValueError that names the difference, caches whose anchors cannot lie in one.

    Those hold the same features, columns and precision; references lead into the same data.
    """
    if len(caches) < 2:
        raise ValueError("one cache alone has nothing to be joined with: name two or more")
    first, *others = caches
    fingerprints = [cache.provenance.fingerprint for cache in caches]
    if len(set(fingerprints)) < len(caches):
        raise ValueError(f"the same cache is named twice among {', '.join(str(cache.folder) for cache in caches)}")
    for other in others:
        for what, ours, theirs in (
            ("features", _told(first.provenance.features), _told(other.provenance.features)),
            *(
                (key, first.provenance.storage.get(key), other.provenance.storage.get(key))
                for key in sorted(first.provenance.storage.keys() | other.provenance.storage.keys())
                if key != OF_THE_BUILD
            ),
            *(
                (f"column {name}", first.dataset.features.get(name), other.dataset.features.get(name))
                for name in sorted(first.dataset.features.keys() | other.dataset.features.keys())
            ),
        ):
            if ours != theirs:
                raise ValueError(
                    f"{first.folder} and {other.folder} cannot be joined: {what} is {ours} in one and {theirs} in "
                    f"the other. Build them alike with {BUILD}"
                )
        same_data = first.provenance.data["fingerprint"] == other.provenance.data["fingerprint"]
        if first.provenance.storage["inputs"] == "reference" and not same_data:
            raise ValueError(
                f"{first.folder} and {other.folder} hold references to {first.provenance.data['dataset']} and "
                f"{other.provenance.data['dataset']}, which are different data: rebuild them with inputs=embedded"
            )


def _told(features: Sequence[dict[str, str]]) -> str:
    return ", ".join(f"{one['path']} ({one['pooling']})" for one in features) or "none"


def _teacher_of_each(cache: AnchorCache) -> list[int]:
    """The number in the provenance of the teacher that made each anchor of ``cache``."""
    return [number for number, one in enumerate(cache.provenance.teachers) for _ in range(one["anchors"])]


def _shares(teachers: Sequence[dict[str, Any]], rows: Sequence[int]) -> list[dict[str, Any]]:
    """``teachers`` of a cache of which only ``rows`` are kept, those of whom something is."""
    found, start = [], 0
    for teacher in teachers:
        end = start + teacher["anchors"]
        if count := sum(start <= row < end for row in rows):
            found.append(teacher | {"anchors": count})
        start = end
    return found


def _merged(teachers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``teachers`` with neighbours that are the same model as one."""
    found: list[dict[str, Any]] = []
    for teacher in teachers:
        if found and same_model(found[-1], teacher):
            found[-1] = found[-1] | {"anchors": found[-1]["anchors"] + teacher["anchors"]}
        else:
            found.append(dict(teacher))
    return found


def _joined_data(parts: Sequence[dict[str, Any]], rows: Sequence[int], *, cut: bool) -> dict[str, Any]:
    """Join the provenance of all ``parts``: what they share, names, a digest of the rest, and the frames of all data.

    Data of the same fingerprint is counted once, and has one name: the first that is there. Where frames are ``cut``
    from their views, nothing is said of views.
    """
    whole = [one for part in parts for one in data_parts(part)]
    digest = hashlib.sha256("".join(str(part["fingerprint"]) for part in whole).encode()).hexdigest()
    names = dict.fromkeys(str(part["dataset"]) for part in whole)
    if whole[0]["fingerprint"] and len({part["fingerprint"] for part in whole}) == 1:
        names = dict.fromkeys([next((name for name in names if Path(name).exists()), next(iter(names)))])
    told = {
        "dataset": " + ".join(names),
        "revision": "",
        "fingerprint": digest,
    }
    frames = {part["fingerprint"] or (part["dataset"], part["frames"]): int(part["frames"]) for part in whole}
    common = {key: value for key, value in parts[0].items() if all(part.get(key) == value for part in parts)}
    common = {key: value for key, value in common.items() if not (cut and key in FRAMES)}
    return told | common | {"frames": sum(frames.values()), "rows": rows_digest(rows), PARTS: whole}


def data_parts(made: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The data of every part of a cache that was joined, or built from several sources; ``made`` itself of another."""
    parts = made.get(PARTS)
    if parts is None:
        return [made]
    each = parts.values() if isinstance(parts, Mapping) else parts
    return [inner for part in each for inner in data_parts(part)]
