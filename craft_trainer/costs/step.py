"""Cost of a CRaFT step: time and memory beside its floor, beside TorchJD's PCGrad, and beside plain training."""

import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.costs.llama import (
    FULL,
    NUM_GROUPS,
    QUICK,
    Size,
    anchor_cache,
    encoder,
    language_model,
    retention,
    token_batch,
)
from craft_trainer.costs.measurement import BenchArguments, Quantity, Step, paired_ratios, peak_bytes
from craft_trainer.costs.quantized import adapted, base_bytes, can_quantize
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.trainer import CraftTrainer

EXAMPLE = "craft-trainer bench step --repeats 7 --json outputs/step.json"
CYCLE = 5  # optimizer steps from one retention pass to the next, in k5_over_plain
JOINT: dict[str, Any] = {"surgery": "none", "backward": "joint"}
DRIFT = 0.01  # deviation of the noise that makes a student of the teacher, whose weights have one of 0.02
QUANTITIES = (
    Quantity("craft_over_floor", 1.03, "time: CRaFT / its two forward and backward passes, clipping and the optimizer"),
    Quantity("craft_over_bare_floor", None, "the same without the gradient's norm and clipping in either"),
    Quantity("craft_over_torchjd", 0.60, "time: CRaFT, surgery symmetric / TorchJD's PCGrad as documented"),
    Quantity("extra_memory_copies", 1.0, "peak memory: CRaFT − floor, in copies of the gradients"),
    Quantity("layer_extra_memory_copies", 0.15, "the same with granularity layer"),
    Quantity("k5_over_plain", 1.15, "time: 5 steps with one retention pass on half a batch / 5 plain steps"),
    Quantity("groups_16_over_1", 1.03, "time: a constraint for each of 16 groups / a single one"),
    Quantity("joint_over_separate", None, "time: CRaFT, surgery none, with backward joint / with backward separate"),
    Quantity("joint_extra_memory_copies", None, "peak memory: CRaFT, surgery none, with backward joint − floor"),
    Quantity("encoder_over_floor", None, "time: CRaFT of an encoder / its floor, as in the first row"),
    Quantity("craft_over_tuned_torchjd", None, "time: the same / TorchJD with the settings that are fastest on a CPU"),
    Quantity("torchjd_extra_memory_copies", None, "peak memory: TorchJD − floor"),
    Quantity("lora_4bit_over_lora", None, "time: CRaFT of a LoRA adapter on a base of 4 bits / on the same in float32"),
    Quantity("base_4bit_over_base", None, "bytes of the weights below that adapter: 4 bits / float32"),
    Quantity("stop_over_whole", None, "time: retention pass anchored halfway, ending there / going on to the head"),
)
# timed twice as often, for their goals are a few percent:
TIGHT = ("craft_over_floor", "craft_over_bare_floor", "groups_16_over_1")


