"""Vision-language-action policies from pixels to actions: LeRobot's own classes and processors, of the size of toys."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_words import flags
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from PIL import Image
from policies import tiny_policy_maker

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import extract
from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset
from craft_trainer.simulation.camera import KEY
from craft_trainer.training.callbacks import TASK_KL

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = {"old": "handle-press-v3", "new": "coffee-button-v3"}  # their experts need few actions
SIZE = 32
SHORT = {"n_action_steps": 8, "chunk_size": 8}
KINDS = {
    "pi0_fast": SHORT | {"max_action_tokens": 48, "max_decoding_steps": 48, "validate_action_token_prefix": False},
    "smolvla": SHORT | {"num_steps": 2},
}
TRAIN = {
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
}
LEARNING = {
    "pi0_fast": {
        "max_steps": 200,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "policy_options": '{"validate_action_token_prefix": true}',  # from here on, what it says must be actions
    },
    "smolvla": {"max_steps": 20},
}
CRAFT = TRAIN | {"max_steps": 4, "retention_batch_size": 4, "logging_steps": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory, rendering):
    """Folders of the old and of the new task's demonstrations, with images."""
    folder = tmp_path_factory.mktemp("data")
    for name, task in TASKS.items():
        given = flags(tasks=task, output_dir=folder / name, episodes=1, image_size=SIZE, action_noise=0.05)
        assert main(["record", *given]) == 0
    return {name: folder / name for name in TASKS}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folder of a fresh checkpoint of each kind; they can be made and loaded while this is open."""
    with tiny_policy_maker(tmp_path_factory.mktemp("tiny")) as make:
        folder = tmp_path_factory.mktemp("base")
        for kind, options in KINDS.items():
            model = make(kind, cameras=("corner2",), dims=(4, 4), **options)
            model.policy_config.input_features[KEY] = PolicyFeature(FeatureType.VISUAL, (3, SIZE, SIZE))
            model.save_pretrained(folder / kind)
        yield folder


@pytest.fixture(scope="module")
def teachers(base, data, tmp_path_factory):
    """Folder of a teacher of each kind: the base checkpoint, trained on the old task."""
    folder = tmp_path_factory.mktemp("teachers")
    for kind, learning in LEARNING.items():
        given = {"model": base / kind, "dataset": data["old"], "adapt_to": data["old"], "output_dir": folder / kind}
        assert main(["train", *flags(**TRAIN | given | learning)]) == 0
    return folder


@pytest.fixture(scope="module")
def anchors(teachers, data, tmp_path_factory):
    """Folder of the anchors of each teacher: PI0-FAST's images in its backbone, SmolVLA's action expert."""
    folder = tmp_path_factory.mktemp("anchors")
    for kind, pooling in (("pi0_fast", "mean_image_tokens"), ("smolvla", "mean_masked")):
        given = {"teacher": teachers / kind, "dataset": data["old"], "output_dir": folder / kind, "pooling": pooling}
        assert main(["cache", "build", *flags(**given, layers=-2, anchors=10, batch_size=8)]) == 0
    return folder


@pytest.fixture
def craft(teachers, data, anchors, tmp_path):
    """Trains a teacher on the new task: ``craft(kind, retention terms, **options)`` → the checkpoint."""

    def train(kind, *terms, **options):
        given = {"model": teachers / kind, "dataset": data["new"], "anchors": anchors / kind, "output_dir": tmp_path}
        assert main(["train", *flags(**CRAFT | given | options), "--retention_terms", *terms]) == 0
        return tmp_path

    return train


def history(folder):
    with (folder / "lambda_history.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def logs(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def test_the_teacher_does_what_it_was_shown(teachers, data):
    """PI0-FAST says action tokens, not always the same, that decode to the demonstrated actions."""
    model = PolicyModel.from_pretrained(teachers / "pi0_fast")
    assert model.policy_config.validate_action_token_prefix
    batch = PolicyDataset.of(model, str(data["old"])).batch(list(range(2, 22, 2)))
    actions = model.select_action({key: batch[key] for key in ("observation.state", KEY, "task")})
    error, spread = (actions - batch["action"][:, 0]).square().mean(), batch["action"][:, 0].var(dim=0).mean()
    assert error < 0.5 * spread


@pytest.mark.parametrize("kind", KINDS)
def test_anchors_hold_pixels_and_what_the_teacher_makes_of_them(kind, anchors, teachers, data):
    assert main(["cache", "verify", *flags(cache=anchors / kind, teacher=teachers / kind, rows=4)]) == 0
    cache, teacher = AnchorCache(anchors / kind), PolicyModel.from_pretrained(teachers / kind)
    assert [spec.path for spec in cache.specs] == [teacher.module_path(-2)]
    batch, frames = cache.batch([0, 7]), PolicyDataset.of(teacher, str(data["old"]))
    rows = [int(row) for row in cache.dataset.with_format("numpy")["row"][:]]
    assert torch.equal(batch.inputs[KEY][1], frames[rows[7]][KEY])
    blind = batch.inputs | {KEY: torch.zeros_like(batch.inputs[KEY])}
    if kind == "pi0_fast":  # an average over image tokens is of images
        (column,) = batch.teacher.hidden
        moved = extract(teacher, blind, cache.specs, output=False).hidden[column] - batch.teacher.hidden[column]
        assert (moved.norm(dim=1) > 1e-3).all()


@pytest.mark.parametrize(
    ("kind", "terms"),
    [
        ("pi0_fast", ["hidden"]),
        ("pi0_fast", ["token_kl"]),
        ("pi0_fast", ["token_ce", "hidden"]),
        ("smolvla", ["hidden", "output"]),
    ],
)
def test_the_teacher_is_held_while_it_learns_the_new_task(kind, terms, craft, teachers):
    folder = craft(kind, *terms)
    steps = history(folder)
    assert len(steps) == CRAFT["max_steps"]
    assert abs(steps[0]["retention_loss"]) < 1e-4  # still the teacher
    assert steps[-1]["retention_loss"] != steps[0]["retention_loss"]
    assert steps[-1]["retention_grad_norm"] > 0
    student, teacher = (PolicyModel.from_pretrained(place) for place in (folder, teachers / kind))
    assert student.fingerprint()["processors"] == teacher.fingerprint()["processors"]
    assert student.fingerprint()["weights"] != teacher.fingerprint()["weights"]
    drifts = [log[TASK_KL] for log in logs(folder) if TASK_KL in log]
    assert len(drifts) == (CRAFT["max_steps"] if kind == "pi0_fast" else 0)  # it is of tokens
    assert all(drift > 0 for drift in drifts)


@pytest.mark.parametrize("kind", KINDS)
def test_lerobot_loads_what_was_trained_and_it_acts(kind, craft, data, tmp_path):
    """LeRobot's own loaders give the same actions, and a rollout shows the policy what it was trained on."""
    folder = craft(kind, "hidden", max_steps=1)
    ours = PolicyModel.from_pretrained(folder)
    policy = get_policy_class(kind).from_pretrained(folder)
    config = PreTrainedConfig.from_pretrained(folder)
    overrides = (
        {}
        if kind == "smolvla"
        else {"action_tokenizer_processor": {"paligemma_tokenizer_name": config.text_tokenizer_name}}
    )
    preprocess, postprocess = make_pre_post_processors(
        config, pretrained_path=str(folder), preprocessor_overrides=overrides
    )
    frame = PolicyDataset.of(ours, str(data["new"])).batch([0, 9])
    seen = {key: frame[key] for key in ("observation.state", KEY, "task")}
    actions = []
    for act in (ours.select_action, lambda batch: postprocess(policy.select_action(preprocess(dict(batch))))):
        torch.manual_seed(0)
        actions.append(act(seen))
    assert torch.equal(*actions)
    assert actions[0].shape == (2, 4)
    assert np.isfinite(actions[0].numpy()).all()
    result = tmp_path / "rollout.json"
    given = flags(policy=folder, tasks=TASKS["new"], episodes=2, max_steps=3, output=result)
    assert main(["rollout", *given]) == 0
    (row,) = json.loads(result.read_text())["rows"]
    assert row.pop("sentence")
    assert row == {"task": TASKS["new"], "episodes": 2, "successes": 0, "outcomes": "00"}


