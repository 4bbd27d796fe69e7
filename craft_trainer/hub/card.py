"""The card of a run on the Hub: what it is, from what, retained by what, what it kept, how it is loaded."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from craft_trainer.files import write_atomically
from craft_trainer.hub import readme
from craft_trainer.hub.facts import Retained, RunFacts, Source, Teacher
from craft_trainer.hub.run_folder import HISTORIES
from craft_trainer.report.page import write_success_figure
from craft_trainer.report.results import Results, load_results, method_label
from craft_trainer.report.run import CRAFT, teachers_scale
from craft_trainer.report.tables import Table, format_table
from craft_trainer.report.wording import Markdown, code, in_markdown

RESULTS_FILE = "results.json"
FIGURE_FILE = "figures/success.png"
TAGS = ["craft_trainer", "continual-learning"]
SHOWN = ("retention_loss", "epsilon", "multiplier")  # of the last retention pass
TAIL_BYTES = 65_536
HERE = "."  # where a run that was never pushed is

# how it is loaded by the library it is a checkpoint of, without craft_trainer
LEROBOT = """\
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

place = {place!r}
config = PreTrainedConfig.from_pretrained(place{revision})
policy = get_policy_class(config.type).from_pretrained(place{revision})
preprocessor, postprocessor = make_pre_post_processors(config, pretrained_path=place{pretrained_revision})
"""
LEROBOT_ADAPTER = """\
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from peft import PeftConfig, PeftModel

place = {place!r}
config = PreTrainedConfig.from_pretrained(place{revision})
adapter = PeftConfig.from_pretrained(place{revision})
kind, name = get_policy_class(config.type), adapter.base_model_name_or_path
base = kind.from_pretrained(name, config=config, revision=adapter.revision)
policy = PeftModel.from_pretrained(base, place{revision})
preprocessor, postprocessor = make_pre_post_processors(config, pretrained_path=place{pretrained_revision})
"""
LIBRARY = """\
from {library} import {names}

place = {place!r}
model = {loader}.from_pretrained(place{revision})
"""
PROCESSOR = """\
{name} = {processor}.from_pretrained(place{revision})
"""
SENTENCES = """\
from sentence_transformers import {loader}

place = {place!r}
model = {loader}(place{revision})
"""
ADAPTER = """\
from peft import PeftConfig, PeftModel
from transformers import {names}

