"""One model of every family with a task of its own, its anchors, and the module names that an adapter takes."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import tiny_lm
import tiny_shapes
import tiny_vlm
import torch
from torch import nn
from torch.utils.data import Dataset, default_collate
from toy import ToyModel, ToyTask
from transformers import Trainer, TrainingArguments

from craft_trainer.models.torch_model import TorchModel

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Family:
    """A shape of model.

    Attributes:
        models: in it, and in the folder that it is given, there is the model: the same whenever it is called for.
        samples: the data that is learned, and with another seed what is known.
        collate: of such samples.
        terms: what is held.
        layer: whose hidden state is held.
        adapted: names of modules that a low-rank adapter is put on.
        task_type: PEFT's name for what the model does.
        is_adapted: whether all of its runs train an adapter.
        recovery_rate: the learning rate at which what was lost comes back in a few steps.
        options: settings of its runs.
        trainer: the class that trains it and that of its arguments; skips the test where they are not installed.
        given: what the trainer takes beside the model.
    """

    models: Callable[[Path], AbstractContextManager[Make]]
    samples: Callable[..., Dataset]
    collate: Callable[[list[Any]], dict[str, Any]]
    terms: tuple[str, ...] = ("hidden", "output")
    layer: int | str = -2
    adapted: tuple[str, ...] = ()
    task_type: str | None = None
    is_adapted: bool = False
    recovery_rate: float = 1e-3
    trainer: Callable[[], tuple[type, type]] = lambda: (Trainer, TrainingArguments)
    given: Callable[["Family", nn.Module], dict[str, Any]] = lambda family, _model: {
        "train_dataset": family.samples(),
        "data_collator": family.collate,
    }


def made_by(make: Make) -> Callable[[Path], AbstractContextManager[Make]]:
    return lambda _folder: nullcontext(make)


class Pictures(Dataset):
    """Pictures of four classes."""

    def __init__(self, size=64, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.pixels = torch.randn(size, 3, 32, 32, generator=generator)
        self.label = torch.randint(4, (size,), generator=generator)

    def __len__(self):
        return len(self.label)

    def __getitem__(self, index):
        return {"pixels": self.pixels[index], "label": self.label[index]}


class PicturesWithTexts(Dataset):
    """Texts of one length, each with a picture whose patches are rows beside those of its neighbours."""

    def __init__(self, size=64, seed=1):
        rows = (tiny_vlm.samples("qwen2_vl", [1], seed=seed * size + row, length=24) for row in range(size))
        self.rows = list(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def joined(rows):
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


class Demonstrations(Dataset):
    """What a robot saw and did, as a policy of ``kind`` reads it."""

    def __init__(self, kind, size=64, seed=1):
        generator = torch.Generator().manual_seed(seed)
        numbers = partial(torch.randn, generator=generator)
        history, sees, steps = ROBOTS[kind]
        self.columns = {"observation.state": numbers(size, *history, 5), "action": numbers(size, steps, 3)}
        if kind in ("act", "diffusion"):
            self.columns["action_is_pad"] = torch.arange(steps).expand(size, -1) >= steps - 2
        if sees:
            pictures = torch.randint(256, (size, *history, 3, 32, 32), generator=generator) / 255
            self.columns["observation.images.front"] = pictures
        else:
            self.columns["observation.environment_state"] = numbers(size, 7)

    def __len__(self):
        return len(self.columns["action"])

    def __getitem__(self, index):
        task = {"task": ("push the red puck", "open door")[index % 2]}
        return {name: column[index] for name, column in self.columns.items()} | task


ROBOTS = {"act": ((), False, 8), "diffusion": ((2,), True, 8), "smolvla": ((), True, 8), "vqbet": ((2,), True, 5)}


def policy(kind, adapted, **options):
    """A LeRobot policy, loaded from the folder that it was saved in: only then can it have an adapter."""

    @contextmanager
    def models(folder: Path) -> Iterator[Make]:
        from policies import tiny_policy_maker

        from craft_trainer.models.lerobot import PolicyModel

        normed = {"use_group_norm": True} if kind in ("diffusion", "vqbet") else {}  # no statistics of batches
        with tiny_policy_maker(folder) as make:
            make(kind, cameras=("front",) if ROBOTS[kind][1] else (), **normed).save_pretrained(folder / "policy")
            yield lambda: PolicyModel.from_pretrained(folder / "policy")

    return Family(models, partial(Demonstrations, kind), default_collate, adapted=adapted, **options)


def own_network():
    """Norms that keep no running statistics, which a training step changes before any gradient does."""

    def block(entered, left):
        return nn.Sequential(nn.Conv2d(entered, left, 3, stride=2), nn.GroupNorm(4, left), nn.ReLU())

    torch.manual_seed(0)
    stages = {"one": block(3, 8), "two": block(8, 8), "three": block(8, 16)}
    head = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(16, 4)}
    return sees_pictures(nn.Sequential(OrderedDict(stages | head)), list(stages))


def timm_network():
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 4}
    network = timm.create_model("vit_tiny_patch16_224", **sizes)
    return sees_pictures(network, ["blocks.0", "blocks.1", "blocks.2"], channels_first=False)


def sees_pictures(network, layers, **options):
    return TorchModel(
        network,
        inputs=["pixels"],
        labels=["label"],
        loss=lambda output, batch: nn.functional.cross_entropy(output, batch["label"]),
        layers=layers,
        **{"channels_first": True} | options,
    )


def encoder(name, adapted=("query", "value"), task_type="SEQ_CLS"):
    return Family(
        made_by(partial(tiny_encoders.tiny, name)),
        partial(tiny_encoders.Samples, name),
        tiny_encoders.collate,
        adapted=adapted,
        task_type=task_type,
    )


def shape(name, adapted, task_type=None):
    terms = ("hidden", "token_kl") if name in tiny_shapes.DISTRIBUTIONS else ("hidden", "output")
    return Family(
        made_by(partial(tiny_shapes.tiny, name)),
        partial(tiny_shapes.Samples, name),
        partial(tiny_shapes.batch_of, name),
        terms,
        adapted=adapted,
        task_type=task_type,
    )


def embeds_sentences():
    """By the library's own trainer, which calls a loss and not the model, on pairs; its anchors are texts alone."""

    def trainer():
        library = pytest.importorskip("sentence_transformers")
        return library.SentenceTransformerTrainer, library.SentenceTransformerTrainingArguments

    def given(_family, model):
        from datasets import Dataset as Rows
        from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

        left, right = ([f"w{row % one} w{row % other} w3" for row in range(64)] for one, other in ((30, 7), (11, 5)))
        pairs = {"left": left, "right": right, "score": [row % 2 / 1 for row in range(64)]}
        return {"train_dataset": Rows.from_dict(pairs), "loss": CosineSimilarityLoss(model)}

    return Family(
        lambda folder: nullcontext(partial(tiny_encoders.sentence_transformer, folder)),
        partial(tiny_encoders.Samples, "bert"),
        tiny_encoders.collate,
        trainer=trainer,
        given=given,
    )


