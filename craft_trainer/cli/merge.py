"""``craft-trainer merge``: a teacher moved towards a tuned checkpoint, as far as L_retain ≤ ε allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_trainer.cli.hints import ONE_DIAL
from craft_trainer.cli.loading import LoadArguments
from craft_trainer.cli.texts import TextArguments
from craft_trainer.options import option, refuse_idle

if TYPE_CHECKING:
    from craft_trainer.cli.pair import Pair
    from craft_trainer.training.crossing import Point
    from craft_trainer.training.interpolation import WeightLine
    from craft_trainer.training.settings import RetentionSettings

PLACES = ("teacher", "tuned", "anchors", "dataset", "anchors_dataset", "adapt_to")
EXAMPLE = (
    "craft-trainer merge --teacher outputs/teacher --tuned outputs/plain --anchors outputs/anchors "
    "--output_dir outputs/merged"
)
DOCUMENT, PICTURE = "merge.json", "merge.svg"


@dataclass(kw_only=True)
class MergeArguments(LoadArguments, TextArguments):
    """The two checkpoints, what is to be kept, and how much of it may be lost."""

    teacher: str = option("checkpoint whose behaviour is to be kept (α = 0): the one that made the anchors")
    tuned: str = option("checkpoint that was trained from it (α = 1): of the same kind, or a LoRA adapter on it")
    anchors: str = option("anchor cache of the teacher: a folder or a Hub repository")
    output_dir: str = option("folder for the merged checkpoint, with the curve as merge.json and merge.svg")
    retention: float | None = option(
        "how much of the teacher's behaviour is kept: 0.99 keeps 99 %. It sets epsilon to 1 − retention; in (0, 1); by "
        "default epsilon is as it is given",
        None,
    )
    epsilon: float | None = option(
        "largest L_retain allowed, in units of the teacher's variance or entropy; > 0; by default 0.01", None
    )
    points: int = option("values of α at which the curve is measured before the bisection, 0 and 1 included; ≥ 2", 11)
    retention_terms: list[str] | None = option(
        "what is held, as in training; by default hidden and output of a policy, token_kl of a language model", None
    )
    retention_weights: list[float] | None = option("weight of each retention term; by default 1 for each", None)
    hidden_distance: str = option("distance of hidden features: mse, l1 or cosine", "mse")
    dataset: str | None = option("the new task: its loss becomes part of the curve", None)
    task_samples: int = option("samples of dataset, spread over all, on which the task loss is measured", 512)
    anchors_dataset: str | None = option("where the dataset of a cache of references is now, if it was moved", None)
    teacher_dtype: str | None = option("of a language model's weights; by default what the cache was built with", None)
    batch_size: int = option("anchors, or samples, of one forward pass", 16)
    device: str | None = option("cpu, cuda, …; by default the first accelerator", None)

    def __post_init__(self) -> None:
        LoadArguments.__post_init__(self)
        TextArguments.__post_init__(self)
        for name, least in {"points": 2, "batch_size": 1, "task_samples": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if self.retention is not None and self.epsilon is not None:
            raise ValueError(ONE_DIAL.format(self.retention, self.epsilon))
        if self.dataset is None:
            refuse_idle(self, ["task_samples"], "it is of the task loss, which is measured on dataset")

    def settings(self, usual: Sequence[str]) -> "RetentionSettings":
        """Check and gather what L_retain consists of; the ``usual`` terms if none are named."""
        from craft_trainer.training.settings import RetentionSettings

        return RetentionSettings(
            retention_terms=self.retention_terms or list(usual),
            retention_weights=self.retention_weights,
            hidden_distance=self.hidden_distance,
            epsilon=RetentionSettings.epsilon if self.epsilon is None else self.epsilon,
            retention=self.retention,
        )

    def refuse_idle(self, kind: type, of: str) -> None:
        """Refuse options of ``kind``, which are those ``of`` something else: they would change nothing."""
        names = [field.name for field in fields(kind) if field.name != "dataset"]
        refuse_idle(self, names, f"it is an option of {of}")


def run(arguments: MergeArguments) -> None:
    """Measure, print the curve, write the checkpoint with the largest α that keeps L_retain ≤ ε."""
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.cli.pair import policy_pair, texts_pair
    from craft_trainer.files import appears_when_complete
    from craft_trainer.hub.resolve_path import resolve_path
    from craft_trainer.language.source import holds_texts
    from craft_trainer.models.saved import require_loadable
    from craft_trainer.report.page import report_extra
    from craft_trainer.training.crossing import largest_alpha
    from craft_trainer.training.interpolation import WeightLine

    with report_extra():
        pass  # before the work, not after it
    cache = AnchorCache(resolve_path(arguments.anchors, "dataset"))
    settings = arguments.settings(("token_kl",) if holds_texts(cache) else ("hidden", "output"))
    with appears_when_complete(Path(arguments.output_dir)) as folder:
        pair = (texts_pair if holds_texts(cache) else policy_pair)(arguments, cache)
        line = WeightLine(pair.teacher, pair.tuned)
        best, curve = largest_alpha(measure_of(arguments, pair, line, settings), settings.epsilon, arguments.points)
        line.move(best.alpha)
        pair.save(folder)
        require_loadable(folder, pair.tuned)
        write_curve(folder, arguments, settings, best, curve)
    print(table(curve, best))
    print(f"α = {best.alpha:.4g}: L_retain = {best.retention_loss:.3g}, at most ε = {settings.epsilon:g}")
    if best.alpha == 0:
        print("these are the teacher's own weights: no step towards the tuned model keeps L_retain within ε")
    if found := of_lowest_task_loss(curve, best):
        print(found)
    print(f"checkpoint: {arguments.output_dir} (with {DOCUMENT} and {PICTURE})")


def measure_of(
    arguments: MergeArguments, pair: "Pair", line: "WeightLine", settings: "RetentionSettings"
) -> "Callable[[float], Point]":
    """Make a function that moves the weights to α and measures there."""
    from craft_trainer.progress import progress
    from craft_trainer.training.crossing import Point, points_at_most, retention_measure, task_measure

    retention = retention_measure(pair.student, pair.cache, settings, arguments.batch_size)
    task = None
    if pair.samples is not None:
        task = task_measure(pair.student, *pair.samples, arguments.batch_size, arguments.task_samples)

    bar = progress(desc="merge", unit="point", total=points_at_most(arguments.points))

    def measure(alpha: float) -> Point:
        line.move(alpha)
        point = Point(alpha, retention(), None if task is None else task())
        bar.update()
        return point

    return measure


def table(curve: "Sequence[Point]", best: "Point") -> str:
    """The curve as aligned text; an arrow marks the point that was chosen."""
    has_task = best.task_loss is not None
    lines = [f"     α   L_retain{'   task loss' if has_task else ''}"]
    for point in curve:
        task = f"{point.task_loss:>12.4g}" if has_task else ""
        lines.append(f"{point.alpha:.4f} {point.retention_loss:>10.4g}{task}{'  ←' if point == best else ''}")
    return "\n".join(lines)


def of_lowest_task_loss(curve: "Sequence[Point]", best: "Point") -> str:
    """Name a point between ``best`` and the tuned weights whose loss of the new task is the lowest of all.

    Empty if there is none, or if a later point keeps as much, to which merge would go on.
    """
    losses = {point: point.task_loss for point in curve if point.task_loss is not None}
    lowest = min(losses, key=losses.__getitem__, default=best)
    epsilon = 1.005 * lowest.retention_loss
    later = [point for point in curve if point.alpha > lowest.alpha]
    if lowest.alpha <= best.alpha or not later or any(point.retention_loss <= epsilon for point in later):
        return ""
    return (
        f"the loss of the new task is lowest at α = {lowest.alpha:.4g}: {losses[lowest]:.4g}, where L_retain is "
        f"{lowest.retention_loss:.3g}. With --epsilon {epsilon:.3g} merge goes as far"
    )


def write_curve(
    folder: Path, arguments: MergeArguments, settings: "RetentionSettings", best: "Point", curve: "Sequence[Point]"
) -> None:
    """Write the curve beside the checkpoint, as JSON and as a picture."""
    from craft_trainer.files import write_atomically, write_json
    from craft_trainer.losses.terms import units
    from craft_trainer.report.figures.canvas import standalone_image
    from craft_trainer.report.figures.merge import merge_figure
    from craft_trainer.report.run import teachers_scale

    given = {name: getattr(arguments, name) for name in ("teacher", "tuned", "anchors", "dataset")}
    given |= {"epsilon": settings.epsilon, "terms": settings.term_weights, "chosen": best._asdict()}
    write_json(folder / DOCUMENT, given | {"curve": [point._asdict() for point in curve]})
    alphas, retention, task = zip(*curve, strict=True)
    losses, scale = (None if best.task_loss is None else task), teachers_scale(units(settings))

    def draw() -> Any:
        return merge_figure(alphas, retention, losses, epsilon=settings.epsilon, chosen=best.alpha, scale=scale)

    write_atomically(folder / PICTURE, standalone_image(draw, "svg"))
