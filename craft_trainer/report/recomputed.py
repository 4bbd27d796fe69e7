"""The derived numbers of mcq.json, computed again from its log-likelihoods: what disagrees is refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isclose
from typing import Any

from craft_trainer.evaluation.metrics.mcq_likelihood.likelihoods import ItemLikelihoods, item_scores, summarise

type Numbers = Mapping[str, Any]
type Items = Sequence[Numbers]

AGAIN = "run craft-trainer mcq again"
SCORES = ("predicted_index", "correct", "margin_gold", "margin_top2")
LENGTHS = ("num_tokens", "num_chars", "num_bytes")
COUNTED = ("items_for_difference_seen", "items_for_two_points")  # rounded up: another libm may be one off
OF_WIDTH = 0.05  # of an interval, by which the bootstrap of another scipy may move its ends
INTERVALS = {"accuracy_difference_ci": 1.0, "margin_gold_change_ci": 0.0}  # n · (least step of the mean of n items)


def check_checkpoint(part: Numbers, place: str) -> None:
    """Raise a ValueError, which begins with ``place``, unless one checkpoint's numbers follow from its log-likelihoods.

    ``part`` has the schema of a checkpoint. Checked are the sums and the number of the tokens' log-likelihoods, the
    scores of each question, and the metrics.
    """
    items = part["items"]
    name, times = Counter(item["id"] for item in items).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{place}items has {name!r} {times} times; {AGAIN}")
    likelihoods = [_likelihoods(item, f"{place}items[{index}]") for index, item in enumerate(items)]
    for index, (item, one) in enumerate(zip(items, likelihoods, strict=True)):
        scores = asdict(item_scores(one, f"{place}items[{index}]"))
        _require({name: item[name] for name in SCORES}, scores, f"{place}items[{index}].")
    metrics = summarise(likelihoods)
    for name in sorted(metrics.keys() ^ part["metrics"].keys()):
        raise ValueError(f"{place}metrics.{name} is {'missing' if name in metrics else 'unknown'}; {AGAIN}")
    _require(part["metrics"], metrics, f"{place}metrics.")
    _require({"num_items": part["num_items"]}, metrics, place)


def check_comparison(first: Items, second: Items, comparison: Numbers, place: str) -> None:
    """Raise a ValueError, which begins with ``place``, unless ``comparison`` is that of two checkpoints' items.

    Raises:
        ImportError: scipy or statsmodels is not installed.
    """
    from craft_trainer.evaluation.metrics.mcq_comparison.paired import Comparison, compare_items, conclude

    computed = asdict(compare_items(first, second, seed=comparison["seed"]))
    for name in sorted(computed.keys() ^ comparison.keys()):
        raise ValueError(f"{place}{name} is {'missing' if name in computed else 'unknown'}; {AGAIN}")
    said = ("conclusion", *INTERVALS, *COUNTED)
    _require({name: value for name, value in comparison.items() if name not in said}, computed, place)
    for name, step in INTERVALS.items():
        low, high = computed[name]
        room = 1e-9 + OF_WIDTH * (high - low) + step / computed["num_items"]
        if any(abs(given - one) > room for given, one in zip(comparison[name], (low, high), strict=True)):
            raise _disagrees(f"{place}{name}", comparison[name], [low, high])
    for name in COUNTED:
        given, wanted = comparison[name], computed[name]
        if given != wanted and (None in (given, wanted) or abs(given - wanted) > 1):
            raise _disagrees(f"{place}{name}", given, wanted)
    if comparison["conclusion"] != (text := conclude(Comparison(**comparison))):
        raise _disagrees(f"{place}conclusion", comparison["conclusion"], text)


def verdicts(comparison: Numbers) -> dict[str, str]:
    """Whether accuracy and the gold margin ``fell``, ``rose`` or are ``undecided``, by the names of the two changes.

    It is what the conclusion of the comparison goes by, not its intervals alone.
    """
    from craft_trainer.evaluation.metrics.mcq_comparison.paired import Comparison, accuracy_verdict, margin_verdict

    numbers = Comparison(**comparison)
    return {"accuracy_difference": accuracy_verdict(numbers), "margin_gold_change": margin_verdict(numbers)}


def _likelihoods(item: Numbers, place: str) -> ItemLikelihoods:
    """Make the input of :func:`item_scores` from one item, whose sums and lengths are those of its tokens."""
    tokens = item["token_log_likelihoods"]
    of_tokens = {
        "log_likelihoods": [sum(values) for values in tokens],
        "num_tokens": [len(values) for values in tokens],
    }
    _require({name: item[name] for name in of_tokens}, of_tokens, f"{place}.")
    return ItemLikelihoods(
        log_likelihoods=item["log_likelihoods"],
        answer_index=item["answer_index"],
        **{name: item[name] for name in LENGTHS},
        unconditional=item["unconditional_log_likelihoods"],
    )


def _require(given: Numbers, computed: Numbers, place: str) -> None:
    for name, value in given.items():
        if not _same(value, computed[name]):
            raise _disagrees(f"{place}{name}", value, computed[name])


def _same(given: Any, computed: Any) -> bool:
    if isinstance(computed, list | tuple):
        is_long = isinstance(given, list) and len(given) == len(computed)
        return is_long and all(map(_same, given, computed))
    if type(computed) is float:
        return type(given) in (int, float) and isclose(given, computed, rel_tol=1e-6, abs_tol=1e-9)
    return type(given) is type(computed) and bool(given == computed)


def _disagrees(place: str, given: Any, computed: Any) -> ValueError:
    return ValueError(f"{place} is {given!r}, but the log-likelihoods give {computed!r}; {AGAIN}")