def test_a_policy_of_tokens_has_no_output_to_hold(teachers, data, anchors, tmp_path, capsys):
    given = {"model": teachers / "pi0_fast", "dataset": data["new"], "anchors": anchors / "pi0_fast"}
    assert main(["train", *flags(**CRAFT, **given, output_dir=tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "retention term 'output' cannot be held: the anchors have hidden, tokens, task of their teacher" in message
    assert "retention_terms to some of hidden, token_ce, token_kl" in message


def test_cameras_are_renamed_or_refused(base, data, tmp_path, capsys):
    """The data's camera is not the policy's: an error with the way out, which then works from cache to rollout."""
    model = PolicyModel.from_pretrained(base / "pi0_fast")
    features = model.policy_config.input_features
    features["observation.images.base_0_rgb"] = features.pop(KEY)
    model.save_pretrained(tmp_path / "base")
    cache = {"teacher": tmp_path / "base", "dataset": data["old"], "adapt_to": data["old"], "anchors": 4, "layers": -2}
    train = CRAFT | {"model": tmp_path / "base", "dataset": data["old"], "adapt_to": data["old"], "max_steps": 1}
    for command in (["train", *flags(**train)], ["cache", "build", *flags(**cache)]):
        assert main([*command, *flags(output_dir=tmp_path / "x")]) == 1
        rename = '{"observation.images.corner2": "observation.images.base_0_rgb"}'
        assert f"pass --rename '{rename}'" in capsys.readouterr().err
    given = flags(rename=rename)
    assert main(["cache", "build", *flags(**cache), *given, *flags(output_dir=tmp_path / "anchors")]) == 0
    held = flags(anchors=tmp_path / "anchors", output_dir=tmp_path / "craft", retention_terms="hidden")
    assert main(["train", *flags(**train), *given, *held]) == 0
    assert main(["rollout", *flags(policy=tmp_path / "craft", tasks=TASKS["old"], episodes=1, max_steps=1)]) == 0


def test_the_configurations_for_pi0_fast_run(base, data, tmp_path):
    """As they are, but for places and sizes. Aloha's camera is Meta-World's here; PI0-FAST has two more, left blank."""
    rename = {KEY: "observation.images.base_0_rgb"}
    model = PolicyModel.from_pretrained(base / "pi0_fast")
    features = model.policy_config.input_features
    for camera in ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"):
        features[f"observation.images.{camera}"] = features[KEY]
    del features[KEY]
    model.save_pretrained(tmp_path / "base")
    places = {"dataset": data["old"], "adapt_to": data["old"], "rename": json.dumps(rename)}
    small = {"use_cpu": True, "max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    small |= {"dataloader_num_workers": 0, "disable_tqdm": True, "dataloader_pin_memory": False, "logging_steps": 1}
    small |= {"save_strategy": "no"}
    config = ["--config", str(CONFIGS / "anchors/pi0fast_aloha.yaml")]
    sizes = flags(teacher=tmp_path / "base", output_dir=tmp_path / "anchors", anchors=6, batch_size=3)
    assert main(["cache", "build", *config, *sizes, *flags(**places)]) == 0
    for name, held in (("baseline", {}), ("craft", {"anchors": tmp_path / "anchors", "retention_batch_size": 3})):
        config = ["--config", str(CONFIGS / f"train/pi0fast_aloha_{name}.yaml")]
        given = places | small | held | {"model": tmp_path / "base", "output_dir": tmp_path / name}
        assert main(["train", *config, *flags(**given)]) == 0
        saved = PreTrainedConfig.from_pretrained(tmp_path / name)
        assert (saved.dtype, saved.gradient_checkpointing) == ("bfloat16", True)
    assert len(history(tmp_path / "craft")) == 2
    assert not (tmp_path / "baseline" / "lambda_history.csv").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_is_asked_while_it_is_trained(kind, craft, tmp_path_factory):
    """Before the first step, every second one, and what is logged comes out of its own words. Seen to fail with the
    callback never added."""
    folder = tmp_path_factory.mktemp("questions")
    Image.fromarray(np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)).save(folder / "grey.png")
    choices = ["push the red puck", "open the door", "push"]
    rows = [{"question": "push", "choices": choices[: 2 + row % 2], "answer_index": row % 2} for row in range(4)]
    rows[0]["image_path"] = "grey.png"
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoint = craft(kind, "hidden", mcq_data=folder / "q.jsonl", mcq_steps=2)
    asked = {entry["step"]: entry for entry in logs(checkpoint) if "mcq/accuracy" in entry}
    assert sorted(asked) == [0, 2, 4]
    output = folder / "mcq.json"
    assert main(["mcq", *flags(model=checkpoint, data=folder / "q.jsonl", output=output, device="cpu")]) == 0
    found = json.loads(output.read_text())
    assert found["metrics"]["margin_gold"] == pytest.approx(asked[4]["mcq/margin_gold"], abs=1e-3)
    assert found["method"] == "prefix"
