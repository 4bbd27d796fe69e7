"""``craft-trainer loss`` of language models: nats per token, of one model or of two row by row."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from craft_trainer.cli.loss import LossArguments
    from craft_trainer.language.checkpoints import Checkpoint
    from craft_trainer.language.samples import TextSamples
    from craft_trainer.language.token_loss import RowLosses

USUAL_BATCH = 8  # texts of one forward pass


def measure(arguments: "LossArguments") -> dict[str, Any]:
    """Measure the mean loss per token of ``model``, and where there is ``compare`` its own and the difference to it."""
    from craft_trainer.evaluation.token_mean import mean_over_tokens
    from craft_trainer.language.token_loss import require_same_tokens
    from craft_trainer.training.crossing import spread

    samples, first, held = _measured(arguments, str(arguments.model))
    print(samples.report())
    found = {"rows": len(first.losses), "tokens": int(first.tokens.sum()), **_of(first), **held}
    if arguments.compare is None:
        return found
    others, second, held = _measured(arguments, arguments.compare)
    require_same_tokens(samples, others, spread(len(samples), arguments.samples))
    change = mean_over_tokens(second.losses - first.losses, first.tokens)
    found |= {f"compare_{name}": value for name, value in (_of(second) | held).items() if name != "row_tokens"}
    return found | {"difference": change.mean, "difference_ci": [change.low, change.high]}


def sentences(measured: dict[str, Any]) -> str:
    """Say what was measured, a line for each model and one for the difference."""
    from craft_trainer.evaluation.metrics.mcq_comparison.intervals import FEWEST

    counts = f"on {measured['rows']:,} texts, {measured['tokens']:,} tokens"
    lines = [f"loss {_with_ends(measured, 'loss', '.4f')} nats a token {counts}"]
    if "compare_loss" in measured:
        lines.append(f"loss {_with_ends(measured, 'compare_loss', '.4f')} of the second model")
        low, high = measured["difference_ci"]
        verdict = "predicts these texts worse" if low > 0 else "predicts these texts better" if high < 0 else ""
        said = f"the second model {verdict}" if verdict else "chance may do that"
        if measured["rows"] < FEWEST:
            said = f"fewer than {FEWEST} texts are too few to rely on the interval, so nothing may be concluded"
        lines.append(f"difference {_with_ends(measured, 'difference', '+.4f')}, second less first: {said}")
    for name, of in (("L_retain", ""), ("compare_L_retain", " of the second model")):
        if name in measured:
            lines.append(f"L_retain {measured[name]:.4g}{of} on {measured['anchors']:,} anchors")
    return "\n".join(lines)


def _with_ends(measured: dict[str, Any], name: str, form: str) -> str:
    low, high = measured[f"{name}_ci"]
    return f"{measured[name]:{form}} (95 % {low:{form}} to {high:{form}})"


def _of(rows: "RowLosses") -> dict[str, Any]:
    from craft_trainer.evaluation.token_mean import mean_over_tokens

    found = mean_over_tokens(*rows)
    each = {"row_losses": rows.losses.tolist(), "row_tokens": rows.tokens.astype(int).tolist()}
    return {"loss": found.mean, "loss_ci": [found.low, found.high]} | each


def _measured(arguments: "LossArguments", path: str) -> "tuple[TextSamples, RowLosses, dict[str, Any]]":
    """The texts as the model at ``path`` reads them, their losses, and L_retain if there are anchors."""
    from accelerate import PartialState

    from craft_trainer.language.checkpoints import load_checkpoint
    from craft_trainer.language.token_loss import row_losses
    from craft_trainer.training.crossing import spread

    device = arguments.device or PartialState().device.type
    checkpoint = load_checkpoint(path, dtype=arguments.dtype, device=device, quantization=arguments.quantization)
    samples = arguments.open_texts(checkpoint)
    batch_size = arguments.batch_size or USUAL_BATCH
    losses = row_losses(checkpoint, samples, spread(len(samples), arguments.samples), batch_size)
    return samples, losses, _held(arguments, checkpoint, batch_size)


def _held(arguments: "LossArguments", checkpoint: "Checkpoint", batch_size: int) -> dict[str, Any]:
    """L_retain, and on how many anchors."""
    if arguments.anchors is None:
        return {}
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.hub.resolve_path import resolve_path
    from craft_trainer.language.source import followed
    from craft_trainer.models.families import as_anchored_model
    from craft_trainer.training.crossing import retention_measure

    cache = followed(AnchorCache(resolve_path(arguments.anchors, "dataset")), checkpoint)
    settings = arguments.retention()
    model = as_anchored_model(checkpoint.model)
    return {"L_retain": retention_measure(model, cache, settings, batch_size)(), "anchors": len(cache)}
