"""``craft-trainer loss``: the loss on demonstrations or texts, and L_retain on anchors, without a simulator."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_trainer.cli.loading import LoadArguments
from craft_trainer.cli.texts import TextArguments
from craft_trainer.files import checked, require_result_of, write_json
from craft_trainer.options import option, refuse_idle, require_at_least, split_list

if TYPE_CHECKING:
    from collections.abc import Mapping

    from craft_trainer.training.settings import RetentionSettings

PLACES = ("policy", "model", "compare", "dataset", "anchors", "adapt_to")
FILES = ("output",)
EXAMPLE = "craft-trainer loss --model org/model --compare outputs/lm/craft --dataset texts.jsonl --output loss.json"
USUAL_BATCH = 64  # frames of one forward pass
OF_A_RESULT = ("policy", "model", "compare", "dataset", "anchors")
OF_ANCHORS = ("retention_terms", "retention_weights", "hidden_distance")
OF_TEXTS = ("compare", "dtype", "quantization")


@dataclass(kw_only=True)
class LossArguments(LoadArguments, TextArguments):
    """Name a policy or a language model, and what it is measured on."""

    policy: str | None = option("LeRobot checkpoint: a folder or a Hub repository", None)
    model: str | None = option(
        "language or vision-language model, or a PEFT adapter: a folder or a Hub repository", None
    )
    compare: str | None = option(
        "a second language model on the same texts; the difference is compare − model, row by row", None
    )
    dataset: str = option(
        "what the loss is measured on: of a policy a LeRobot dataset; of a language model JSON lines, a folder, or a "
        "dataset of the Hub, as `train` takes them"
    )
    held_out: float = option(
        "of a policy: measure only on the episodes that `train` and `cache build` left out under the same share; 0 "
        "measures on all",
        0.0,
    )
    anchors: str | None = option("anchor cache on which L_retain is measured as well; by default it is not", None)
    retention_terms: list[str] | None = option(
        "of L_retain: what is held, as in training; by default hidden and output of a policy, token_kl of a language "
        "model",
        None,
    )
    retention_weights: list[float] | None = option("weight of each retention term; by default 1 for each", None)
    hidden_distance: str = option("distance of hidden features: mse, l1 or cosine", "mse")
    samples: int = option("frames, or texts, spread over all, on which the loss is measured", 2000)
    batch_size: int | None = option(
        "frames, texts or anchors of one forward pass; by default 64 of a policy and 8 of a language model", None
    )
    dtype: str | None = option("of a language model's weights; by default as they were saved", None)
    quantization: str | None = option(
        "of a language model's weights, by bitsandbytes: 4bit or 8bit; by default as saved, or as the base of an "
        "adapter was when that was trained",
        None,
    )
    device: str | None = option("cpu, cuda, …; by default the policy's own, or the first accelerator", None)
    output: str | None = option("JSON file for the result; by default it is only printed", None)

    def __post_init__(self) -> None:
        LoadArguments.__post_init__(self)
        TextArguments.__post_init__(self)
        if (self.policy is None) == (self.model is None):
            raise ValueError("name one of policy (a LeRobot policy) and model (a language model)")
        require_at_least(self, 1, ["samples", "batch_size"])
        if self.anchors is None:
            refuse_idle(self, OF_ANCHORS, "it is of L_retain, and no anchors are given")
        terms = split_list(self.retention_terms or self.usual_terms)
        if "hidden" not in terms:
            refuse_idle(self, ["hidden_distance"], f"retention_terms are {', '.join(terms)}, and hidden is not one")
        if self.policy is not None:
            names = [field.name for field in fields(TextArguments) if field.name != "dataset"]
            refuse_idle(self, [*names, *OF_TEXTS], "it is an option of language models")
        else:
            names = [field.name for field in fields(LoadArguments)]
            refuse_idle(self, [*names, "held_out"], "it is an option of policies")

    @property
    def given(self) -> dict[str, Any]:
        """Everything that decides the result but how it is computed."""
        names = ["dataset", "anchors", *OF_ANCHORS, "samples"]
        if self.policy is not None:
            batch = {"batch_size": self.batch_size or USUAL_BATCH}  # ACT averages over a batch's steps, not its frames
            return {name: getattr(self, name) for name in ("policy", *names, "held_out")} | batch
        texts = [field.name for field in fields(TextArguments) if field.name not in ("dataset", "dataset_num_proc")]
        return {name: getattr(self, name) for name in ("model", "compare", *names, *texts, "dtype", "quantization")}

    @property
    def usual_terms(self) -> tuple[str, ...]:
        """The retention terms where none are named."""
        return ("token_kl",) if self.policy is None else ("hidden", "output")

    def retention(self) -> "RetentionSettings":
        """What is held, and how it is measured."""
        from craft_trainer.training.settings import RetentionSettings

        return RetentionSettings(
            retention_terms=split_list(self.retention_terms or self.usual_terms),
            retention_weights=self.retention_weights,
            hidden_distance=self.hidden_distance,
        )


def run(arguments: LossArguments) -> None:
    """Measure, print, write the JSON file."""
    from craft_trainer.cli.text_loss import measure as measure_texts
    from craft_trainer.cli.text_loss import sentences
    from craft_trainer.models.pretrained import checkpoint_folder, is_policy

    if arguments.output is not None:
        asked = {name: arguments.given[name] for name in OF_A_RESULT if name in arguments.given}
        require_result_of(Path(arguments.output), asked)
    if arguments.policy is not None:
        if not is_policy(checkpoint_folder(arguments.policy)):
            raise ValueError(f"{arguments.policy} is no LeRobot policy: name a language model with model")
        measured = measure(arguments)
        print("  ".join(f"{name} {value:.6g}" for name, value in measured.items()))
    else:
        for path in filter(None, (arguments.model, arguments.compare)):
            if is_policy(checkpoint_folder(path)):
                raise ValueError(f"{path} is a LeRobot policy: name it with policy")
        measured = measure_texts(arguments)
        print(sentences(measured))
    if arguments.output is not None:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(arguments.output), checked(arguments.given | measured))


def require_held_out(arguments: LossArguments) -> None:
    """Refuse, by a ValueError, episodes as held out that the policy's own run learned from or was held on.

    Its run.json says so, and the provenance of its anchors, where they still are.
    """
    from craft_trainer.hub.run_folder import RUN_FILE
    from craft_trainer.models.pretrained import checkpoint_folder
    from craft_trainer.report.reading import json_object

    folder = checkpoint_folder(str(arguments.policy))
    record = next((file for file in (folder / RUN_FILE, folder.parent / RUN_FILE) if file.is_file()), None)
    if not arguments.held_out or record is None:
        return
    told = json_object(record, "remove it, or repair it").get("settings") or {}
    made = _data_of(told.get("anchors"))
    read = [("trained", "Train", told), *(("held by anchors", "Build them", part) for part in made)]
    for how, repeat, one in read:
        share, dataset = one.get("held_out", 0.0), one.get("dataset")
        is_same = dataset is not None and Path(dataset).resolve() == Path(arguments.dataset).resolve()
        if is_same and share != arguments.held_out:
            raise ValueError(
                f"held_out is {arguments.held_out:g}, and {record} says that {arguments.policy} was {how} on {dataset} "
                f"with held_out {share}: it has seen some of these episodes. "
                + (f"Give held_out {share}" if share else f"{repeat} with that held_out, or measure on another dataset")
            )


def _data_of(anchors: object) -> "list[Mapping[str, Any]]":
    """What the cache at ``anchors`` says of each part of its data; nothing where it is no longer there."""
    from craft_trainer.anchors.joining import data_parts
    from craft_trainer.anchors.provenance import PROVENANCE_FILE
    from craft_trainer.report.reading import json_object

    file = Path(str(anchors)) / PROVENANCE_FILE
    return data_parts(json_object(file, "remove it, or repair it")["data"]) if file.is_file() else []


def measure(arguments: LossArguments) -> dict[str, Any]:
    """Measure the task loss, L_retain if there are anchors, and on how many frames and anchors."""
    from craft_trainer.cli.loading import open_cache
    from craft_trainer.models.lerobot_dataset import PolicyDataset, collate
    from craft_trainer.training.crossing import retention_measure, task_measure

    assert arguments.policy is not None
    arguments.require_fit(arguments.policy, [arguments.dataset])
    require_held_out(arguments)
    policy = arguments.load(arguments.policy, arguments.device)
    batch_size = arguments.batch_size or USUAL_BATCH
    data = PolicyDataset.of(policy, arguments.dataset)
    samples = data.without_last_frames(data.rows_of(arguments.held_out, learned=False))
    task = task_measure(policy, samples, collate, batch_size, arguments.samples)
    count = min(arguments.samples, len(samples))  # type: ignore[arg-type]  # ours have a length
    measured = {"loss": task(), "frames": count}
    if arguments.anchors is not None:
        cache = open_cache(arguments.anchors, policy)
        settings = arguments.retention()
        measured["L_retain"] = retention_measure(policy, cache, settings, batch_size)()
        measured["anchors"] = len(cache)
    return measured
