"""One model of every family with a task of its own, its anchors, and the module names that an adapter takes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import tiny_encoders
import tiny_lm
import tiny_shapes
import tiny_vlm
import torch
from torch import nn
from torch.utils.data import Dataset

from craft_trainer.models.torch_model import TorchModel


@dataclass(frozen=True)
class Family:
    """A shape of model.

    Attributes:
        make: the model, the same whenever it is called.
        samples: the data that is learned, and with another seed what is known.
        collate: of such samples.
        terms: what is held.
        layer: whose hidden state is held.
        adapted: names of modules that a low-rank adapter is put on, if one is tested.
        task_type: PEFT's name for what the model does.
        recovery_rate: the learning rate at which what was lost comes back in a few steps.
    """

    make: Callable[[], nn.Module]
    samples: Callable[..., Dataset]
    collate: Callable[[list[Any]], dict[str, Any]]
    terms: tuple[str, ...] = ("hidden", "output")
    layer: int | str = -2
    adapted: tuple[str, ...] = ()
    task_type: str | None = None
    recovery_rate: float = 1e-3


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


def own_module():
    """A ResNet without running statistics, which a training step changes before any gradient does."""
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4, norm_layer=partial(nn.GroupNorm, 8))
    return TorchModel(
        network,
        inputs=["pixels"],
        labels=["label"],
        loss=lambda output, batch: nn.functional.cross_entropy(output, batch["label"]),
        layers=["layer1", "layer2", "layer3", "layer4"],
        channels_first=True,
    )


def encoder(name, adapted=("query", "value"), task_type="SEQ_CLS"):
    return Family(
        partial(tiny_encoders.tiny, name),
        partial(tiny_encoders.Samples, name),
        tiny_encoders.collate,
        adapted=adapted,
        task_type=task_type,
    )


def shape(name, adapted, task_type=None):
    terms = ("hidden", "token_kl") if name in tiny_shapes.DISTRIBUTIONS else ("hidden", "output")
    return Family(
        partial(tiny_shapes.tiny, name),
        partial(tiny_shapes.Samples, name),
        partial(tiny_shapes.batch_of, name),
        terms,
        adapted=adapted,
        task_type=task_type,
    )


FAMILIES = {
    "causal language model": Family(
        tiny_lm.tiny_llama,
        tiny_lm.TokenTask,
        tiny_lm.collate,
        ("hidden", "token_kl"),
        adapted=("q_proj", "v_proj"),
        task_type="CAUSAL_LM",
    ),
    "vision-language model": Family(
        partial(tiny_vlm.tiny_vlm, "qwen2_vl"),
        PicturesWithTexts,
        joined,
        ("hidden", "token_kl"),
        adapted=("q_proj", "v_proj"),
        task_type="CAUSAL_LM",
    ),
    "classifier": encoder("bert_classifier"),
    "image classifier": encoder("vit_classifier", task_type=None),
    "reward model": encoder("llama_reward", ("q_proj", "v_proj")),
    "T5": shape("t5", ("q", "v"), "SEQ_2_SEQ_LM"),
    "BART": shape("bart", ("q_proj", "v_proj"), "SEQ_2_SEQ_LM"),
    "Whisper": shape("whisper", ("q_proj", "v_proj")),
    "masked language model": shape("masked", ("query", "value")),
    "token classifier": shape("tags", ("query", "value"), "TOKEN_CLS"),
    "CLIP": shape("clip", ("q_proj", "v_proj")),
    "own module": Family(
        own_module, Pictures, torch.utils.data.default_collate, adapted=("layer3.0.conv1",), recovery_rate=1e-4
    ),
}
