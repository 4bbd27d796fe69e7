"""Any LeRobot policy as a Trainer model: policy, processors and normalisation statistics in one module."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

try:
    import draccus
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.policies.factory import make_policy, make_pre_post_processors
    from lerobot.utils.constants import ACTION
except ImportError as error:
    raise ImportError(f"LeRobot is not installed ({error}): pip install 'craft-trainer[lerobot]'") from error

from craft_trainer.hub.resolve_path import parse, resolve_path
from craft_trainer.models import adapting
from craft_trainer.models.base import AT_INPUT, Batch, Moments, TokenLayout, weights_digest
from craft_trainer.models.checkpoint import load_config, load_policy, load_processors
from craft_trainer.models.configuration import configuration_digest, module_configurations, saved_digest
from craft_trainer.models.finite import require_finite
from craft_trainer.models.fit import own_names
from craft_trainer.models.noise import NOISE
from craft_trainer.models.normalisation import check_statistics, observed_moments, with_floor
from craft_trainer.models.own_actions import own_actions
from craft_trainer.models.policies.family import PolicyFamily, family_of, known_families
from craft_trainer.models.policy_configuration import decisive_policy_fields
from craft_trainer.models.policy_module import PolicyModule
from craft_trainer.models.remote_code import trusted_code_only
from craft_trainer.models.task_loss import TaskLoss


class PolicyModel(PolicyModule):
    """A LeRobot policy with its pre- and post-processor, trainable by a HuggingFace ``Trainer``.

    A batch holds raw dataset features (``observation.*``, ``action``, ``action_is_pad``, ``task``), as a LeRobotDataset
    yields them; the policy's own preprocessor normalises them with the policy's own statistics.
    """

    accepts_loss_kwargs = False  # Trainer: divide the loss by the number of accumulated micro-batches

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | None = None,
        revision: str | None = None,
        options: Mapping[str, Any] | None = None,
        rename: Mapping[str, str] | None = None,
        adapt_to: LeRobotDatasetMetadata | None = None,
        whole_statistics: bool = True,
    ) -> Self:
        """Load a LeRobot checkpoint (a folder, ``org/name`` or ``org/name@revision``) with its processors.

        Args:
            revision: of a Hub repository whose name has none.
            options: fields of its configuration that say how it runs, not what it is; see :data:`RUN_OPTIONS`.
            rename: features that the data names otherwise than the policy: the data's names → the policy's.
            adapt_to: a dataset whose features and statistics a base checkpoint takes, which has none of its own.
            whole_statistics: require every statistic that it normalises by; False if they are replaced next.

        Raises:
            FileNotFoundError: there is no LeRobot policy at ``path``.
            ValueError: its weights are those of another policy, it has no such option, it does not read what ``rename``
                gives, or it lacks statistics.
        """
        folder = resolve_path(path, revision=revision, without=("*/*",))
        config = load_config(folder)
        if device is not None:
            config.device = device
        config = adapting.with_options(config, options or {})
        if adapt_to is not None:
            adapting.take_features(config, adapt_to, rename or {})
        adapting.require_read(config, rename or {})
        with trusted_code_only():
            policy = load_policy(folder, config)
            processors = load_processors(
                folder,
                config,
                preprocessor_overrides=adapting.preprocessor_overrides(config, rename or {}, adapt_to),
                postprocessor_overrides=adapting.postprocessor_overrides(config, adapt_to),
            )
        model = cls(policy, *processors)
        if whole_statistics:
            check_statistics(model)
        found = parse(path)
        model.origin = str(path) if isinstance(found, Path) else found.at(revision).name
        return model

    @classmethod
    def from_config(
        cls, policy_type: str, meta: LeRobotDatasetMetadata, options: Mapping[str, Any], *, min_std: float = 0.0
    ) -> Self:
        """A freshly initialised policy for a dataset, whose statistics become the policy's.

        ``min_std`` is a floor (in each feature's own unit) on the standard deviations that normalise observations: a
        dimension that never moves in this dataset would otherwise be divided by almost zero, and explode as soon as
        it moves in the next one.

        Raises:
            ValueError: unknown policy type or option.
        """
        try:
            kind = PreTrainedConfig.get_choice_class(policy_type)
            config = draccus.decode(kind, {"push_to_hub": False, **options})
        except (KeyError, draccus.utils.ParsingError, draccus.utils.DecodingError) as error:
            raise ValueError(f"policy {policy_type!r} with options {dict(options)}: {error}") from error
        config.input_features = config.input_features or adapting.observed_features(meta)
        statistics = with_floor(meta.stats, min_std)
        with trusted_code_only():
            policy = make_policy(config, ds_meta=meta)
            model = cls(policy, *make_pre_post_processors(config, dataset_stats=statistics))
        check_statistics(model)
        return model

    @property
    def output_kind(self) -> str:
        """Actions, or logits of a policy whose actions are tokens."""
        return self._family().output_kind

    def forward(self, return_loss: bool = True, **batch: Any) -> dict[str, Tensor]:
        """The policy's task loss on a raw batch: ``{"loss": scalar}``.

        ``return_loss`` is how Trainer recognises a model that computes a loss without labels when it evaluates.
        """
        raw = {key: value for key, value in batch.items() if not key.startswith(NOISE)}  # the loss draws its own
        loss, _ = self.policy(self.preprocessed(raw))
        return {"loss": loss}

    def prepare(self, batch: Batch) -> Batch:
        """Preprocess raw samples for the policy: normalised, tokenised, and with the ``noise`` that came along.

        Raises:
            ValueError: the batch lacks numbers, actions or noise that the policy reads.
        """
        family = self._family()
        if family.reads_actions and ACTION not in batch:
            raise ValueError(f"what a {self.policy_config.type} predicts depends on demonstrated actions: add them")
        named = own_names(self.renamed, batch)  # of anchors whose data had the policy's own names
        batch = {named.get(key, key): value for key, value in batch.items()}
        pictures, seen = self.image_keys(), set(self.input_keys())
        numbers = seen - {*pictures, *self.target_keys(), "task"}  # some policies do without a camera
        if missing := sorted(numbers - batch.keys()):
            raise ValueError(
                f"the samples have {', '.join(sorted(batch))}, and no {', '.join(missing)}, which the policy reads: "
                "what it is named in the data is set by rename"
            )
        inputs = self.preprocessed({key: value for key, value in batch.items() if key in seen})
        noise = {key: value for key, value in batch.items() if key.startswith(NOISE)}
        return family.prepare(self.policy, {**inputs, **noise})

    def predict(self, inputs: Batch) -> Float[Tensor, "batch steps dim"]:
        """The normalised output, differentiable. Run it in evaluation mode for the policy's actual behaviour."""
        return self._family().predict(self.policy, inputs)

    def select_action(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The next action in the environment's units, from the policy's own queue of chunked actions.

        Raises:
            FloatingPointError: the action is not finite.
        """
        action: Tensor = self.postprocessor(self.policy.select_action(self.preprocessed(batch)))
        require_finite("an action of the policy is", [float(action.sum())])
        return action

    def acts_blindly(self) -> bool:
        """True if the next :meth:`select_action` takes a queued action of the last chunk, whatever the batch holds.

        Known of LeRobot's policies with a file of their own: they read an observation where their queue of actions is
        empty, unless they have queues of observations as well.
        """
        queues = getattr(self.policy, "_queues", None) or {}
        actions = getattr(self.policy, "_action_queue", queues.get(ACTION, ()))
        return self.policy_config.type in known_families() and not set(queues) - {ACTION} and len(actions) > 0

    @torch.no_grad()
    def own_actions(self, batch: Batch, rows: Sequence[int]) -> dict[str, Tensor]:
        """Predict the policy's own actions for a batch; see :func:`models.own_actions.own_actions`."""
        return own_actions(self, self._family().act, batch, rows)

    def reset(self) -> None:
        """Forget queued actions; call it when episodes start."""
        self.policy.reset()

    def module_path(self, layer: int | str) -> str:
        """The module path of hidden layer ``layer``.

        Raises:
            ValueError: no such layer.
        """
        layers = self._family().layers(self.policy)
        if isinstance(layer, int):
            if not -len(layers) <= layer < len(layers):
                raise ValueError(f"hidden layer {layer} of {self.policy_config.type}: it has {len(layers)}: {layers}")
            return f"policy.{layers[layer]}"
        path = layer if layer.startswith("policy.") else f"policy.{layer}"
        if path.removesuffix(AT_INPUT) not in dict(self.named_modules()):
            raise ValueError(f"{self.policy_config.type} has no module {layer!r}; its layers are {layers}")
        return path

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        """The layout of the hidden state at ``path``; see :class:`TokenLayout`."""
        return self._family().layout(self.policy, path.removeprefix("policy."), inputs, shape)

    @property
    def task_loss(self) -> TaskLoss | None:
        """The policy's own loss of every sample, but for what only training draws: dropout, and the latent of a VAE."""
        loss = self._family().loss
        return None if loss is None else TaskLoss(partial(loss.losses, self.policy), loss.unit)

    def input_keys(self) -> list[str]:
        """Raw features the policy reads: its inputs, its targets and their padding flags, and the task's sentence."""
        inputs = [self._raw(name) for name in self.policy_config.input_features]
        return [*inputs, *self.target_keys(), "task"]

    def target_keys(self) -> list[str]:
        """Those of :meth:`input_keys` that the task loss alone reads, unless the policy predicts from them."""
        return [*self.policy_config.output_features, "action_is_pad"]

    @property
    def reads_actions(self) -> bool:
        """True if what it predicts depends on demonstrated actions, as that of a policy that denoises them."""
        return self._family().reads_actions

    @property
    def is_tried(self) -> bool:
        """True if it has to be tried that its features are functions of the sample; see :mod:`anchors.trial`."""
        return self._family().is_tried

    @property
    def can_act(self) -> bool:
        """True if it predicts without demonstrated actions: from none at all, or from :meth:`own_actions`."""
        return not self.reads_actions or self._family().act is not None

    def observed_moments(self) -> Moments:
        """The mean and the deviation of every number that it observes; see :mod:`models.normalisation`."""
        return observed_moments(self)

    def label_keys(self) -> list[str]:
        """The demonstrated actions."""
        return list(self.policy_config.output_features)

    def image_keys(self) -> list[str]:
        """The cameras, as the data names them."""
        return [self._raw(name) for name in self.policy_config.image_features]

    def image_shape(self, key: str) -> tuple[int, int]:
        """Rows and columns of the images of camera ``key``."""
        shapes = {self._raw(name): feature.shape for name, feature in self.policy_config.image_features.items()}
        rows, columns = shapes[key][-2:]
        return rows, columns

    def noise(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Noise that a policy starts to denoise from, for each row of its dataset."""
        return {NOISE + name: value for name, value in self._family().noise(self.policy, rows).items()}

    def packed(self, batch: Batch) -> dict[str, list[int]]:
        """All inputs are batch-first."""
        return {}

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the policy's weights, of its processors with their statistics, and of its configuration."""
        fields = decisive_policy_fields(self.policy_config)
        return {
            "weights": weights_digest(self.policy),
            "processors": saved_digest(self.preprocessor, self.postprocessor),
            "configuration": configuration_digest({"policy": fields, "modules": module_configurations(self.policy)}),
        }

    def _raw(self, name: str) -> str:
        """The data's name of the policy's feature ``name``."""
        return {new: old for old, new in self.renamed.items()}.get(name, name)

    def _family(self) -> PolicyFamily:
        return family_of(self.policy_config.type)