place = {place!r}
base = {loader}.from_pretrained(PeftConfig.from_pretrained(place{revision}).base_model_name_or_path{quantized})
model = PeftModel.from_pretrained(base, place{revision})
"""


def write_card(
    folder: Path,
    facts: RunFacts,
    *,
    before: str | None,
    history: Path | None = None,
    results: Results | None = None,
    extra: Mapping[str, Any] | None = None,
) -> bool:
    """Write the README of the run in ``folder``, and its facts; False if there is a README by hand, which stays.

    ``before`` is the README before anything of this save was written. ``history`` is ``lambda_history.csv``, by default
    that in ``folder``. The figure of ``results`` is in the folder already. ``extra`` is more for the header.
    """
    facts.write(folder)
    last = last_pass(history or folder / HISTORIES[0], facts.step)
    return readme.write(folder, metadata(facts, extra or {}), body(facts, last, results, folder.name), before)


def add_results(folder: Path, given: Path | None) -> Results | None:
    """The results to show: ``given``, copied into ``folder`` with a figure, or those there if no weights are newer."""
    own = folder / RESULTS_FILE
    if given is None and not own.is_file():
        return None
    if given is None and any(own.stat().st_mtime < file.stat().st_mtime for file in folder.glob("*.safetensors")):
        raise ValueError(f"{own} is older than the weights beside it: name newer ones with --results, or delete it")
    results = load_results(given or own)
    if given is not None and given.resolve() != own.resolve():
        write_atomically(own, given.read_bytes())
    (folder / FIGURE_FILE).parent.mkdir(exist_ok=True)
    write_success_figure(results, folder / FIGURE_FILE)
    return results


def last_pass(history: Path, step: int) -> dict[str, str] | None:
    """The last line of ``lambda_history.csv`` up to optimizer step ``step``, or None where there is none.

    The file is read from its end: every save looks for this, also after a million steps.

    Raises:
        ValueError: a line has no step, or the last one lacks what a card shows; the error names the file and the line.
    """
    if not history.is_file():
        return None
    block, found = TAIL_BYTES, list[dict[str, str]]()
    with history.open("rb") as file:
        names = file.readline().decode("utf-8", "replace").strip().split(",")
        begin, end = file.tell(), file.seek(0, os.SEEK_END)
        start = end
        while not found and start > begin:
            start = max(begin, end - block)
            file.seek(start)
            if start > begin:
                file.readline()  # the rest of a line
            lines = [line.decode("utf-8", "replace").strip() for line in file]  # what is replaced is no number
            rows = [dict(zip(names, line.split(","), strict=False)) for line in lines]
            found = [row for row in rows if _number(row, "step", history) <= step]
            block *= 16
    for name in SHOWN if found else ():
        _number(found[-1], name, history)
    return found[-1] if found else None


def _number(row: Mapping[str, str], column: str, history: Path) -> float:
    try:
        return float(row.get(column) or "")
    except ValueError as error:
        line = ",".join(row.values())
        raise ValueError(f"{history}: the line {line!r} has no number for {column}: remove it") from error


def metadata(facts: RunFacts, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The header of the card."""
    robotics = ["robotics", facts.loader] if facts.library == "lerobot" else []
    tags = [tag for tag in (*TAGS, facts.method, *robotics, *_words(extra.get("tags"))) if tag]
    found = {
        "library_name": facts.library or "craft_trainer",
        "pipeline_tag": "robotics" if facts.library == "lerobot" else None,
        "base_model": facts.base and facts.base.repo,
        "datasets": [facts.dataset.repo] if facts.dataset and facts.dataset.repo else None,
        "tags": list(dict.fromkeys(tags)),
    }
    given = {key: value for key, value in extra.items() if key != "tags" and value is not None}
    return {key: value for key, value in (found | given).items() if value is not None}


def body(facts: RunFacts, last: Mapping[str, str] | None, results: Results | None, name: str) -> str:
    """The text of the card, in Markdown."""
    title = (facts.repo or name).rpartition("/")[2]
    parts = (_lead(facts), _made(facts), _end(last, facts), _kept(results), _how_to_load(facts))
    return "\n".join([f"# {in_markdown(title)}", "", *(line for part in parts for line in part)])


def _lead(facts: RunFacts) -> Iterator[str]:
    method = in_markdown(method_label(facts.method))
    if facts.retained is None:
        yield f"Trained with craft_trainer by the method {method}, nothing retained: its old tasks were not protected."
    else:
        yield (f"Fine-tuned with craft_trainer by the method {method}: a new task is learned {facts.retained.held}.")
    yield ""


def _made(facts: RunFacts) -> Iterator[str]:
    rows = {"base model": _linked(facts.base), "dataset": _linked(facts.dataset, "datasets/"), "method": facts.method}
    rows |= {} if facts.retained is None else _anchors(facts.retained)
    rows |= {"optimizer steps": f"{facts.step}"}
    rows |= {code(key): value for key, value in (facts.training | facts.settings).items()}
    rows |= {"made with": ", ".join(f"{name} {version}" for name, version in facts.versions.items())}
    cells = [(key, value) for key, value in rows.items() if value]
    yield from (Table("", ("", ""), cells, numbers=False).markdown(), "")


