"""``craft-trainer train``: train a LeRobot policy or a HuggingFace model of any family; with anchors, by CRaFT."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from craft_trainer.cli.places import ADAPTER
from craft_trainer.cli.policy_training import PolicyTrainArguments
from craft_trainer.cli.text_training import HELD, OF_LORA, TextTrainArguments
from craft_trainer.cli.training import AskArguments
from craft_trainer.options import option, refuse_idle, split_list

if TYPE_CHECKING:
    from craft_trainer.cli.train_config import TrainConfig

EXAMPLE = "accelerate launch -m craft_trainer train --config configs/train/metaworld_craft.yaml --learning_rate 1e-4"


@dataclass(kw_only=True)
class TrainArguments(PolicyTrainArguments, TextTrainArguments, AskArguments):
    """Name the model, its new data and its anchors."""

    heading = "the model, what it learns and what is held"
    model: str | None = option(
        "checkpoint to start from, a folder or a Hub repository (org/name, org/name@revision): a LeRobot policy, or a "
        "language or vision-language model, also as a PEFT adapter, which goes on being trained",
        None,
    )
    dataset: str = option(
        "what is to be learned. For a policy: LeRobot dataset. For a language model: JSON lines, a folder, or a "
        "dataset of the Hub (org/name, org/name@revision), with a column text, columns prompt and completion, or a "
        "column messages; image or images for a vision-language model"
    )
    anchors: str | None = option(
        "anchor cache of what is to be kept, a folder or a Hub repository; or auto: what the model makes, before it "
        "learns, of drawn states and perturbed copies of the dataset's frames (a policy without cameras; one with "
        "cameras is refused) or of texts that it writes (a language model); or adapter: the model without its adapter "
        "is the teacher, on the demonstrations or texts of anchors_dataset, without a cache; without anchors this is "
        "plain fine-tuning",
        None,
    )
    anchors_dataset: str | None = option(
        "of a cache of references: where its dataset is now, if it was moved. With anchors: adapter, "
        "demonstrations (a LeRobot dataset) or texts of what is to be kept",
        None,
    )
    layers: list[str] | None = option(
        "hidden layers held with anchors: adapter, or auto of a language model; by default -1 of a policy, none of a "
        "language model; a cache has its own",
        None,
    )
    pooling: list[str] | None = option(
        "of every such layer; by default none of a policy, mean_masked of a language model", None
    )
    num_tokens: int = option("likeliest tokens per position, where those layers are named", 32)

    def __post_init__(self) -> None:
        if (self.model is None) == (self.policy_type is None):
            raise ValueError("give either model (a checkpoint to start from) or policy_type (a new policy)")
        PolicyTrainArguments.__post_init__(self)
        TextTrainArguments.__post_init__(self)
        AskArguments.__post_init__(self)

    def held(self, layers: str, pooling: str) -> tuple[list[str], list[str]]:
        """Choose what is held: ``layers`` and ``pooling`` of the family, where none are given."""
        return split_list(self.layers or [layers]), split_list(self.pooling or [pooling])

    def check_anchors(self, terms: Sequence[str], *, makes: Sequence[str], of: str) -> None:
        """Refuse, by a ValueError, anchors: adapter without its data ``of`` the family, and options without effect.

        ``makes`` are the values of ``anchors`` for which ``layers``, ``pooling`` and ``num_tokens`` say what ``terms``
        hold.
        """
        from craft_trainer.losses.term import Need
        from craft_trainer.losses.terms import TERMS

        if self.anchors == ADAPTER and self.anchors_dataset is None:
            raise ValueError(f"anchors: adapter needs {of} of what is to be kept: name them with anchors_dataset")
        if self.anchors not in makes:
            refuse_idle(self, HELD, f"it is an option of anchors: {' and '.join(makes)}")
        needs = [TERMS[name].needs for name in terms]
        for need, names, what in (
            (Need.HIDDEN, ["layers", "pooling"], "hidden features"),
            (Need.TOKENS, ["num_tokens"], "tokens"),
        ):
            if not any(one & need for one in needs):
                refuse_idle(self, names, f"retention_terms {' '.join(terms)} hold no {what}")


SHOWN = (  # by --help; the others by --help all
    *("model", "dataset", "anchors", "anchors_dataset", "retention"),
    *("policy_type", "peft", "columns", "chat", "split", "max_length", "lora_rank", "mcq_data"),
    *("output_dir", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("logging_steps", "save_strategy", "save_steps", "resume_from_checkpoint", "seed", "report_to"),
)
PLACES = ("model", "dataset", "anchors", "anchors_dataset", "eval_dataset", "mcq_data", "adapt_to")
OF_POLICIES = [field.name for field in fields(PolicyTrainArguments)]
OF_LANGUAGE_MODELS = [field.name for field in fields(TextTrainArguments) if field.name != "dataset"]


def run(arguments: TrainArguments, config: "TrainConfig") -> None:
    """Train, save a checkpoint that the libraries of its family load, say what comes next.

    Raises:
        ValueError: an option is of the other family.
    """
    from craft_trainer.models.pretrained import checkpoint_folder, is_policy

    if arguments.model is None or is_policy(checkpoint_folder(arguments.model)):
        from craft_trainer.cli.policy_training import train
        from craft_trainer.training.config import CraftConfig

        what = arguments.model or f"a new {arguments.policy_type}"
        refuse_idle(arguments, ["lora_rank", *OF_LORA], f"{what} is a policy, whose adapter is --peft.r, --peft.…")
        refuse_idle(arguments, OF_LANGUAGE_MODELS, f"it is an option of language models, and {what} is a policy")
        train(arguments, config.of(CraftConfig))
    else:
        from craft_trainer.cli.text_training import train
        from craft_trainer.training.language_config import LanguageConfig

        refuse_idle(arguments, ["peft"], f"{arguments.model} is a language model, whose adapter is --lora_rank")
        refuse_idle(arguments, OF_POLICIES, f"it is an option of policies, and {arguments.model} is a language model")
        train(arguments, config.of(LanguageConfig))
