"""Tables of raw results: methods on one stream, on all streams, beside a rival, and by the clock."""

from collections.abc import Sequence
from math import isnan, nan
from statistics import median
from typing import NamedTuple

import numpy as np

from craft_trainer.evaluation.continual import (
    area_under_success,
    average_success,
    backward_transfer,
    negative_backward_transfer,
)
from craft_trainer.evaluation.metrics.mcq_comparison.intervals import mean_interval
from craft_trainer.evaluation.replicates import (
    QUARTER,
    Difference,
    paired_differences,
    stratified_interval,
    trimmed_mean,
)
from craft_trainer.evaluation.token_mean import Mean, mean_over_tokens
from craft_trainer.report.results import GROUPS, pooled
from craft_trainer.report.tables import Table
from craft_trainer.report.wording import DASH, percent, rate, signed
from craft_trainer.suites.runs import Run, by_method

HEADS = {"old": "old tasks, %", "new": "new task, %"}


def stream_table(runs: Sequence[Run]) -> Table:
    """Every method on one stream: success with the 95 % Wilson interval over episodes, and seed by seed.

    Of texts it is the loss of those that are learned, and what the questions say of the rest: :func:`_texts_row`.

    Raises:
        ValueError: of texts, two raw results do not have the same columns. Or the runs are learning curves, or no
            sequence.
    """
    if _are_texts(runs):
        for run in runs:
            if _texts_columns(run) != _texts_columns(runs[0]):
                raise ValueError(
                    f"{runs[0].path} and {run.path} do not have the same columns ({', '.join(_texts_columns(runs[0]))} "
                    f"and {', '.join(_texts_columns(run))}): choose methods that do, by `of`"
                )
        return Table("", _texts_columns(runs[0]), [_texts_row(found) for found in by_method(runs).values()])
    if runs[0].groups:
        columns = ("method", "seeds", HEADS["old"], "each seed", HEADS["new"], "each seed")
        return Table("", columns, [_groups_row(found) for found in by_method(runs).values()])
    return _sequence_table(runs)


def _are_texts(runs: Sequence[Run]) -> bool:
    return bool(runs[0].losses) or not runs[0].stages


def _groups_row(runs: Sequence[Run]) -> tuple[str, ...]:
    row = [runs[0].label, _seeds(runs)]
    for group in GROUPS:
        row.append(rate(pooled([count for run in runs for count in run.groups[group]])))
        row.append(" ".join(percent(run.mean(group)) for run in runs))
    return tuple(row)


def _sequence_table(runs: Sequence[Run]) -> Table:
    """Every method on a sequence of tasks: means over seeds. "Just learned" is the mean of R[j, j], in percent.

    Raises:
        ValueError: the runs are no sequence: :func:`stages.matrix_of`.
    """
    columns = ("method", "seeds", "average, %", "each seed", "just learned, %", "BWT", "NBT", "AUC, %")
    return Table("", columns, [_sequence_row(found) for found in by_method(runs).values()])


def _sequence_row(runs: Sequence[Run]) -> tuple[str, ...]:
    matrices = [run.matrix() for run in runs]
    if len(matrices[0]) == 1:  # all tasks at once
        ends = " ".join(f"{100 * np.mean(matrix):.1f}" for matrix in matrices)
        return runs[0].label, _seeds(runs), f"{100 * np.mean(matrices):.1f}", ends, *4 * (DASH,)
    measures = [
        [how(matrix) for matrix in matrices]
        for how in (
            average_success,
            lambda matrix: matrix.diagonal().mean(),
            backward_transfer,
            negative_backward_transfer,
            area_under_success,
        )
    ]
    average, new, bwt, nbt, auc = (100 * float(np.mean(values)) for values in measures)
    ends = " ".join(f"{100 * value:.1f}" for value in measures[0])
    return (
        *(runs[0].label, _seeds(runs), f"{average:.1f}", ends, f"{new:.1f}"),
        *(signed(bwt, ".1f"), signed(nbt, ".1f"), f"{auc:.1f}"),
    )


