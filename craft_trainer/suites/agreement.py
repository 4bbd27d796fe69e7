"""Raw results that belong in one table: each cell once, of the same streams, settings and inputs."""

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from craft_trainer.suites.runs import Run


def require_agreement(runs: Sequence["Run"]) -> None:
    """Refuse, by a ValueError that names two files, copies, and streams, settings and inputs that have changed.

    The words of a method may differ: they decide no figure.
    """
    cells: dict[tuple[str, str, int], Run] = {}
    streams: dict[str, Run] = {}
    methods: dict[tuple[str, str], Run] = {}
    readers: dict[str, Run] = {}
    for run in runs:
        other = cells.setdefault((run.stream, run.method, run.seed), run)
        if other is not run:
            raise ValueError(
                f"{other.path} and {run.path} are both the result of {run.method} on the stream {run.stream} with the "
                f"seed {run.seed}, which would count twice: move one of them away"
            )
        other = streams.setdefault(run.stream, run)
        for what in ("tasks", "evaluations"):
            then, now = getattr(other, what), getattr(run, what)
            if then != now:
                raise ValueError(
                    f"{other.path} and {run.path} are of the stream {run.stream}, but their {what} differ ({then} and "
                    f"{now}): give the changed stream or suite a name of its own, and run its cells again"
                )
        other = methods.setdefault((run.stream, run.method), run)
        if difference := _other_setting(other, run):
            raise ValueError(
                f"{other.path} and {run.path} are of one method, but were made by other settings ({difference}): give "
                "the changed method a name of its own, and run its cells again"
            )
        for place, digest in run.inputs.items():
            other = readers.setdefault(place, run)
            if other.inputs[place] != digest:
                raise ValueError(
                    f"{other.path} and {run.path} both read {place}, which was changed between them: give what was "
                    "changed and the suite names of their own, and run its cells again"
                )


def _other_setting(one: "Run", other: "Run") -> str:
    """Name the first option in which two runs of a method differ by more than their seeds; empty if there is none.

    Where both know the options as the suite has them, with their references, and these are the same, nothing differs.
    """
    if one.templates and one.templates == other.templates:
        return ""
    for left, right in zip_longest(_options(one), _options(other), fillvalue="nothing"):
        if left != right and _without(one.seed, left) != _without(other.seed, right):
            return f"{left} and {right}"
    return ""


def _without(seed: int, option: str) -> str:
    """Put a word for the seed in the place of every number that is it, and not of digits within a number."""
    return re.sub(rf"(?<![\d.]){seed}(?![\d.])", "seed", option)


def _options(run: "Run") -> list[str]:
    """List the options of all commands, without the seeds that are called so and those in the names of folders."""
    words = " ".join(word for command in run.commands for word in command).replace(f"seed{run.seed}/", "seed/")
    return [option for option in words.split(" --") if not option.startswith("seed")]
