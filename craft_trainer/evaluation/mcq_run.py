"""One checkpoint or two on the same questions: the document that ``craft-trainer mcq`` writes."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from craft_trainer.evaluation.choices.opening import open_choices
from craft_trainer.evaluation.mcq import McqSettings, encode_all, score_questions
from craft_trainer.evaluation.metrics.mcq_comparison.paired import compare_items
from craft_trainer.evaluation.progress import ProgressFile
from craft_trainer.evaluation.question_rows import Refused, listed
from craft_trainer.evaluation.questions import Questions
from craft_trainer.files import checked, require_result_of, write_json
from craft_trainer.models.base import weights_digest
from craft_trainer.models.configuration import configuration_digest, saved_digest
from craft_trainer.progress import progress
from craft_trainer.report.wording import shortened

SCHEMA = 1
FIRST = ("accuracy", "accuracy_per_char", "accuracy_per_byte", "accuracy_per_token", "accuracy_pmi", "margin_gold")
LONGEST = 36  # characters of a model's name


@dataclass(frozen=True, kw_only=True)
class McqRun:
    """The questions, the settings, and the place of the result.

    Attributes:
        questions: what is asked.
        settings: how.
        output: the JSON file; what is done so far is kept beside it, and a run that was ended goes on from it.
        skip_bad: leave out questions that a model cannot take (too long, an image for a model of text).
        dtype: of the weights, as saved by default.
        device: where to run, the first accelerator by default.
        quantization: of the weights, 4bit or 8bit; as saved by default, or as an adapter's base was in its training.
        seed: of the bootstrap of the comparison.
    """

    questions: Questions
    settings: McqSettings
    output: Path
    skip_bad: bool = False
    dtype: str | None = None
    device: str | None = None
    quantization: str | None = None
    seed: int = 0

    def progress_path(self, number: int) -> Path:
        """The file of unfinished results of the model with this number."""
        return self.output.with_name(f"{self.output.name}.partial{number + 1}.jsonl")


def evaluate_checkpoints(names: Sequence[str], run: McqRun) -> dict[str, Any]:
    """Score one checkpoint, or two and compare them; write the document to ``run.output`` and return it.

    Raises:
        ValueError: a model cannot take a question, and ``skip_bad`` is off; or no question is left; or ``run.output``
            is a folder, or the result of other models or questions.
    """
    if run.output.is_dir():
        raise ValueError(f"{run.output} is a folder: name the JSON file for the result")
    compare = names[1] if len(names) > 1 else None
    require_result_of(run.output, {"model": names[0], "compare": compare, "data": run.questions.source})
    parts: list[dict[str, Any]] = []
    refused = [asdict(one) | {"model": None} for one in run.questions.refused]
    for number, name in enumerate(names):
        part, left_out = _evaluate(name, number, run)
        parts.append(part)
        refused += [asdict(one) | {"model": name} for one in left_out]
    document = {
        "schema": SCHEMA,
        **parts[0],
        "data": run.questions.source,
        "settings": run.settings.decisive(),
        "refused": refused,
    }
    if len(parts) == 2:
        document |= {
            "compare": parts[1],
            "comparison": asdict(compare_items(*(part["items"] for part in parts), seed=run.seed)),
        }
    write_json(run.output, checked(document))
    for number in range(len(names)):
        run.progress_path(number).unlink(missing_ok=True)
    return document


def _evaluate(name: str, number: int, run: McqRun) -> tuple[dict[str, Any], list[Refused]]:
    """One model's part of the document, and the questions it cannot take."""
    model = open_choices(name, dtype=run.dtype, device=run.device, quantization=run.quantization)
    encoded = encode_all(model, run.questions.items, run.settings.style)
    if encoded.refused and not run.skip_bad:
        head = f"{name} cannot take {len(encoded.refused)} of the questions:"
        raise ValueError("\n".join([head, *listed(encoded.refused), "leave them out with --on_bad_row skip"]))
    belongs_to = {
        "weights": weights_digest(model.network),
        "configuration": _configuration(model.network),
        "processor": saved_digest(getattr(model, "processor", model.chat_templates)),
        "versions": {part: version(part) for part in ("craft-trainer", "torch", "transformers", "tokenizers")},
        "questions": encoded.digest(run.settings),
        "dtype": str(model.dtype),
        "data": run.questions.source,
        "rows": [question.row for question in encoded.questions],
    }
    kept = ProgressFile(run.progress_path(number), belongs_to)
    try:
        with progress(total=len(encoded.tokens), desc=f"mcq {name}", unit="question") as bar:
            scored = score_questions(model, encoded, run.settings, progress=kept, on_done=bar.update)
    except (KeyboardInterrupt, OSError) as error:
        error.add_note(f"{run.progress_path(number)} has what is done: the same command goes on from there")
        raise
    if scored["method"] == "separate" and model.method != "separate" and run.settings.method == "auto":
        tqdm.write(f"{name}: {model.method} passes do not agree with separate ones, so every choice had its own pass")
    del model
    gc.collect()
    return {"model": name, "fingerprint": belongs_to["weights"], **scored}, encoded.refused


def _configuration(network: Any) -> str:
    """Digest what the configurations of a model, or policy, and of its adapters say."""
    adapters = {
        name: {key: sorted(value) if isinstance(value, set) else value for key, value in adapter.to_dict().items()}
        for name, adapter in getattr(network, "peft_config", {}).items()
    }
    return configuration_digest({"model": repr(network.config), "adapters": adapters})


def table(document: Mapping[str, Any]) -> str:
    """A line for each metric, one column for each model, and what may be concluded of the two."""
    parts = [document, *([document["compare"]] if "compare" in document else [])]
    names = [shortened(str(part["model"]), LONGEST) for part in parts]
    widths = [max(10, len(name)) for name in names]
    metrics = [*FIRST, *(name for name in parts[0]["metrics"] if name not in FIRST)]
    lines = [f"{'':<20}" + "  ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))]
    for name in metrics:
        values = [part["metrics"].get(name) for part in parts]
        if None in values:
            continue
        written = [str(value) if isinstance(value, int) else f"{value:.4g}" for value in values]
        cells = [f"{value:>{width}}" for value, width in zip(written, widths, strict=True)]
        lines.append(f"{name:<20}" + "  ".join(cells))
    choices = [len(item["log_likelihoods"]) for item in document["items"]]
    if choices:
        guessing = sum(1 / number for number in choices) / len(choices)
        lines.append(f"\nguessing has accuracy {guessing:.3g} on these questions")
    if document["refused"]:
        num_refused = len({one["row"] for one in document["refused"]})
        lines.append(f"\n{num_refused} questions were left out: see `refused` in the result")
    unclean = [sum(not item["boundary_ok"] for item in part["items"]) for part in parts]
    if any(unclean):
        lines.append(f"\nprompt and choice share a token in {max(unclean)} questions: see `boundary_ok`")
    if "comparison" in document:
        both = document["comparison"]["num_items"]
        if any(part["num_items"] != both for part in parts):
            lines.append(
                f"\neach column is over other questions; the comparison is over the {both} questions that both take"
            )
        lines.append(f"\n{document['comparison']['conclusion']}")
    return "\n".join(lines)
