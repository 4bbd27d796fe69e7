"""The origin of texts and their reading: what anchors remember of them."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.provenance import BUILD
from craft_trainer.anchors.teacher_pass import raw_inputs
from craft_trainer.language.checkpoints import Checkpoint
from craft_trainer.language.encoding import EncodingSettings
from craft_trainer.language.samples import TextSamples
from craft_trainer.models.families import as_anchored_model

READING = "reading"  # under which a cache's provenance has it
TEACHER_DTYPE = "teacher_dtype"  # and this
QUANTIZATION = "quantization"  # and this, of a teacher that was quantised when it was loaded
TOKENS = "input/input_ids"  # a column that caches of language models have


@dataclass(frozen=True)
class TextSource:
    """A dataset of texts and how its rows become samples; the fields are those of :meth:`TextSamples.open`."""

    dataset: str
    config: str | None = None
    split: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    settings: EncodingSettings = field(default_factory=EncodingSettings)
    group_column: str | None = None
    chat: bool = False
    on_bad_row: str = "error"
    streamed: int = 0
    seed: int = 0

    def open(self, checkpoint: Checkpoint, *, num_proc: int | None = None) -> TextSamples:
        """Its samples for the model of ``checkpoint``."""
        options = {name: value for name, value in vars(self).items() if name != "dataset"}
        return TextSamples.open(self.dataset, checkpoint.model, checkpoint.processor, **options, num_proc=num_proc)

    def to_json(self) -> str:
        """The source without its place."""
        return json.dumps({key: value for key, value in asdict(self).items() if key != "dataset"})

    @classmethod
    def from_json(cls, dataset: str, text: str) -> "TextSource":
        """Read what :meth:`to_json` wrote, for the data that is at ``dataset`` now."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields | {"dataset": dataset, "settings": EncodingSettings(**fields["settings"])})


def holds_texts(cache: AnchorCache) -> bool:
    """True if the anchors are those of a language or vision-language model."""
    return READING in cache.provenance.data or TOKENS in cache.dataset.column_names


def teacher_dtype(cache: AnchorCache) -> str | None:
    """Of the teacher's weights; None if the cache does not say, having been built in Python."""
    dtype = cache.provenance.data.get(TEACHER_DTYPE)
    return None if dtype is None else str(dtype)


def teacher_quantization(cache: AnchorCache) -> str | None:
    """Quantisation of the teacher's weights when it was loaded; None if they were as saved."""
    quantization = cache.provenance.data.get(QUANTIZATION)
    return None if quantization is None else str(quantization)


def followed(cache: AnchorCache, checkpoint: Checkpoint, dataset: str | None = None) -> AnchorCache:
    """``cache`` with a way to follow its references into the texts they name, which are now at ``dataset``.

    Raises:
        ValueError: the texts, or what the tokenizer makes of them, are not those that the cache was made from; or it
            refers to texts but does not say how to read them, or holds its inputs, and ``dataset`` is given.
    """
    if cache.holds_inputs(dataset):
        return cache
    reading, named = cache.provenance.data.get(READING), str(cache.provenance.data["dataset"])
    if reading is None:
        raise ValueError(f"{cache.folder} refers to {named} but does not say how to read it: rebuild it with {BUILD}")
    samples = TextSource.from_json(dataset or named, str(reading)).open(checkpoint)
    cache.check_data(samples.fingerprint())
    return cache.following(raw_inputs(as_anchored_model(checkpoint.model), samples.batch))
