"""Does a policy obey old sentences after it learned a new one? A point in the plane, a tiny SmolVLA, no downloads.

The teacher learns two sentences, each of which names a goal. What it sees is the same under both. Then it is fine-tuned
on a third sentence with a third goal: plainly, and by CRaFT with the old sentences on the new frames as anchors.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main as craft_trainer
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset, collate, load_metadata

GOALS = {"go to the right": (0.8, 0.0), "go to the top": (0.0, 0.8), "go to the left": (-0.8, 0.0)}
OLD, NEW = ["go to the right", "go to the top"], "go to the left"
CAMERA, SIDE = "observation.images.front", 16  # a picture without anything in it
GAIN, LONGEST = 0.4, 0.2  # an action is GAIN · (goal − position), no longer than LONGEST
FRAMES, NEAR, ACTIONS = 6, 0.2, 30  # of an episode; of a success; until it is judged
POLICY = {
    "chunk_size": 4,
    "n_action_steps": 4,
    "max_state_dim": 4,
    "max_action_dim": 4,
    "tokenizer_max_length": 8,
    "num_steps": 5,
    "resize_imgs_with_padding": [32, 32],
    "num_vlm_layers": 3,
    "load_vlm_weights": False,
    "train_expert_only": False,
}
TRAIN: dict[str, Any] = {
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 100,
    "dataloader_pin_memory": False,
    "per_device_train_batch_size": 32,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
}


def save_smolvlm(folder: Path) -> None:
    """Save configuration, processor and tokenizer of a SmolVLM of three layers, which SmolVLA starts from."""
    images = {"image_token": "<image>", "fake_image_token": "<fake>", "global_image_token": "<global>"}
    images |= {"end_of_utterance_token": "<end>"}
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *images.values(), "go", "to", "the", "right", "top", "left"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=images, **special)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = {"model_type": "llama", "vocab_size": len(fast), "num_hidden_layers": 3, "num_key_value_heads": 2}
    vision = {"num_hidden_layers": 1, "image_size": 32, "patch_size": 8}
    SmolVLMConfig(
        text_config=text | size | {"head_dim": 16, "pad_token_id": 0},
        vision_config=vision | size,
        scale_factor=2,
        image_token_id=vocabulary["<image>"],
        pad_token_id=0,
    ).save_pretrained(folder)
    pictures = SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    SmolVLMProcessor(pictures, fast, SmolVLMVideoProcessor(), image_seq_len=4).save_pretrained(folder)


def record(folder: Path, sentences: Sequence[str], episodes: int, seed: int) -> None:
    """Demonstrate every sentence from ``episodes`` starts all over the plane."""
    features = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        CAMERA: {"dtype": "image", "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]},
    }
    dataset = LeRobotDataset.create("local/plane", 10, features, root=folder, use_videos=False)
    generator = np.random.default_rng(seed)
    for sentence in sentences:
        for _ in range(episodes):
            position = generator.uniform(-1, 1, 2)
            for _ in range(FRAMES):
                action = shown(position, sentence)
                frame = {"observation.state": position.astype(np.float32), "action": action.astype(np.float32)}
                dataset.add_frame(frame | {CAMERA: np.zeros((SIDE, SIDE, 3), np.uint8), "task": sentence})
                position = position + action
            dataset.save_episode()
    dataset.finalize()


def shown(position: Any, sentence: str) -> Any:
    """What a demonstrator does at ``position``."""
    action = GAIN * (np.array(GOALS[sentence]) - position)
    return action * min(1.0, LONGEST / max(float(np.linalg.norm(action)), 1e-9))


def successes(folder: Path, seed: int, episodes: int = 20) -> dict[str, float]:
    """Share of ``episodes`` under each sentence that end near its goal; the same starts under all of them."""
    model = PolicyModel.from_pretrained(folder, device="cpu").eval()
    found = {}
    for sentence, goal in GOALS.items():
        torch.manual_seed(seed)
        position = torch.from_numpy(np.random.default_rng(1000 + seed).uniform(-1, 1, (episodes, 2))).float()
        model.reset()
        for _ in range(ACTIONS):
            seen = {"observation.state": position, CAMERA: torch.zeros(episodes, 3, SIDE, SIDE)}
            action = model.select_action(seen | {"task": [sentence] * episodes})
            position = (position + action).clamp(-1.5, 1.5)
        found[sentence] = ((position - torch.tensor(goal)).norm(dim=1) < NEAR).float().mean().item()
    return found


def train(model: PolicyModel, samples: list[Any], folder: Path, anchors: Path | None = None, **options: Any) -> None:
    """What `craft-trainer train` does, with the samples decoded once: ``LeRobotDataset`` takes longer than a step."""
    config = CraftConfig(output_dir=str(folder), **TRAIN | options)
    cache = None if anchors is None else AnchorCache(anchors)
    trainer = CraftTrainer(model, config, anchors=cache, train_dataset=samples, data_collator=collate)
    trainer.train()
    trainer.save_model()


def run(folder: Path, seed: int, told: argparse.Namespace) -> dict[str, Any]:
    """One seed: the teacher, and both students that start from it; what each of them obeys."""
    save_smolvlm(folder / "smolvlm")
    record(folder / "old", OLD, told.episodes, seed)
    record(folder / "new", [NEW], told.episodes, 100 + seed)
    torch.manual_seed(seed)
    options = POLICY | {"vlm_model_name": str(folder / "smolvlm"), "device": "cpu"}
    teacher = PolicyModel.from_config("smolvla", load_metadata(str(folder / "old")), options)
    old, new = (
        [*map(dataset.__getitem__, range(len(dataset)))]
        for dataset in (PolicyDataset.of(teacher, str(folder / name)) for name in ("old", "new"))
    )
    settings = {"seed": seed, "max_steps": told.teacher_steps, "learning_rate": 3e-3}
    train(teacher, old, folder / "teacher", **settings)
    obeyed = {"teacher": successes(folder / "teacher", seed)}
    print(seed, obeyed, flush=True)

    (folder / "old_sentences.txt").write_text("\n".join(OLD))
    build = ["cache", "build", "--source", "new_task", "--teacher", str(folder / "teacher")]
    build += ["--dataset", str(folder / "new"), "--prompts_file", str(folder / "old_sentences.txt")]
    build += ["--anchors", str(told.anchors), "--layers", "-2", "--output_dir", str(folder / "anchors")]
    if craft_trainer(build):
        raise SystemExit("the anchors could not be built")
    settings |= {"max_steps": told.steps, "learning_rate": 1e-3, "retention_batch_size": 32}
    for name, anchors in (("plain", None), ("craft", folder / "anchors")):
        student = PolicyModel.from_pretrained(folder / "teacher", device="cpu")
        train(student, new, folder / name, anchors, **settings)
        obeyed[name] = successes(folder / name, seed)
        print(seed, name, obeyed[name], flush=True)
    return obeyed


def main() -> None:
    """Write success by seed, method and sentence as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=60, help="demonstrations of each sentence")
    parser.add_argument("--teacher_steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=150, help="of fine-tuning")
    parser.add_argument("--anchors", type=int, default=120)
    told = parser.parse_args()
    told.output.parent.mkdir(parents=True, exist_ok=True)
    results = {}
    for seed in told.seeds:
        with TemporaryDirectory() as folder:
            results[str(seed)] = run(Path(folder), seed, told)
        told.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
