"""Load a checkpoint for `train`, `cache build` and `cache verify` by the same options, and open a cache."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from craft_trainer.options import json_mapping, option, refuse_idle

if TYPE_CHECKING:
    from lerobot.configs.policies import PreTrainedConfig

    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.language.checkpoints import Checkpoint
    from craft_trainer.models.base import AnchoredModel
    from craft_trainer.models.lerobot import PolicyModel


@dataclass
class LoadArguments:
    """Load a checkpoint otherwise than it was saved. A teacher and its student need the same options."""

    heading = "LeRobot policies"
    policy_options: dict | str | None = option(  # type: ignore[type-arg]  # argparse wants it bare
        "a new policy's configuration; of a checkpoint only how it runs, e.g. dtype, gradient_checkpointing "
        "(a mapping, or JSON)",
        None,
    )
    rename: dict | str | None = option(  # type: ignore[type-arg]
        "features that the data names otherwise than the policy, e.g. cameras: the data's names to the policy's "
        "(a mapping, or JSON)",
        None,
    )
    adapt_to: str | None = option(
        "LeRobot dataset whose features and statistics a base checkpoint takes: a folder or a Hub repository", None
    )

    def __post_init__(self) -> None:
        self.policy_options = json_mapping("policy_options", self.policy_options)
        self.rename = json_mapping("rename", self.rename)

    def require_fit(self, path: str, datasets: Iterable[str]) -> None:
        """Compare the checkpoint at ``path`` with ``datasets``, before either is loaded.

        Raises:
            ValueError: one lacks a feature of the policy, or has it in another shape, or `rename` names what none has.
        """
        from craft_trainer.hub.resolve_path import resolve_path
        from craft_trainer.models.adapting import take_features
        from craft_trainer.models.checkpoint import load_config, saved_renames
        from craft_trainer.models.fit import require_fit
        from craft_trainer.models.lerobot_dataset import load_metadata

        assert isinstance(self.rename, dict)
        folder = resolve_path(path, without=("*/*",))
        config = load_config(folder)
        if self.adapt_to is not None:
            take_features(config, load_metadata(self.adapt_to), self.rename)
        renamed = self.rename or saved_renames(folder)
        features = {dataset: load_metadata(dataset).features for dataset in datasets}
        if features:
            also = [] if self.adapt_to is None else [self.adapt_to]
            self._require_renamed(config, features | {place: load_metadata(place).features for place in also})
        for dataset, there in features.items():
            require_fit(config, dataset, there, renamed=renamed)

    def _require_renamed(self, config: "PreTrainedConfig", features: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse a pair of ``rename`` that does nothing: no dataset has its name, or the policy does not read it."""
        from craft_trainer.models.adapting import require_read
        from craft_trainer.models.lerobot_dataset import READ

        assert isinstance(self.rename, dict)
        for old in self.rename:
            if not any(old in there for there in features.values()):
                named = sorted({name for there in features.values() for name in there if name.startswith(READ)})
                raise ValueError(f"rename: {' and '.join(features)} has no {old!r}: name one of {', '.join(named)}")
        require_read(config, self.rename)

    def load(self, path: str, device: str | None, *, whole_statistics: bool = True) -> "PolicyModel":
        """Load the checkpoint at ``path``; see :meth:`PolicyModel.from_pretrained`."""
        from craft_trainer.models.lerobot import PolicyModel
        from craft_trainer.models.lerobot_dataset import load_metadata

        assert isinstance(self.policy_options, dict)
        assert isinstance(self.rename, dict)
        return PolicyModel.from_pretrained(
            path,
            device=device,
            options=self.policy_options,
            rename=self.rename,
            adapt_to=None if self.adapt_to is None else load_metadata(self.adapt_to),
            whole_statistics=whole_statistics,
        )


def load_teacher(
    arguments: LoadArguments, cache: "AnchorCache", path: str, *, dtype: str | None, device: str | None
) -> "tuple[AnchoredModel, Checkpoint | None]":
    """Load the checkpoint at ``path``, of the kind whose anchors ``cache`` holds; of a language model with all of it.

    ``dtype`` is that of a language model's weights; what the cache was built with if it is None. They are quantised as
    when it was built.

    Raises:
        ValueError: an option is given that is of the other kind.
    """
    from craft_trainer.language.source import holds_texts, teacher_dtype, teacher_quantization

    if not holds_texts(cache):
        if dtype is not None:
            raise ValueError("teacher_dtype has no effect on a policy: give its dtype in policy_options")
        return arguments.load(path, device), None
    refuse_idle(arguments, [one.name for one in fields(LoadArguments)], "the anchors are of a language model")
    from craft_trainer.language.checkpoints import load_checkpoint
    from craft_trainer.models.families import as_anchored_model

    dtype, quantization = dtype or teacher_dtype(cache), teacher_quantization(cache)
    checkpoint = load_checkpoint(path, dtype=dtype, device=device, quantization=quantization)
    return as_anchored_model(checkpoint.model), checkpoint


def open_cache(folder: str, policy: "PolicyModel", dataset: str | None = None) -> "AnchorCache":
    """Open the anchor cache ``folder``, or that of a Hub repository, for ``policy``; its data is now at ``dataset``.

    Raises:
        ValueError: it holds references to another revision of the dataset, or none, and ``dataset`` is given.
    """
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.teacher_pass import raw_inputs
    from craft_trainer.hub.resolve_path import resolve_path
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    cache = AnchorCache(resolve_path(folder, "dataset"))
    if cache.holds_inputs(dataset):
        return cache
    samples = PolicyDataset.of(policy, dataset or str(cache.provenance.data["dataset"]))
    cache.check_data(samples.fingerprint())
    return cache.following(raw_inputs(policy, samples.batch))
