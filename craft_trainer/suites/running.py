"""Run the cells of a suite: finished ones never again, and a raw JSON file for each that is new."""

import hashlib
import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from craft_trainer.files import CHECKSUM, as_json, checked, digest_of, write_json
from craft_trainer.options import split_list
from craft_trainer.report.reading import json_object
from craft_trainer.report.results import Count
from craft_trainer.suites import expansion, inputs
from craft_trainer.suites.expansion import Step, expand
from craft_trainer.suites.jobs import Execute, Job, clear_unfinished, run_jobs
from craft_trainer.suites.stages import require_shown, stages_of
from craft_trainer.suites.suite import Cell, Suite
from craft_trainer.training.run_record import machine

SCHEMA = 1
WAY_OUT = "restore the file as `suite run` wrote it, or delete it to run its cell again"
COMMANDS_FILE = "commands.json"
CHANGES = "changes"  # of a comparison of two checkpoints
Raw = dict[str, Any]


class Work(NamedTuple):
    """A cell, what it would run, and where its raw result goes."""

    cell: Cell
    steps: Sequence[Step]
    commands: Sequence[Sequence[str]]  # with outputs relative to the working folder
    raw: Path


def raw_path(raw: Path, suite: Suite, cell: Cell) -> Path:
    """The file of a cell's raw result, in the folder ``raw`` of all suites."""
    return raw / suite.name / f"{cell.name}.json"


def open_work(suite: Suite, cells: Sequence[Cell], folder: Path, raw: Path) -> list[Work]:
    """List those of ``cells`` that have no raw result yet.

    Raises:
        ValueError: a raw result of the suite, of these cells or of others, was made by other settings or from other
            inputs than the suite has for its cell now: they would stand in one table. Or no table could show a cell.
    """
    digest = cache(digest_of)  # many cells read the same
    for cell in expansion.cells(suite):
        path = raw_path(raw, suite, cell)
        if not path.is_file():
            continue
        made = json_object(path, WAY_OUT)
        if difference := _changed(suite, cell, made):
            raise ValueError(
                f"{path} was made by other settings ({difference}): raw results stay as they are, so give the changed "
                f"method {cell.method}, the changed stream {cell.stream} or the suite a new name"
            )
        for name, then in made.get("inputs", {}).items():
            if Path(name).exists() and digest(Path(name)) != then:
                raise ValueError(
                    f"{path} was made from {name}, which has changed since: restore it, put what has changed into "
                    "another place, or give the suite a new name"
                )
    work = [
        Work(cell, expand(suite, cell, folder), _commands(expand(suite, cell, Path())), path)
        for cell in cells
        if not (path := raw_path(raw, suite, cell)).is_file()
    ]
    for one in work:
        _require_shown(suite, one)
    return work


def _require_shown(suite: Suite, work: Work) -> None:
    """Refuse, by a ValueError, a cell whose rollouts no table could show, unless their tasks are not told here."""
    rolled = {name: step for name, step in _evaluations(suite, work.steps).items() if step.argv[0] == "rollout"}
    rollouts = {name: {task: Count(0, 1) for task in _tasks(step.argv)} for name, step in rolled.items()}
    if all(rollouts.values()):
        place = f"{suite.name}: {work.cell.name}"
        stages = stages_of(rollouts, _numbers(rolled), place)
        require_shown(suite.streams[work.cell.stream], stages, place)


def _tasks(argv: Sequence[str]) -> list[str]:
    """The tasks that a rollout names on its command line; those of LeRobot's environments have names of their own."""
    if "--tasks" not in argv or {"--env", "--config"} & {*argv}:
        return []
    behind = argv[argv.index("--tasks") + 1 :]
    return split_list(list(takewhile(lambda word: not word.startswith("--"), behind)))


def _numbers(steps: Mapping[str, Step]) -> dict[str, int]:
    """The stages of those ``steps`` that are repeated."""
    return {name: step.stage for name, step in steps.items() if step.stage is not None}


def _commands(steps: Sequence[Step]) -> list[list[str]]:
    return [list(step.argv) for step in steps]


