"""Features that are the same for all anchors, found while a cache grows and not only at its end."""

from collections.abc import Iterable

import datasets

from craft_trainer.anchors.cache import GROUP_COLUMN, feature_columns
from craft_trainer.anchors.columns import open_columns
from craft_trainer.anchors.statistics import ConstantFeatureError, cache_statistics


class ConstantFeatureCheck:
    """Watches shards for features that do not vary; one that did is not looked at again.

    Args:
        groups: the old tasks; a feature may be the same throughout one of them, so all have to be seen.
    """

    def __init__(self, groups: Iterable[str]) -> None:
        self._unseen = set(groups)
        self._shards: list[datasets.Dataset] = []
        self._suspects: list[str] | None = None

    def add(self, shard: datasets.Dataset) -> None:
        """Look at one more shard; a ConstantFeatureError if a feature is constant still, all old tasks seen."""
        if self._suspects == []:
            return
        self._shards.append(shard)
        self._unseen -= set(shard[GROUP_COLUMN])
        anchors = datasets.concatenate_datasets(self._shards)
        columns, suspects = open_columns(anchors), []
        for name in feature_columns(anchors) if self._suspects is None else self._suspects:
            try:
                cache_statistics({name: columns[name]}, len(anchors), [name])
            except ConstantFeatureError:
                if not self._unseen:
                    raise
                suspects.append(name)
        self._suspects = suspects
        self._shards = self._shards if suspects else []
