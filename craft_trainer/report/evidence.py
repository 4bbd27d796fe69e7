"""Everything that one page is about: demos, rollouts, held-out losses, multiple choice and training runs, by name."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from craft_trainer.report.choices import Choices, load_choices
from craft_trainer.report.held_out import HELD_OUT_FILE, HeldOut, load_held_out
from craft_trainer.report.history import Series, Trajectory
from craft_trainer.report.results import Json, Results, load_results
from craft_trainer.report.roles import Roles, roles_of
from craft_trainer.report.rollouts import Rollout, load_rollout
from craft_trainer.report.run import (
    HISTORY_FILE,
    RECORD_FILE,
    STATE_FILE,
    VARIANCE,
    Run,
    load_histories,
    load_run,
    teachers_scale,
)
from craft_trainer.report.wording import shortened

USUAL_NAMES = (
    "results",
    "held_out",
    "mcq",
    "rollout",
    "report",
)  # of files that say nothing: their folder's name is used
RESULTS_FILE = "results.json"


class Demo(NamedTuple):
    """A results.json and the histories of its craft runs."""

    results: Results
    histories: Trajectory


@dataclass(frozen=True)
class Evidence:
    """Everything that is reported, by name, in the order in which it was given."""

    demos: Mapping[str, Demo] = field(default_factory=dict)
    held_out: Mapping[str, HeldOut] = field(default_factory=dict)
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    choices: Mapping[str, Choices] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)
    roles: Roles | None = None  # of the rollouts

    @property
    def trajectories(self) -> Mapping[str, Trajectory]:
        """Courses of the constraint, by the name of the demo or the run; those without a constraint are left out."""
        demos = {name: demo.histories for name, demo in self.demos.items() if demo.histories}
        runs = {name: {0: run.constrained} for name, run in self.runs.items() if run.constrained is not None}
        return {**demos, **runs}

    @property
    def scale(self) -> str:
        """The teacher's scale that L_retain is a fraction of in the trajectories; demos hold features and actions."""
        units = [unit for run in self.runs.values() if run.constrained is not None for unit in run.units or (VARIANCE,)]
        return teachers_scale(units + [VARIANCE for demo in self.demos.values() if demo.histories])

    @property
    def asked(self) -> Mapping[str, Choices]:
        """Multiple choice that was given, and what lies as mcq.json in the folder of a run."""
        names = {name: f"{name}/mcq" if name in self.choices else name for name in self.runs}
        inside = {names[name]: run.choices for name, run in self.runs.items() if run.choices is not None}
        return {**self.choices, **inside}

    @property
    def compared(self) -> Mapping[str, Mapping[str, Any]]:
        """Comparisons of two checkpoints on multiple choice; a single one by the name of what was compared."""
        several = len(self.asked) > 1
        return {
            name if several else shortened(one.asked[-1].model): one.comparison
            for name, one in self.asked.items()
            if one.comparison is not None
        }

    @property
    def losses(self) -> Mapping[str, tuple[Series, Series]]:
        """The task losses of the training runs that logged more than one, as (steps, values)."""
        return {name: run.losses for name, run in self.runs.items() if len(run.losses[0]) > 1}

    @property
    def settings_by_kind(self) -> tuple[Mapping[str, Mapping[str, Json]], ...]:
        """Settings by name, as they were recorded: of demos, comparisons, rollouts, multiple choice, training runs."""
        return (
            {name: demo.results.settings for name, demo in self.demos.items()},
            {name: one.settings for name, one in self.held_out.items()},
            {name: one.settings for name, one in self.rollouts.items()},
            {name: one.settings for name, one in self.choices.items()},
            {name: run.settings for name, run in self.runs.items()},
        )

    @property
    def settings(self) -> Mapping[str, Mapping[str, Json]]:
        """Settings of everything, by name."""
        return {name: values for kind in self.settings_by_kind for name, values in kind.items()}

    @property
    def provenance(self) -> Mapping[str, Mapping[str, Json]]:
        """The origin of each number: what was recorded, and every file that was read with its checksum."""
        return {
            **{name: dict(d.results.provenance) | _checksums([d.results.path]) for name, d in self.demos.items()},
            **{name: dict(one.provenance) | _checksums([one.path]) for name, one in self.held_out.items()},
            **{name: {"policy": one.policy} | _checksums([one.path]) for name, one in self.rollouts.items()},
            **{name: one.fingerprints | _checksums([one.path]) for name, one in self.choices.items()},
            **{name: dict(run.provenance) | _checksums(run.files) for name, run in self.runs.items()},
        }

    def __len__(self) -> int:
        return len(self.demos) + len(self.held_out) + len(self.rollouts) + len(self.choices) + len(self.runs)