def _texts_columns(run: Run) -> tuple[str, ...]:
    columns = ["method", "seeds", *(("loss of the new texts", "each seed") if run.losses else ())]
    for name, found in run.measured.items():
        columns.append(f"{name}: change of the loss, nats" if found.tokens else f"{name}: loss")
    return (*columns, *(("gold margin, nats", "right answers, pts") if run.changes else ()))


def _texts_row(runs: Sequence[Run]) -> tuple[str, ...]:
    """The last loss, in nats a token, and what changed since the start: other losses, gold margins, right answers.

    A change is averaged over the seeds row by row, or question by question. Its 95 % interval is a bootstrap over the
    rows or questions.
    """
    row = [runs[0].label, _seeds(runs)]
    if runs[0].losses:
        ends = [run.losses[-1] for run in runs]
        row += [f"{np.mean(ends):.3f}", " ".join(f"{end:.3f}" for end in ends)]
    for name, first in runs[0].measured.items():
        if not first.tokens:
            row.append(f"{np.mean([run.measured[name].loss for run in runs]):.3f}")
            continue
        row.append(_with_ends(change_of_texts(runs, name), 3))
    for change, scale, digits in (("margin_gold", 1, 3), ("correct", 100, 1)) if runs[0].changes else ():
        changes = scale * np.mean([run.changes[change] for run in runs], axis=0)
        row.append(_with_ends((float(changes.mean()), *mean_interval(changes)), digits))
    return tuple(row)


def change_of_texts(runs: Sequence[Run], name: str) -> Mean:
    """What the evaluation ``name`` by ``loss`` changed by since the start, averaged over seeds text by text.

    Raises:
        ValueError: two runs were measured on other texts.
    """
    first = runs[0].measured[name]
    for run in runs:
        if run.measured[name].tokens != first.tokens:
            raise ValueError(
                f"{runs[0].path} and {run.path}: {name} was measured on other rows, which cannot be averaged one by "
                "one: measure both on the same texts"
            )
    changes = np.mean([run.measured[name].changes for run in runs], axis=0)
    return mean_over_tokens(changes, np.array(first.tokens, dtype=np.float64))


def _with_ends(found: tuple[float, float, float], digits: int) -> str:
    mean, low, high = (signed(end, f"+.{digits}f") for end in found)
    return f"{mean} ({low} to {high})"


def suite_table(runs: Sequence[Run]) -> Table:
    """Every method on all streams: means and interquartile means, with stratified bootstrap intervals over seeds.

    Of sequences it is the table of one stream, with the methods of all of them: joint training has one of its own.

    Raises:
        ValueError: there is no such table of learning curves and of texts, or one stream would count more.
    """
    if _are_texts(runs):
        raise ValueError(
            "losses of several streams are of other texts: choose one stream, as <!-- suite: NAME/STREAM -->"
        )
    if not any(run.groups for run in runs):
        return _sequence_table(runs)
    rows = []
    for found in by_method(run for run in runs if run.groups).values():
        row = [found[0].label, str(len({run.stream for run in found})), str(len(found))]
        for group in GROUPS:
            row += [in_percent(average(found, group, trimmed)) for trimmed in (0.0, QUARTER)]
        rows.append(tuple(row))
    heads = (head for group in GROUPS for head in (HEADS[group], "middle half"))
    return Table("", ("method", "streams", "runs", *heads), rows)


class Average(NamedTuple):
    """A mean over streams, seeds and tasks, and the ends of its interval, NaN where there is none; fractions."""

    mean: float
    low: float
    high: float


def average(runs: Sequence[Run], group: str, trimmed: float = 0.0) -> Average:
    """Average the runs of one method, ``trimmed`` from each end, with a stratified bootstrap interval over seeds.

    There is no interval where a stream has one seed: drawn again, it would be the same.

    Raises:
        ValueError: the streams have different numbers of seeds, so that one of them would count more.
    """
    names = sorted({run.stream for run in runs})
    strata = [
        np.array([[count.rate for count in run.groups[group]] for run in runs if run.stream == name]) for name in names
    ]
    if len({len(stratum) for stratum in strata}) > 1:
        seeds = ", ".join(f"{len(stratum)} on {name}" for name, stratum in zip(names, strata, strict=True))
        raise ValueError(
            f"{runs[0].method} has seeds of different numbers ({seeds}), so that one stream would count more than "
            "another: run as many on each, tabulate one stream (SUITE/STREAM), or choose other methods by `of`"
        )
    mean = trimmed_mean(np.concatenate([stratum.ravel() for stratum in strata]), trimmed)
    if min(map(len, strata)) == 1:
        return Average(mean, nan, nan)
    return Average(mean, *stratified_interval(strata, trimmed=trimmed))


