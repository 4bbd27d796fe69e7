"""``craft-trainer COMMAND``: find the command, run it, and say in one line what went wrong."""

import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from craft_trainer.cli.full_disk import room_left
from craft_trainer.cli.hints import nearest
from craft_trainer.cli.reader import is_unread, while_it_is_read
from craft_trainer.termination import Terminated, interruptible
from craft_trainer.version import __version__

COMMANDS = {
    "record": "record expert demonstrations of Meta-World tasks as a LeRobot dataset",
    "cache": "anchors: build them from a teacher, verify them, show what they hold, push and pull them",
    "train": "train a LeRobot policy, or a language or vision-language model, with or without anchors",
    "merge": "a teacher's weights moved towards a tuned checkpoint's, as far as L_retain ≤ ε allows",
    "loss": "the loss on demonstrations or texts, of two language models row by row, and L_retain on anchors",
    "rollout": "closed-loop success of policies, on Meta-World tasks or in LeRobot's own environments",
    "film": "policies side by side in one episode of Meta-World, as an animated picture",
    "push": "a finished run to the Hub, with its card",
    "mcq": "multiple choice by likelihood: what one checkpoint knows, or what another has forgotten",
    "mcq-from-demos": "multiple-choice questions about rendered Meta-World frames, answers from the simulator",
    "report": "one page about any number of results and training runs: HTML, Markdown or JSON",
    "compare": "plain fine-tuning beside CRaFT on your own policy and datasets, and the report",
    "demo": "the whole story: record, teacher, anchors, plain and CRaFT fine-tuning, rollouts, report",
    "suite": "experiments over streams, seeds, methods and budgets: run them unattended, make their tables",
    "dryrun": "three CRaFT steps on a few recorded frames, a check printed for every part",
    "bench": "what a step, an anchor cache and multiple choice cost, beside their floors and other libraries",
    "configs": "the YAML files that the documentation names, into a folder to use and to edit",
    "info": "versions, devices and what is installed",
}
GROUPS = {  # of commands: what a word after it is called, where the modules are, what the words mean, an example
    "cache": (
        "verb",
        "craft_trainer.cli.cache_",
        {
            "build": "what a policy or a language model makes of samples: features, and actions or tokens",
            "verify": "check every data file, and recompute some rows with the teacher",
            "info": "what a cache was made from, and its bytes per anchor",
            "join": "caches of one model's stages, as one of a fixed size",
            "relabel": "one checkpoint becomes the teacher of all anchors of a cache",
            "push": "upload a cache to the Hub, with its card",
            "pull": "download a cache from the Hub, and check it",
        },
        "craft-trainer cache info --cache outputs/anchors",
    ),
    "suite": (
        "verb",
        "craft_trainer.cli.suite_",
        {
            "run": "run the cells of a suite that have no result yet, and write a raw JSON file for each",
            "report": "write the tables and pictures of a page from raw results",
        },
        "craft-trainer suite run metaworld-2 --output outputs/metaworld-2 --jobs 2",
    ),
    "bench": (
        "benchmark",
        "craft_trainer.costs.",
        {
            "step": "an optimizer step: beside its floor, TorchJD's PCGrad and plain training; its memory",
            "run": "whole training runs, start-up included: plain beside CRaFT, and what each of them keeps",
            "cache": "anchors: building them, reading them, their bytes",
            "mcq": "multiple choice by likelihood: beside one forward pass per choice, and lm-evaluation-harness",
        },
        "craft-trainer bench step --repeats 7 --json outputs/step.json",
    ),
}
HELP = ("-h", "--help")
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # in a pipe
SETTING = re.compile(r"(?<![\w.-])([a-z]\w*)=([a-z]\w*)")  # as Python has it
TRACEBACK_VARIABLE = "CRAFT_TRAINER_TRACEBACK"
# errors whose message, without the traceback, tells a user what to change
MISTAKES = (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError)
OUTSIDE = ("wandb", "trackio", "safetensors")  # whose own errors are of use as well: no login, a full disk


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 1 failed, 2 not understood, 130 or 143 interrupted (SIGINT, SIGTERM), 141 unread.
    """
    return while_it_is_read(lambda: _status_of(argv))


def _status_of(argv: Sequence[str] | None) -> int:
    if argv is None and not sys.stderr.isatty():
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
    if any(name in os.environ for name in QUIET):  # as jobs inherit them; LeRobot enables the bars all the same
        warnings.filterwarnings("ignore", "Cannot enable progress bars: environment variable")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in HELP:
        print(help_text())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"craft-trainer {__version__}")
        return 0
    command, *options = arguments
    if command not in COMMANDS:
        print(f"craft-trainer: no command {command!r}{nearest(command, COMMANDS)}\n\n{help_text()}", file=sys.stderr)
        return 2
    try:
        with interruptible():
            run(command, options)
    except KeyboardInterrupt as interrupt:
        notes = getattr(interrupt, "__notes__", [])
        print("\n".join([f"craft-trainer {command}: interrupted", *notes]), file=sys.stderr)
        return 143 if isinstance(interrupt, Terminated) else 130  # what a shell reports for SIGTERM and for SIGINT
    except Exception as error:
        if isinstance(error, BrokenPipeError) and is_unread():
            raise
        room = room_left(error)
        is_of_use = isinstance(error, MISTAKES) or type(error).__module__.partition(".")[0] in OUTSIDE or room
        if os.environ.get(TRACEBACK_VARIABLE) or not is_of_use:
            raise
        told = [f"craft-trainer {command}: {error}", *room, *getattr(error, "__notes__", [])]
        print("\n".join(told), file=sys.stderr)
        print(f"({type(error).__name__}; set {TRACEBACK_VARIABLE}=1 to see where it was raised)", file=sys.stderr)
        return 1
    return 0


def help_text() -> str:
    """Write what ``craft-trainer --help`` prints."""
    return _listed("COMMAND", "command", COMMANDS)


def _listed(word: str, noun: str, texts: Mapping[str, str], example: str = "") -> str:
    width = max(map(len, texts))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in texts.items())
    return (
        f"usage: craft-trainer {word} [--config FILE.yaml] [--key value ...]\n\n{noun}s:\n{lines}\n\n"
        f"`craft-trainer {word} --help` explains a {noun} and gives an example.{example}"
    )


def run(command: str, options: Sequence[str]) -> None:
    """Fill what the ``run`` of a command's module takes with ``options``, and call it."""
    if command in GROUPS and (options or HELP)[0] in HELP:
        noun, _, texts, example = GROUPS[command]
        print(_listed(f"{command} {noun.upper()}", noun, texts, f" example: {example}"))
        return
    module, filled = understood(command, options)
    from craft_trainer.cli.places import require_writable

    for arguments in filled:
        require_writable(arguments, getattr(module, "FILES", ()))
    with spelled_as_options({name for arguments in filled for name in vars(arguments)}):
        module.run(*filled)


