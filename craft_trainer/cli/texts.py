"""The options of commands that read texts: which dataset, which columns, how long, what is learned."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from craft_trainer.options import option, pairs_or_json

if TYPE_CHECKING:
    from craft_trainer.language.checkpoints import Checkpoint
    from craft_trainer.language.encoding import EncodingSettings
    from craft_trainer.language.samples import TextSamples
    from craft_trainer.language.source import TextSource

COLUMNS_HELP = (
    "our names (text, prompt, completion, messages, tools, documents, chat_template_kwargs, image, images, group) to "
    "those of the data: text=content (or JSON)"
)


@dataclass(kw_only=True)
class TextArguments:
    """The texts, and how they become samples."""

    heading = "language and vision-language models"
    dataset: str | None = option(
        "JSON lines, a folder, or a dataset of the Hub (org/name, org/name@revision), with a column text, columns "
        "prompt and completion, or a column messages; image or images for a vision-language model"
    )
    dataset_config: str | None = option("configuration of a dataset that has several", None)
    split: str | None = option("of a dataset, or a part, e.g. train[:1000]; by default train, or the only one", None)
    columns: dict | str | None = option(COLUMNS_HELP, None)  # type: ignore[type-arg]  # argparse wants it bare
    max_length: int = option("tokens of a sample at most, the rest is cut off (and counted); 0 for no limit", 1024)
    completion_only_loss: bool = option("of a prompt with its completion learn the completion alone", True)
    assistant_only_loss: bool | None = option(
        "of messages learn the assistant's tokens alone; by default where the chat template marks them "
        "({% generation %}), and every token where it does not",
        None,
    )
    chat: bool = option(
        "put prompts that are text into the model's chat template: the prompt is what the user says, the completion "
        "what the assistant answers",
        False,
    )
    on_bad_row: str = option("error, or skip: leave bad rows out and count them", "error")
    dataset_num_proc: int | None = option("processes that turn texts into tokens; by default this one alone", None)

    def __post_init__(self) -> None:
        self.columns = pairs_or_json("columns", self.columns)

    @property
    def encoding(self) -> "EncodingSettings":
        """Gather how texts become tokens."""
        from craft_trainer.language.encoding import EncodingSettings

        return EncodingSettings(self.max_length or None, self.completion_only_loss, self.assistant_only_loss)

    def open_texts(self, checkpoint: "Checkpoint") -> "TextSamples":
        """Open the dataset for a model."""
        return opened(self.text_source(), checkpoint, num_proc=self.dataset_num_proc)

    def text_source(self, group_column: str | None = None) -> "TextSource":
        """Gather the dataset and how it is read."""
        from craft_trainer.language.source import TextSource

        assert self.dataset is not None
        assert isinstance(self.columns, dict)
        return TextSource(
            self.dataset,
            self.dataset_config,
            self.split,
            self.columns,
            self.encoding,
            group_column,
            self.chat,
            self.on_bad_row,
        )


def opened(source: "TextSource", checkpoint: "Checkpoint", num_proc: int | None = None) -> "TextSamples":
    """Open ``source`` for a model.

    Raises:
        ValueError: what the assistant says alone is to be learned, and the data does not say it, or prompts are to be
            learned as well.
    """
    samples, settings = source.open(checkpoint, num_proc=num_proc), source.settings
    if settings.assistant_only and samples.format == "text":
        raise ValueError(
            f"assistant_only_loss needs messages, or prompts with completions: of the texts of {samples.place} "
            "nobody says what the assistant wrote. Leave it out to learn every token"
        )
    if settings.assistant_only and samples.format == "prompt" and not settings.completion_only:
        raise ValueError(
            "assistant_only_loss has no effect here: completion_only_loss is false, so prompts are learned as well. "
            "Leave one of them out"
        )
    return samples
