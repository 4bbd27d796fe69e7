"""The first sentences of a page: what was found, in one sentence per kind of evidence."""

from collections.abc import Iterator, Sequence
from math import isfinite

from craft_trainer.report.course import course
from craft_trainer.report.evidence import Demo, Evidence
from craft_trainer.report.interval import percent
from craft_trainer.report.results import Results
from craft_trainer.report.run import Run
from craft_trainer.report.summary import plural, short, verdict


def headlines(evidence: Evidence) -> tuple[str, ...]:
    """One sentence for each kind of evidence there is: demos, rollouts, multiple choice, training runs."""
    return tuple(sentence for sentence in _sentences(evidence) if sentence)


def _sentences(evidence: Evidence) -> Iterator[str]:
    demos, runs = list(evidence.demos.values()), list(evidence.runs.values())
    if demos:
        yield verdict(demos[0].results) if len(demos) == 1 else demos_sentence(demos)
    if evidence.rollouts:
        yield rollouts_sentence(evidence)
    if evidence.asked:
        yield _choices(evidence)
    if runs:
        yield _run(runs[0]) if len(runs) == 1 else _runs(evidence)


def demos_sentence(demos: Sequence[Demo]) -> str:
    """How far the craft results of several demos lie apart; only of those that have what is said."""
    results = [demo.results for demo in demos]
    kept = [rate for one in results if (rate := kept_share(one, "craft")) is not None]
    reached = [rate for one in results if (rate := one.rate("craft", "new")) is not None]
    plain = [rate for one in results if (rate := kept_share(one, "plain")) is not None]
    if not kept and not reached:
        return f"{len(demos)} results compared; none of them has a CRaFT run."
    clauses = [f"kept {_range(kept)} % of old-task success"] if kept else []
    clauses += [f"reached {_range(reached)} % on the new tasks"] if reached else []
    aside = f"; plain fine-tuning kept {_range(plain)} %" if kept and plain else ""
    return f"{len(demos)} results compared: CRaFT {' and '.join(clauses)}{aside}."


def kept_share(results: Results, method: str) -> float | None:
    """Old-task success as a share of the teacher's; None where one of them is missing or the teacher never succeeds."""
    mine, teacher = results.rate(method, "old"), results.rate("teacher", "old")
    return None if mine is None or not teacher else mine / teacher


def _range(rates: Sequence[float]) -> str:
    low, high = percent(min(rates)), percent(max(rates))
    return low if low == high else f"{low} to {high}"


def rollouts_sentence(evidence: Evidence) -> str:
    """Successes of one policy, or how far those of several lie apart."""
    totals = {name: one.total for name, one in evidence.rollouts.items()}
    (name, first), *others = totals.items()
    if not others:
        return f"{name} succeeded in {first.successes} of {first.episodes} episodes."
    return (
        f"{len(totals)} policies succeeded in {_range([count.rate for count in totals.values()])} % of their episodes."
    )


def _choices(evidence: Evidence) -> str:
    """The conclusion of a single comparison; of several, how many changed for sure."""
    every = list(evidence.asked.values())
    changes = [one.comparison["accuracy_difference_ci"] for one in every if one.comparison is not None]
    conclusions = [
        str(one.comparison["conclusion"]) for one in every if one.comparison and "conclusion" in one.comparison
    ]
    if len(changes) == len(conclusions) == 1:
        return conclusions[0]
    if len(every) == 1:
        asked = every[0].asked[0]
        right, number = asked.right.successes, plural(asked.right.episodes, "multiple-choice question")
        return f"{right} of {number} were answered right."
    worse, better = sum(high < 0 for _, high in changes), sum(low > 0 for low, _ in changes)
    if not changes:
        rates = [one.asked[0].right.rate for one in every]
        return f"{len(every)} checkpoints answered {_range(rates)} % of their multiple-choice questions right."
    unsure = len(changes) - worse - better
    rest = f"; in {unsure} its 95 % interval includes no change" if unsure else ""
    return f"{plural(len(changes), 'multiple-choice comparison')}: accuracy fell in {worse} and rose in {better}{rest}."


def _run(run: Run) -> str:
    if run.history is None:
        return f"A training run without a retention history{_losses(run)}."
    ended = course({0: run.history})
    inside = "within" if ended.kept else "above"
    return (
        f"Training ended with L_retain at {short(100 * ended.retention_loss)} % of the teacher's {run.scale}, {inside} "
        f"its budget ε of {short(100 * ended.epsilon)} %{_losses(run)}."
    )


def _losses(run: Run) -> str:
    _, losses = run.losses
    return f", and a task loss that went from {losses[0]:.3g} to {losses[-1]:.3g}" if len(losses) > 1 else ""


def _runs(evidence: Evidence) -> str:
    held = [course({0: run.history}) for run in evidence.runs.values() if run.history is not None]
    without = len(evidence.runs) - len(held)
    if not held:
        return f"{len(evidence.runs)} training runs compared; none of them has a retention history."
    aside = f" ({without} without a retention history)" if without else ""
    return (
        f"{len(evidence.runs)} training runs compared{aside}: L_retain ended within its budget ε in "
        f"{sum(one.kept for one in held)} of {len(held)}."
    )


def trajectories_sentence(evidence: Evidence) -> str:
    """How far apart several trajectories ended."""
    ended = [course(histories) for histories in evidence.trajectories.values()]
    losses = [100 * one.retention_loss for one in ended if isfinite(one.retention_loss)]
    multipliers = [one.multiplier for one in ended]
    spread = f"L_retain ended at {_between(losses)} % of the teacher's {evidence.scale} and " if losses else ""
    kept = sum(one.kept for one in ended)
    return f"{spread}λ at {_between(multipliers)}; {kept} of {len(ended)} ended within their budget ε."


def _between(values: Sequence[float]) -> str:
    low, high = short(min(values)), short(max(values))
    return low if low == high else f"{low} to {high}"
