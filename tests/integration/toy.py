"""A two-layer model that can be anchored: small enough for a closed-form oracle of CRaFT."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.base import TokenLayout, weights_digest

TOKENS, INPUTS, HIDDEN, OUTPUTS = 3, 4, 5, 2


class ToyModel(nn.Module):
    accepts_loss_kwargs = False

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Linear(INPUTS, HIDDEN)
        self.head = nn.Linear(HIDDEN, OUTPUTS)
        self.unused_by_retention = nn.Parameter(torch.ones(OUTPUTS))

    def forward(self, x, y, return_loss=True):
        prediction = self.head(torch.tanh(self.encoder(x))) * self.unused_by_retention
        return {"loss": (prediction - y).square().mean()}

    @property
    def network(self):
        return self

    output_kind = "numbers"

    def predict(self, batch) -> Tensor:
        return self.head(torch.tanh(self.encoder(batch["x"])))

    def prepare(self, batch):
        return batch

    def module_path(self, layer):
        return "encoder"

    def image_keys(self):
        return []

    def noise(self, rows):
        return {}

    def packed(self, batch):
        return {}

    def token_layout(self, path, inputs, shape):
        return TokenLayout()

    def input_keys(self):
        return ["x", "y"]

    def label_keys(self):
        return ["y"]

    def fingerprint(self):
        return {"weights": weights_digest(self), "processors": ""}

    def save_pretrained(self, output_dir, state_dict=None):
        save_file(dict(state_dict or self.state_dict()), Path(output_dir) / "model.safetensors")

    def load_checkpoint(self, checkpoint_dir):
        self.load_state_dict(load_file(Path(checkpoint_dir) / "model.safetensors"))


class ToyTask(Dataset):
    def __init__(self, size=64, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, TOKENS, INPUTS, generator=generator)
        self.y = torch.randn(size, TOKENS, OUTPUTS, generator=generator)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": self.y[index]}


def toy_anchors(folder: Path, *, size=24, model: ToyModel | None = None, groups=None, shift=0.0) -> AnchorCache:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(size, TOKENS, INPUTS, generator=generator)
    y = torch.randn(size, TOKENS, OUTPUTS, generator=generator) + shift
    return build_anchor_cache(
        model or ToyModel(),
        lambda rows: {"x": x[rows], "y": y[rows]},
        folder,
        rows=range(size),
        groups=groups or ["old"] * size,
        specs=[FeatureSpec("encoder", "none")],
        batch_size=7,
        source={"dataset": "toy", "frames": size},
        teacher_path="toy",
    )
