"""Figures of the page, each with the sentence that says in numbers what it shows and a table to read instead of it."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from craft_trainer.report.choices import Choices
from craft_trainer.report.evidence import Demo, Evidence
from craft_trainer.report.figures.canvas import inline_svg
from craft_trainer.report.figures.changes import change_figure
from craft_trainer.report.figures.dots import Panel, rates_figure
from craft_trainer.report.figures.success import success_figure
from craft_trainer.report.figures.training import MOST_NAMED, conflict_figure, constraint_figure, losses_figure
from craft_trainer.report.results import GROUPS
from craft_trainer.report.rollouts import Rollout
from craft_trainer.report.sentences import (
    conflict_sentence,
    constraint_sentence,
    demos_sentence,
    rollouts_sentence,
    trajectories_sentence,
    verdict,
)
from craft_trainer.report.tables import (
    Table,
    choices_table,
    demos_table,
    rollouts_table,
    runs_table,
    trajectories_table,
    trajectory_table,
)
from craft_trainer.report.wording import plural

AXIS = "% (lines: 95 % interval)"
PULL = "With dual ascent λ rises while L_retain is above its budget ε and falls while it is below."
CONFLICT = (
    "A conflict is a step on which the two gradients point apart by more than the threshold: following the new task "
    "alone would raise L_retain. The scale at the right gives the angle."
)
SAME_TABLE = "The numbers are in the table above."


class Picture(NamedTuple):
    """A figure of the page: ``sentence`` stands above it, ``caption`` below, ``table`` is read instead of it.

    Where ``shown`` the table is part of the page, else it is folded away.
    """

    draw: Callable[[], Figure]
    name: str
    title: str
    sentence: str
    caption: str = ""
    table: Table | None = None
    shown: bool = False

    @property
    def svg(self) -> Markup:
        """The figure as markup: it is made by us, and texts in it are escaped."""
        return Markup(inline_svg(self.draw, self.name, self.title, self.sentence))


def success_picture(demos: Mapping[str, Demo]) -> Picture | None:
    """Bars of a single demo; its table stands in the page by itself."""
    if len(demos) != 1:
        return None
    (demo,) = demos.values()
    return Picture(
        lambda: success_figure(demo.results),
        "success",
        "Success per task and method",
        sentence=verdict(demo.results),
        caption="The line on each bar is the 95 % Wilson interval. It covers the luck of the episodes, not that of the "
        "training seed, which the table seed by seed shows.",
    )


def demos_picture(demos: Mapping[str, Demo]) -> Picture | None:
    """Every method of several demos, old tasks beside new ones."""
    if len(demos) < 2:
        return None
    methods = tuple(dict.fromkeys(method for demo in demos.values() for method in demo.results.methods))
    panels = [
        Panel(
            f"{group.capitalize()} tasks", {n: [d.results.count(m, group) for m in methods] for n, d in demos.items()}
        )
        for group in GROUPS
    ]
    return Picture(
        lambda: rates_figure(panels, methods, f"success, {AXIS}"),
        "demos",
        "Success on old and new tasks, compared",
        sentence=demos_sentence(demos),
        caption="Each mark is the success over all tasks of the group and all seeds; its line is the 95 % interval.",
        table=demos_table(demos),
        shown=True,
    )


def rollouts_picture(rollouts: Mapping[str, Rollout]) -> Picture | None:
    """Success of each policy over all its tasks; of a single one, task by task."""
    if not rollouts:
        return None
    rows = {name: [one.total] for name, one in rollouts.items()}
    if len(rollouts) == 1:
        (one,) = rollouts.values()
        rows = {task: [count] for task, count in one.counts.items()} | {"all tasks": [one.total]}
    return Picture(
        lambda: rates_figure([Panel("Success", rows)], [""], f"success, {AXIS}"),
        "rollouts",
        "Success in rollouts",
        sentence=rollouts_sentence(rollouts),
        caption="The line is the 95 % Wilson interval of all episodes together.",
        table=rollouts_table(rollouts),
        shown=True,
    )


def choices_pictures(documents: Mapping[str, Choices]) -> Iterator[Picture]:
    """Right answers of every checkpoint, and what changed in every comparison."""
    several = len(documents) > 1
    named = [(f"{name}: " if several else "", document) for name, document in documents.items()]
    rows = {f"{name}{_end(one.model)}": [one.right] for name, document in named for one in document.asked}
    compared = {
        name if several else _end(one.asked[-1].model): one.comparison
        for name, one in documents.items()
        if one.comparison is not None
    }
    conclusions = [str(one.get("conclusion", "")) for one in compared.values()]
    if rows:
        yield Picture(
            lambda: rates_figure([Panel("Right answers", rows)], [""], AXIS),
            "choices",
            "Multiple choice: right answers",
            sentence=f"{plural(len(rows), 'checkpoint')} asked by likelihood of the choices.",
            caption="The line is the 95 % Wilson interval of each checkpoint by itself; a change is judged question by "
            "question.",
            table=choices_table(documents),
            shown=True,
        )
    if compared:
        yield Picture(
            lambda: change_figure(compared),
            "changes",
            "Multiple choice: what changed",
            sentence=conclusions[0] if len(conclusions) == 1 else f"{len(compared)} comparisons, question by question.",
            caption="Blue: the interval lies above no change; vermillion: below; grey: it includes no change. The "
            "numbers are in the table of right answers.",
        )


def _end(name: str, longest: int = 32) -> str:
    return name if len(name) <= longest else "…" + name[1 - longest :]


def training_pictures(evidence: Evidence) -> Iterator[Picture]:
    """The task loss of training runs; λ, ε and L_retain; conflicts and angles."""
    losses = {name: run.losses for name, run in evidence.runs.items() if len(run.losses[0]) > 1}
    if losses:
        yield Picture(
            lambda: losses_figure(losses),
            "losses",
            "Task loss over training",
            sentence="The task loss says how well the training data are fitted, not how often a rollout succeeds.",
            table=runs_table(evidence.runs),
        )
    if evidence.trajectories:
        yield from _trajectories(evidence)


def _trajectories(evidence: Evidence) -> Iterator[Picture]:
    trajectories, scale = evidence.trajectories, evidence.scale
    (name, first), *others = trajectories.items()
    of = "" if len(evidence) == 1 or others else f"{name}: "
    rows = max(len(history.step) for histories in trajectories.values() for history in histories.values())
    window = max(rows // 40, min(rows // 10, 25), 1)  # rows in a rolling mean: 1/40; of a short history 1/10, up to 25
    rolling = f"Rolling means over {window} steps." if window > 1 else ""
    thick = f"The thick line of L_retain is a rolling mean over {window} steps." if window > 1 else ""
    seeds = "Of several seeds the line is the median." if any(len(one) > 1 for one in trajectories.values()) else ""
    many = f"More than {MOST_NAMED} lines have no names: the table has each." if len(trajectories) > MOST_NAMED else ""
    yield Picture(
        lambda: constraint_figure(trajectories, window, scale),
        "constraint",
        "Retention loss against its budget and the multiplier, compared"
        if others
        else f"{of}Retention loss, its budget and the multiplier over training",
        sentence=trajectories_sentence(trajectories, scale) if others else constraint_sentence(first, scale),
        caption=" ".join(filter(None, (PULL, rolling, seeds, many) if others else (PULL, thick))),
        table=trajectories_table(trajectories) if others else trajectory_table(first),
        shown=bool(others),
    )
    yield Picture(
        lambda: conflict_figure(trajectories, window),
        "conflict",
        "Conflicts and angles of the gradients, compared"
        if others
        else f"{of}Conflicts and angles of the gradients over training",
        sentence="How often the gradients pulled apart, at which angle, and where the optimizer's own step went."
        if others
        else conflict_sentence(first),
        caption=" ".join(filter(None, (CONFLICT, rolling, many, SAME_TABLE))),
    )