class Bench:
    """One student and one optimizer, and every way to take a step with them.

    Sharing them gives every variant the same place in memory. The student is the anchors' teacher plus noise, so that
    neither gradient is zero.
    """

    def __init__(self, size: Size, folder: Path, model: Any = None) -> None:
        torch.manual_seed(0)
        self.size, self.folder = size, folder
        self.model = language_model(size) if model is None else model
        short = replace(size, samples=NUM_GROUPS, tokens=max(2, size.samples * size.tokens // NUM_GROUPS))
        self._anchors = anchor_cache(self.model, folder / "anchors", size, 16 * size.samples)
        self._short_anchors = anchor_cache(self.model, folder / "short_anchors", short, NUM_GROUPS)
        with torch.no_grad():
            for parameter in self._trained():
                parameter.add_(DRIFT * torch.randn_like(parameter))
        trainer = self._trainer(None)
        self.device: torch.device = trainer.args.device
        self._optimizer: Any = trainer.create_optimizer()
        batch = token_batch(size, size.samples)
        self._batch = {key: value.to(self.device) for key, value in (batch | {"labels": batch["input_ids"]}).items()}

    @property
    def gradient_bytes(self) -> int:
        """The size of one copy of the trainable gradients."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self._trained())

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def plain(self) -> Step:
        """Trainer's step, without anchors."""
        return self._trainer_step(self._trainer(None))

    def craft(self, *, bare: bool = False, **options: Any) -> Step:
        """CRaFT's step; ``bare`` without the gradient's norm and clipping."""
        return self._trainer_step(self._trainer(self._anchors, **options), bare=bare)

    def craft_on_groups(self, constraints: str) -> Step:
        """CRaFT's step on as many tokens in shorter anchors, one of every group in each batch."""
        return self._trainer_step(
            self._trainer(self._short_anchors, retention_batch_size=NUM_GROUPS, constraints=constraints)
        )

    def floor(self, *, bare: bool = False) -> Step:
        """Both forward and backward passes, torch's clipping and the optimizer, the anchors at hand.

        ``bare`` without the gradient's norm and clipping: what CRaFT cannot do without.
        """
        anchor_loss = retention(self.model, self._anchors, self.size.samples)

        def step() -> None:
            self.model.train()
            torch.autograd.backward(self.model(**self._batch).loss)
            torch.autograd.backward(anchor_loss())
            if not bare:
                clip_grad_norm_(self.model.parameters(), CraftConfig.max_grad_norm)
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
            clip_grad_norm_(self.model.parameters(), CraftConfig.max_grad_norm)
            self._optimizer.step()
            self.model.zero_grad()

        return step

    def _trainer(self, anchors: AnchorCache | None, **options: Any) -> CraftTrainer:
        config = CraftConfig(
            output_dir=str(self.folder / "run"),
            **{
                "method": "plain" if anchors is None else "craft",
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

    def _trainer_step(self, trainer: CraftTrainer, *, bare: bool = False) -> Step:
        """A step as Trainer's loop takes it, without schedule, logs and data loading."""
        trainer.optimizer = self._optimizer
        trainer.current_gradient_accumulation_steps = 1
        trainer.state.max_steps = 1_000_000
        events = trainer.callback_handler
        events.on_train_begin(trainer.args, trainer.state, trainer.control)

        def step() -> None:
            trainer.training_step(self.model, self._batch)
            if not bare:
                trainer._get_grad_norm(self.model, trainer._clip_grad_norm(self.model))
            events.on_pre_optimizer_step(trainer.args, trainer.state, trainer.control)
            self._optimizer.step()
            events.on_optimizer_step(trainer.args, trainer.state, trainer.control)
            self.model.zero_grad()
            trainer.state.global_step += 1

        return step


def run(arguments: BenchArguments) -> None:
    """Take every one of ``QUANTITIES``."""
    size = QUICK if arguments.quick else FULL
    arguments.bench(QUANTITIES, lambda *where: measure(size, *where))


def measure(size: Size, folder: Path, device: torch.device, repeats: int) -> tuple[str, dict[str, list[float]]]:
    """Take every one of ``QUANTITIES``."""
    bench = Bench(size, folder / "full")
    pairs, ratios = time_pairs(bench), {}
    if can_quantize():
        whole, quantised = (adapted(size, folder / f"base{bits}", bits) for bits in (None, "4bit"))
        steps = [Bench(size, folder / name, model).craft() for name, model in (("4bit", quantised), ("32bit", whole))]
        pairs["lora_4bit_over_lora"] = (steps[0], steps[1])
        ratios["base_4bit_over_base"] = [base_bytes(quantised) / base_bytes(whole)]
    values = paired_ratios(pairs, repeats, device, often=TIGHT) | ratios
    short = Bench(replace(size, samples=1, tokens=size.tokens // 8), folder / "short")
    copies = [extra_copies(bench), extra_copies(short)]
    values |= {name: [max(each[name] for each in copies)] for name in copies[0]}
    setting = f"{bench.gradient_bytes / 4e6:.3g} M parameters, batches of {size.samples} × {size.tokens} tokens"
    return setting, values


def time_pairs(bench: Bench) -> dict[str, tuple[Step, Step]]:
    """The steps whose times are compared."""
    half = max(1, bench.size.samples // 2)
    of_encoder = Bench(bench.size, bench.folder / "encoder", encoder(bench.size))
    pairs = {
        "craft_over_floor": (bench.craft(), bench.floor()),
        "craft_over_bare_floor": (bench.craft(bare=True), bench.floor(bare=True)),
        "k5_over_plain": (cycle(bench.craft(retention_every=CYCLE, retention_batch_size=half)), cycle(bench.plain())),
        "groups_16_over_1": (bench.craft_on_groups("per_group"), bench.craft_on_groups("single")),
        "joint_over_separate": (bench.craft(**JOINT), bench.craft(surgery="none")),
        "encoder_over_floor": (of_encoder.craft(), of_encoder.floor()),
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
        "joint_extra_memory_copies": bench.craft(**JOINT),
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