LLAMA = Family(
    made_by(tiny_lm.tiny_llama),
    tiny_lm.TokenTask,
    tiny_lm.collate,
    ("hidden", "token_kl"),
    task_type="CAUSAL_LM",
)
ACT = policy("act", (), layer=-1)
FAMILIES = {
    "causal language model": LLAMA,
    "causal language model with an adapter": replace(LLAMA, adapted=("q_proj", "v_proj"), is_adapted=True),
    "vision-language model": Family(
        made_by(partial(tiny_vlm.tiny_vlm, "qwen2_vl")),
        PicturesWithTexts,
        joined,
        ("hidden", "token_kl"),
        adapted=("q_proj", "v_proj"),
        task_type="CAUSAL_LM",
    ),
    "T5": shape("t5", ("q", "v"), "SEQ_2_SEQ_LM"),
    "BART": shape("bart", ("q_proj", "v_proj"), "SEQ_2_SEQ_LM"),
    "Whisper": shape("whisper", ("q_proj", "v_proj")),
    "masked language model": shape("masked", ("query", "value")),
    "token classifier": shape("tags", ("query", "value"), "TOKEN_CLS"),
    "classifier": encoder("bert_classifier"),
    "image classifier": encoder("vit_classifier", task_type=None),
    "reward model": encoder("llama_reward", ("q_proj", "v_proj")),
    "SentenceTransformer": embeds_sentences(),
    "CLIP": shape("clip", ("q_proj", "v_proj")),
    "own module": Family(made_by(own_network), Pictures, default_collate, adapted=("three.0",)),
    "AnchoredModel": Family(made_by(ToyModel), ToyTask, default_collate),
    "timm": Family(made_by(timm_network), Pictures, default_collate, adapted=("qkv",)),
    "ACT": ACT,
    "ACT with an adapter": replace(ACT, adapted=("linear1", "linear2"), is_adapted=True),
    "diffusion": policy("diffusion", ("cond_encoder.1",)),
    "SmolVLA": policy("smolvla", ("q_proj", "v_proj")),
    "VQ-BeT": policy("vqbet", ("c_attn",), terms=("hidden",)),
}
