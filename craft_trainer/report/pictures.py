"""Figures of the page, each with the sentence that says in numbers what it shows and a table to read instead of it."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from craft_trainer.report.evidence import Evidence
from craft_trainer.report.figures import (
    Panel,
    change_figure,
    conflict_figure,
    conflicts_figure,
    constraint_figure,
    constraints_figure,
    inline_svg,
    losses_figure,
    rates_figure,
    success_figure,
)
from craft_trainer.report.figures.comparison import MOST_NAMED, Curve
from craft_trainer.report.headline import demos_sentence, rollouts_sentence, trajectories_sentence
from craft_trainer.report.results import GROUPS
from craft_trainer.report.summary import conflict_sentence, constraint_sentence, plural, verdict
from craft_trainer.report.tables import (
    Table,
    choices_table,
    demos_table,
    rollouts_table,
    runs_table,
    trajectories_table,
    trajectory_table,
)

AXIS = "% (lines: 95 % interval)"
PULL = "With dual ascent λ rises while L_retain is above its budget ε and falls while it is below."
CONFLICT = (
    "A conflict is a step on which the two gradients point apart by more than the threshold: following the new task "
    "alone would raise L_retain. The scale at the right gives the angle."
)
SAME_TABLE = " The numbers are in the table above."


class Picture(NamedTuple):
    """A figure ready for the page: ``sentence`` stands above it, ``caption`` below, ``table`` is read instead of it.

    Where ``shown`` the table is part of the page, else it is folded away.
    """

    name: str
    title: str
    svg: Markup
    sentence: str
    caption: str
    table: Table | None
    shown: bool = False


def _picture(
    draw: Callable[[], Figure],
    name: str,
    title: str,
    *,
    sentence: str,
    caption: str = "",
    table: Table | None = None,
    shown: bool = False,
) -> Picture:
    svg = Markup(inline_svg(draw, name, title, sentence))  # made by us, texts in it are escaped
    return Picture(name, title, svg, sentence, caption, table, shown)


def success_picture(evidence: Evidence) -> Picture | None:
    """Bars of a single demo; its table stands in the page by itself."""
    if len(evidence.demos) != 1:
        return None
    (demo,) = evidence.demos.values()
    return _picture(
        lambda: success_figure(demo.results),
        "success",
        "Success per task and method",
        sentence=verdict(demo.results),
        caption="The line on each bar is the 95 % Wilson interval. It covers the luck of the episodes, not that of the "
        "training seed, which the table seed by seed shows.",
    )


def demo_pictures(evidence: Evidence) -> Picture | None:
    """Every method of several demos, old tasks beside new ones."""
    demos = evidence.demos
    if len(demos) < 2:
        return None
    methods = tuple(dict.fromkeys(method for demo in demos.values() for method in demo.results.methods))
    panels = [
        Panel(
            f"{group.capitalize()} tasks", {n: [d.results.count(m, group) for m in methods] for n, d in demos.items()}
        )
        for group in GROUPS
    ]
    return _picture(
        lambda: rates_figure(panels, methods, f"success, {AXIS}"),
        "demos",
        "Success on old and new tasks, compared",
        sentence=demos_sentence(list(demos.values())),
        caption="Each mark is the success over all tasks of the group and all seeds; its line is the 95 % interval.",
        table=demos_table(evidence),
        shown=True,
    )


def rollouts_picture(evidence: Evidence) -> Picture | None:
    """Success of each policy over all its tasks; of a single one, task by task."""
    rollouts = evidence.rollouts
    if not rollouts:
        return None
    rows = {name: [one.total] for name, one in rollouts.items()}
    if len(rollouts) == 1:
        (one,) = rollouts.values()
        rows = {task: [count] for task, count in one.counts.items()} | {"all tasks": [one.total]}
    return _picture(
        lambda: rates_figure([Panel("Success", rows)], [""], f"success, {AXIS}"),
        "rollouts",
        "Success in rollouts",
        sentence=rollouts_sentence(evidence),
        caption="The line is the 95 % Wilson interval of all episodes together.",
        table=rollouts_table(evidence),
        shown=True,
    )


def choices_pictures(evidence: Evidence) -> list[Picture]:
    """Right answers of every checkpoint, and what changed in every comparison."""
    if not evidence.asked:
        return []
    compared = [name for name, one in evidence.asked.items() if one.comparison is not None]
    return [_right_answers(evidence), *([_changes(evidence)] if compared else [])]


def _right_answers(evidence: Evidence) -> Picture:
    several = len(evidence.asked) > 1
    rows = {
        f"{name}: {_end(one.model)}" if several else _end(one.model): [one.right]
        for name, document in evidence.asked.items()
        for one in document.asked
    }
    return _picture(
        lambda: rates_figure([Panel("Right answers", rows)], [""], AXIS),
        "choices",
        "Multiple choice: right answers",
        sentence=f"{plural(len(rows), 'checkpoint')} asked by likelihood of the choices.",
        caption="The line is the 95 % Wilson interval of each checkpoint by itself; a change is judged question by "
        "question.",
        table=choices_table(evidence),
        shown=True,
    )


def _changes(evidence: Evidence) -> Picture:
    several = len(evidence.asked) > 1
    compared = {
        name if several else _end(one.asked[-1].model): one.comparison
        for name, one in evidence.asked.items()
        if one.comparison is not None
    }
    conclusions = [str(one.get("conclusion", "")) for one in compared.values()]
    return _picture(
        lambda: change_figure(compared),
        "changes",
        "Multiple choice: what changed",
        sentence=conclusions[0] if len(conclusions) == 1 else f"{len(compared)} comparisons, question by question.",
        caption="Blue: the interval lies above no change; vermillion: below; grey: it includes no change. The numbers "
        "are in the table of right answers.",
    )


def _end(name: str, longest: int = 32) -> str:
    return name if len(name) <= longest else "…" + name[1 - longest :]


def training_pictures(evidence: Evidence) -> list[Picture]:
    """The task loss of training runs; λ, ε and L_retain; conflicts and angles."""
    losses = {name: run.losses for name, run in evidence.runs.items() if len(run.losses[0]) > 1}
    pictures = [_losses(evidence, losses)] if losses else []
    if len(evidence.trajectories) == 1:
        return [*pictures, *_single(evidence)]
    return [*pictures, *_several(evidence)] if evidence.trajectories else pictures


def _losses(evidence: Evidence, losses: Mapping[str, Curve]) -> Picture:
    return _picture(
        lambda: losses_figure(losses),
        "losses",
        "Task loss over training",
        sentence="The task loss says how well the training data are fitted, not how often a rollout succeeds.",
        table=runs_table(evidence.runs),
    )


def _single(evidence: Evidence) -> Iterator[Picture]:
    ((name, histories),) = evidence.trajectories.items()
    of = "" if len(evidence) == 1 else f"{name}: "
    window = _window(evidence)
    rolling = f" The thick line of L_retain is a rolling mean over {window} steps." if window > 1 else ""
    yield _picture(
        lambda: constraint_figure(histories, window, evidence.scale),
        "constraint",
        f"{of}Retention loss, its budget and the multiplier over training",
        sentence=constraint_sentence(histories, evidence.scale),
        caption=PULL + rolling,
        table=trajectory_table(histories),
    )
    yield _picture(
        lambda: conflict_figure(histories, window),
        "conflict",
        f"{of}Conflicts and angles of the gradients over training",
        sentence=conflict_sentence(histories),
        caption=(f"Rolling means over {window} steps. " if window > 1 else "") + CONFLICT + SAME_TABLE,
    )


def _several(evidence: Evidence) -> Iterator[Picture]:
    trajectories, window = evidence.trajectories, _window(evidence)
    rolling = f" Rolling means over {window} steps." if window > 1 else ""
    seeds = " Of several seeds the line is the median." if any(len(one) > 1 for one in trajectories.values()) else ""
    many = f" More than {MOST_NAMED} lines have no names: the table has each." if len(trajectories) > MOST_NAMED else ""
    yield _picture(
        lambda: constraints_figure(trajectories, window, evidence.scale),
        "constraint",
        "Retention loss against its budget and the multiplier, compared",
        sentence=trajectories_sentence(evidence),
        caption=PULL + rolling + seeds + many,
        table=trajectories_table(evidence),
        shown=True,
    )
    yield _picture(
        lambda: conflicts_figure(trajectories, window),
        "conflict",
        "Conflicts and angles of the gradients, compared",
        sentence="How often the gradients pulled apart, at which angle, and where the optimizer's own step went.",
        caption=CONFLICT + rolling + many + SAME_TABLE,
    )


def _window(evidence: Evidence) -> int:
    """Rows in a rolling mean: 1/40 of the longest history, in a short one 1/10 up to 25 rows."""
    rows = [len(history.step) for histories in evidence.trajectories.values() for history in histories.values()]
    longest = max(rows, default=0)
    return max(longest // 40, min(longest // 10, 25), 1)
