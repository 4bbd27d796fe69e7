"""The outcome in plain sentences: a headline for each kind of evidence, of one thing or of many."""

from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite, isnan
from typing import Any

from craft_trainer.report.choices import Choices
from craft_trainer.report.constraint import constraint, missed_tasks
from craft_trainer.report.evidence import Demo, Evidence
from craft_trainer.report.held_out import HeldOut
from craft_trainer.report.history import Trajectory, course, history_path
from craft_trainer.report.recomputed import verdicts
from craft_trainer.report.results import GROUPS, Count, Results, method_label
from craft_trainer.report.roles import Roles
from craft_trainer.report.rollouts import Rollout
from craft_trainer.report.run import Run, teachers_scale
from craft_trainer.report.wording import angle, percent, plural, short, short_percent, signed, spread

SENTENCE_NAMES = {"craft": "CRaFT", "plain": "plain fine-tuning", "teacher": "the teacher"}
RIGHT_ANGLE = 0.0087  # sin 0.5°: a cosine below it is that of an angle which is written as 90°
MOST_NAMED = 3  # policies with a clause of their own
TEACHERS_VARIANCE = teachers_scale([])
ENDINGS = {"craft": "", "teacher": "; no other method is in these results"}


def headlines(evidence: Evidence) -> tuple[str, ...]:
    """One sentence for each kind of evidence there is: demos, losses, rollouts, multiple choice, training runs."""
    kinds: list[tuple[Mapping[str, Any], Callable[[Any], str]]] = [
        *((evidence.demos, demos_sentence), (evidence.held_out, held_out_sentence)),
        *(
            (evidence.rollouts, partial(rollouts_sentence, roles=evidence.roles)),
            (evidence.asked, choices_sentence),
            (evidence.runs, runs_sentence),
        ),
    ]
    return tuple(say(found) for found, say in kinds if found)


def verdict(results: Results) -> str:
    """One sentence: what share of the teacher's old-task success was kept, and what was reached on the new task.

    Kept is (old success of the method) / (old success of the teacher), both pooled over tasks and seeds; without a
    teacher that succeeds, the success itself is given. The subject is craft, or else plain, or else the first other
    method; plain is the comparison.
    """
    students = [name for name in results.methods if name != "teacher"]
    subject = "craft" if "craft" in students else next(iter(students), "teacher")
    rival = "plain" if subject == "craft" else ""
    clauses = []
    relative = subject != "teacher" and results.kept(subject) is not None
    mine, other = (results.kept(name) if relative else results.rate(name, "old") for name in (subject, rival))
    if mine is not None:
        verb, of = ("kept", "old-task success") if relative else ("succeeded in", "old-task episodes")
        aside = _aside(f"plain fine-tuning {verb.removeprefix('succeeded ')}", other)
        clauses.append(f"{verb} {percent(mine)} % of {of}{aside}")
    mine, other = results.rate(subject, "new"), results.rate(rival, "new")
    if mine is not None:
        tasks = "new task" if len(results.stream.new) == 1 else f"{len(results.stream.new)} new tasks"
        clauses.append(f"reached {percent(mine)} % on the {tasks}{_aside('plain', other)}")
    name = SENTENCE_NAMES.get(subject, subject)
    ending = ENDINGS.get(subject, "; no CRaFT run is in these results")
    return f"{name[0].upper()}{name[1:]} {' and '.join(clauses)}{ending}."


def _aside(text: str, rate: float | None) -> str:
    return "" if rate is None else f" ({text} {percent(rate)} %)"


def coverage(results: Results) -> str:
    """Count what was measured: seeds, tasks and episodes, with the methods that have fewer seeds named."""
    each = spread([row.episodes for row in results.rows], str)
    num_seeds = {name: len({row.seed for row in results.rows if row.method == name}) for name in results.methods}
    fewer = [f"{name}: {plural(num, 'seed')}" for name, num in num_seeds.items() if num < len(results.seeds)]
    text = f"{plural(len(results.seeds), 'seed')} × {each} episodes per task"
    return f"{text} ({', '.join(fewer)})" if fewer else text


def demos_sentence(demos: Mapping[str, Demo]) -> str:
    """The verdict of one demo, or how far the craft results of several lie apart; only of those that have any."""
    results = [demo.results for demo in demos.values()]
    if len(results) == 1:
        return verdict(results[0])
    kept, plain = ([rate for one in results if (rate := one.kept(name)) is not None] for name in ("craft", "plain"))
    reached = [rate for one in results if (rate := one.rate("craft", "new")) is not None]
    if not kept and not reached:
        return f"{len(demos)} results compared; none of them has a CRaFT run."
    clauses = [f"kept {spread(kept, percent)} % of old-task success"] if kept else []
    clauses += [f"reached {spread(reached, percent)} % on the new tasks"] if reached else []
    aside = f"; plain fine-tuning kept {spread(plain, percent)} %" if kept and plain else ""
    return f"{len(demos)} results compared: CRaFT {' and '.join(clauses)}{aside}."


