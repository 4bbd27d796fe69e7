"""The commands of a suite's cells: what each refers to is in its place, and cells that agree share their outputs."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from craft_trainer.suites.jobs import command_line
from craft_trainer.suites.suite import OF_A_METHOD, Cell, Settings, Suite, known

# {name}; {name-1|first}: of the stage before, before all first
REFERENCE = re.compile(r"\{(\w+?)(?:(-1)(?:\|(\w+))?)?\}")
# {{text}}, which stands for {text}; else what looks like a reference, unlike the {"a": 1} of JSON or a count {3}
BRACED = re.compile(r"\{\{([^{}]*)\}\}|\{\s*[^\W\d][\w\s|.-]*\}")
JSON_FILE = ("rollout", "mcq", "loss")  # what they write by --output; the others make a folder by --output_dir
EMPTY: tuple[Any, ...] = ([], {}, "")  # what is no value of an option
NO_STAGE: Settings = {"item": None, "before": None}  # of a command that is not repeated
WRITTEN_LAST = {"train": "trainer_state.json", "merge": "merge.json"}  # in folders that do not appear whole


class Step(NamedTuple):
    """One command of a cell.

    Attributes:
        label: of the command in the suite.
        argv: its words.
        output: the file or folder that it writes.
        result: a path that exists once it has ended well.
        after: the outputs of the commands that it reads from.
        axes: of what its words depend on: stream, seed, budget, method.
        template: its words as the suite has them, with references and without the output.
        stage: of a command that is repeated, from 1 on.
    """

    label: str
    argv: tuple[str, ...]
    output: Path
    result: Path
    after: tuple[Path, ...]
    axes: frozenset[str]
    template: tuple[str, ...] = ()
    stage: int | None = None


def cells(suite: Suite) -> list[Cell]:
    """List every cell, method by method as the file has them, so that the first methods are finished first.

    Raises:
        ValueError: a method says something without effect, a command refers to what is not there, or two cells have
            one name.
    """
    found = [cell for method in suite.methods for cell in _cells_of(suite, method)]
    for name, count in Counter(cell.name for cell in found).items():
        if count > 1:
            raise ValueError(
                f"{suite.name}: methods: {count} cells are called {name}: name a stream once, and rename a method that "
                "is called like another with its budget"
            )
    return found


def _cells_of(suite: Suite, method: str) -> Iterator[Cell]:
    changes, place = suite.methods[method], f"{suite.name}: methods: {method}"
    streams, seeds = changes.get("streams", list(suite.streams)), changes.get("seeds", suite.seeds)
    budgets = changes.get("budgets", suite.budgets)
    steps = expand(suite, Cell(streams[0], method, budgets[0] if budgets else None, seeds[0]), Path())
    reached = {step.label for step in steps}
    for label in changes:
        if label not in OF_A_METHOD and label not in reached:
            raise ValueError(f"{place} changes {label}, which none of its commands needs")
    has_budget = any("budget" in step.axes for step in steps)
    if "budgets" in changes and not has_budget:
        raise ValueError(f"{place} has budgets, but no command of it refers to {{budget}}")
    for budget in budgets if has_budget else [None]:
        for seed in seeds:
            for stream in streams:
                yield Cell(stream, method, budget, seed)


def expand(suite: Suite, cell: Cell, root: Path) -> list[Step]:
    """List the commands of one cell with outputs under ``root``, each behind those whose output it reads.

    Raises:
        ValueError: an option refers to what is not there or is empty, two outputs have one name, or nothing is
            evaluated.
    """
    expansion = _Expansion(suite, cell, root)
    for label in suite.evaluations:
        for index in expansion.stages(label):
            expansion.step(label, index)
    if not expansion.steps:
        raise ValueError(
            f"{suite.name}: streams: {cell.stream}: no evaluation is left in the cell {cell.name}, because each of "
            f"{', '.join(suite.evaluations)} is repeated for an empty list: fill it"
        )
    named: dict[str, Step] = {}
    for step in expansion.steps.values():
        other = named.setdefault(step.output.stem, step)
        if other is not step:
            raise ValueError(
                f"{suite.name}: commands: {other.label} and {step.label} both write {step.output.stem} in the cell "
                f"{cell.name}, whose raw result would keep only one of them: rename one"
            )
    return list(named.values())


def _flat(value: Any) -> Any:
    """Put the entries of lists within a list in their place: on a command line they are words."""
    if not isinstance(value, list):
        return value
    return [one for part in value for one in (_flat(part) if isinstance(part, list) else [part])]


@dataclass
class _Place:
    """The place of a reference, and what the references of its command found."""

    command: str
    key: str
    index: int | None  # the stage
    axes: set[str] = field(default_factory=set)
    read: list[Step] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.command}: {self.key}"


class _Expansion:
    def __init__(self, suite: Suite, cell: Cell, root: Path) -> None:
        self.suite, self.cell, self.root = suite, cell, root
        self.changes = suite.methods[cell.method]
        self.stream = suite.streams[cell.stream]
        self.steps: dict[tuple[str, int | None], Step] = {}
        self.begun: set[tuple[str, int | None]] = set()

    def stages(self, label: str) -> Sequence[int | None]:
        """Number the stages of the command ``label``; None stands for a command that is not repeated."""
        key = self.suite.commands[label].get("each")
        if key is None:
            return [None]
        known(f"{self.suite.name}: commands: {label}: each", [key], self.stream)
        if not isinstance(self.stream[key], list):
            raise ValueError(
                f"{self.suite.name}: streams: {self.cell.stream}: {key} is {self.stream[key]!r}: expected a list, "
                f"because the command {label} is repeated for each of it"
            )
        return range(len(self.stream[key]))

    def step(self, label: str, index: int | None) -> Step:
        """Make the command ``label`` of a stage, after those that it needs."""
        if (label, index) in self.steps:
            return self.steps[label, index]
        settings = {**self.suite.commands[label], **self.changes.get(label, {})}
        command, key = settings.pop("run"), settings.pop("each", None)
        place = _Place(f"{self.suite.name}: commands: {label}", "", index)
        if (label, index) in self.begun:
            raise ValueError(f"{place.command} needs its own output, by way of what it refers to: break the circle")
        self.begun.add((label, index))
        stage = NO_STAGE
        if index is not None:
            stage = {"item": self.stream[key][index], "before": self.stream[key][:index]}
        filled = {}
        for place.key, value in settings.items():
            if value is not None:  # a method takes a setting back by null
                filled[place.key] = _flat(self._filled(place, value, stage))
                if filled[place.key] in EMPTY:
                    raise ValueError(
                        f"{place}: {value!r} is empty in the cell {self.cell.name}: fill it, or leave the option out "
                        "by null"
                    )
        axes = place.axes | {axis for step in place.read for axis in step.axes}
        axes |= {"method"} if label in self.changes else set()
        unfilled = {key: _flat(value) for key, value in settings.items() if value is not None}
        made = self._made(label, command, filled, axes, place)._replace(
            template=command_line(*command.split(), unfilled), stage=None if index is None else index + 1
        )
        self.steps[label, index] = made
        return made

    def _made(self, label: str, command: str, filled: dict[str, Any], axes: set[str], place: _Place) -> Step:
        stage = "" if place.index is None else str(place.index + 1)
        output = self.root.joinpath(*self._folders(axes), label + stage)
        option = "output_dir"
        if command in JSON_FILE:
            option, output = "output", output.with_name(f"{output.name}.json")
        last = WRITTEN_LAST.get(command)
        return Step(
            label=label,
            argv=command_line(*command.split(), filled | {option: output}),
            output=output,
            result=output if last is None else output / last,
            after=tuple(dict.fromkeys(step.output for step in place.read)),
            axes=frozenset(axes),
        )

    def _folders(self, axes: set[str]) -> list[str]:
        """Choose where a command that depends on ``axes`` writes: cells that agree in these share its output."""
        folders = {"stream": self.cell.stream, "seed": f"seed{self.cell.seed}"}
        found = [folder for axis, folder in folders.items() if axis in axes]
        if "method" in axes:
            variant = replace(self.cell, budget=self.cell.budget if "budget" in axes else None).variant
            return [*found, variant]
        return [*found, f"budget{self.cell.budget}"] if "budget" in axes else found

    def _filled(self, place: _Place, value: Any, stage: Settings) -> Any:
        """Put what ``value`` refers to in its place, and note in ``place`` what that was."""
        if isinstance(value, list):
            parts = [(part, self._filled(place, part, stage)) for part in value]
            return [
                one
                for part, found in parts
                for one in (found if isinstance(part, str) and isinstance(found, list) else [found])
            ]
        if isinstance(value, dict):
            for key in value:
                self._require_plain(place, key, value)
            return {key: self._filled(place, part, stage) for key, part in value.items()}
        if not isinstance(value, str):
            return value
        if REFERENCE.fullmatch(value):
            return self._referred(place, value, stage)
        return BRACED.sub(lambda found: self._in_text(place, found, stage), value)

    def _require_plain(self, place: _Place, key: Any, mapping: Mapping[Any, Any]) -> None:
        """Refuse a reference as the key of a mapping; YAML reads one without quotation marks as such a key."""
        if BRACED.search(str(key)):
            raise ValueError(f"{place}: {key} is the key of a mapping, but only a value can be a reference")
        found = REFERENCE.fullmatch(f"{{{key}}}")
        if mapping[key] is None and found and found[1] in [*self._values(NO_STAGE), *self.suite.commands]:
            raise ValueError(f'{place}: a reference stands in quotation marks: write "{found[0]}"')

    def _in_text(self, place: _Place, found: re.Match[str], stage: Settings) -> str:
        """Write what a reference within a longer text stands for; doubled braces become single ones."""
        if found[1] is not None:
            return f"{{{found[1]}}}"
        value = self._referred(place, found[0], stage)
        if isinstance(value, list | dict):
            raise ValueError(f"{place}: {found[0]} is {value}, which has no place in a longer text")
        return str(value)

    def _referred(self, place: _Place, reference: str, stage: Settings) -> Any:
        """Find what ``reference`` stands for, and note in ``place`` what that was."""
        found = REFERENCE.fullmatch(reference)
        if found is None:
            raise ValueError(
                f"{place}: {reference} is no reference: write {{name}}, or {{name-1|first}} for the stage before, or "
                f"double the braces that are to stay: {{{reference}}}"
            )
        values, name, index = self._values(stage), found[1], place.index
        for one in filter(None, (name, found[3])):
            if one not in (*values, *self.suite.commands):
                raise ValueError(
                    f"{place}: {one!r} is none of {', '.join([*values, *self.suite.commands])}; double the braces that "
                    f"are to stay: {{{reference}}}"
                )
        if found[2]:
            if index is None:
                raise ValueError(f"{place}: {reference} is of the stage before, but nothing is repeated here: say each")
            if "each" not in self.suite.commands.get(name, {}):
                raise ValueError(f"{place}: {reference} is of the stage before, but {name} is no command with each")
            if index == 0 and found[3] is None:
                raise ValueError(f"{place}: there is no stage before the first: say {{{name}-1|…}}")
            name, index = (found[3], 0) if index == 0 else (name, index - 1)
        if name in self.suite.commands:
            return self._output(place, name, index)
        if values[name] is None:
            needed = {**dict.fromkeys(NO_STAGE, "each in its command"), "budget": "budgets in the suite"}
            raise ValueError(f"{place}: {reference} has no value: it needs {needed.get(name, 'one in the stream')}")
        if BRACED.search(str(values[name])):
            raise ValueError(
                f"{place}: {reference} is {values[name]!r}, and what streams say is taken as it is: put the inner "
                "reference into the command"
            )
        place.axes.add(name if name in ("seed", "budget") else "stream")
        return values[name]

    def _values(self, stage: Settings) -> dict[str, Any]:
        """List what a reference can stand for, beside the outputs of commands."""
        return {"seed": self.cell.seed, "budget": self.cell.budget, **stage, **self.stream}

    def _output(self, place: _Place, label: str, index: int | None) -> str:
        """Find what the command ``label`` writes, in the stage ``index`` where it is repeated."""
        is_repeated = "each" in self.suite.commands[label]
        if is_repeated and index is None:
            raise ValueError(f"{place}: {label} is repeated, and this command is not: say each")
        step = self.step(label, index if is_repeated else None)
        place.read.append(step)
        return str(step.output)
