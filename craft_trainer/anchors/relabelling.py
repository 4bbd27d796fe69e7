"""Make another model the teacher of the anchors of a cache: the inputs stay, the targets are computed anew."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import ROW_COLUMN, AnchorCache
from craft_trainer.anchors.provenance import BUILD
from craft_trainer.models.base import AnchoredModel


def relabel_cache(
    cache: AnchorCache,
    teacher: AnchoredModel,
    output_dir: Path | str,
    *,
    teacher_path: str,
    batch_size: int | None = None,
    num_workers: int = 0,
    source: Mapping[str, Any] | None = None,
) -> AnchorCache:
    """Write the anchors of ``cache`` with what ``teacher`` makes of them to ``output_dir``.

    It is the cache that a build from the same samples would give, to the byte where batches are the same. Anchors of a
    joined cache are counted anew where two of them have the same row of different data, and a policy that denoises
    draws its noise by that number.

    Args:
        batch_size: samples per forward pass; that of the cache if None.
        source: what the provenance says of the data otherwise than that of ``cache``, like the dtype of the teacher.

    Raises:
        FileExistsError: ``output_dir`` exists.
        ValueError: the cache holds references, not inputs; or ``teacher`` is a policy that reads other ones.
    """
    made = cache.provenance
    if made.storage["inputs"] != "embedded":
        raise ValueError(
            f"{cache.folder} holds references to {made.data['dataset']}, not inputs: build it from there with {BUILD}"
        )
    rows: list[int] = list(cache.dataset[ROW_COLUMN])
    if len(set(rows)) < len(rows):
        rows = list(range(len(cache)))
    place = {row: number for number, row in enumerate(rows)}

    made_up = [] if cache.has_labels else teacher.label_keys()  # the actions of the teacher before

    def load(wanted: list[int]) -> dict[str, Any]:
        inputs = cache.batch([place[row] for row in wanted]).inputs
        return {key: value for key, value in inputs.items() if key not in made_up}

    policy = getattr(teacher, "policy_config", None)
    if policy is not None and (misfits := ", ".join(_misfits(cache, policy, getattr(teacher, "renamed", {})))):
        raise ValueError(
            f"{teacher_path} cannot become the teacher of {cache.folder}, in which {misfits}: build a cache anew by "
            f"that teacher with {BUILD}"
        )
    return build_anchor_cache(
        teacher,
        load,
        output_dir,
        rows=rows,
        groups=cache.groups,
        specs=cache.specs,
        batch_size=batch_size or made.storage["batch_size"],
        source={key: value for key, value in made.data.items() if key != "rows"} | dict(source or {}),
        teacher_path=teacher_path,
        num_tokens=made.storage["num_tokens"],
        output=made.storage["output"],
        dtype=made.storage["dtype"],
        num_workers=num_workers,
    )


def _misfits(cache: AnchorCache, config: Any, renamed: Mapping[str, str]) -> Iterator[str]:
    """What a policy of ``config`` reads otherwise than ``cache`` holds it, by the data's names.

    Pictures may be of any size, and policies that pad states and actions take shorter ones.
    """
    named = {new: old for old, new in renamed.items()}
    inputs = {
        key: tuple(value.shape[1:]) for key, value in cache.batch([0]).inputs.items() if isinstance(value, Tensor)
    }
    actions = config.output_features or {} if cache.has_labels else {}
    read = [
        (name, feature, config.observation_delta_indices) for name, feature in (config.input_features or {}).items()
    ]
    read += [(name, feature, config.action_delta_indices) for name, feature in actions.items()]
    for name, feature, deltas in read:
        key, own, steps = named.get(name, name), tuple(feature.shape), len(deltas or [0])
        is_camera, given = feature.type.name == "VISUAL", inputs.get(key)
        if given is None:
            if not (is_camera and hasattr(config, "empty_cameras")):
                yield f"{key} is missing"
            continue
        lead, last = given[: -len(own)], given[-len(own) :]
        other_steps = lead != (steps,) and (steps > 1 or lead != ())
        if other_steps or (last != own and not is_camera and not hasattr(config, "max_state_dim")):
            yield f"{key} is of shape {given} instead of {own if steps == 1 else (steps, *own)}"