def in_percent(one: Average) -> str:
    """``94.2 (92–96)``, or ``94.2`` where there is no interval."""
    ends = "" if isnan(one.low) else f" ({100 * one.low:.0f}–{100 * one.high:.0f})"
    return f"{100 * one.mean:.1f}{ends}"


def differences_table(rival: str, runs: Sequence[Run]) -> Table:
    """Every method less ``rival`` on the streams and seeds that both have, in points of success.

    A rival's name without a budget stands for it at the budget of the other: equal budgets are compared, and methods
    without one are left out.

    Raises:
        ValueError: there is no such method, or no stream with old and new tasks.
    """
    scored = {(run.method, run.stream, run.seed): run for run in runs if run.groups}
    if not scored:
        raise ValueError(
            "differences are those of success on old and on new tasks, and no stream has both: of sequences and texts "
            "write <!-- suite: NAME/STREAM -->, of learning curves <!-- suite: NAME steps -->"
        )
    methods = {run.method: run.name for run in scored.values()}
    rivals = {method for method, name in methods.items() if rival in (name, method)}
    if not rivals:
        raise ValueError(f"no raw result of {rival}; there are {', '.join(sorted(methods))}")
    found = {method: mine for method, mine in by_method(scored.values()).items() if method not in rivals}
    comparisons = {}
    for group in GROUPS:
        for method, mine in found.items():
            other = rival if rival in rivals else f"{rival}-{mine[0].budget}"
            beside = [scored.get((other, run.stream, run.seed)) for run in mine]
            pairs = [(one.mean(group), two.mean(group)) for one, two in zip(mine, beside, strict=True) if two]
            if pairs:
                comparisons[f"{method} {group}"] = ([one for one, _ in pairs], [two for _, two in pairs])
    differences = paired_differences(comparisons)
    rows = [
        (mine[0].label, *(cell for group in GROUPS for cell in _difference_cells(differences[f"{method} {group}"])))
        for method, mine in found.items()
        if f"{method} {GROUPS[0]}" in differences
    ]
    return Table("", ("method", "pairs", "old, points", "p", "pairs", "new, points", "p"), rows)


def seconds_table(runs: Sequence[Run]) -> Table:
    """Tabulate the time that methods take: median seconds of fine-tuning and of the anchors, and beside plain.

    The ratio to ``plain`` is the median over the streams and seeds that both have.
    """
    timed = [run for run in runs if "train" in run.seconds]
    plain = {(run.stream, run.seed): run.seconds["train"] for run in timed if run.name == "plain"}
    rows = []
    for mine in by_method(timed).values():
        ratios = [run.seconds["train"] / plain[key] for run in mine if (key := (run.stream, run.seed)) in plain]
        anchors = [run.seconds["anchors"] for run in mine if "anchors" in run.seconds]
        took = f"{median(run.seconds['train'] for run in mine):.0f}"
        beside = f"{median(ratios):.2f}" if ratios else DASH
        rows.append((mine[0].label, str(len(mine)), took, beside, f"{median(anchors):.0f}" if anchors else DASH))
    return Table("", ("method", "runs", "fine-tuning, s", "beside plain", "anchors, s"), rows)


def _difference_cells(one: Difference) -> tuple[str, str, str]:
    ends = "" if one.interval is None else " to ".join(signed(100 * end, ".1f") for end in one.interval)
    return str(one.num_pairs), signed(100 * one.mean, "+.1f") + (f" ({ends})" if ends else ""), f"{one.p:.3f}"


def _seeds(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.seed) for run in runs)
