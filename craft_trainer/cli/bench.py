"""``craft-trainer bench step|cache|mcq``: what a CRaFT step costs, an anchor cache, choices."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from craft_trainer.cli.arguments import parse
from craft_trainer.cli.hints import nearest
from craft_trainer.options import option

EXAMPLE = "craft-trainer bench step --repeats 7 --json outputs/step.json"
BENCHMARKS = {
    "step": "an optimizer step: beside its floor, TorchJD's PCGrad and plain training; its memory",
    "cache": "anchors: building them, reading them, their bytes",
    "mcq": "multiple choice by likelihood: beside one forward pass per choice, and lm-evaluation-harness",
}


@dataclass
class BenchArguments:
    """The options of ``bench``."""

    json: str | None = option("file of the medians; no file without it", None)
    repeats: int = option("timings of every pair of steps; ≥ 1", 7)
    threads: int = option("threads of torch's operations; ≥ 1", 1)
    quick: bool = option("a tiny model and two repeats: shows that it works, its figures mean nothing", False)


def run(argv: Sequence[str]) -> None:
    """Print the table, which says of every goal whether it is met, and write the medians."""
    name, *options = argv or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {name:<5} {text}" for name, text in BENCHMARKS.items()]
        print("usage: craft-trainer bench NAME [--key value ...]\n\nbenchmarks:\n" + "\n".join(lines))
        print(f"\n`craft-trainer bench NAME --help` explains the options. example: {EXAMPLE}")
        return
    if name not in BENCHMARKS:
        raise ValueError(
            f"no benchmark {name!r}{nearest(name, BENCHMARKS)}; there are {', '.join(BENCHMARKS)}: {EXAMPLE}"
        )
    arguments = parse(f"bench {name}", EXAMPLE, BenchArguments, options)
    if min(arguments.repeats, arguments.threads) < 1:
        raise ValueError(f"repeats {arguments.repeats} and threads {arguments.threads} must both be at least 1")
    from craft_trainer.costs.llama import FULL, QUICK
    from craft_trainer.costs.storage import bytes_per_anchor, storage_table
    from craft_trainer.files import write_json

    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    benchmark = importlib.import_module(f"craft_trainer.costs.{name}")
    size = getattr(benchmark, "QUICK", QUICK) if arguments.quick else getattr(benchmark, "FULL", FULL)
    repeats = min(2, arguments.repeats) if arguments.quick else arguments.repeats
    measured = benchmark.measure(size, repeats=repeats, threads=arguments.threads)
    medians = measured.medians()
    print(measured.table())
    if name == "cache":
        print("\n" + storage_table(bytes_per_anchor()))
    if medians.get("craft_over_torchjd", 0) is None:
        print("\ncraft_over_torchjd needs TorchJD: pip install torchjd")
    if medians.get("short_over_lmeval", 0) is None:
        print("\n…_over_lmeval needs lm-evaluation-harness: pip install lm-eval")
    if arguments.json:
        write_json(Path(arguments.json), medians)
        print(f"\nmedians: {arguments.json}")