def held_out_sentence(held_out: Mapping[str, HeldOut]) -> str:
    """Say what each method's loss on held-out episodes is, of the old data and of the new, beside the teacher's."""
    if len(held_out) > 1:
        return f"{len(held_out)} comparisons on held-out episodes."
    (found,) = held_out.values()
    clauses = []
    for group in GROUPS:
        ends = [
            f"{mean:.3g} after {SENTENCE_NAMES[method] if method == 'plain' else method_label(method)}"
            for method in ("plain", "craft")
            if (mean := found.mean(method, group)) is not None
        ]
        before = found.mean("teacher", group)
        begin = "" if before is None else f"{before:.3g} before, "
        clauses.append(f"on the {group} data the loss is {begin}{' and '.join(ends)}")
    return f"Held-out episodes: {'; '.join(clauses)}."


def rollouts_sentence(rollouts: Mapping[str, Rollout], roles: Roles | None = None) -> str:
    """Successes of one policy, or how far those of several lie apart; by ``roles`` what was kept and what learned."""
    if roles is not None:
        return _kept_and_learned(rollouts, roles)
    totals = {name: one.total for name, one in rollouts.items()}
    if len(totals) == 1:
        ((name, total),) = totals.items()
        return f"{name} succeeded in {total.successes} of {total.episodes} episodes."
    rates = spread([count.rate for count in totals.values()], percent)
    return f"{len(totals)} policies succeeded in {rates} % of their episodes."


def _kept_and_learned(rollouts: Mapping[str, Rollout], roles: Roles) -> str:
    """Say what policies kept of the teacher's old-task success and reached on new tasks: each, or least to most."""
    students = {name: one for name, one in rollouts.items() if name != roles.teacher} or rollouts
    kept = {name: roles.kept(one, rollouts) for name, one in students.items()}
    relative = students is not rollouts and None not in kept.values()
    rates = {name: [_rate(roles.count(one, group)) for group in GROUPS] for name, one in students.items()}
    olds = {name: kept[name] if relative else old for name, (old, _) in rates.items()}
    verb, of = ("kept", "the teacher's old-task success") if relative else ("succeeded in", "old-task episodes")
    tasks = "new task" if len(roles.new) == 1 else "new tasks"
    several = len(students) > MOST_NAMED
    groups = {f"{len(students)} policies": list(students)} if several else {name: [name] for name in students}
    clauses = []
    for name, members in groups.items():
        old = [rate for member in members if (rate := olds[member]) is not None]
        new = [rate for member in members if (rate := rates[member][1]) is not None]
        did = [f"{verb} {spread(old, percent)} % of {of}"] if old else []
        did += [f"reached {spread(new, percent)} % on the {tasks}"] if new else []
        clauses.append(f"{name} {' and '.join(did)}")
    return f"{'; '.join(clauses)}."


def _rate(count: Count | None) -> float | None:
    return None if count is None else count.rate


def choices_sentence(asked: Mapping[str, Choices]) -> str:
    """The conclusion of a single comparison; of several, how many changed for sure."""
    compared = [one.comparison for one in asked.values() if one.comparison is not None]
    if len(compared) == 1 and "conclusion" in compared[0]:
        return str(compared[0]["conclusion"])
    first = [one.asked[0].right for one in asked.values()]
    if len(first) == 1:
        return f"{first[0].successes} of {plural(first[0].episodes, 'multiple-choice question')} were answered right."
    if not compared:
        rates = spread([right.rate for right in first], percent)
        return f"{len(first)} checkpoints answered {rates} % of their multiple-choice questions right."
    accuracy, margin = zip(*(verdicts(one).values() for one in compared), strict=True)
    unsure = accuracy.count("undecided")
    rest = f"; in {unsure} chance may do what was seen" if unsure else ""
    number = plural(len(compared), "multiple-choice comparison")
    said = f"{number}: accuracy fell in {accuracy.count('fell')} and rose in {accuracy.count('rose')}{rest}"
    return f"{said}; the gold margin fell in {margin.count('fell')} and rose in {margin.count('rose')}."


def changes_sentence(compared: Mapping[str, Mapping[str, Any]]) -> str:
    """State the conclusion of one comparison of checkpoints, or the number of comparisons."""
    conclusions = [str(one.get("conclusion", "")) for one in compared.values()]
    return conclusions[0] if len(conclusions) == 1 else f"{len(compared)} comparisons, question by question."