def _changed(suite: Suite, cell: Cell, made: Raw) -> str:
    """Name what the raw result ``made`` was made by and the suite has otherwise now; empty if there is nothing."""
    steps = expand(suite, cell, Path())
    commands = _commands(steps)
    if made.get("commands") != commands:
        return _difference(made.get("commands", []), commands)
    now = json.loads(as_json(_identity(suite, cell))) | {"evaluations": sorted(_evaluations(suite, steps))}
    then = made | {"evaluations": sorted(made.get("evaluations", {}))}
    differs = [f"then {key} {then.get(key)}, now {value}" for key, value in now.items() if then.get(key) != value]
    return "; ".join(differs)


def jobs_of(work: Sequence[Work], folder: Path) -> list[Job]:
    """List the commands of all cells, each once."""
    names = {step.output: _name(step, folder) for one in work for step in one.steps}
    jobs: dict[str, Job] = {}
    for step in (step for one in work for step in one.steps):
        is_filled = step.result != step.output
        after = tuple(names[output] for output in step.after)
        job = Job(names[step.output], step.argv, step.result, after, step.output if is_filled else None)
        if jobs.setdefault(job.name, job) != job:
            raise ValueError(f"{job.name} stands for two commands: rename a stream, a method or a command")
    return list(jobs.values())


def run_work(
    suite: Suite, work: Sequence[Work], folder: Path, *, execute: Execute, num_workers: int, preload: Sequence[str] = ()
) -> None:
    """Run what ``work`` needs in ``folder``, and write the raw result of every cell as soon as it is whole.

    Raises:
        ValueError: the folder was begun by another commit or by other commands, or holds outputs of unknown ones.
        RuntimeError: commands failed, after all others have run that do not need them.
    """
    jobs, code = jobs_of(work, folder), commit()
    read = _claim(folder, jobs, code)
    clear_unfinished(jobs)

    def write_whole(done: Collection[str], seconds: Mapping[str, float]) -> None:
        for one in work:
            names = {_name(step, folder): step for step in one.steps}
            if not one.raw.exists() and names.keys() <= set(done):
                took = {step.output.stem: round(seconds[name], 1) for name, step in names.items() if name in seconds}
                write_json(one.raw, checked(_raw(suite, one, code, took, read)))

    run_jobs(
        jobs,
        execute,
        log_dir=folder / "logs",
        num_workers=num_workers,
        preload=preload,
        keeps_going=True,
        on_done=write_whole,
    )


def commit() -> str | None:
    """The commit of this package's checkout; None where there is none. Changed files add ``+`` and their digest."""
    package = Path(__file__).parents[1]
    try:
        _git(package, "ls-files", "--error-unmatch", __file__)  # or the repository is that of an environment's owner
        found, changes = _git(package, "rev-parse", "HEAD"), _git(package, "diff", "--binary", "HEAD", ".")
        added = _git(package, "ls-files", "--others", "--exclude-standard", ".").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    changes += "".join(f"{name} {digest_of(package / name)}" for name in added)
    return f"{found}+{hashlib.sha256(changes.encode()).hexdigest()[:12]}" if changes else found


