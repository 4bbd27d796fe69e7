"""What may be concluded from a comparison, in plain English, and what may not.

Two statements are kept apart. *Accuracy* changed if the exact McNemar test says so (p < 0.05). The *gold margin*
changed if its 95 % interval excludes 0; it moves before answers flip, so it is the more sensitive one, but it says
nothing of how many questions are answered right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .paired import Comparison

Verdict = Literal["fell", "rose", "undecided"]

LEVEL = 0.05
FEWEST_FOR_MARGIN = 20  # below this a bootstrap interval of a mean is too narrow to rely on

VERDICTS: dict[tuple[Verdict, Verdict], str] = {
    ("fell", "fell"): "The second model is damaged on questions like these.",
    ("fell", "undecided"): "The second model is damaged on questions like these: it answers fewer of them.",
    (
        "fell",
        "rose",
    ): "The two disagree: the second model answers fewer questions, although on average the right answers "
    "gained. Its answers are damaged; what carries the mean margin must be seen in the items.",
    ("rose", "rose"): "The second model is better on questions like these.",
    ("rose", "undecided"): "The second model is better on questions like these: it answers more of them.",
    (
        "rose",
        "fell",
    ): "The two disagree: the second model answers more questions, although on average the right answers "
    "lost ground. Its answers are better; what carries the mean margin must be seen in the items.",
    ("undecided", "fell"): "An early sign of damage: the right answers lost ground against the best wrong ones (or all "
    "choices moved apart); that fewer questions are answered is not shown.",
    (
        "undecided",
        "rose",
    ): "An early sign of improvement: the right answers gained on the best wrong ones (or all choices "
    "moved apart); that more questions are answered is not shown.",
    ("undecided", "undecided"): "Neither damage nor improvement may be concluded, and not that nothing changed either.",
}


def conclude(numbers: Comparison) -> str:
    """Accuracy, gold margin, the verdict of both and, where accuracy is undecided, how many items would decide it."""
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
    if numbers.num_items < FEWEST_FOR_MARGIN or low <= 0 <= high:
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
    if numbers.num_items < FEWEST_FOR_MARGIN:
        few = f"fewer than {FEWEST_FOR_MARGIN} items are too few to rely on its interval"
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
