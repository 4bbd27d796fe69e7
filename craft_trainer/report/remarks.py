"""May I believe it? What the numbers themselves say for and against what the headline says."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from craft_trainer.report.choices import Choices
from craft_trainer.report.course import course
from craft_trainer.report.evidence import Evidence, Trajectory
from craft_trainer.report.interval import Interval, percent
from craft_trainer.report.results import Group, Results, method_label
from craft_trainer.report.rollouts import Rollout
from craft_trainer.report.run import Run
from craft_trainer.report.summary import missing_sentence, plural, short

type Kind = Literal["holds", "beware", "note"]

WIDE = 0.2  # of an interval: 20 points
LITTLE = 0.5  # success of the teacher below which there is little to forget, or above which a task is not new
ORDER = {"beware": 0, "holds": 1, "note": 2}


class Remark(NamedTuple):
    """One sentence: it ``holds``, one should ``beware``, or it is a ``note``; ``about`` names what it is said of."""

    kind: Kind
    about: tuple[str, ...]
    text: str


def remarks(evidence: Evidence) -> list[Remark]:
    """Every remark once, warnings first; ``about`` is empty where there is only one thing to speak of."""
    found: dict[tuple[Kind, str], dict[str, None]] = {}
    for name, pairs in _pairs(evidence):
        for kind, text in pairs:
            found.setdefault((kind, text), {})[name] = None
    single = len(evidence) == 1
    every = [Remark(kind, () if single else tuple(names), text) for (kind, text), names in found.items()]
    return sorted(every, key=lambda remark: ORDER[remark.kind])


type Pairs = Iterator[tuple[Kind, str]]


def _pairs(evidence: Evidence) -> Iterator[tuple[str, Pairs]]:
    for name, demo in evidence.demos.items():
        yield name, _of_results(demo.results)
        if demo.histories:
            yield name, _of_trajectory(demo.histories)
        if missing := missing_sentence(demo.results, demo.histories):
            yield name, iter([("note", missing)])
    for name, rollout in evidence.rollouts.items():
        yield name, _of_rollout(rollout)
    for name, choices in evidence.asked.items():
        yield name, _of_choices(choices)
    for name, run in evidence.runs.items():
        yield name, _of_run(run)


def _of_results(results: Results) -> Pairs:
    yield from _of_teacher(results)
    yield from _of_rivals(results, "old")
    yield from _of_rivals(results, "new")
    yield from _of_seeds(results)


def _of_teacher(results: Results) -> Pairs:
    old, new = results.count("teacher", "old"), results.count("teacher", "new")
    if old is None:
        yield "beware", "The teacher was not rolled out: what was lost cannot be told from what was never known."
    elif old.rate < LITTLE:
        yield (
            "beware",
            f"The teacher itself succeeds in only {percent(old.rate)} % on the old tasks: there was little to forget.",
        )
    if new is not None and new.rate >= LITTLE:
        yield (
            "beware",
            f"The teacher already succeeds in {percent(new.rate)} % on the new task: there was little to learn.",
        )


def _of_rivals(results: Results, group: Group) -> Pairs:
    """Whether CRaFT and plain fine-tuning can be told apart on one group of tasks."""
    craft, plain = results.count("craft", group), results.count("plain", group)
    if craft is None or plain is None:
        return
    tasks = f"{group} task{'s' if len(results.stream.tasks(group)) > 1 else ''}"
    intervals = f"{_written(craft.interval)} % against {_written(plain.interval)} %"
    apart = craft.interval.low > plain.interval.high or craft.interval.high < plain.interval.low
    if apart and craft.rate > plain.rate:
        yield "holds", f"On the {tasks} the 95 % intervals of CRaFT and plain fine-tuning lie apart: {intervals}."
    elif apart:
        yield "beware", f"On the {tasks} CRaFT is worse than plain fine-tuning: {intervals}."
    elif group == "old":
        yield "beware", f"On the {tasks} the 95 % intervals of CRaFT and plain overlap ({intervals}): it may be luck."
    else:
        yield "holds", f"On the {tasks} nothing shows that CRaFT learned less than plain fine-tuning: {intervals}."


def _of_seeds(results: Results) -> Pairs:
    method = "craft" if "craft" in results.methods else results.methods[-1]
    counts = [results.count(method, "old", seed=seed) for seed in results.seeds]
    rates = [count.rate for count in counts if count is not None]
    if len(results.seeds) == 1:
        yield "beware", "One seed: how much of this is the luck of one training run was not measured."
    elif rates:
        spread = f"{percent(min(rates))} to {percent(max(rates))} %"
        yield "note", f"Seed by seed, old-task success of {method_label(method)} is {spread} ({len(rates)} seeds)."
    yield "note", "An interval covers the luck of the episodes. It does not cover other tasks, robots or settings."


def _of_trajectory(histories: Trajectory) -> Pairs:
    over = course(histories)
    each = f" in {over.num_kept} of {plural(over.num_seeds, 'seed')}" if over.num_seeds > 1 else ""
    numbers = f"{short(100 * over.retention_loss)} % against {short(100 * over.epsilon)} %"
    if over.diverged:
        yield "beware", "L_retain was not finite at some steps: training diverged there."
    if over.kept:
        yield "holds", f"The constraint was met at the end of training{each}: L_retain {numbers}."
    else:
        only = f"only{each}" if over.num_kept else "not"
        yield "beware", f"The constraint was {only} met at the end of training: L_retain {numbers}."


def _of_rollout(rollout: Rollout) -> Pairs:
    interval = rollout.total.interval
    if interval.high - interval.low > WIDE:
        yield (
            "beware",
            f"{plural(rollout.total.episodes, 'episode')} leave {_written(interval)} % plausible: roll out more.",
        )


def _of_choices(choices: Choices) -> Pairs:
    if choices.num_refused:
        yield "beware", f"{plural(choices.num_refused, 'question')} could not be asked and are left out."
    if choices.comparison is None:
        yield "note", "One checkpoint alone: what it forgot needs a comparison (craft-trainer mcq --compare)."
        return
    wanted, asked = choices.comparison.get("items_for_two_points"), choices.comparison.get("num_items")
    if isinstance(wanted, int) and isinstance(asked, int) and wanted > asked:
        yield "note", f"{asked} questions were asked; a change of two points would need about {wanted} to be seen."


def _of_run(run: Run) -> Pairs:
    if run.history is not None:
        yield from _of_trajectory({0: run.history})
    else:
        yield "note", "No lambda_history.csv: it was trained without anchors, or the file was left behind."
    if run.ended is False:
        yield "beware", "Training had not ended: it was cut off, or was still going on when this was written."
    elif run.step is not None and run.max_steps is not None and run.step < run.max_steps:
        yield "beware", f"Training ended at step {run.step} of {run.max_steps}."
    if not run.recorded:
        yield "note", "No run.json: what is listed as settings is only what the trainer's state holds."
    yield "note", "Training curves show what was optimised, not what a rollout or a question would find."


def _written(interval: Interval) -> str:
    return f"{100 * interval.low:.0f}–{100 * interval.high:.0f}"
