"""``craft-trainer loss``: a policy's loss on demonstrations, and L_retain on anchors, without a simulator."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_trainer.cli.loading import LoadArguments
from craft_trainer.files import checked, write_json
from craft_trainer.options import option, split_list

PLACES = ("policy", "dataset", "anchors", "adapt_to")
EXAMPLE = "craft-trainer loss --policy outputs/craft --dataset outputs/data/old --held_out 0.1"


@dataclass(kw_only=True)
class LossArguments(LoadArguments):
    """Name the policy and what it is measured on."""

    policy: str = option("LeRobot checkpoint: a folder or a Hub repository")
    dataset: str = option("LeRobot dataset on whose frames the loss is measured: a folder or a Hub repository")
    held_out: float = option(
        "measure only on the episodes that `train` and `cache build` left out under the same share; 0 measures on all",
        0.0,
    )
    anchors: str | None = option("anchor cache on which L_retain is measured as well; by default it is not", None)
    retention_terms: list[str] = option("of L_retain: what is held, as in training", ["hidden", "output"])
    samples: int = option("frames, spread over all, on which the loss is measured", 2000)
    batch_size: int = option("frames, or anchors, of one forward pass", 64)
    device: str | None = option("cpu, cuda, …; by default the policy's own", None)
    output: str | None = option("JSON file for the result; by default it is only printed", None)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


def run(arguments: LossArguments) -> None:
    """Measure, print, write the JSON file."""
    from craft_trainer.models.pretrained import checkpoint_folder, is_policy

    if not is_policy(checkpoint_folder(arguments.policy)):
        raise ValueError(
            f"{arguments.policy} is no LeRobot policy: a language model is measured by `mcq`, or by `train "
            "--eval_dataset`"
        )
    measured = measure(arguments)
    print("  ".join(f"{name} {value:.6g}" for name, value in measured.items()))
    if arguments.output is not None:
        given = {name: getattr(arguments, name) for name in ("policy", "dataset", "held_out", "anchors")}
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(arguments.output), checked(given | measured))


def measure(arguments: LossArguments) -> dict[str, Any]:
    """Measure the task loss, L_retain if there are anchors, and on how many frames and anchors."""
    from craft_trainer.cli.loading import open_cache
    from craft_trainer.models.lerobot_dataset import PolicyDataset, collate
    from craft_trainer.training.crossing import retention_measure, task_measure
    from craft_trainer.training.settings import RetentionSettings

    arguments.require_fit(arguments.policy, [arguments.dataset])
    policy = arguments.load(arguments.policy, arguments.device)
    data = PolicyDataset.of(policy, arguments.dataset)
    samples = data.without_last_frames(data.rows_of(arguments.held_out, learned=False))
    task = task_measure(policy, samples, collate, arguments.batch_size, arguments.samples)
    count = min(arguments.samples, len(samples))  # type: ignore[arg-type]  # ours have a length
    measured = {"loss": task(), "frames": count}
    if arguments.anchors is not None:
        cache = open_cache(arguments.anchors, policy)
        settings = RetentionSettings(retention_terms=split_list(arguments.retention_terms))
        measured["L_retain"] = retention_measure(policy, cache, settings, arguments.batch_size)()
        measured["anchors"] = len(cache)
    return measured
