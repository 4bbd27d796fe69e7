"""Measure the cost of an anchor cache beyond the teacher's forward passes."""

import itertools
from pathlib import Path
from typing import Any

import torch

from craft_trainer.anchors.features import evaluating
from craft_trainer.costs.llama import FULL, QUICK, Size, anchor_cache, language_model, token_batch
from craft_trainer.costs.measurement import BenchArguments, Quantity, Step, paired_ratios
from craft_trainer.costs.storage import bytes_per_anchor, storage_table

EXAMPLE = "craft-trainer bench cache --json outputs/cache.json"
BATCHES = 64
QUANTITIES = (
    Quantity("hidden_over_forward", 1 / 0.95, "time: a cache of two poolings of the last layer / bare forward passes"),
    Quantity(
        "hidden_over_body", None, "time: the same / bare forward passes that end at that layer, as the build does"
    ),
    Quantity("tokens_over_forward", None, "time: the same with 32 tokens of every position / bare forward passes"),
)


def run(arguments: BenchArguments) -> None:
    """Time builds beside bare forward passes over as much, all of it counted; then show the bytes of an anchor."""
    size = QUICK if arguments.quick else FULL
    arguments.bench(QUANTITIES, lambda *where: measure(size, *where))
    print("\n" + storage_table(bytes_per_anchor()))


def measure(size: Size, folder: Path, device: torch.device, repeats: int) -> tuple[str, dict[str, list[float]]]:
    """Take every one of ``QUANTITIES``."""
    model = language_model(size).to(device)
    hidden, forward = build(model, size, folder, output=False), bare_forward(model, size, device)
    pairs = {
        "hidden_over_forward": (hidden, forward),
        "hidden_over_body": (hidden, bare_forward(model.get_decoder(), size, device)),
        "tokens_over_forward": (build(model, size, folder, output=True), forward),
    }
    setting = (
        f"{model.num_parameters() / 1e6:.3g} M parameters, {BATCHES} batches of {size.samples} × {size.tokens} tokens"
    )
    return setting, paired_ratios(pairs, repeats, device)


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
