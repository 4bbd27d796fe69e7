"""``craft-trainer suite run``: the cells of a suite that have no result yet, on as many cores as there are."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from craft_trainer.cli.configs import SHIPPED
from craft_trainer.cli.demo import PRELOAD
from craft_trainer.options import option

if TYPE_CHECKING:
    from craft_trainer.suites.running import Work
    from craft_trainer.suites.suite import Cell, Suite

EXAMPLE = "craft-trainer suite run metaworld-2 --output outputs/metaworld-2 --jobs 2 --cells 'default/*'"
FIRST_WORD = "suite"
SUITES = SHIPPED / "suites"


@dataclass(kw_only=True)
class SuiteRunArguments:
    """The suite, which cells of it, and where everything goes."""

    suite: str = option("name of a suite that came with this version, or a YAML file of yours")
    output: str = option("folder of data, models and logs; a run that was interrupted goes on in it")
    raw: str | None = option("folder of the raw results of all suites; by default raw in output", None)
    cells: str = option("which cells: a pattern of STREAM/METHOD-BUDGET/seedN, with * and ?", "*")
    jobs: int = option("commands that run at once, each on one core", os.cpu_count() or 1)
    dry_run: bool = option("print the cells and their commands, and run nothing", False)

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}: at least 1")


def run(arguments: SuiteRunArguments) -> None:
    """Check every command, then run what has no result yet."""
    from craft_trainer.cli.main import main
    from craft_trainer.hub.run_folder import in_use
    from craft_trainer.suites.running import open_work, run_work

    suite = read_suite(arguments.suite)
    cells = chosen(suite, arguments.cells)
    folder = Path(arguments.output)
    raw = folder / "raw" if arguments.raw is None else Path(arguments.raw)
    work = open_work(suite, cells, folder, raw)
    check_commands(suite, work)
    print(f"{suite.name}: {len(cells)} cells, {len(cells) - len(work)} of them finished")
    if arguments.dry_run:
        print_commands(work)
        return
    with in_use(folder):
        run_work(suite, work, folder, execute=main, num_workers=arguments.jobs, preload=PRELOAD)
    print(f"raw results: {raw / suite.name}")


def print_commands(work: Sequence["Work"]) -> None:
    """Print every cell with those of its commands that no cell before it needs."""
    printed: set[tuple[str, ...]] = set()
    for one in work:
        print(f"\n# {one.cell.name} → {one.raw}")
        for step in one.steps:
            if step.argv not in printed:
                print(shlex.join(["craft-trainer", *step.argv]))
        printed |= {step.argv for step in one.steps}


def read_suite(place: str) -> "Suite":
    """Read a suite by the name of one that was shipped, or by its file.

    Raises:
        ValueError: there is no such suite, or it says what cannot be.
    """
    from craft_trainer.cli.yaml_files import mapping_in
    from craft_trainer.suites.suite import Suite

    path = Path(place) if place.endswith(".yaml") else SUITES / f"{place}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in SUITES.glob("*.yaml")))
        raise ValueError(f"no suite {place}: name a YAML file, or one of {shipped}")
    return Suite.of(path.stem, mapping_in(path))


def chosen(suite: "Suite", pattern: str) -> list["Cell"]:
    """List the cells whose names fit ``pattern``; a ValueError where there is none."""
    from craft_trainer.suites.expansion import cells

    every = cells(suite)
    found = [cell for cell in every if fnmatchcase(cell.name, pattern)]
    if not found:
        methods = ", ".join(dict.fromkeys(cell.variant for cell in every))
        raise ValueError(
            f"no cell of {suite.name} is called {pattern}: a name is STREAM/METHOD/seedN, with the streams "
            f"{', '.join(suite.streams)} and the methods {methods}"
        )
    return found


def check_commands(suite: "Suite", work: Sequence["Work"]) -> None:
    """Let every command's own parser read its words, so that a wrong option or value is found before anything is run.

    Commands that differ in nothing but the outputs of the suite are read once.

    Raises:
        ValueError: a command or an option is not known, or has a value that it cannot have.
    """
    from craft_trainer.cli.main import COMMANDS, understood
    from craft_trainer.suites.suite import known

    seen = set()
    for one in work:
        for step in one.steps:
            made_here = tuple(str(output) for output in (*step.after, step.output))
            words = tuple(word for word in step.argv if not word.startswith(made_here))
            if words in seen:
                continue
            seen.add(words)
            place = f"{suite.name}: commands: {step.label} of {one.cell.name}"
            known(f"{place}: run", [step.argv[0]], COMMANDS)
            try:
                understood(step.argv[0], step.argv[1:], checks_places=False)  # which other commands make
            except SystemExit as refused:
                raise ValueError(f"{place} is refused by `craft-trainer {step.argv[0]}`, see above") from refused
            except (ValueError, TypeError) as error:
                raise ValueError(f"{place}: {error}") from error
