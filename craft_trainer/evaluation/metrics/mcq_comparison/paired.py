"""Two models on the same items: paired differences, their intervals and tests, and what may be concluded of them.

This file is also published next to the `evaluate` script, so it imports nothing of the package but what is there too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from .intervals import CONFIDENCE, FEWEST, NUM_RESAMPLES, items_needed, mcnemar_p, mean_interval

FEWEST_RESAMPLES = 99
Verdict = Literal["fell", "rose", "undecided"]

LEVEL = 0.05
DISAGREE = (
    "The two disagree: the second model answers {} questions, although on average the right answers {}. Its answers "
    "are {}; what carries the mean margin must be seen in the items."
)
EARLY = (
    "An early sign of {}: the right answers {} the best wrong ones (or all choices moved apart); that {} questions are "
    "answered is not shown."
)
VERDICTS: dict[tuple[Verdict, Verdict], str] = {  # of accuracy and of the gold margin
    ("fell", "fell"): "The second model is damaged on questions like these.",
    ("fell", "undecided"): "The second model is damaged on questions like these: it answers fewer of them.",
    ("fell", "rose"): DISAGREE.format("fewer", "gained", "damaged"),
    ("rose", "rose"): "The second model is better on questions like these.",
    ("rose", "undecided"): "The second model is better on questions like these: it answers more of them.",
    ("rose", "fell"): DISAGREE.format("more", "lost ground", "better"),
    ("undecided", "fell"): EARLY.format("damage", "lost ground against", "fewer"),
    ("undecided", "rose"): EARLY.format("improvement", "gained on", "more"),
    ("undecided", "undecided"): "Neither damage nor improvement may be concluded, and not that nothing changed either.",
}


@dataclass(frozen=True)
class Comparison:
    """The comparison of two models on the same n items; differences are second − first, so below 0 the second is worse.

    Attributes:
        accuracy1, accuracy2: fractions of right items.
        accuracy_difference, accuracy_difference_ci: their difference and its 95 % interval (paired bootstrap).
        num_right_to_wrong, num_wrong_to_right: items that only the first, or only the second, has right.
        mcnemar_p: two-sided exact McNemar test of the two counts; 1 where both are 0.
        margin_gold1, margin_gold2: means of the signed gold margins in nats (answer − best other choice).
        margin_gold_change, margin_gold_change_ci: mean change of the margin and its 95 % interval (paired bootstrap).
        discordance_bound: upper end of the 95 % Clopper-Pearson interval of the fraction of items that change sides.
        right_to_wrong, wrong_to_right: the ids of these items.
        items_for_difference_seen: items that would show an accuracy difference as large as this one with 80 % power
            at the discordance seen; ``None`` where there is no difference.
        items_for_two_points: the same for a difference of 2 percentage points.
        confidence, num_resamples, seed: of the intervals.
        conclusion: what may be concluded, in plain English.
    """

    num_items: int
    accuracy1: float
    accuracy2: float
    accuracy_difference: float
    accuracy_difference_ci: tuple[float, float]
    num_right_to_wrong: int
    num_wrong_to_right: int
    mcnemar_p: float
    margin_gold1: float
    margin_gold2: float
    margin_gold_change: float
    margin_gold_change_ci: tuple[float, float]
    discordance_bound: float
    right_to_wrong: list[str]
    wrong_to_right: list[str]
    items_for_difference_seen: int | None
    items_for_two_points: int
    confidence: float
    num_resamples: int
    seed: int
    conclusion: str


def compare(
    correct1: Sequence[bool],
    correct2: Sequence[bool],
    *,
    margins1: Sequence[float],
    margins2: Sequence[float],
    ids: Sequence[str] | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Compare a second model with a first on n ≥ 1 items, one entry of each list per item, in the same order.

    Args:
        correct1, correct2: whether the model has the item right; any accuracy (raw, per character, …) will do.
        margins1, margins2: signed gold margins, in nats.
        ids: names of the items in the lists of flips; without them their positions from 0.
        seed, num_resamples: of the bootstrap, ≥ 99; the same seed gives the same intervals.

    Raises:
        ValueError: no items, lists of different lengths, a margin that is not finite, or fewer than 99 resamples.
    """
    names = [str(number) for number in range(len(correct1))] if ids is None else [str(name) for name in ids]
    columns = {"correct1": correct1, "correct2": correct2, "margins1": margins1, "margins2": margins2, "ids": names}
    _check(columns)
    if num_resamples < FEWEST_RESAMPLES:
        raise ValueError(f"num_resamples must be at least {FEWEST_RESAMPLES} for an interval, not {num_resamples}")
    before, after = np.array(correct1, dtype=bool), np.array(correct2, dtype=bool)
    lost, won = before & ~after, after & ~before
    num_lost, num_won = int(lost.sum()), int(won.sum())
    first, second = np.array(margins1, dtype=np.float64), np.array(margins2, dtype=np.float64)
    gains = after.astype(np.float64) - before
    difference = (num_won - num_lost) / len(names)
    discordance = (num_lost + num_won) / len(names)
    bound = float(proportion_confint(num_lost + num_won, len(names), alpha=1 - CONFIDENCE, method="beta")[1])
    numbers = Comparison(
        num_items=len(names),
        accuracy1=float(before.mean()),
        accuracy2=float(after.mean()),
        accuracy_difference=difference,
        accuracy_difference_ci=mean_interval(gains, seed=seed, num_resamples=num_resamples),
        num_right_to_wrong=num_lost,
        num_wrong_to_right=num_won,
        mcnemar_p=mcnemar_p(num_lost, num_won),
        margin_gold1=float(first.mean()),
        margin_gold2=float(second.mean()),
        margin_gold_change=float((second - first).mean()),
        margin_gold_change_ci=mean_interval(second - first, seed=seed, num_resamples=num_resamples),
        discordance_bound=bound,
        right_to_wrong=[name for name, flipped in zip(names, lost, strict=True) if flipped],
        wrong_to_right=[name for name, flipped in zip(names, won, strict=True) if flipped],
        items_for_difference_seen=items_needed(difference, discordance) if difference else None,
        items_for_two_points=items_needed(0.02, discordance or bound),
        confidence=CONFIDENCE,
        num_resamples=num_resamples,
        seed=seed,
        conclusion="",
    )
    return replace(numbers, conclusion=conclude(numbers))


