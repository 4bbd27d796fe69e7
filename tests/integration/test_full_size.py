"""PI0-FAST at full width, a step of CRaFT on the CPU. Deselected unless asked for: pytest -m full_size -s."""

import resource
import time

import pytest
import torch
from fast_actions import save_fast_actions
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.pi0_fast import modeling_pi0_fast
from lerobot.policies.pi0_fast.configuration_pi0_fast import PI0FastConfig
from policies import CHUNK, NUM_SPARE, smooth_chunks, statistics
from texts import save_text_tokenizer

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import collate

CAMERA = "observation.images.top"
SIZE, NUM_JOINTS = 224, 14
LIMIT = 14.0  # GiB


@pytest.fixture
def model(tmp_path, monkeypatch):
    """PaliGemma with the vision tower and vocabulary of 3B and the language model of 300M, random, in bfloat16."""
    paligemma = modeling_pi0_fast.PaliGemmaForConditionalGenerationWithPiGemma

    def projected(config):
        """LeRobot projects images to the 2,048 numbers of gemma_2b, whatever the variant."""
        config.vision_config.projection_dim = config.text_config.hidden_size
        return paligemma(config=config)

    monkeypatch.setattr(modeling_pi0_fast, "PaliGemmaForConditionalGenerationWithPiGemma", projected)
    config = PI0FastConfig(
        paligemma_variant="gemma_300m",
        dtype="bfloat16",
        gradient_checkpointing=True,
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        max_action_tokens=96,
        text_tokenizer_name=str(save_text_tokenizer(tmp_path / "texts", NUM_SPARE)),
        action_tokenizer_name=str(
            save_fast_actions(tmp_path / "actions", smooth_chunks(64, num_actions=NUM_JOINTS), vocab_size=120)
        ),
        fast_skip_tokens=5,
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (NUM_JOINTS,)),
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, SIZE, SIZE)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (NUM_JOINTS,))},
        device="cpu",
        push_to_hub=False,
    )
    torch.manual_seed(0)
    policy = modeling_pi0_fast.PI0FastPolicy(config)
    stats = statistics(("top",), NUM_JOINTS, NUM_JOINTS)
    return PolicyModel(policy, *make_pre_post_processors(config, dataset_stats=stats)).eval()


def frame(row):
    """A sample with one image."""
    generator = torch.Generator().manual_seed(row)
    return {
        "observation.state": torch.randn(NUM_JOINTS, generator=generator),
        CAMERA: torch.randint(256, (3, SIZE, SIZE), generator=generator) / 255,
        "action": torch.from_numpy(smooth_chunks(1, row, NUM_JOINTS)[0]).float(),
        "action_is_pad": torch.zeros(CHUNK, dtype=torch.bool),
        "task": "push the red puck",
    }


def peak():
    """The most memory that this process ever had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@pytest.mark.slow
@pytest.mark.full_size
def test_a_step_of_craft_at_full_width(model, tmp_path):
    """Two steps: in the first the student still is its teacher. Nothing is frozen; SGD has no state of its own."""
    spec = FeatureSpec(model.module_path(-2), "mean_image_tokens")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"\n{millions:.0f} M parameters, {peak():.1f} GiB")
    started = time.perf_counter()
    cache = build_anchor_cache(
        model,
        lambda rows: collate([frame(row) for row in rows]),
        tmp_path / "anchors",
        rows=[0, 1],
        groups=["old", "old"],
        specs=[spec],
        batch_size=1,
        source={"dataset": "random", "frames": 2},
        teacher_path="random",
        output=False,
    )
    print(f"2 anchors in {time.perf_counter() - started:.0f} s, {peak():.1f} GiB")
    config = CraftConfig(
        output_dir=str(tmp_path / "craft"),
        max_steps=2,
        per_device_train_batch_size=1,
        retention_batch_size=1,
        retention_terms=["hidden"],
        learning_rate=1e-2,
        optim="sgd",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        dataloader_pin_memory=False,
        task_kl_samples=0,
    )
    trainer = CraftTrainer(
        model, config, anchors=cache, train_dataset=[frame(row) for row in (2, 3)], data_collator=collate
    )
    started = time.perf_counter()
    trainer.train()
    seconds = (time.perf_counter() - started) / 2
    logs = [log for log in trainer.state.log_history if "loss" in log]
    print(f"a step in {seconds:.0f} s, {peak():.1f} GiB")
    print("\n".join(str(log) for log in logs))
    assert millions > 900
    assert spec.path.endswith("language_model.layers.16")
    assert logs[0]["retention/loss"] == 0  # still the teacher, so there is nothing to hold yet
    assert logs[1]["retention/loss"] > 0
    assert logs[1]["retention/grad_norm"] > 0
    assert peak() < LIMIT
