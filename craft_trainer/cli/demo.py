"""``craft-trainer demo``: record, teacher, anchors, plain and CRaFT fine-tuning, rollouts, report."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_trainer.files import write_atomically
from craft_trainer.options import option, refuse_idle, split_list

if TYPE_CHECKING:
    from craft_trainer.suites.jobs import Job

EXAMPLE = "craft-trainer demo --old push-v3,door-open-v3 --new faucet-open-v3 --seeds 0,1,2 --output outputs/mine"
PRELOAD = (
    "craft_trainer.training.trainer",
    "craft_trainer.models.lerobot_dataset",
    "craft_trainer.simulation.recording",
)
OLD = ["push-v3", "drawer-open-v3", "button-press-topdown-v3", "door-open-v3"]
NEW = ["button-press-v3"]


@dataclass
class DemoArguments:
    """A stream of tasks and how much of everything."""

    old: list[str] = option("Meta-World tasks the teacher knows", OLD)
    new: list[str] = option("Meta-World tasks to learn", NEW)
    seeds: list[str] = option("one teacher and one pair of fine-tuned policies per seed", ["0", "1", "2"])
    episodes: int = option("rollouts per task, method and seed", 20)
    demonstrations: int = option("expert episodes per task", 50)
    anchors: int = option("samples whose behaviour is held", 1000)
    source: list[str] = option(
        "where they come from, as in `cache build`: dataset, new_task, statistics, …", ["dataset"]
    )
    views: int = option("perturbed copies of every anchor, as in `cache build`", 0)
    view_noise: float = option("of views: noise on states, in the policy's own deviations", 0.1)
    teacher_steps: int = option("optimizer steps of the teacher", 2500)
    steps: int = option("optimizer steps of plain and CRaFT fine-tuning", 800)
    quick: bool = option("one seed instead of three", False)
    workers: int = option("processes that run at once", min(8, os.cpu_count() or 1))
    output: str = option("folder of the results; a run that was interrupted goes on in it", "outputs/demo")

    def __post_init__(self) -> None:
        if not self.views:
            refuse_idle(self, ["view_noise"], "there are no views")
        if self.quick:
            refuse_idle(self, ["seeds"], "quick takes one seed; without it you can name one in seeds")


def run(arguments: DemoArguments) -> None:
    """Run the experiment, print the table, write results.json and report.html."""
    from craft_trainer.files import checked, write_json
    from craft_trainer.hub.run_folder import in_use
    from craft_trainer.report import format_table, load_results, verdict, write_report
    from craft_trainer.simulation.metaworld import check_task
    from craft_trainer.suites.demo import (
        FINE_TUNING,
        TEACHER,
        Experiment,
        collect_results,
        experiment_jobs,
        retention_of,
    )

    sources: dict[str, Any] = {"source": split_list(arguments.source)}
    if arguments.views:
        sources |= {"views": arguments.views, "view_noise": arguments.view_noise}
    check_sources(sources)
    seeds = [int(seed) for seed in split_list(arguments.seeds)]
    experiment = Experiment(
        old=tuple(check_task(task) for task in split_list(arguments.old)),
        new=tuple(check_task(task) for task in split_list(arguments.new)),
        seeds=tuple(seeds[:1] if arguments.quick else seeds),
        demonstrations=arguments.demonstrations,
        anchors=arguments.anchors,
        episodes=arguments.episodes,
        teacher=TEACHER | {"max_steps": arguments.teacher_steps},
        fine_tuning=FINE_TUNING | {"max_steps": arguments.steps},
        retention=retention_of(sources),
        sources=sources,
    )
    folder = Path(arguments.output)
    with in_use(folder):
        seconds = run_claimed(
            folder,
            experiment.settings(),
            "demo",
            lambda: experiment_jobs(experiment, folder),
            num_workers=arguments.workers,
            preload=PRELOAD,
        )
        results = collect_results(experiment, folder, seconds)
    path = folder / "results.json"
    write_json(path, checked(results))
    report = write_report(path)
    loaded = load_results(path)
    print(f"\n{format_table(loaded, 'text')}\n\n{verdict(loaded)}\n\nresults: {path}\nreport:  {report}")


def check_sources(sources: Mapping[str, Any]) -> None:
    """Refuse, by a ValueError, sources that `cache build` would refuse, before anything is recorded."""
    from craft_trainer.cli.sources import SourceArguments
    from craft_trainer.suites.demo import places

    SourceArguments(**sources, **places(sources["source"], "old", "new", ["old"]))


def run_claimed(
    folder: Path, settings: Mapping[str, Any], kind: str, make_jobs: Callable[[], Sequence["Job"]], **how: Any
) -> dict[str, float]:
    """Claim ``folder`` for these ``settings``, run what is missing of its jobs, and say how many seconds each took.

    Args:
        make_jobs: lists the jobs, once the folder is claimed: what an interrupted run left may change them.
        how: of :func:`craft_trainer.suites.jobs.run_jobs`.

    Raises:
        FileExistsError: the folder holds a ``kind`` of run with other settings.
        RuntimeError: a job failed.
    """
    from craft_trainer.cli.main import main
    from craft_trainer.suites.jobs import clear_unfinished, run_jobs

    claim_folder(folder, json.dumps({**settings, "seeds": "any"}, indent=2) + "\n", kind)
    jobs = make_jobs()
    clear_unfinished(jobs)
    return run_jobs(jobs, main, log_dir=folder / "logs", **how)


def claim_folder(folder: Path, settings: str, kind: str) -> None:
    """Mark ``folder`` as this experiment's: a run that was interrupted goes on, one with other settings is refused."""
    mark = folder / "settings.json"
    if mark.exists() and mark.read_text() != settings:
        raise FileExistsError(
            f"{folder} holds a {kind} with other settings, or of what has changed since: delete it, or choose another "
            "--output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, settings)
