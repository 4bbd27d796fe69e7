"""The options that say where the anchors of a language model come from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from craft_trainer.cli.texts import TextArguments
from craft_trainer.options import option, pairs_or_json, require_at_least

if TYPE_CHECKING:
    from craft_trainer.language.source import TextSource

TEXT_SOURCES = ("dataset", "own_texts", "corpus")


@dataclass(kw_only=True)
class TextSourceArguments(TextArguments):
    """Choose the source of the texts."""

    heading = TextArguments.heading
    group_column: str | None = option(
        "of dataset: the column that says which old task a row belongs to (constraints per_group)", None
    )
    corpus: str | None = option(
        "any text for source corpus, which the model need not have learned: JSON lines, a folder, or a dataset of the "
        "Hub",
        None,
    )
    corpus_config: str | None = option("configuration of a corpus that has several", None)
    corpus_split: str | None = option("of the corpus; by default train, or the only one", None)
    corpus_columns: dict | str | None = option(  # type: ignore[type-arg]  # argparse wants it bare
        "of the corpus: our names to those of the data, as columns", None
    )
    streamed_rows: int = option(
        "of a dataset or corpus that is too large to download: so many rows are read as a stream, mixed by the seed, "
        "and anchors are chosen from them; 0 downloads all",
        0,
    )
    own_tokens: int = option("of own_texts: tokens at most", 128)
    own_temperature: float = option("of own_texts: 1 is the model's own distribution", 1.0)
    teacher_dtype: str = option("of a language model's weights: the same as dtype of train", "float32")
    quantization: str | None = option(
        "of a language model's weights, by bitsandbytes: 4bit or 8bit, the same as that of train", None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.corpus_columns = pairs_or_json("corpus_columns", self.corpus_columns)
        require_at_least(self, 0, ["streamed_rows"])
        require_at_least(self, 1, ["own_tokens"])

    def corpus_source(self) -> "TextSource":
        """Gather the corpus and how it is read."""
        from craft_trainer.language.source import TextSource

        assert self.corpus is not None
        assert isinstance(self.corpus_columns, dict)
        return TextSource(
            self.corpus,
            self.corpus_config,
            self.corpus_split,
            self.corpus_columns,
            self.encoding,
            on_bad_row=self.on_bad_row,
        )