def _git(folder: Path, *words: str) -> str:
    ran = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def _raw(suite: Suite, work: Work, code: str | None, seconds: Mapping[str, float], read: Mapping[str, str]) -> Raw:
    """Collect the raw result of a cell; ``read`` are the digests of what all commands read from outside."""
    cell, evaluated = work.cell, _evaluations(suite, work.steps)
    mine = inputs.places(step.argv for step in work.steps)
    return _identity(suite, cell) | {
        "label": suite.methods[cell.method].get("label", cell.method),
        "commit": code,
        "machine": machine(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": dict(seconds),
        "evaluations": {name: _read(step) for name, step in evaluated.items()},
        "stages": _numbers(evaluated),
        "inputs": {name: digest for name, digest in read.items() if name in mine},
        "commands": work.commands,
        "templates": [step.template for step in work.steps],
    }


def _identity(suite: Suite, cell: Cell) -> Raw:
    """List what a raw result says of its cell beside the commands; labels are words, which may change."""
    return {
        "schema": SCHEMA,
        "suite": suite.name,
        "stream": cell.stream,
        "tasks": suite.streams[cell.stream],
        "method": cell.variant,
        "budget": cell.budget,
        "seed": cell.seed,
    }


def _evaluations(suite: Suite, steps: Sequence[Step]) -> dict[str, Step]:
    return {step.output.stem: step for step in steps if step.label in suite.evaluations}


def _read(step: Step) -> Raw:
    """Read the part of one evaluation's result that is kept."""
    content = json.loads(step.result.read_text("utf-8"))
    if step.argv[0] == "rollout":
        return {"max_steps": content["max_steps"], "rows": content["rows"]}
    if step.argv[0] == "mcq":
        kept = {key: value for key, value in content.items() if key not in ("items", "compare", CHECKSUM)}
        return kept | ({CHANGES: _changes(content)} if "compare" in content else {})
    if step.argv[0] == "loss":
        return {key: value for key, value in content.items() if key != CHECKSUM}
    return {"eval_loss": [entry["eval_loss"] for entry in content["log_history"] if "eval_loss" in entry]}


def _changes(content: Raw) -> Raw:
    """How much the second model's answers differ from the first's, question by question, of those that both have."""
    after = {item["id"]: item for item in content["compare"]["items"]}
    pairs = [(item, after[item["id"]]) for item in content["items"] if item["id"] in after]
    return {
        "correct": [int(two["correct"]) - int(one["correct"]) for one, two in pairs],
        "margin_gold": [two["margin_gold"] - one["margin_gold"] for one, two in pairs],
    }


def _claim(folder: Path, jobs: Sequence[Job], code: str | None) -> dict[str, str]:
    """Note in ``folder`` what its outputs are made by; refuse it where another commit or other commands made them.

    The same holds for files and folders that commands read and that no command makes: returns their digests.
    """
    file, known = folder / COMMANDS_FILE, dict[str, Any]()
    mine: Raw = {"commit": code, "commands": {job.name: list(job.argv) for job in jobs}}
    read = mine["read"] = inputs.digests([job.argv for job in jobs], folder)
    if file.is_file():
        found = json.loads(file.read_text("utf-8"))
        if found["commit"] != mine["commit"]:
            raise ValueError(
                f"{folder} was begun by commit {found['commit']} of this package, and this is {mine['commit']}: go on "
                "with that one, or choose another --output"
            )
        for name, argv in mine["commands"].items():
            before = found["commands"].get(name, argv)
            if before != argv:
                raise ValueError(
                    f"{folder}: {name} had other settings ({_difference([before], [argv])}): choose another --output"
                )
        for name, digest in read.items():
            if found["read"].get(name, digest) != digest:
                raise ValueError(f"{name} has changed since {folder} was begun: choose another --output")
        known = found["commands"]
        mine["read"] = found["read"] | read
    for job in jobs:
        output = job.folder or job.result
        if job.name not in known and output.exists():
            raise ValueError(
                f"{output} is there already, and {file} does not say by which settings it was made: move it away, or "
                "choose another --output"
            )
    mine["commands"] = known | mine["commands"]
    write_json(file, mine)
    return read


def _difference(before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> str:
    """Name the first words in which two lists of commands differ."""
    for one, other in zip(before, now, strict=False):
        if one != other:
            return f"then {' '.join(_only(one, other))}, now {' '.join(_only(other, one))}"
    return f"{len(before)} commands then, {len(now)} now"


def _only(words: Sequence[str], others: Sequence[str]) -> list[str]:
    """The options of ``words`` that ``others`` does not have in the same way."""
    options = " ".join(words).split(" --")
    theirs = " ".join(others).split(" --")
    return [f"--{option}" for option in options if option not in theirs] or ["nothing"]


def _name(step: Step, folder: Path) -> str:
    """The name of a step's job and log: the place of its output in ``folder``."""
    return "-".join(step.output.relative_to(folder).with_suffix("").parts)