def gather(
    *,
    results: Sequence[str] = (),
    rollouts: Sequence[str] = (),
    choices: Sequence[str] = (),
    runs: Sequence[str] = (),
    teacher: str | None = None,
    old: Sequence[str] = (),
    new: Sequence[str] = (),
) -> Evidence:
    """Read everything; each entry is a path or NAME=path.

    A folder with a results.json, or a held_out.json, counts as results.

    ``teacher`` is one more entry of ``rollouts``, that of the teacher; ``old`` and ``new`` are tasks in them.

    Raises:
        ValueError: nothing is given, a name or path comes twice, or a file is not what it should be.
        FileNotFoundError: there is no such file or folder.
    """
    rolled_out = [*([] if teacher is None else [teacher]), *rollouts]
    kinds = {"results": results, "rollouts": rolled_out, "choices": choices, "runs": runs}
    given = [(kind, *_split(entry)) for kind, entries in kinds.items() for entry in entries]
    if not given:
        raise ValueError("nothing to report: name at least one of --results, --run, --rollout, --mcq")
    found: dict[str, dict[str, Path]] = {kind: {} for kind in (*kinds, "held_out")}
    for name, (kind, _, path) in zip(_names([entry[1:] for entry in given]), given, strict=True):
        found[_kind_of(kind, path)][name] = path
    files = {name: path / RESULTS_FILE if path.is_dir() else path for name, path in found["results"].items()}
    demos = {name: load_results(path) for name, path in files.items()}
    losses = {name: path / HELD_OUT_FILE if path.is_dir() else path for name, path in found["held_out"].items()}
    acted = {name: load_rollout(path) for name, path in found["rollouts"].items()}
    trained = {name: load_run(path) for name, path in found["runs"].items()}
    leading = None if teacher is None else next(iter(acted))
    return Evidence(
        demos={name: Demo(one, load_histories(one)) for name, one in demos.items()},
        held_out={name: load_held_out(path) for name, path in losses.items()},
        rollouts=acted,
        choices={name: load_choices(path) for name, path in found["choices"].items()},
        runs=trained,
        roles=roles_of(acted, trained.values(), teacher=leading, old=old, new=new),
    )


def _kind_of(kind: str, path: Path) -> str:
    """Tell results, held-out losses and runs apart, by the files that commands leave at a ``path``."""
    if kind in ("results", "runs") and (path.name == HELD_OUT_FILE or (path / HELD_OUT_FILE).is_file()):
        return "held_out"
    is_run = any((path / name).is_file() for name in (HISTORY_FILE, STATE_FILE, RECORD_FILE))  # `push` adds results
    return "results" if kind == "runs" and (path / RESULTS_FILE).is_file() and not is_run else kind


def _split(entry: str) -> tuple[str, Path]:
    """(name, path) of an entry; the name is empty where it is only a path."""
    name, equals, path = entry.partition("=")
    return (name, Path(path)) if equals and not Path(entry).exists() else ("", Path(entry))


def _names(given: Sequence[tuple[str, Path]]) -> list[str]:
    """The name of each (name, path): the given one, or the shortest end of its path that no other shares."""
    whole = [path.resolve() for _, path in given]
    if twice := next((str(path) for (_, path), own in zip(given, whole, strict=True) if whole.count(own) > 1), ""):
        raise ValueError(f"{twice} is given twice: name it once")
    telling = [_telling(path) for path in whole]  # a run and its rollout may be craft and craft.json
    parts = [path.parts[1:] if telling.count(own) > 1 else own for path, own in zip(whole, telling, strict=True)]
    depths = range(1, 1 + max(map(len, parts)))
    depth = next(n for n in depths if len({own[-n:] for own in parts}) == len(parts))
    names = [name or "/".join(own[-depth:]) for (name, _), own in zip(given, parts, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two inputs are named {name!r}: give each its own name, as NAME=PATH")
    return names


def _telling(path: Path) -> tuple[str, ...]:
    """The parts of a whole path that tell it from others: no ending, and no file name that every run has."""
    named = path.with_suffix("") if path.suffix == ".json" else path
    return (named.parts[1:-1] if named.name in USUAL_NAMES and path.suffix else named.parts[1:]) or (named.name,)


def _checksums(paths: Sequence[Path]) -> dict[str, Json]:
    return {f"sha256 of {path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