def compare_items(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> Comparison:
    """Compare two models by their items (``id``, ``correct``, ``margin_gold``), of those that both have.

    Raises:
        ValueError: they have none in common.
    """
    mine, theirs = ({item["id"]: item for item in items} for items in (first, second))
    both = [key for key in mine if key in theirs]
    if not both:
        raise ValueError("the two models have no question in common")
    return compare(
        [mine[key]["correct"] for key in both],
        [theirs[key]["correct"] for key in both],
        margins1=[mine[key]["margin_gold"] for key in both],
        margins2=[theirs[key]["margin_gold"] for key in both],
        ids=both,
        seed=seed,
    )


def _check(columns: dict[str, Sequence[Any]]) -> None:
    lengths = {name: len(values) for name, values in columns.items()}
    if set(lengths.values()) == {0}:
        raise ValueError("there are no items to compare")
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"both models must have the same items in the same order, but the lists have lengths {lengths}"
        )
    for name in ("margins1", "margins2"):
        bad = np.flatnonzero(~np.isfinite(np.asarray(columns[name], dtype=np.float64)))
        if len(bad):
            raise ValueError(f"item {columns['ids'][bad[0]]}: {name} is not finite")


def conclude(numbers: Comparison) -> str:
    """Say what may be concluded: of accuracy, of the gold margin, of both, and how many items would decide accuracy.

    Accuracy changed if the exact McNemar test says so (p < 0.05), the gold margin if its 95 % interval excludes 0. The
    margin moves before answers flip, but it says nothing of how many questions are answered right.
    """
    if _same(numbers):
        return (
            f"Both models leave the {numbers.num_items:,} items right or wrong by exactly the same margins: on these "
            "items nothing changed. Are they two different models?"
        )
    accuracy, margin = accuracy_verdict(numbers), margin_verdict(numbers)
    parts = [_accuracy(numbers, accuracy), _margin(numbers, margin), VERDICTS[accuracy, margin]]
    if accuracy == "undecided":
        parts.append(_items_needed(numbers))
    return " ".join(parts)