def runs_sentence(runs: Mapping[str, Run]) -> str:
    """Say where L_retain and the task loss of one run ended; of several, how many kept to their budget."""
    held = [run for run in runs.values() if run.constrained is not None]
    if len(runs) == 1:
        (run,) = runs.values()
        losses = run.losses[1]
        fell = f", and a task loss that went from {losses[0]:.3g} to {losses[-1]:.3g}" if len(losses) > 1 else ""
        if run.history is None:
            return f"A training run without a retention history{fell}."
        if run.constrained is None:
            return f"A training run by method {run.method}, which has no constraint{fell}."
        ended = course({0: run.constrained})
        loss = f"{short_percent(ended.retention_loss)} % of {teachers_scale(run.units)}"
        missed = missed_tasks(run.path, run.kept_step)
        where = "above" if missed or not ended.kept else "within"
        budget = f"{where} its budget ε of {short_percent(ended.epsilon)} %{missed}"
        begin = "Training goes on or was cut off," if run.ended is False else "Training ended"
        return f"{begin} with L_retain at {loss}, {budget}{fell}."
    if not held:
        return f"{len(runs)} training runs compared; none of them has a constraint."
    aside = f" ({len(runs) - len(held)} without a constraint)" if len(held) < len(runs) else ""
    kept = f"{sum(constraint(run).met for run in held)} of {len(held)}"
    verb = "is" if any(run.ended is False for run in runs.values()) else "ended"
    return f"{len(runs)} training runs compared{aside}: L_retain {verb} within its budget ε in {kept}."


def trajectories_sentence(trajectories: Mapping[str, Trajectory], scale: str) -> str:
    """Say how far apart several trajectories ended."""
    ended = [course(histories) for histories in trajectories.values()]
    losses = [one.retention_loss for one in ended if isfinite(one.retention_loss)]
    loss = f"L_retain ended at {spread(losses, short_percent)} % of {scale} and " if losses else ""
    multipliers = spread([one.multiplier for one in ended], short)
    kept = sum(one.kept for one in ended)
    return f"{loss}λ at {multipliers}; {kept} of {len(ended)} ended within their budget ε."


def constraint_sentence(histories: Trajectory, scale: str = TEACHERS_VARIANCE) -> str:
    """Say where L_retain (a fraction of ``scale``) and λ ended, and how often it exceeded ε.

    Needs at least one history.
    """
    ended = course(histories)
    over_seeds = f" (medians over {ended.num_seeds} seeds)" if ended.num_seeds > 1 else ""
    return (
        f"In the last tenth of training L_retain averages {short_percent(ended.retention_loss)} % "
        f"of {scale} against a budget ε of {short_percent(ended.epsilon)} %, "
        f"and λ ends at {short(ended.multiplier)}{over_seeds}. "
        f"L_retain was above ε in {percent(ended.above)} % of all steps."
    )


def gradients_compared(trajectories: Mapping[str, Trajectory]) -> bool:
    """True if any of the runs had two gradients; with backward joint there is one."""
    return any(not isnan(course(histories).conflict) for histories in trajectories.values())


def conflict_sentence(histories: Trajectory) -> str:
    """Say how often the two gradients conflicted, and the mean angles. Needs at least one history."""
    over = course(histories)
    if isnan(over.conflict):
        return "One backward pass took both losses (backward joint), so their gradients were not compared."
    first = f"The gradients conflicted in {percent(over.conflict)} % of all steps; the mean cosine between them was "
    first += f"{_cosine(over.cosine)}."
    if isnan(over.update_cosine):
        return first
    cosine = _cosine(over.update_cosine)
    second = f"{first} That between the optimizer's own step and the retention gradient was {cosine}"
    if abs(over.update_cosine) < RIGHT_ANGLE:  # as at the first step, at which nothing has moved
        return f"{second}, a right angle."
    side, effect = ("below", "raised") if over.update_cosine > 0 else ("above", "lowered")
    return f"{second}: {side} a right angle, so on average the step {effect} L_retain."


def _cosine(value: float) -> str:
    return signed(value) if isnan(value) else f"{signed(value)} ({angle(value)})"


def missing_sentence(results: Results, histories: Trajectory) -> str:
    """Name the seeds without a lambda_history.csv, and where it was expected; empty if none is missing."""
    missing = [seed for seed in results.seeds if seed not in histories]
    if not missing:
        return ""
    expected = history_path(results, missing[0]).relative_to(results.path.parent).as_posix()
    if histories:
        seeds = ", ".join(map(str, missing))
        return f"Without a history, and so without a line here: seed {seeds} (expected {expected})."
    return f"What the constraint did during training is not shown: no {expected} beside {results.path.name}."
