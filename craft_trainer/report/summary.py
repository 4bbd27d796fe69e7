"""The outcome in plain sentences."""

from collections.abc import Mapping
from math import isfinite, isnan

from craft_trainer.report.course import angle, course
from craft_trainer.report.history import History, history_path
from craft_trainer.report.interval import percent
from craft_trainer.report.results import Results

SENTENCE_NAMES = {"craft": "CRaFT", "plain": "plain fine-tuning", "teacher": "the teacher"}


def verdict(results: Results) -> str:
    """One sentence: what share of the teacher's old-task success was kept, and what was reached on the new task.

    Kept is (old success of the method) / (old success of the teacher), both pooled over tasks and seeds; without a
    teacher that succeeds, the success itself is given. The subject is craft, or else plain, or else the first other
    method; plain is the comparison.
    """
    students = [name for name in results.methods if name != "teacher"]
    subject = "craft" if "craft" in students else next(iter(students), "teacher")
    rival = "plain" if subject == "craft" and "plain" in results.methods else None
    clauses = [_old_clause(results, subject, rival), _new_clause(results, subject, rival)]
    name = SENTENCE_NAMES.get(subject, subject)
    sentence = f"{name[0].upper()}{name[1:]} {' and '.join(clause for clause in clauses if clause)}"
    if subject == "teacher":
        return f"{sentence}; no other method is in these results."
    return f"{sentence}." if subject == "craft" else f"{sentence}; no CRaFT run is in these results."


def _old_clause(results: Results, subject: str, rival: str | None) -> str:
    teacher = results.rate("teacher", "old")
    relative = bool(teacher) and subject != "teacher"
    verb = "kept" if relative else "succeeded in"
    mine, other = (_share(results.rate(name, "old"), teacher if relative else None) for name in (subject, rival))
    aside = f" (plain fine-tuning {'kept' if relative else 'in'} {other} %)" if other else ""
    return f"{verb} {mine} % of {'old-task success' if relative else 'old-task episodes'}{aside}" if mine else ""


def _new_clause(results: Results, subject: str, rival: str | None) -> str:
    mine, other = (_share(results.rate(name, "new"), None) for name in (subject, rival))
    num_tasks = len(results.stream.new)
    tasks = "new task" if num_tasks == 1 else f"{num_tasks} new tasks"
    return f"reached {mine} % on the {tasks}{f' (plain {other} %)' if other else ''}" if mine else ""


def _share(rate: float | None, whole: float | None) -> str:
    return "" if rate is None else percent(rate / whole if whole else rate)


def coverage(results: Results) -> str:
    """How much was measured: seeds, tasks and episodes, with the methods that have fewer seeds named."""
    episodes = sorted({row.episodes for row in results.rows})
    each = f"{episodes[0]}" if len(episodes) == 1 else f"{episodes[0]} to {episodes[-1]}"
    fewer = [
        f"{method}: {plural(num_seeds, 'seed')}"
        for method in results.methods
        if (num_seeds := len({row.seed for row in results.rows if row.method == method})) < len(results.seeds)
    ]
    text = f"{plural(len(results.seeds), 'seed')} × {each} episodes per task"
    return f"{text} ({', '.join(fewer)})" if fewer else text


def constraint_sentence(histories: Mapping[int, History], scale: str = "variance") -> str:
    """Where L_retain, a fraction of the teacher's ``scale``, and λ ended, and how often the budget was exceeded.

    Needs at least one history.
    """
    ended = course(histories)
    over_seeds = f" (medians over {ended.num_seeds} seeds)" if ended.num_seeds > 1 else ""
    return (
        f"In the last tenth of training L_retain averages {short(100 * ended.retention_loss)} % "
        f"of the teacher's {scale} against a budget ε of {short(100 * ended.epsilon)} %, "
        f"and λ ends at {short(ended.multiplier)}{over_seeds}. "
        f"L_retain was above ε in {percent(ended.above)} % of all steps."
    )


def conflict_sentence(histories: Mapping[int, History]) -> str:
    """How often the two gradients conflicted, and the mean angles. Needs at least one history."""
    over = course(histories)
    first = (
        f"The gradients conflicted in {percent(over.conflict)} % of all steps; the mean cosine between them was "
        f"{signed(over.cosine)}{_in_degrees(over.cosine)}."
    )
    if isnan(over.update_cosine):
        return first
    second = (
        f"{first} That between the optimizer's own step and the retention gradient was {signed(over.update_cosine)}"
        f"{_in_degrees(over.update_cosine)}"
    )
    if over.update_cosine == 0:  # all that was measured is the first step, at which nothing has moved
        return f"{second}, a right angle."
    side, effect = ("below", "raised") if over.update_cosine > 0 else ("above", "lowered")
    return f"{second}: {side} a right angle, so on average the step {effect} L_retain."


def _in_degrees(cosine: float) -> str:
    return "" if isnan(cosine) else f" ({angle(cosine):.0f}°)"


def missing_sentence(results: Results, histories: Mapping[int, History]) -> str:
    """Which seeds have no lambda_history.csv, and where it was expected; empty if none is missing."""
    missing = [seed for seed in results.seeds if seed not in histories]
    if not missing:
        return ""
    expected = history_path(results, missing[0]).relative_to(results.path.parent).as_posix()
    if histories:
        return (
            f"Without a history, and so without a line here: seed {', '.join(map(str, missing))} (expected {expected})."
        )
    return f"What the constraint did during training is not shown: no {expected} beside {results.path.name}."


def short(value: float) -> str:
    """A number ≥ 0 for a sentence: two significant digits."""
    return "not finite" if not isfinite(value) else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def signed(value: float) -> str:
    """A number with two decimals and a true minus sign; a dash where nothing was measured."""
    return "–" if isnan(value) else f"{value:.2f}".replace("-", "−")


def plural(number: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
