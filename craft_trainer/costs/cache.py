"""What an anchor cache costs beyond the teacher's forward passes."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from craft_trainer.anchors.features import evaluating
from craft_trainer.costs.llama import Size, anchor_cache, language_model, token_batch
from craft_trainer.costs.measurement import Figure, Measured, Quantity, Step, paired_ratios, using_threads

BATCHES = 64
QUANTITIES = (
    Quantity("hidden_over_forward", 1 / 0.95, "time: a cache of two poolings of the last layer / bare forward passes"),
    Quantity(
        "hidden_over_body", None, "time: the same / bare forward passes that end at that layer, as the build does"
    ),
    Quantity("tokens_over_forward", None, "time: the same with 32 tokens of every position / bare forward passes"),
)


def measure(size: Size, *, repeats: int, threads: int) -> Measured:
    """Every one of ``QUANTITIES``: builds beside bare forward passes over as much, all of it counted."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = language_model(size).to(device)
    with using_threads(threads), TemporaryDirectory() as folder:
        hidden = build(model, size, Path(folder), output=False)
        pairs = {
            "hidden_over_forward": (hidden, bare_forward(model, size, device)),
            "hidden_over_body": (hidden, bare_forward(model.get_decoder(), size, device)),
            "tokens_over_forward": (build(model, size, Path(folder), output=True), bare_forward(model, size, device)),
        }
        values = paired_ratios(pairs, repeats, device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    setting = (
        f"{parameters / 1e6:.3g} M parameters, {BATCHES} batches of {size.samples} × {size.tokens} tokens, "
        f"{device.type}, torch {torch.__version__} with {threads} thread(s), {repeats} repeats"
    )
    return Measured(setting, [Figure(quantity, values[quantity.name]) for quantity in QUANTITIES])


def bare_forward(model: Any, size: Size, device: torch.device) -> Step:
    """The teacher over all batches, and nothing kept."""
    samples = token_batch(size, BATCHES * size.samples)

    def step() -> None:
        with torch.no_grad(), evaluating(model):
            for start in range(0, len(samples["input_ids"]), size.samples):
                batch = {key: value[start : start + size.samples].to(device) for key, value in samples.items()}
                model(**batch, use_cache=False)

    return step


def build(model: Any, size: Size, folder: Path, *, output: bool) -> Step:
    """A whole cache of as many random tokens, from the fingerprint of the teacher to the checksums."""
    numbers = itertools.count()

    def step() -> None:
        path, poolings = folder / f"{output}-{next(numbers)}", ("mean_masked", "last_token")
        anchor_cache(model, path, size, BATCHES * size.samples, poolings=poolings, output=output)

    return step
