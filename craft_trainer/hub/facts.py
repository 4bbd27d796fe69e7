"""Facts of a run, in a file beside its weights: what its card is made from, without the trainer."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Self

from craft_trainer.files import write_json

FACTS_FILE = "card.json"
SCHEMA = 2


@dataclass(frozen=True)
class Source:
    """A model or dataset that was used: its ``name``, and the Hub repository that this is, if it is one."""

    name: str
    repo: str | None = None

    @classmethod
    def of(cls, place: str | Path | None) -> Self | None:
        """``place`` as strangers may read it: of an absolute path the last part, the rest as it is."""
        if place is None or str(place) == "":
            return None
        path, (repo, _, revision) = Path(place), str(place).partition("@")
        is_folder = path.exists() or repo.count("/") != 1 or path.is_absolute()
        is_folder |= path.parent.exists() and not revision
        return cls(path.name if path.is_absolute() else str(place), None if is_folder else repo)


@dataclass(frozen=True)
class Teacher:
    """A checkpoint that made ``anchors`` of a run, and ``weights``, the start of the digest of its weights."""

    source: Source
    anchors: int
    weights: str | None = None


@dataclass(frozen=True)
class Retained:
    """The layers and terms that were kept close to the teacher.

    Attributes:
        held: what the method holds, as the end of a sentence that begins with "a new task is learned".
        teachers: those that made the anchors, in their order.
        terms: retention term → its weight; {} of a method that holds none.
        units: what of the teacher the terms are fractions of.
        features: pairs of a module path and a pooling.
        groups: old task → number of anchors.
        fingerprint: of the anchor cache.
        source: where the anchors come from, in words; "" where that is not known.
    """

    held: str
    teachers: list[Teacher]
    terms: dict[str, float]
    units: list[str]
    features: list[list[str]]
    groups: dict[str, int]
    fingerprint: str | None = None
    source: str = ""


@dataclass(frozen=True)
class RunFacts:
    """The model that is trained, its start and its method; no token, no absolute path.

    Attributes:
        library: lerobot, transformers, peft or sentence-transformers; None for a model of the user's own.
        loader: the class that loads it; the type of a LeRobot policy.
        processor: the class that loads its processor or tokenizer, if that is saved beside it.
        adapter: whether it is a PEFT adapter of a LeRobot policy.
        base, dataset: what it was trained from, and on; None where that is not known.
        base_quantization: what bitsandbytes quantised the base of an adapter by when it was loaded; {} if it did not.
        settings: of the method; ``training``: of the Trainer.
        repo, revision: where the run was pushed to.
    """

    method: str
    library: str | None = None
    loader: str | None = None
    processor: str | None = None
    adapter: bool = False
    base: Source | None = None
    dataset: Source | None = None
    base_quantization: dict[str, bool | str] = field(default_factory=dict)
    retained: Retained | None = None
    settings: dict[str, str] = field(default_factory=dict)
    training: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    step: int = 0
    repo: str | None = None
    revision: str | None = None
    schema: int = SCHEMA

    @property
    def local_base(self) -> str | None:
        """A warning of an adapter whose base is no Hub repository: where the adapter is loaded, it is missing."""
        if self.base is None or self.base.repo is not None or not (self.adapter or self.library == "peft"):
            return None
        return (
            f"the base of this adapter, {self.base.name}, is a folder of this machine, so nobody else can load the "
            "adapter: push the base, and put its repository into base_model_name_or_path of adapter_config.json"
        )

    def write(self, folder: Path) -> None:
        """Into ``folder``."""
        write_json(folder / FACTS_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Those in ``folder``; FileNotFoundError without them, ValueError if damaged or of another version."""
        file = folder / FACTS_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{folder} holds no {FACTS_FILE}: it is not the output_dir of a finished run")
        try:
            content = json.loads(file.read_text("utf-8"))
            known = {one.name for one in fields(cls)}
            if content["schema"] != SCHEMA or set(content) != known:
                raise ValueError(f"schema {content['schema']}")
            found = content["retained"]
            made = [Teacher(**one | {"source": Source(**one["source"])}) for one in (found or {}).get("teachers", [])]
            retained = found and Retained(**found | {"teachers": made})
            sources = {name: content[name] and Source(**content[name]) for name in ("base", "dataset")}
            return cls(**content | sources | {"retained": retained})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file} is not of this version ({error}): push with the one that wrote it") from error