def understood(
    command: str, options: Sequence[str], *, checks_places: bool = True
) -> tuple[ModuleType, tuple[Any, ...]]:
    """Find the module of a command, and what ``options`` make of the arguments of its ``run``.

    ``checks_places`` makes sure that there is something at every place that it reads.

    Raises:
        ValueError: a word after the name of a group is none of its own.
    """
    path = "craft_trainer.cli." + command
    if command in GROUPS:
        noun, beginning, texts, _ = GROUPS[command]
        word, *options = options
        if word not in texts:
            raise ValueError(f"no {noun} {word!r}{nearest(word, texts)}; there are {', '.join(texts)}")
        command, path = f"{command} {word}", beginning + word
    from craft_trainer.cli.arguments import parse_all

    module = importlib.import_module(path.replace("-", "_"))
    if hasattr(module, "FIRST_WORD") and options and not options[0].startswith("-"):
        options = [f"--{module.FIRST_WORD}", *options]
    kinds = [kind for name, kind in inspect.get_annotations(module.run).items() if name != "return"]
    names = ("shown", "places") if checks_places else ("shown",)
    told = {name: getattr(module, name.upper()) for name in names if hasattr(module, name.upper())}
    return module, parse_all(command, module.EXAMPLE, kinds, options, **told)


@contextmanager
def spelled_as_options(names: Collection[str]) -> Iterator[None]:
    """Write ``name=value`` in a message as ``--name value``, for the options ``names`` of a command."""
    try:
        yield
    except MISTAKES as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (SETTING.sub(lambda found: _as_option(found, names), error.args[0]),)
        raise


def _as_option(found: re.Match[str], names: Collection[str]) -> str:
    return f"--{found[1]} {found[2]}" if found[1] in names else found[0]