def accuracy_verdict(numbers: Comparison) -> Verdict:
    """Did accuracy change by more than chance? By the exact McNemar test at 5 %."""
    if numbers.mcnemar_p >= LEVEL:
        return "undecided"
    return "fell" if numbers.num_right_to_wrong > numbers.num_wrong_to_right else "rose"


def margin_verdict(numbers: Comparison) -> Verdict:
    """Did the mean gold margin change? By its 95 % interval, from 20 items on."""
    low, high = numbers.margin_gold_change_ci
    if numbers.num_items < FEWEST or low <= 0 <= high:
        return "undecided"
    return "fell" if high < 0 else "rose"


def _same(numbers: Comparison) -> bool:
    changed = numbers.num_right_to_wrong + numbers.num_wrong_to_right
    return changed == 0 and numbers.margin_gold_change_ci == (0.0, 0.0)


def _accuracy(numbers: Comparison, verdict: Verdict) -> str:
    if numbers.num_right_to_wrong + numbers.num_wrong_to_right == 0:
        return (
            f"None of the {numbers.num_items:,} items changed between right and wrong (accuracy "
            f"{_percent(numbers.accuracy1)}); of items like them up to {_percent(numbers.discordance_bound)} might."
        )
    low, high = numbers.accuracy_difference_ci
    what = (
        f"from {_percent(numbers.accuracy1)} to {_percent(numbers.accuracy2)} over {numbers.num_items:,} items "
        f"({_points(numbers.accuracy_difference)} points, 95 % CI {_points(low)} to {_points(high)}; "
        f"{numbers.num_right_to_wrong:,} became wrong and {numbers.num_wrong_to_right:,} right, exact McNemar "
        f"{_p(numbers.mcnemar_p)})"
    )
    return f"Accuracy went {what}: chance may do that." if verdict == "undecided" else f"Accuracy {verdict} {what}."


def _margin(numbers: Comparison, verdict: Verdict) -> str:
    low, high = numbers.margin_gold_change_ci
    change = numbers.margin_gold_change
    interval = f"95 % CI {low:+.3g} to {high:+.3g}"
    if verdict != "undecided":
        return f"The gold margin {verdict} by {abs(change):.3g} nats per item ({interval})."
    if numbers.num_items < FEWEST:
        few = f"fewer than {FEWEST} items are too few to rely on its interval"
        return f"The gold margin changed by {change:+.3g} nats per item; {few}."
    return f"The gold margin changed by {change:+.3g} nats per item ({interval}): chance may do that."


def _items_needed(numbers: Comparison) -> str:
    two_points = f"a difference of 2 points takes about {numbers.items_for_two_points:,} items"
    if numbers.items_for_two_points <= numbers.num_items:
        two_points += f", so the {numbers.num_items:,} here would probably have shown it"
    if numbers.items_for_difference_seen is None:
        return f"To be seen in accuracy with 80 % power, {two_points}."
    return (
        f"To be seen in accuracy with 80 % power, a true difference as large as this one takes about "
        f"{numbers.items_for_difference_seen:,} items; {two_points}."
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}" if abs(fraction) >= 0.0005 or fraction == 0 else f"{100 * fraction:+.1g}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
