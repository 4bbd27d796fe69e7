"""May I believe it? What the numbers themselves say for and against what the headline says."""

from collections.abc import Iterator
from itertools import chain
from typing import Literal, NamedTuple

from craft_trainer.report.alike import unlike
from craft_trainer.report.choices import Choices
from craft_trainer.report.constraint import missed_tasks, unmeasured_tasks
from craft_trainer.report.evidence import Demo, Evidence
from craft_trainer.report.held_out import HeldOut
from craft_trainer.report.history import Trajectory, course, history_path
from craft_trainer.report.results import GROUPS, Count, Group, Results, method_label
from craft_trainer.report.rollouts import Rollout
from craft_trainer.report.run import Run
from craft_trainer.report.sentences import missing_sentence
from craft_trainer.report.wording import percent, plural, short_percent, spread, within

type Kind = Literal["holds", "beware", "note"]
type Pairs = Iterator[tuple[Kind, str]]

WIDE = 0.2  # of an interval: 20 points
LITTLE = 0.5  # success of the teacher below which there is little to forget, or above which a task is not new
LEARNED = 0.02  # fall of the task loss, as a fraction, below which a run learned next to nothing
ORDER = ("beware", "holds", "note")


class Remark(NamedTuple):
    """One sentence: it ``holds``, one should ``beware``, or it is a ``note``; ``about`` names what it is said of."""

    kind: Kind
    about: tuple[str, ...]
    text: str


def remarks(evidence: Evidence) -> list[Remark]:
    """Every remark once, warnings first; ``about`` is empty where there is only one thing to speak of."""
    said = chain(
        ((name, _of_demo(demo)) for name, demo in evidence.demos.items()),
        ((name, _of_held_out(one)) for name, one in evidence.held_out.items()),
        ((name, _of_rollout(rollout, evidence)) for name, rollout in evidence.rollouts.items()),
        ((name, _of_choices(choices)) for name, choices in evidence.asked.items()),
        ((name, _of_run(run)) for name, run in evidence.runs.items()),
    )
    found: dict[tuple[Kind, str], dict[str, None]] = {}
    for name, pairs in said:
        for pair in pairs:
            found.setdefault(pair, {})[name] = None
    single = len(evidence) == 1
    every = [Remark("beware", one.about, one.text) for one in unlike(evidence)]
    every += [Remark(kind, () if single else tuple(names), text) for (kind, text), names in found.items()]
    return sorted(every, key=lambda remark: ORDER.index(remark.kind))


def _of_demo(demo: Demo) -> Pairs:
    results = demo.results
    old, new = results.rate("teacher", "old"), results.rate("teacher", "new")
    if old is None:
        yield "beware", "The teacher was not rolled out: what was lost cannot be told from what was never known."
    yield from _of_teacher(old, new)
    craft, teacher = results.count("craft", "new"), results.count("teacher", "new")
    if craft is not None and teacher is not None and teacher.rate < LITTLE:
        yield from _of_learning(craft, teacher)
    yield from _of_rivals(results, "old")
    yield from _of_rivals(results, "new")
    yield from _of_seeds(results)
    if demo.histories:
        folders = [history_path(results, seed).parent for seed in demo.histories]
        missed = [missed_tasks(folder) for folder in folders]
        yield from _of_trajectory(demo.histories, missed=next(filter(None, missed), ""))
    if missing := missing_sentence(results, demo.histories):
        yield "note", missing


def _of_teacher(old: float | None, new: float | None) -> Pairs:
    """Say whether there was anything to forget and anything to learn."""
    if old is not None and old < LITTLE:
        text = f"The teacher itself succeeds in only {percent(old)} % on the old tasks: there was little to forget."
        yield "beware", text
    if new is not None and new >= LITTLE:
        text = f"The teacher already succeeds in {percent(new)} % on the new task: there was little to learn."
        yield "beware", text


def _of_learning(student: Count, teacher: Count) -> Pairs:
    """Say whether a student can be told from a teacher that fails on the new tasks."""
    if student.interval.low <= teacher.interval.high:
        intervals = f"{within(student.interval)} % against {within(teacher.interval)} %"
        yield "beware", f"Nothing shows that the new task was learned: the teacher is as good on it ({intervals})."


def _of_rivals(results: Results, group: Group) -> Pairs:
    """Say whether CRaFT and plain fine-tuning can be told apart on one group of tasks."""
    craft, plain = results.count("craft", group), results.count("plain", group)
    if craft is None or plain is None:
        return
    tasks = f"{group} task{'s' if len(results.stream.tasks(group)) > 1 else ''}"
    intervals = f"{within(craft.interval)} % against {within(plain.interval)} %"
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
        success = f"{spread(rates, percent)} % ({len(rates)} seeds)"
        yield "note", f"Seed by seed, old-task success of {method_label(method)} is {success}."
    yield "note", "An interval covers the luck of the episodes. It does not cover other tasks, robots or settings."


