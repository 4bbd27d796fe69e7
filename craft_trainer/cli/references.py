"""Anchor caches as the commands open them: references are followed into the LeRobot dataset they name."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.models.lerobot import PolicyModel


def open_cache(folder: str, policy: "PolicyModel", dataset: str | None = None) -> "AnchorCache":
    """Open the anchor cache ``folder``, or that of a Hub repository, for ``policy``; its data is now at ``dataset``.

    Raises:
        ValueError: it holds references to another revision of the dataset.
    """
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.teacher_pass import raw_inputs
    from craft_trainer.hub.resolve_path import resolve_path
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    cache = AnchorCache(resolve_path(folder, "dataset"))
    if cache.provenance.storage["inputs"] == "embedded":
        return cache
    samples = PolicyDataset.of(policy, dataset or str(cache.provenance.data["dataset"]))
    cache.check_data(samples.fingerprint())
    return cache.following(raw_inputs(policy, samples.batch))
