"""A dataset of texts as samples of a model: encoded by a ``datasets`` map job, padded when they meet in a batch."""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from craft_trainer.evaluation.question_rows import BadRowError
from craft_trainer.language.chat import Chat
from craft_trainer.language.encoding import UNLEARNED, Encoded, EncodingSettings, TextEncoder, collate
from craft_trainer.language.examples import Columns, ExampleReader, bad_rows_text
from craft_trainer.language.images import ImageEncoder, placeholder_of
from craft_trainer.language.rows import Rows, image_digest, open_rows
from craft_trainer.models.configuration import configuration_digest, image_settings, saved_digest
from craft_trainer.models.embeddings import Embeddings
from craft_trainer.models.general import base_model

ENCODING = 4  # raised when the same row becomes other tokens, so that nothing old is read from the datasets' cache
FEATURES = datasets.Features(
    {name: datasets.List(datasets.Value("int32")) for name in ("input_ids", "labels")}
    | {name: datasets.Value("string") for name in ("images", "group", "reason")}
    | {name: datasets.Value("int64") for name in ("index", "num_tokens", "num_learned")}
    | {"is_cut": datasets.Value("bool")}
)


class TextSamples(Dataset[dict[str, Any]]):
    """Samples that Trainer and the anchors read.

    >>> samples = TextSamples.open("texts.jsonl", model, tokenizer)  # doctest: +SKIP
    >>> CraftTrainer(model, config, train_dataset=samples, data_collator=samples.collate)  # doctest: +SKIP

    Attributes:
        groups: the old task of every sample: what its row says, or the name of the file or dataset.
        num_skipped: bad rows that were left out.
        format: ``text``, ``prompt`` or ``messages``.
        source: the name that the data was opened by, for the card of a run.
    """

    def __init__(self, encoded: datasets.Dataset, reader: ExampleReader, encoder: TextEncoder, source: str) -> None:
        self._reader, self._encoder, self.source = reader, encoder, source
        bad = [(index, reason) for index, reason in enumerate(encoded["reason"]) if reason]
        self.bad_rows = [(reader.rows.number(encoded[index]["index"]), reason) for index, reason in bad]
        self.num_skipped = len(bad)
        good = [index for index, reason in enumerate(encoded["reason"]) if not reason] if bad else []
        self._samples = encoded.select(good) if bad else encoded
        self.format = reader.columns.format
        self.place = reader.rows.place
        self.revision = reader.rows.revision
        self.groups: list[str] = list(self._samples["group"])

    @classmethod
    def open(
        cls,
        name: str,
        model: Any,
        processor: Any,
        *,
        config: str | None = None,
        split: str | None = None,
        columns: Mapping[str, str] | None = None,
        settings: EncodingSettings | None = None,
        group_column: str | None = None,
        chat: bool = False,
        on_bad_row: str = "error",
        streamed: int = 0,
        seed: int = 0,
        num_proc: int | None = None,
    ) -> "TextSamples":
        """The samples in ``name``.

        Args:
            name: a file of JSON lines, a folder, or a dataset of the Hub; see :func:`open_rows`.
            model: what is to read them; of it only its configuration and its embeddings.
            processor: its tokenizer, or the processor of a vision-language model.
            columns: our names (``examples.FIELDS``: text, prompt, completion, messages, …) to those of the data.
            group_column: the column that says which old task a row belongs to.
            chat: a prompt that is text is what the user says, its completion what the assistant answers.
            streamed: rows of a dataset that are read as a stream, mixed by ``seed``; 0 downloads all of it.
            on_bad_row: ``error``, or ``skip``: leave them out and count them.
            num_proc: processes that encode.

        Raises:
            FileNotFoundError: there is no such data.
            ValueError: a row is bad (which one, and why), or all of them are.
        """
        if on_bad_row not in ("error", "skip"):
            raise ValueError(f"on_bad_row is {on_bad_row!r}: it must be error or skip")
        settings = settings or EncodingSettings()
        rows = open_rows(name, config=config, split=split, streamed=streamed, seed=seed)
        placeholder = placeholder_of(model, processor)
        chosen = Columns.of(rows, columns or {}, group=group_column, answers=True, chat=chat)
        if chosen.has_images and not placeholder:
            raise ValueError(f"{rows.place} has images, but the model sees none: give it a vision-language model")
        template = Chat(processor, placeholder)
        if chosen.format == "messages" or chat:
            _ = template.template  # there is one
        reader = ExampleReader(rows, chosen, template, placeholder)
        encoder = (ImageEncoder if placeholder else TextEncoder)(model, processor, template, settings)
        encoded = rows.source.map(
            _encoded,
            with_indices=True,
            fn_kwargs={"reader": reader, "encoder": encoder},
            remove_columns=rows.source.column_names,
            features=FEATURES,
            num_proc=num_proc,
            desc="tokens",
            new_fingerprint=_fingerprint(rows, chosen, model, processor, settings),
        )
        samples = cls(encoded, reader, encoder, name)
        if samples.bad_rows and (on_bad_row == "error" or not len(samples)):
            raise ValueError(bad_rows_text(rows.place, samples.bad_rows))
        samples.check_images()
        return samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``input_ids`` and ``labels`` of a sample; of one with images also the ``example`` that holds them."""
        sample = self._samples[int(index)]
        tokens = {key: sample[key] for key in ("input_ids", "labels")}
        if not isinstance(self._encoder, ImageEncoder):
            return tokens
        return tokens | {"example": self._reader.read(self._reader.rows.source[sample["index"]])}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of samples, of this dataset or of one opened alike: what the model's ``forward`` takes."""
        if not isinstance(self._encoder, ImageEncoder):
            return collate(samples, self._encoder.padding)
        examples = [sample["example"] for sample in samples]
        encoded = [Encoded(sample["input_ids"], sample["labels"], is_cut=False) for sample in samples]
        return self._encoder.batch(examples, encoded)

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The samples at ``rows``, collated."""
        return self.collate([self[row] for row in rows])

    @property
    def strata(self) -> list[tuple[str]]:
        """The group of every sample, over which a stratified selection spreads."""
        return [(group,) for group in self.groups]

    @property
    def lengths(self) -> list[int]:
        """Tokens of every sample."""
        return list(self._samples["num_tokens"])

    @property
    def num_cut(self) -> int:
        """Samples that were cut to ``max_length``."""
        return sum(self._samples["is_cut"])

    def report(self) -> str:
        """Count the samples, those that were cut or left out, and say what is learned of them."""
        lengths, learned = self.lengths, sum(self._samples["num_learned"])
        parts = [f"{len(self)} samples of {self.place}, {sum(lengths)} tokens (at most {max(lengths)} in one)"]
        parts.append(f"the loss is {self._encoder.learned(self.format)}: {learned} tokens")
        if self.num_cut:
            parts.append(f"{self.num_cut} samples were cut to max_length = {self._encoder.settings.max_length} tokens")
        if self.num_skipped:
            parts.append(f"{bad_rows_summary(self.bad_rows)} left out")
        return "; ".join(parts)

    def fingerprint(self) -> str:
        """SHA-256 of the tokens, labels and images of all samples, and of how their processor reads images."""
        digest = hashlib.sha256()
        if isinstance(self._encoder, ImageEncoder) and any(self._samples["images"]):
            digest.update(configuration_digest(image_settings(self._encoder.processor)).encode())
        for content in self._contents():
            digest.update(content)
        return digest.hexdigest()

    def num_in_common(self, others: "TextSamples") -> int:
        """How many of ``others`` are among these samples: the same tokens, labels and images."""
        own = {hashlib.sha256(content).digest() for content in self._contents()}
        return sum(hashlib.sha256(content).digest() in own for content in others._contents())

    def _contents(self) -> Iterator[bytes]:
        """Tokens, labels and images of every sample."""
        for table in self._samples.with_format("arrow").iter(batch_size=1000):
            tokens, labels = _arrays(table["input_ids"]), _arrays(table["labels"])
            for *numbers, images in zip(tokens, labels, table["images"].to_pylist(), strict=True):
                lists = [np.int64(len(one)).tobytes() + one.tobytes() for one in numbers]
                yield b"".join([*lists, images.encode()])

    def rows_in_common(self, inputs: datasets.Dataset, learned: Sequence[int] | None = None) -> list[int]:
        """The rows of ``inputs``, those of anchors, that have the tokens of one of these samples.

        Only the ``learned`` samples count, by default all. None is found among samples with images, whose pictures
        would have to be compared too.
        """
        if any(self._samples["images"]) or "input_ids" not in inputs.column_names:
            return []
        samples = self._samples if learned is None else self._samples.select(learned)
        own = {tuple(tokens) for tokens in samples["input_ids"]}
        pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)  # anchors of texts always have both
        anchors = (tuple(itertools.compress(tokens, mask)) for tokens, mask in pairs)
        return [row for row, tokens in enumerate(anchors) if tokens in own]

    def check_images(self) -> None:
        """Refuse, by a ValueError, samples some of which show something and some do not: no batch may be mixed."""
        shows = [bool(digest) for digest in self._samples["images"]]
        if len(set(shows)) == 2:
            odd = self._reader.rows.number(self._samples[shows.index(not shows[0])]["index"])
            less = "shows nothing" if shows[0] else "has an image"
            raise ValueError(
                f"{self.place}, row {odd}: it {less}, unlike those before it. Processors take no batch of both: "
                "make two datasets of them"
            )


def _arrays(column: pa.ChunkedArray) -> list[NDArray[np.int64]]:
    """The lists of ``column`` as arrays of 64 bits."""
    ends = np.cumsum(pc.list_value_length(column).to_numpy())
    return np.split(column.combine_chunks().flatten().to_numpy().astype(np.int64), ends[:-1])


def _encoded(raw: Mapping[str, Any], index: int, reader: ExampleReader, encoder: TextEncoder) -> dict[str, Any]:
    """The function of the map job."""
    sample: dict[str, Any] = {"index": index, "reason": "", "group": "", "images": "", "is_cut": False}
    try:
        example = reader.read(raw)
        made = encoder.encode(example)
    except BadRowError as reason:
        return sample | {"input_ids": [], "labels": [], "num_tokens": 0, "num_learned": 0, "reason": str(reason)}
    counts = {"num_tokens": len(made.input_ids), "num_learned": sum(label != UNLEARNED for label in made.labels)}
    found = {"group": example.group or named_after(reader.rows.place), "images": image_digest(example.images)}
    return sample | made._asdict() | counts | found


def named_after(place: str) -> str:
    """The group of rows that name none: joined with others, they stay one old task among several.

    >>> named_after("data/first_task.jsonl"), named_after("org/texts (train)")
    ('first_task', 'texts')
    """
    without_split = re.sub(r" \([^()]*\)$", "", place)
    return Path(without_split).name.removesuffix(".jsonl").removesuffix(".json")


def bad_rows_summary(bad_rows: Sequence[tuple[int, str]]) -> str:
    """``3 bad rows (the first is row 7: …)``"""
    (number, reason), count = bad_rows[0], len(bad_rows)
    return f"{count} bad row{'s' if count > 1 else ''} (the first is row {number}: {reason})"


def _fingerprint(rows: Rows, columns: Columns, model: Any, processor: Any, settings: EncodingSettings) -> str:
    """Digest what decides the tokens, for the cache of ``datasets``: rows, pictures, processor, and who reads them."""
    config = base_model(model).config
    content = [
        [ENCODING, *(version(name) for name in ("transformers", "tokenizers"))],
        [rows.source._fingerprint, rows.versions([columns.names["image"], columns.names["images"]])],
        [columns.format, dict(columns.names), columns.group, columns.chat],
        asdict(settings),
        [type(processor).__name__, saved_digest(processor)],
        [getattr(config, name, None) for name in ("model_type", "image_token_id", "video_token_id")],
        list(Embeddings.of(model)),
    ]
    return configuration_digest({"content": content})[:16]
