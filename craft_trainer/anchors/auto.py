"""Anchors that ask for no decision and no old data: drawn and perturbed states, labelled by the policy itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache, LoadBatch
from craft_trainer.anchors.features import FeatureSpec, feature_specs, layer_paths
from craft_trainer.anchors.processes import Processes
from craft_trainer.anchors.provenance import AUTO, same_model
from craft_trainer.anchors.selection import stratified_rows
from craft_trainer.anchors.sources.frames import Frames, FrameSource
from craft_trainer.anchors.sources.mixture import mixed
from craft_trainer.anchors.sources.source import AnchorSource
from craft_trainer.anchors.sources.statistics import StatisticsSource
from craft_trainer.anchors.sources.views import Views
from craft_trainer.models.base import AnchoredModel, Moments

FOLDER = "_anchors"  # in the folder of a run: a name that begins with _ is in no push
NUM_STATES = 200  # drawn from the policy's statistics, if it reads no pictures
NUM_FRAMES = 200  # of the new task; fewer if it has fewer
NUM_VIEWS = 20  # perturbed copies of each; the frames themselves are no anchors, the drawn states are
VIEW_NOISE = 1.0  # on the numbers of a copy, in the deviations that the policy normalises by
SEED = 0


@runtime_checkable
class ObservingPolicy(AnchoredModel, Protocol):
    """A policy whose observations can be drawn and perturbed, as :class:`models.lerobot.PolicyModel` is one."""

    @property
    def can_act(self) -> bool: ...
    @property
    def policy_config(self) -> Any: ...
    def observed_moments(self) -> Moments: ...
    def target_keys(self) -> list[str]: ...


def auto_anchors(
    policy: ObservingPolicy,
    dataset: Frames,
    folder: Path,
    *,
    path: str = "",
    batch_size: int = 64,
    processes: Processes | None = None,
) -> AnchorCache:
    """Anchors of ``policy`` from the ``dataset`` that it is about to learn, in the cache ``folder``.

    They are ``NUM_STATES`` states drawn from the statistics of what it observes (:class:`StatisticsSource`), and
    ``NUM_VIEWS`` copies of each of them and of ``NUM_FRAMES`` frames, spread over tasks, phases and episodes, with
    noise of ``VIEW_NOISE`` deviations of the policy (:class:`Views`). The policy as it is now labels them, and they
    hold its last hidden layer and its output. A cache of the same that is in ``folder`` is opened again.

    Args:
        path: where the policy was loaded from, for the cache's card.
        processes: those that share the work; by default this process does all of it.

    Raises:
        ValueError: the policy reads pictures; what it predicts depends on demonstrated actions, and its own cannot take
            their place; it has no statistics of what it observes; or ``folder`` holds other anchors.
    """
    if policy.image_keys():
        raise ValueError(
            "anchors: auto has nothing that stands in for the pictures of the old tasks, and a policy that was held on "
            "copies of the new task's pictures did not learn the new task in full: build a cache of the policy's own "
            "episodes in a simulator (`craft-trainer cache build --source rollouts`), of a few old frames (`--source "
            "dataset --anchors 20 --views 20`) or, if it reads instructions, of new frames under old ones (`--source "
            "new_task --prompts_file`), and give its folder as anchors"
        )
    if not policy.can_act:
        raise ValueError(
            "anchors: auto has the policy label perturbed frames that nobody demonstrated actions for, but what this "
            "policy predicts depends on such actions, and its own cannot take their place: build a cache of old "
            "demonstrations with `craft-trainer cache build --source dataset`, and give its folder as anchors"
        )
    moments = policy.observed_moments()
    states = StatisticsSource(
        moments, NUM_STATES, seed=SEED, num_steps=len(policy.policy_config.observation_delta_indices or ())
    )
    frames = FrameSource(dataset, without=policy.target_keys())
    parts: dict[str, tuple[AnchorSource, Sequence[int]]] = {
        "statistics": (states, range(NUM_STATES)),
        "new_task": (frames, stratified_rows(frames.strata, min(NUM_FRAMES, len(frames)), seed=SEED)),
    }
    for name, (source, chosen) in parts.items():
        views = Views(
            source,
            chosen,
            NUM_VIEWS,
            noise=VIEW_NOISE,
            seed=SEED,
            moments=moments,
            kept=name != "new_task",
        )
        parts[name] = views, range(len(views))
    samples, rows = mixed(parts)
    specs = feature_specs(layer_paths(policy, ["-1"]).values(), ["none"])
    described = samples.description()
    made = {"source": ",".join(parts), "fingerprint": described["fingerprint"]}
    found = made_before(folder, policy, specs, made)
    return found or build_auto(
        policy,
        samples.batch,
        folder,
        rows=rows,
        groups=[samples.groups[row] for row in rows],
        specs=specs,
        source={**described, **made},
        teacher_path=path,
        batch_size=batch_size,
        processes=processes,
    )


def build_auto(
    teacher: AnchoredModel, load_batch: LoadBatch, folder: Path, *, source: Mapping[str, Any], **building: Any
) -> AnchorCache:
    """Build the cache ``folder`` whose provenance says that nobody chose it; see :func:`build_anchor_cache`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return build_anchor_cache(teacher, load_batch, folder, source={**source, "chosen": AUTO}, **building)


def made_before(
    folder: Path, teacher: AnchoredModel, specs: Sequence[FeatureSpec], made: Mapping[str, Any]
) -> AnchorCache | None:
    """Open the cache that an earlier start of the same run left in ``folder``; None where there is none.

    Args:
        made: of its provenance's ``data``, what must be the same.

    Raises:
        ValueError: it holds something else, or is damaged.
    """
    if not folder.exists():
        return None
    cache = AnchorCache(folder)
    found, wanted = cache.provenance.data, {"chosen": AUTO, **json.loads(json.dumps(made))}
    differs = [name for name, value in wanted.items() if found.get(name) != value]
    differs += [] if list(cache.specs) == list(specs) else ["layers"]
    differs += [] if same_model(cache.provenance.teachers[0], teacher.fingerprint()) else ["teacher"]
    if differs:
        raise ValueError(
            f"{folder} holds anchors of another run ({', '.join(differs)} differ): delete that folder, or give another "
            "output_dir"
        )
    return cache
