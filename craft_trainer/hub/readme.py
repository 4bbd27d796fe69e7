"""The README of a run or of an anchor cache: ours to write again, or written by hand and left alone."""

import hashlib
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from yaml import YAMLError

from craft_trainer.files import write_atomically

README = "README.md"
MARK = "<!-- Written by craft_trainer ({digest}). Change the text, and it is yours: it will not be written again. -->"
MARKED = re.compile(re.escape(MARK).replace(r"\{digest\}", "([0-9a-f]{12})"))
BY_LIBRARIES = (  # cards that others write without being asked
    "# Model Card for Model ID",  # PEFT
    "[sentence-transformers](https://www.SBERT.net)",
    "This model card has been generated automatically according to the information the Trainer had access to",
)
MADE_ANEW = ("library_name", "base_model", "datasets", "pipeline_tag")  # in the header; other keys stay


def is_by_hand(text: str) -> bool:
    """True if someone wrote or changed the text (not the header): it has no mark, or one that does not fit."""
    if any(sentence in text for sentence in BY_LIBRARIES):
        return False
    found = MARKED.search(text)
    return found is None or found[1] != _digest(_body(text))


def signed(metadata: dict[str, Any], body: str, before: str | None) -> str:
    """The whole README: ``metadata``, with what the header ``before`` had besides, the mark and ``body``."""
    kept = {} if before is None or any(sentence in before for sentence in BY_LIBRARIES) else _header(before)
    tags = list(dict.fromkeys([*metadata.get("tags", []), *(kept.get("tags") or [])]))
    merged = {key: value for key, value in kept.items() if key not in MADE_ANEW} | metadata | {"tags": tags}
    header = ModelCardData(**merged).to_yaml()
    mark = MARK.format(digest=_digest(body.strip()))
    return f"---\n{header}\n---\n\n{mark}\n\n{body.strip()}\n"


def text_of(folder: Path) -> str | None:
    """The README in ``folder``, or None."""
    file = folder / README
    return file.read_text("utf-8") if file.is_file() else None


def write(folder: Path, metadata: dict[str, Any], body: str, before: str | None) -> bool:
    """Write the README into ``folder``; False if the one there ``before`` is by hand, which is put back."""
    by_hand = before is not None and is_by_hand(before)
    text = before if by_hand and before is not None else signed(metadata, body, before)
    if text != text_of(folder):
        write_atomically(folder / README, text)
    return not by_hand


def renewed(text: str, there: str | None) -> str | None:
    """The README ``text`` as it takes the place of the one ``there``; None if that one is by hand, and stays."""
    if there is not None and is_by_hand(there):
        return None
    return text if there is None or is_by_hand(text) else signed(_header(text), _body(text), there)


def _header(text: str) -> dict[str, Any]:
    try:
        found = vars(ModelCard(text, ignore_metadata_errors=False).data)
        return {key: value for key, value in found.items() if value is not None}
    except (ValueError, YAMLError):
        return {}


def _body(text: str) -> str:
    """The text behind the header, without the mark."""
    return MARKED.sub("", re.sub(r"\A---\s*\n.*?\n---\s*\n", "", text, count=1, flags=re.DOTALL)).strip()


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:12]
