"""``craft-trainer train`` of a LeRobot policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from shlex import quote
from typing import TYPE_CHECKING

from craft_trainer.anchors.provenance import AUTO
from craft_trainer.cli.lerobot_names import refuse_without_effect
from craft_trainer.cli.loading import LoadArguments
from craft_trainer.cli.places import ADAPTER
from craft_trainer.cli.policy_anchors import DEFAULTS
from craft_trainer.cli.training import begin, train_and_save
from craft_trainer.options import json_mapping, option, refuse_idle

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.live import AdapterAnchors
    from craft_trainer.cli.train import TrainArguments
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.normalisation import Statistics
    from craft_trainer.training.config import CraftConfig

OUTSIDE_SHOWN = 5
OF_LANGUAGE_MODELS = {  # Trainer's, which no policy has → what there is instead
    "gradient_checkpointing": """--policy_options '{"gradient_checkpointing": true}' for a policy that has it""",
    "neftune_noise_alpha": "a language model has one",
    "label_smoothing_factor": "a policy computes its own loss",
}


@dataclass(kw_only=True)
class PolicyTrainArguments(LoadArguments):
    """Options of a policy alone."""

    heading = LoadArguments.heading
    policy_type: str | None = option("instead of model: train a new policy of this type, e.g. act", None)
    policy_min_std: float = option("floor of the deviations that normalise a new policy's observations", 0.0)
    statistics: str = option(
        "normalise by the checkpoint's own statistics (keep), or by the dataset's (dataset), which changes what every "
        "old action means",
        "keep",
    )
    held_out: float = option(
        "share of the episodes of every task that is not learned, for `loss` to measure on; in [0, 1)", 0.0
    )
    peft: dict | str | None = option(  # type: ignore[type-arg]  # argparse wants it bare
        "train a PEFT adapter instead of all weights, by LeRobot's settings: method_type (LORA by default), r, "
        "lora_alpha, target_modules (by default the policy's own, if it has some), full_training_modules, init_type "
        "(a mapping, or JSON; or one by one as LeRobot writes them, --peft.r 16)",
        None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.peft is not None:
            self.peft = json_mapping("peft", self.peft) or {"method_type": "LORA"}
        refuse_without_effect(self.policy_options)  # type: ignore[arg-type]  # a mapping from here on


def train(arguments: "TrainArguments", config: "CraftConfig") -> None:
    """Train and save an ordinary LeRobot checkpoint in ``output_dir``."""
    from craft_trainer.cli.output import claimed_output

    check_options(arguments, config.retention_terms)
    refuse_of_language_models(config)
    with claimed_output(config) as checkpoint:
        train_policy(arguments, config, checkpoint)


def check_options(arguments: "TrainArguments", terms: Sequence[str]) -> None:
    """Refuse, by a ValueError, anchors that a policy cannot have, and options that would change nothing."""
    if arguments.model is None and (arguments.rename or arguments.adapt_to):
        raise ValueError("rename and adapt_to are for checkpoints: a new policy takes names and features as they are")
    if arguments.model is None and arguments.peft is not None:
        raise ValueError("peft: an adapter is put on a checkpoint, and policy_type makes a new policy: train it whole")
    arguments.check_anchors(terms, makes=(ADAPTER,), of="demonstrations")
    if arguments.anchors is None:
        refuse_idle(arguments, ["anchors_dataset"], "no anchors are given")
    if arguments.anchors == AUTO and arguments.model is None:
        raise ValueError("anchors: auto holds what a policy does already, and a new one does nothing: leave it out")
    if arguments.anchors == AUTO and arguments.anchors_dataset is not None:
        raise ValueError("anchors_dataset has no effect with anchors: auto, which takes dataset: leave it out")
    if arguments.anchors == AUTO and arguments.held_out:
        raise ValueError("held_out and anchors: auto exclude each other: build a cache with `cache build --held_out`")
    if arguments.statistics not in ("keep", "dataset"):
        raise ValueError(f"statistics is {arguments.statistics!r}: it must be keep or dataset")
    if arguments.model is None:
        refuse_idle(arguments, ["statistics"], "a new policy has those of its dataset")
    elif arguments.statistics == "keep":
        refuse_idle(arguments, ["policy_min_std"], "it is of a new policy, or of statistics: dataset")
    if arguments.statistics == "dataset" and arguments.anchors is not None:
        raise ValueError(
            "statistics dataset and anchors exclude each other: with other statistics the teacher's features on "
            "the anchors are no longer the student's. Keep the statistics, or train without anchors"
        )


def train_policy(arguments: "TrainArguments", config: "CraftConfig", checkpoint: str | None) -> None:
    """Train from the beginning or from ``checkpoint``, save, say what comes next."""
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.lerobot_dataset import PolicyDataset, collate, load_metadata
    from craft_trainer.training.trainer import CraftTrainer

    begin(config)
    device, meta = config.device.type, load_metadata(arguments.dataset)
    if arguments.model is not None:
        arguments.require_fit(arguments.model, [arguments.dataset])
        model = arguments.load(arguments.model, device, whole_statistics=arguments.statistics == "keep")
        if arguments.statistics == "dataset":
            take_statistics(model, meta.stats, arguments.policy_min_std)
        if arguments.peft is not None:
            assert isinstance(arguments.peft, dict)
            model.add_adapter(arguments.peft)
    else:
        assert arguments.policy_type is not None
        assert isinstance(arguments.policy_options, dict)
        options = arguments.policy_options | {"device": device}
        model = PolicyModel.from_config(arguments.policy_type, meta, options, min_std=arguments.policy_min_std)
    dataset = PolicyDataset.of(model, arguments.dataset)
    if arguments.model is not None:
        warn_of_far_outside(model, meta.stats, arguments.dataset)
    if hasattr(model.policy, "update"):
        raise ValueError(
            f"a {model.policy_config.type} updates another network after every step of LeRobot's own training, which "
            "Trainer does not: train it by `lerobot-train`"
        )
    anchors = anchors_of(arguments, model)
    name_groups(config, anchors)
    trainer = CraftTrainer(
        model,
        config,
        anchors=anchors,
        train_dataset=dataset.without_last_frames(dataset.rows_of(arguments.held_out, learned=True)),
        data_collator=collate,
    )
    train_and_save(trainer, arguments, checkpoint)
    if trainer.is_world_process_zero():
        kind = "LeRobot checkpoint" if model.peft_model is None else "PEFT adapter, as LeRobot saves it"
        print(f"{kind}: {config.output_dir}")
        print(f"next: craft-trainer rollout --policy {quote(config.output_dir)} --tasks TASK")
        print(f"or:   craft-trainer report --run {quote(config.output_dir)}")


def anchors_of(arguments: "TrainArguments", model: "PolicyModel") -> "AnchorCache | AdapterAnchors | str | None":
    """The cache, the word for anchors that the policy makes itself, the policy without its adapter, or nothing."""
    from craft_trainer.cli.loading import open_cache

    if arguments.anchors is None or arguments.anchors == AUTO:
        return arguments.anchors
    if arguments.anchors == ADAPTER:
        return adapter_anchors(arguments, model)
    return open_cache(arguments.anchors, model, arguments.anchors_dataset)


def name_groups(config: "CraftConfig", anchors: object) -> None:
    """Take a Meta-World task of ``epsilon_per_group`` by its name as well: anchors are grouped by its sentence."""
    groups = getattr(anchors, "groups", ())
    if set(config.group_epsilons) - set(groups) and find_spec("metaworld") is not None:
        from craft_trainer.simulation.metaworld import as_groups

        config.epsilon_per_group = as_groups(config.group_epsilons, groups)


def adapter_anchors(arguments: "TrainArguments", model: "PolicyModel") -> "AdapterAnchors":
    """The frames of ``anchors_dataset``, on which the policy without its adapter is the teacher.

    Raises:
        ValueError: the policy has no adapter.
    """
    from craft_trainer.anchors.features import feature_specs, layer_paths
    from craft_trainer.anchors.live import AdapterAnchors
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    if model.peft_model is None:
        raise ValueError("anchors: adapter needs an adapter: give --peft.r, --peft.…, or start from one")
    assert arguments.anchors_dataset is not None
    if model.output_kind != "logits":
        refuse_idle(arguments, ["num_tokens"], f"{model.policy_config.type} predicts no tokens")
    samples = PolicyDataset.of(model, arguments.anchors_dataset)
    layers, poolings = arguments.held(DEFAULTS.layers, DEFAULTS.pooling)
    specs = feature_specs(layer_paths(model, layers).values(), poolings)
    return AdapterAnchors(
        model,
        samples.batch,
        samples.task_of_frame,
        specs,
        num_tokens=arguments.num_tokens,
        fingerprint=samples.fingerprint(),
    )


def refuse_of_language_models(config: "CraftConfig") -> None:
    """Refuse Trainer's own settings that end in an error inside a policy, or do nothing there; say what does."""
    for name, instead in OF_LANGUAGE_MODELS.items():
        if getattr(config, name):
            raise ValueError(f"{name} has no place in a LeRobot policy: {instead}")
    if config.eval_strategy != "no" or config.eval_on_start:
        raise ValueError(
            "eval_strategy and eval_on_start: no part of the dataset is held out; `craft-trainer rollout` on the "
            "checkpoints evaluates a policy, and mcq_data asks one with a language model while it trains"
        )


def take_statistics(model: "PolicyModel", statistics: "Statistics", min_std: float) -> None:
    """Replace the policy's statistics and say what changed."""
    from craft_trainer.models.normalisation import replace_statistics

    renamed = {model.renamed.get(name, name): values for name, values in statistics.items()}
    for change in replace_statistics(model, renamed, min_std=min_std):
        print(f"statistics replaced: {change}")


def warn_of_far_outside(model: "PolicyModel", statistics: "Statistics", dataset: str) -> None:
    """Warn of data that lies far outside what the policy was normalised for."""
    from craft_trainer.models.normalisation import far_outside

    outside = far_outside(model, {model.renamed.get(name, name): values for name, values in statistics.items()})
    for found in outside[:OUTSIDE_SHOWN]:
        print(
            f"warning: {found.feature}[{found.dimension}] of {dataset} reaches {found.reached:.3g} after the policy's "
            f"normalisation (usual: below {found.limit:g})"
        )
    if outside:
        print(
            f"warning: {len(outside)} dimension(s) lie far outside the data that the policy was normalised for: train "
            "it with a larger policy_min_std (a floor for observations; an action must have moved in its data), or "
            "give statistics: dataset if its old tasks do not matter"
        )
