"""``craft-trainer mcq``: multiple choice by likelihood, for one checkpoint or two."""

from dataclasses import dataclass
from pathlib import Path

from craft_trainer.options import option, pairs_or_json, refuse_idle, require_at_least

PLACES = ("model", "compare", "data")
FILES = ("output",)
EXAMPLE = "craft-trainer mcq --model outputs/teacher --compare outputs/craft --data questions.jsonl --output mcq.json"


@dataclass
class McqArguments:
    """The checkpoints, the questions, and the way they are asked."""

    model: str = option(
        "a folder or Hub repository (org/name, org/name@revision): causal LM, vision-language model, PEFT adapter, "
        "PI0-FAST or SmolVLA policy"
    )
    data: str = option("JSON lines, the folder of a dataset, or a dataset of the Hub")
    output: str = option("JSON file for the result; what is done is kept beside it until then", "mcq.json")
    compare: str | None = option("a second checkpoint on the same questions; differences are compare − model", None)
    split: str | None = option("of a dataset, or a part, e.g. test[:1000]; by default its only one", None)
    data_revision: str | None = option("branch, tag or commit of a dataset of the Hub; by default main", None)
    data_config: str | None = option("configuration of a dataset that has several", None)
    columns: dict | str | None = option(  # type: ignore[type-arg]  # argparse wants it bare
        "our names to those of the data: question=prompt,answer_index=gold (or JSON)", None
    )
    on_bad_row: str = option("error, or skip: leave bad rows out and list them in the result", "error")
    limit: int | None = option("only so many questions, from the start; by default all", None)
    template: str | None = option(
        "prompt with {question}, {image}, {choices}; by default lm-evaluation-harness's", None
    )
    delimiter: str = option("what stands between prompt and choice", " ")
    answers: str = option("text: score the choices; letters: score A, B, C … of a template with {choices}", "text")
    chat: bool = option("put the prompt into the tokenizer's chat template", False)
    pmi: bool = option("score the choices without their question as well, for accuracy_pmi", True)
    method: str = option("auto, packed, prefix or separate; see docs/mcq.md", "auto")
    batch_tokens: int = option("tokens of one forward pass, padding included; fewer take less memory", 1024)
    dtype: str | None = option("float32, bfloat16, …; by default as the weights were saved", None)
    quantization: str | None = option(
        "of the weights of language models, by bitsandbytes: 4bit or 8bit; by default as saved, or as the base of an "
        "adapter was when that was trained",
        None,
    )
    device: str | None = option("cpu, cuda, …; by default the first accelerator", None)
    seed: int = option("of the bootstrap intervals of a comparison", 0)

    def __post_init__(self) -> None:
        self.columns = pairs_or_json("columns", self.columns)
        require_at_least(self, 0, ["seed"])
        if self.compare is None:
            refuse_idle(self, ["seed"], "it is of the bootstrap of a comparison, and compare is not given")
        if self.chat:
            refuse_idle(self, ["delimiter"], "chat puts the choice behind the chat template, with nothing between")


def run(arguments: McqArguments) -> None:
    """Score, compare, write the document, print what it says."""
    from craft_trainer.evaluation.mcq import McqSettings
    from craft_trainer.evaluation.mcq_run import McqRun, evaluate_checkpoints, table
    from craft_trainer.evaluation.prompts import TEMPLATE, PromptStyle
    from craft_trainer.evaluation.questions import read_questions

    style = PromptStyle(
        template=(TEMPLATE if arguments.template is None else arguments.template).replace("\\n", "\n"),
        delimiter=arguments.delimiter.replace("\\n", "\n"),
        answers=arguments.answers,  # type: ignore[arg-type]  # checked there
        chat=arguments.chat,
    )
    settings = McqSettings(style, arguments.pmi, arguments.batch_tokens, arguments.method)
    questions = read_questions(
        arguments.data,
        split=arguments.split,
        columns=arguments.columns,  # type: ignore[arg-type]  # a mapping since __post_init__
        on_bad_row=arguments.on_bad_row,  # type: ignore[arg-type]  # checked there
        limit=arguments.limit,
        revision=arguments.data_revision,
        config=arguments.data_config,
    )
    job = McqRun(
        questions=questions,
        settings=settings,
        output=Path(arguments.output),
        skip_bad=arguments.on_bad_row == "skip",
        dtype=arguments.dtype,
        device=arguments.device,
        quantization=arguments.quantization,
        seed=arguments.seed,
    )
    document = evaluate_checkpoints([arguments.model, *([arguments.compare] if arguments.compare else [])], job)
    print(table(document))
    print(f"\nall of it: {arguments.output}")
