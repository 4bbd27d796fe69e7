"""The outcome in plain sentences."""

from collections.abc import Mapping

import numpy as np

from craft_trainer.report.history import History, Series, history_path
from craft_trainer.report.interval import percent
from craft_trainer.report.results import Group, Results

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
    teacher = _rate(results, "teacher", "old")
    relative = bool(teacher) and subject != "teacher"
    verb = "kept" if relative else "succeeded in"
    mine, other = (_share(_rate(results, name, "old"), teacher if relative else None) for name in (subject, rival))
    aside = f" (plain fine-tuning {'kept' if relative else 'in'} {other} %)" if other else ""
    return f"{verb} {mine} % of {'old-task success' if relative else 'old-task episodes'}{aside}" if mine else ""


def _new_clause(results: Results, subject: str, rival: str | None) -> str:
    mine, other = (_share(_rate(results, name, "new"), None) for name in (subject, rival))
    num_tasks = len(results.stream.new)
    tasks = "new task" if num_tasks == 1 else f"{num_tasks} new tasks"
    return f"reached {mine} % on the {tasks}{f' (plain {other} %)' if other else ''}" if mine else ""


def _rate(results: Results, method: str | None, group: Group) -> float | None:
    count = results.count(method, group) if method else None
    return None if count is None else count.rate


def _share(rate: float | None, whole: float | None) -> str:
    return "" if rate is None else percent(rate / whole if whole else rate)


def coverage(results: Results) -> str:
    """How much was measured: seeds, tasks and episodes, with the methods that have fewer seeds named."""
    episodes = sorted({row.episodes for row in results.rows})
    each = f"{episodes[0]}" if len(episodes) == 1 else f"{episodes[0]} to {episodes[-1]}"
    fewer = [
        f"{method}: {_plural(num_seeds, 'seed')}"
        for method in results.methods
        if (num_seeds := len({row.seed for row in results.rows if row.method == method})) < len(results.seeds)
    ]
    text = f"{_plural(len(results.seeds), 'seed')} × {each} episodes per task"
    return f"{text} ({', '.join(fewer)})" if fewer else text


def constraint_sentence(histories: Mapping[int, History]) -> str:
    """Where L_retain and λ ended, and how often the budget was exceeded. Needs at least one history."""
    tail = [history.last_tenth() for history in histories.values()]
    losses = [_mean(history.retention_loss) for history in tail]
    epsilon = float(np.median([history.epsilon[-1] for history in tail]))
    multiplier = float(np.median([history.multiplier[-1] for history in tail]))
    above = np.concatenate([~(history.retention_loss <= history.epsilon) for history in histories.values()])
    over_seeds = f" (medians over {len(tail)} seeds)" if len(tail) > 1 else ""
    return (
        f"In the last tenth of training L_retain averages {_short(100 * float(np.median(losses)))} % "
        f"of the teacher's variance against a budget ε of {_short(100 * epsilon)} %, "
        f"and λ ends at {_short(multiplier)}{over_seeds}. "
        f"L_retain was above ε in {percent(float(above.mean()))} % of all steps."
    )


def conflict_sentence(histories: Mapping[int, History]) -> str:
    """How often the two gradients conflicted, and their mean cosine. Needs at least one history."""
    conflict = np.concatenate([history.conflict for history in histories.values()])
    cosine = np.concatenate([history.cosine for history in histories.values()])
    return (
        f"The gradients conflicted in {percent(float(conflict.mean()))} % of all steps; "
        f"the mean cosine between them was {_mean(cosine):.2f}.".replace("-", "−")
    )


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


def _mean(values: Series) -> float:
    """Mean of the finite values, NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
