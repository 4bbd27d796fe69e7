"""The memory of fine-tuning a SmolVLA of full width: plainly, by LoRA, and by LoRA with CRaFT. Random weights, CPU.

python scripts/policy_memory.py --output outputs/policy_memory.json
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from instructions import save_smolvlm
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from transformers import AutoConfig

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.features import feature_specs
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.costs.measurement import peak_bytes
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import collate

BATCH, STEPS, STATES, ACTIONS, CHUNK = 2, 2, 6, 6, 50
CAMERAS = ("observation.images.top", "observation.images.wrist")
SIDE = 256  # rows and columns as recorded; the policy makes 512 × 512 of them
TEXT = {  # SmolVLM2-500M's
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "num_hidden_layers": 32,
    "vocab_size": 49280,
    "dtype": "bfloat16",
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "image_size": 512,
    "patch_size": 16,
}
RUNS = {"plain": (False, False), "LoRA": (True, False), "LoRA, CRaFT": (True, True)}  # whether LoRA, whether CRaFT


def save_full_width(folder: Path) -> None:
    """Save what SmolVLA starts from, with the sizes of SmolVLM2-500M and the tokenizer of a toy."""
    save_smolvlm(folder)
    config = AutoConfig.from_pretrained(folder)
    for part, sizes in {"text_config": TEXT, "vision_config": VISION}.items():
        for name, value in sizes.items():
            setattr(getattr(config, part), name, value)
    config.scale_factor = 4
    config.save_pretrained(folder)


def policy(place: Path) -> PolicyModel:
    """A SmolVLA of full width, in the types that LeRobot gives it: the projections are in float32."""
    config = SmolVLAConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (STATES,)),
            **{camera: PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)) for camera in CAMERAS},
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
        vlm_model_name=str(place),
        load_vlm_weights=False,
        device="cpu",
        push_to_hub=False,
    )
    torch.manual_seed(0)
    made = SmolVLAPolicy(config)
    made.model.vlm_with_expert.to(torch.bfloat16)
    numbers = {"mean": torch.zeros(STATES), "std": torch.ones(STATES)}
    return PolicyModel(
        made, *make_pre_post_processors(config, dataset_stats=dict.fromkeys(("observation.state", "action"), numbers))
    )


def frames(count: int) -> Iterator[dict[str, Any]]:
    """Samples of noise, all under one sentence."""
    for row in range(count):
        generator = torch.Generator().manual_seed(row)
        yield {
            "observation.state": torch.randn(STATES, generator=generator),
            **{camera: torch.randint(256, (3, SIDE, SIDE), generator=generator) / 255 for camera in CAMERAS},
            "action": torch.randn(CHUNK, ACTIONS, generator=generator),
            "action_is_pad": torch.zeros(CHUNK, dtype=torch.bool),
            "task": "go to the right",
        }


def anchors_of(model: PolicyModel, samples: list[Any]) -> AdapterAnchors:
    """The policy without its adapter as the teacher on ``samples``."""
    specs = feature_specs([model.module_path(-1)], ["none"])
    return AdapterAnchors(model, lambda rows: collate([samples[row] for row in rows]), ["old"] * len(samples), specs)


def measure(folder: Path, *, lora: bool, craft: bool) -> dict[str, float]:
    """Bytes of the weights, of those that are trained, and the most that a run of ``STEPS`` steps holds beside them."""
    save_full_width(folder / "smolvlm")
    model = policy(folder / "smolvlm")
    if lora:
        model.save_pretrained(folder / "base")
        model.origin = str(folder / "base")
        model.add_adapter({"r": 16})
    samples = list(frames(2 * BATCH))
    anchors = anchors_of(model, samples[:BATCH]) if craft else None
    config = CraftConfig(
        output_dir=str(folder / "run"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        retention_batch_size=BATCH,
        learning_rate=1e-4,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = CraftTrainer(model, config, anchors=anchors, train_dataset=samples[BATCH:], data_collator=collate)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    beside = peak_bytes(trainer.train, torch.device("cpu"))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained": sum(parameter.numel() for parameter in trained),
        "weights": weights,
        "beside": beside,
        "peak": weights + beside,
    }


def main() -> None:
    """Measure every run, and write the bytes as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    told = parser.parse_args()
    told.output.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, (lora, craft) in RUNS.items():
        with TemporaryDirectory() as folder:
            found[name] = measure(Path(folder), lora=lora, craft=craft)
        print(name, json.dumps(found[name]), flush=True)
        told.output.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
