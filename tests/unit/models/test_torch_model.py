"""Any module of torch: what it is trained on is what its anchors are, and its checkpoints are its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from craft_trainer.anchors.features import AnchorBatch, Features, FeatureSpec, extract, teacher_features
from craft_trainer.losses.replay import task_loss
from craft_trainer.models.base import AnchoredModel, SupportsCheckpointing, missing_members
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.torch_model import TorchModel

BATCH = {"pixels": torch.randn(4, 3, 32, 32), "label": torch.tensor([0, 1, 2, 0])}


def cross_entropy(output: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch["label"])


def resnet(seed: int = 0, **options: Any) -> TorchModel:
    torch.manual_seed(seed)
    network = torchvision.models.resnet18(num_classes=3)
    return TorchModel(network, ["pixels"], ["label"], cross_entropy, channels_first=True, **options)


@pytest.mark.parametrize("sequential", [False, True])
def test_replay_computes_the_loss_that_the_module_was_given(sequential: bool) -> None:
    """The loss is TorchModel's: the network inside knows the inputs alone, whatever its class is."""
    linear = nn.Linear(3072, 3)
    inside = nn.Sequential(linear) if sequential else linear
    batch = BATCH | {"pixels": BATCH["pixels"].flatten(1)}
    model = TorchModel(inside, ["pixels"], ["label"], cross_entropy)
    anchors = AnchorBatch(batch, Features({}, None), ["old"] * 4)
    torch.testing.assert_close(task_loss(model, anchors), cross_entropy(inside(batch["pixels"]), batch))


class Tagger(nn.Module):
    """Two layers over words, and a class for each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 5)

    def forward(self, words: Tensor) -> Tensor:
        states = self.words(words)
        for layer in self.layers:
            states = torch.tanh(layer(states))
        logits: Tensor = self.head(states)
        return logits


def tagger(network: nn.Module | None = None) -> TorchModel:
    return TorchModel(
        network or Tagger(),
        ["words"],
        ["tags"],
        lambda output, batch: nn.functional.cross_entropy(output.flatten(0, 1), batch["tags"].flatten()),
        mask="mask",
        layers=["layers.0", "layers.1"],
        output_kind="logits",
    )


def test_it_is_an_anchored_model_as_it_is() -> None:
    model = resnet()
    assert missing_members(model) == []
    assert as_anchored_model(model) is model
    assert isinstance(model, SupportsCheckpointing)
    assert model.network is model.wrapper
    assert (model.input_keys(), model.label_keys()) == (["pixels", "label"], ["label"])


def test_its_loss_is_the_one_that_was_given() -> None:
    model = resnet()
    expected = cross_entropy(model.network(BATCH["pixels"]), BATCH)
    assert torch.equal(model(return_loss=True, **BATCH)["loss"], expected)
    with pytest.raises(ValueError, match="output_kind is 'logit': it must be numbers or logits"):
        TorchModel(nn.Linear(1, 1), ["x"], [], cross_entropy, output_kind="logit")


def test_places_of_a_picture_are_tokens() -> None:
    model = resnet().eval()
    found = extract(model, BATCH, [FeatureSpec("layer3", "mean_masked"), FeatureSpec("layer3", "none")], output=True)
    states: list[Tensor] = []
    model.network.layer3.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    with torch.no_grad():
        output = model.network(BATCH["pixels"])
    torch.testing.assert_close(found.output, output)
    torch.testing.assert_close(found.hidden["hidden/layer3/mean_masked"], states[0].mean(dim=(2, 3)))
    assert found.hidden["hidden/layer3/none"].shape == (4, 4, 256)


def test_layers_have_the_numbers_that_they_are_given() -> None:
    assert [tagger().module_path(layer) for layer in (0, 1, -1)] == ["layers.0", "layers.1", "layers.1"]
    with pytest.raises(ValueError, match=r"ResNet has no layer -1; it has 0: \[\]. Name a module path, or give TorchM"):
        resnet().module_path(-1)
    with pytest.raises(ValueError, match="ResNet has no layer 'layer9'"):
        resnet(layers=["layer9"])
    tokens_first = TorchModel(resnet().network, ["pixels"], [], cross_entropy)
    with pytest.raises(ValueError, match=r"layer1 has shape \(4, 64, 8, 8\), not one vector per token"):
        extract(tokens_first, BATCH, [FeatureSpec("layer1", "none")], output=False)


def test_padding_does_not_count() -> None:
    model = tagger().eval()
    batch = {"words": torch.tensor([[1, 2, 3], [4, 5, 0]]), "mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    other = {**batch, "words": torch.tensor([[1, 2, 3], [4, 5, 9]])}
    one, two = (teacher_features(model, each, [FeatureSpec("layers.1", "mean_masked")]) for each in (batch, other))
    torch.testing.assert_close(one.hidden, two.hidden)
    assert one.tokens is not None
    assert one.tokens.valid.tolist() == batch["mask"].bool().tolist()


def test_a_checkpoint_has_the_networks_own_names(tmp_path: Path) -> None:
    model, other = resnet(), resnet(seed=1)
    model.save_pretrained(tmp_path)
    torchvision.models.resnet18(num_classes=3).load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert model.fingerprint() != other.fingerprint()
    other.load_checkpoint(tmp_path)
    assert model.fingerprint() == other.fingerprint()
    with pytest.raises(FileNotFoundError, match=r"holds no model.safetensors: it is not a checkpoint to resume from"):
        other.load_checkpoint(tmp_path / "missing")


def test_a_checkpoint_holds_what_an_engine_gathered(tmp_path: Path) -> None:
    """FSDP leaves parts in the model, and gives the whole in buffers that may be padded."""
    model = tagger()
    wholes = {name: torch.zeros(1000)[: part.numel()].view(part.shape) for name, part in model.state_dict().items()}
    model.save_pretrained(tmp_path, wholes)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.network.state_dict().keys()
    assert not any(tensor.any() for tensor in saved.values())


def test_an_adapter_goes_around_the_network() -> None:
    settings = LoraConfig(r=2, target_modules=["layers.0", "layers.1"])
    model: AnchoredModel = tagger(get_peft_model(Tagger(), settings))
    assert model.module_path(-1) == "layers.1"
    assert model.fingerprint() == tagger().fingerprint()
    around = get_peft_model(tagger(), settings)
    with pytest.raises(TypeError, match=r"around a TorchModel.* TorchModel\(get_peft_model\(network, config\)"):
        as_anchored_model(around)


def test_an_output_that_is_no_tensor_is_named() -> None:
    model = TorchModel(nn.LSTM(3, 3), ["x"], [], cross_entropy)
    with pytest.raises(TypeError, match="LSTM gives a tuple: wrap it so that it gives a tensor"):
        model.predict({"x": torch.zeros(1, 2, 3)})
