"""What a CRaFT step costs: time and memory beside its floor, beside TorchJD's PCGrad, and beside plain training."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec, extract
from craft_trainer.anchors.loss import retention_loss
from craft_trainer.anchors.sampling import anchor_rows
from craft_trainer.benchmarks.measurement import (
    Figure,
    Measured,
    Quantity,
    Step,
    paired_ratios,
    peak_bytes,
    using_threads,
)
from craft_trainer.config import CraftConfig
from craft_trainer.models.families import anchored
from craft_trainer.trainer import CraftTrainer

NUM_GROUPS = 16
CYCLE = 5  # optimizer steps from one retention pass to the next, in k5_over_plain
DRIFT = 0.01  # deviation of the noise that makes a student of the teacher, whose weights have one of 0.02
QUANTITIES = (
    Quantity("craft_over_floor", 1.03, "time: CRaFT / its two forward and backward passes and the optimizer alone"),
    Quantity("craft_over_torchjd", 0.60, "time: CRaFT, surgery symmetric / TorchJD's PCGrad as documented"),
    Quantity("extra_memory_copies", 1.0, "peak memory: CRaFT − floor, in copies of the gradients"),
    Quantity("layer_extra_memory_copies", 0.15, "the same with granularity layer"),
    Quantity("k5_over_plain", 1.15, "time: 5 steps with one retention pass on half a batch / 5 plain steps"),
    Quantity("groups_16_over_1", 1.03, "time: a constraint for each of 16 groups / a single one"),
    Quantity("craft_over_tuned_torchjd", None, "time: the same / TorchJD with the settings that are fastest on a CPU"),
    Quantity("torchjd_extra_memory_copies", None, "peak memory: TorchJD − floor"),
    Quantity("stop_over_whole", None, "time: retention pass anchored halfway, ending there / going on to the head"),
)
TIGHT = ("craft_over_floor", "groups_16_over_1")  # timed twice as often, for their goals are a few percent


@dataclass(frozen=True)
class Size:
    """A causal language model of Llama's shape with tied embeddings, and the batches it sees."""

    hidden: int = 320
    intermediate: int = 880
    layers: int = 10
    heads: int = 5
    kv_heads: int | None = None  # as many as heads
    vocabulary: int = 4096
    large_vocabulary: int = 50_000  # of the model that shows what the early end of the retention pass saves
    samples: int = 4
    tokens: int = 128


FULL = Size()
QUICK = Size(hidden=32, intermediate=64, layers=2, heads=2, vocabulary=64, large_vocabulary=512, tokens=32)