def _of_trajectory(histories: Trajectory, *, learned: bool = True, ended: bool = True, missed: str = "") -> Pairs:
    """Say whether the constraint was met; ``missed`` are the old tasks whose own constraint was not."""
    over = course(histories)
    each = f" in {over.num_kept} of {plural(over.num_seeds, 'seed')}" if over.num_seeds > 1 else ""
    numbers = f"L_retain {short_percent(over.retention_loss)} % against {short_percent(over.epsilon)} %"
    if over.diverged:
        yield "beware", "L_retain was not finite at some steps: training diverged there."
    if not ended:
        yield "note", f"So far the constraint is {'' if over.kept and not missed else 'not '}met{missed}: {numbers}."
    elif missed:
        yield "beware", f"The constraint was not met at the end of training{missed}: {numbers}."
    elif over.kept:
        kind: Kind = "holds" if learned else "note"
        yield kind, f"The constraint was met at the end of training{each}: {numbers}."
    else:
        only = f"only{each}" if over.num_kept else "not"
        yield "beware", f"The constraint was {only} met at the end of training: {numbers}."


def _of_held_out(found: HeldOut) -> Pairs:
    """Say whether there was something to forget, how much of it was kept, and whether the new data were learned."""
    teacher, plain, craft = ({what: found.mean(m, what) for what in GROUPS} for m in ("teacher", "plain", "craft"))
    if teacher["old"] is not None and plain["old"] is not None and plain["old"] <= teacher["old"] * (1 + LEARNED):
        yield "beware", "Plain fine-tuning did not raise the loss on the old data: there was nothing to keep."
    elif (kept := found.kept()) is not None and kept > 0:
        yield "holds", f"CRaFT kept {percent(min(kept, 1.0))} % of what plain fine-tuning lost on the old data."
    elif kept is not None:
        yield "beware", "CRaFT raised the loss on the old data by more than plain fine-tuning."
    if teacher["new"] is not None and plain["new"] is not None and craft["new"] is not None:
        fell, rival = teacher["new"] - craft["new"], teacher["new"] - plain["new"]
        if rival <= LEARNED * teacher["new"]:
            yield "beware", "Plain fine-tuning did not lower the loss on the new data: nothing was learned."
        elif fell <= 0:
            yield "beware", "CRaFT did not lower the loss on the new data. Allow more by a lower retention."
        else:
            kind: Kind = "holds" if fell >= rival / 2 else "beware"
            yield kind, f"CRaFT's loss on the new data fell by {percent(fell / rival)} % of what plain's fell by."
    if any(len(rows) == 1 for name, rows in found.losses.items() if name != "teacher"):
        yield "beware", "One seed: how much of this is the luck of one training run was not measured."
    frames = f"{found.frames['old']} old and {found.frames['new']} new frames"
    yield (
        "note",
        f"Measured on {frames} that neither run saw. A loss is no success: only rollouts show what a robot does.",
    )


def _of_rollout(rollout: Rollout, evidence: Evidence) -> Pairs:
    roles, total = evidence.roles, rollout.total
    old, new = (None if roles is None else roles.count(rollout, group) for group in GROUPS)
    for count in [one for one in (old, new) if one is not None] or [total]:
        if count.interval.high - count.interval.low > WIDE:
            episodes = plural(count.episodes, "episode")
            yield "beware", f"{episodes} leave {within(count.interval)} % plausible: roll out more."
    if roles is None and len(evidence.rollouts) > 1 and len(rollout.counts) > 1:
        yield "beware", "Old and new tasks are averaged alike: say which are which with --old or --new, and --teacher."
    teacher = None if roles is None or roles.teacher is None else evidence.rollouts[roles.teacher]
    if roles is None or teacher is None:
        return
    before = roles.count(teacher, "new")
    if teacher is rollout:
        yield from _of_teacher(*(None if one is None else one.rate for one in (old, new)))
        if len(evidence.rollouts) > 1:
            yield "note", "The intervals are of episodes. They do not cover the luck of the run that trained a policy."
    elif new is not None and before is not None and before.rate < LITTLE:
        yield from _of_learning(new, before)


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
    fell = run.fall_of_loss
    learned = fell is None or fell >= LEARNED
    if fell is not None and not learned and run.ended is not False:
        moved = f"fell by {100 * fell:.1f} %" if fell >= 0 else f"rose by {-100 * fell:.1f} %"
        yield "beware", f"Little or nothing was learned: the task loss {moved}. Who stands still meets any constraint."
    if run.constrained is not None:
        missed = missed_tasks(run.path, run.kept_step)
        yield from _of_trajectory({0: run.constrained}, learned=learned, ended=run.ended is not False, missed=missed)
        if unmeasured := unmeasured_tasks(run):
            yield "beware", f"{unmeasured}."
    elif run.history is not None:
        yield "note", f"Method {run.method} has no constraint that it could meet or miss."
    else:
        yield "note", "No lambda_history.csv: it was trained without anchors, or the file was left behind."
    if run.ended is False:
        yield "beware", "Training had not ended: it was cut off, or was still going on when this was written."
    elif run.step is not None and run.max_steps is not None and run.step < run.max_steps:
        yield "beware", f"Training ended at step {run.step} of {run.max_steps}."
    if not run.recorded:
        yield "note", "No run.json: what is listed as settings is only what the trainer's state holds."
    yield "note", "Training curves show what was optimised, not what a rollout or a question would find."