def _anchors(retained: Retained) -> dict[str, str]:
    features = ", ".join(f"{code(path)} ({in_markdown(pooling)})" for path, pooling in retained.features)
    return _teachers(retained.teachers) | {
        "retention terms × weight": ", ".join(f"{term} × {weight:g}" for term, weight in retained.terms.items()),
        "hidden features (pooling)": Markdown(features or "none"),
        "anchors": "; ".join(f"{count} of {group}" for group, count in retained.groups.items()),
        "where they come from": retained.source,
        "anchor cache": Markdown(f"fingerprint {code(retained.fingerprint[:12])}")
        if retained.fingerprint
        else "none, the base is the teacher",
    }


def _teachers(teachers: Sequence[Teacher]) -> dict[str, str]:
    """A row for each teacher, with its share of the anchors if there are several."""
    several = len(teachers) > 1
    return {
        f"teacher {number}, of {teacher.anchors} anchors" if several else "teacher": Markdown(
            _linked(teacher.source) + (f", weights {code(teacher.weights)}" if teacher.weights else "")
        )
        for number, teacher in enumerate(teachers, start=1)
    }


def _end(last: Mapping[str, str] | None, facts: RunFacts) -> Iterator[str]:
    """The last pass; a baseline has no constraint, and its loss is another."""
    if last is None or facts.method != CRAFT:
        return
    scale = teachers_scale(facts.retained.units if facts.retained else [])
    shown = {name: f"{float(last[name]):.4g}" for name in SHOWN}
    yield from ("## The constraint at the end", "")
    yield from ("| L_retain | ε | λ |", "|---:|---:|---:|", f"| {' | '.join(shown.values())} |", "")
    yield (
        f"At step {last['step']}. L_retain and ε are in units of {scale}; `{HISTORIES[0]}` has every retention pass."
    )
    yield ""


def _kept(results: Results | None) -> Iterator[str]:
    if results is None:
        return
    yield from ("## What was kept, what was learned", "", format_table(results, "markdown"), "")
    yield from (f"![Success per task and method]({FIGURE_FILE})", "")
    yield from (f"Closed-loop rollouts; all of it is in `{RESULTS_FILE}`.", "")


def _how_to_load(facts: RunFacts) -> Iterator[str]:
    code = snippet(facts, facts.repo or HERE)
    if code is not None:
        yield from ("## How to load it", "", "```python", code.strip(), "```")


def _words(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else list(given or [])


def _linked(source: Source | None, kind: str = "") -> Markdown:
    if source is None:
        return Markdown("")
    address = f"https://huggingface.co/{kind}{quote(source.repo or '')}"
    linked = f"[{in_markdown(source.name)}]({address})"
    return Markdown(linked if source.repo else f"{code(source.name)}, not on the Hub")


def snippet(facts: RunFacts, place: str) -> str | None:
    """Python that loads the run from ``place``, a repository or a folder; None for a model of the user's own."""
    if facts.loader is None:
        return None
    revision = f", revision={facts.revision!r}" if facts.revision else ""
    filled = {"place": place, "revision": revision, "loader": facts.loader}
    if facts.library == "lerobot":
        code = LEROBOT_ADAPTER if facts.adapter else LEROBOT
        return code.format(**filled, pretrained_revision=revision.replace("revision", "pretrained_revision"))
    if facts.library == "sentence-transformers":  # with its tokenizer
        return SENTENCES.format(**filled)
    settings = ", ".join(f"{name}={value!r}" for name, value in facts.base_quantization.items())
    filled["quantized"] = f", quantization_config=BitsAndBytesConfig({settings})" if settings else ""
    used = (facts.loader, facts.processor, "BitsAndBytesConfig" if settings else None)
    names = ", ".join(sorted(name for name in used if name))
    head = ADAPTER if facts.library == "peft" else LIBRARY
    code = head.format(**filled, library="transformers", names=names)
    if facts.processor is not None:
        name = "tokenizer" if facts.processor == "AutoTokenizer" else "processor"
        code += PROCESSOR.format(name=name, processor=facts.processor, revision=revision)
    return code