class Bench:
    """One student and one optimizer, and every way to take a step with them.

    Sharing them gives every variant the same place in memory. The student is the anchors' teacher plus noise, so that
    neither gradient is zero.
    """

    def __init__(self, size: Size, folder: Path) -> None:
        torch.manual_seed(0)
        self.size, self.folder = size, folder
        self.model = language_model(size)
        short = replace(size, samples=NUM_GROUPS, tokens=max(2, size.samples * size.tokens // NUM_GROUPS))
        self._anchors = anchor_cache(self.model, folder / "anchors", size, 16 * size.samples)
        self._short_anchors = anchor_cache(self.model, folder / "short_anchors", short, NUM_GROUPS)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(DRIFT * torch.randn_like(parameter))
        trainer = self._trainer(None)
        self.device: torch.device = trainer.args.device
        self._optimizer: Any = trainer.create_optimizer()
        batch = token_batch(size, size.samples)
        self._batch = {key: value.to(self.device) for key, value in (batch | {"labels": batch["input_ids"]}).items()}

    @property
    def gradient_bytes(self) -> int:
        """The size of one copy of the trainable gradients."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    def plain(self) -> Step:
        """Trainer's step, without anchors."""
        return self._trainer_step(self._trainer(None))

    def craft(self, **options: Any) -> Step:
        """CRaFT's step."""
        return self._trainer_step(self._trainer(self._anchors, **options))

    def craft_on_groups(self, constraints: str) -> Step:
        """CRaFT's step on as many tokens in shorter anchors, one of every group in each batch."""
        return self._trainer_step(
            self._trainer(self._short_anchors, retention_batch_size=NUM_GROUPS, constraints=constraints)
        )

    def floor(self) -> Step:
        """What CRaFT cannot do without: both forward and backward passes and the optimizer, the anchors at hand."""
        anchor_loss = retention(self.model, self._anchors, self.size.samples)

        def step() -> None:
            self.model.train()
            torch.autograd.backward(self.model(**self._batch).loss)
            torch.autograd.backward(anchor_loss())
            self._optimizer.step()
            self.model.zero_grad()

        return step

    def torchjd(self, *, tuned: bool = False) -> Step:
        """The same two losses merged by TorchJD's PCGrad over all parameters, the anchors at hand.

        As its documentation shows it; ``tuned`` with the settings that are fastest here: one loss after the other
        rather than both by vmap, for which PyTorch's attention has no rule, and the Gramian without one large Jacobian.
        """
        from torchjd.aggregation import PCGrad
        from torchjd.autojac import backward, jac_to_grad

        anchor_loss, pcgrad = retention(self.model, self._anchors, self.size.samples), PCGrad()

        def step() -> None:
            self.model.train()
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # PyTorch says that vmap is slow here
                backward([self.model(**self._batch).loss, anchor_loss()], parallel_chunk_size=1 if tuned else None)
            jac_to_grad(self.model.parameters(), pcgrad, optimize_gramian_computation=tuned)
            self._optimizer.step()
            self.model.zero_grad()

        return step

    def _trainer(self, anchors: AnchorCache | None, **options: Any) -> CraftTrainer:
        config = CraftConfig(
            output_dir=str(self.folder / "run"),
            **{
                "retention_terms": ["hidden"],
                "retention_batch_size": self.size.samples,
                "teacher_mismatch": "allow",
                "save_strategy": "no",
                "logging_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                "use_cpu": not torch.cuda.is_available(),
                **options,
            },
        )
        return CraftTrainer(self.model, config, anchors=anchors)

    def _trainer_step(self, trainer: CraftTrainer) -> Step:
        """A step as Trainer's loop takes it, without clipping, schedule, logs and data loading."""
        trainer.optimizer = self._optimizer
        trainer.current_gradient_accumulation_steps = 1
        trainer.state.max_steps = 1_000_000
        events = trainer.callback_handler
        events.on_train_begin(trainer.args, trainer.state, trainer.control)

        def step() -> None:
            trainer.training_step(self.model, self._batch)
            events.on_pre_optimizer_step(trainer.args, trainer.state, trainer.control)
            self._optimizer.step()
            events.on_optimizer_step(trainer.args, trainer.state, trainer.control)
            self.model.zero_grad()
            trainer.state.global_step += 1

        return step


def measure(size: Size, *, repeats: int, threads: int) -> Measured:
    """Every one of ``QUANTITIES``."""
    with using_threads(threads), TemporaryDirectory() as folder:
        bench = Bench(size, Path(folder) / "full")
        values = paired_ratios(time_pairs(bench), repeats, bench.device, often=TIGHT)
        short = Bench(replace(size, samples=1, tokens=size.tokens // 8), Path(folder) / "short")
        copies = [extra_copies(bench), extra_copies(short)]
    values |= {name: [max(each[name] for each in copies)] for name in copies[0]}
    setting = (
        f"{bench.gradient_bytes / 4e6:.3g} M parameters, batches of {size.samples} × {size.tokens} tokens, "
        f"{bench.device.type}, torch {torch.__version__} with {threads} thread(s), {repeats} repeats"
    )
    return Measured(setting, [Figure(quantity, values.get(quantity.name, [])) for quantity in QUANTITIES])


def time_pairs(bench: Bench) -> dict[str, tuple[Step, Step]]:
    """The steps whose times are compared."""
    half = max(1, bench.size.samples // 2)
    pairs = {
        "craft_over_floor": (bench.craft(), bench.floor()),
        "k5_over_plain": (cycle(bench.craft(retention_every=CYCLE, retention_batch_size=half)), cycle(bench.plain())),
        "groups_16_over_1": (bench.craft_on_groups("per_group"), bench.craft_on_groups("single")),
        "stop_over_whole": early_end(bench.size, bench.folder, bench.device),
    }
    if find_spec("torchjd"):
        symmetric = bench.craft(surgery="symmetric")
        pairs["craft_over_torchjd"] = (symmetric, bench.torchjd())
        pairs["craft_over_tuned_torchjd"] = (symmetric, bench.torchjd(tuned=True))
    return pairs


def extra_copies(bench: Bench) -> dict[str, float]:
    """Peak memory of a step above that of the floor, in copies of the gradients."""
    steps = {
        "extra_memory_copies": bench.craft(),
        "layer_extra_memory_copies": bench.craft(granularity="layer"),
    }
    if find_spec("torchjd"):
        steps["torchjd_extra_memory_copies"] = bench.torchjd()
    floor = bench.floor()
    for step in (floor, *steps.values()):
        step()
    lowest = peak_bytes(floor, bench.device)
    return {name: (peak_bytes(step, bench.device) - lowest) / bench.gradient_bytes for name, step in steps.items()}


def cycle(step: Step) -> Step:
    """``CYCLE`` steps in a row."""
    return lambda: [step() for _ in range(CYCLE)]


def early_end(size: Size, folder: Path, device: torch.device) -> tuple[Step, Step]:
    """Retention passes of a model with a large vocabulary, anchored halfway: one that ends there, and a whole one."""
    model = language_model(replace(size, vocabulary=size.large_vocabulary))
    anchors = anchor_cache(model, folder / "halfway", size, size.samples, layer=size.layers // 2 - 1)
    model.to(device)

    def passes(*, whole: bool) -> Step:
        loss = retention(model, anchors, size.samples, to_the_end=whole)

        def step() -> None:
            torch.autograd.backward(loss())
            model.zero_grad()

        return step

    return passes(whole=False), passes(whole=True)


def language_model(size: Size) -> Any:
    """A Llama with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads or size.heads,
            max_position_embeddings=size.tokens,
            tie_word_embeddings=True,
        )
    )


def token_batch(size: Size, num_samples: int) -> dict[str, Tensor]:
    """Random tokens, without padding."""
    ids = torch.randint(size.vocabulary, (num_samples, size.tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def anchor_cache(teacher: Any, folder: Path, size: Size, num_anchors: int, *, layer: int = -1) -> AnchorCache:
    """Anchors of random tokens, of 16 groups in turn, with every token's hidden state after ``layer``."""
    view, samples = anchored(teacher), token_batch(size, num_anchors)
    return build_anchor_cache(
        view,
        lambda rows: {key: value[rows] for key, value in samples.items()},
        folder,
        rows=range(num_anchors),
        groups=[f"task {row % NUM_GROUPS}" for row in range(num_anchors)],
        specs=[FeatureSpec(view.module_path(layer), "none")],
        batch_size=size.samples,
        source={"dataset": "random tokens", "frames": num_anchors},
        teacher_path="random weights",
    )


def retention(model: Any, anchors: AnchorCache, num_anchors: int, *, to_the_end: bool = False) -> Callable[[], Tensor]:
    """L_retain on the anchors of a run's first pass, read beforehand; ``to_the_end`` does not stop at their layer."""
    rows = anchor_rows(len(anchors), num_anchors, seed=CraftConfig.seed, draw=0)
    view, batch = anchored(model), send_to_device(anchors.batch(rows), model.device)
    scales = {name: value.to(model.device) for name, value in anchors.scales().items()}

    def loss() -> Tensor:
        student = extract(view, batch.inputs, anchors.specs, output=to_the_end)
        return retention_loss(student, batch.teacher, scales, weights={"hidden": 1.0}, hidden_distance="mse").mean()

    return loss
