"""``anchors: auto``: anchors that ask for no decision, from the command or the script to the card of the run."""

import json
import shutil

import pytest
import torch
from command_words import flags
from lm_folders import save_lines, save_tiny_lm
from peft import LoraConfig, get_peft_model
from runs import history
from safetensors.torch import load_file
from torch.utils.data import Subset
from transformers import BertConfig, BertForSequenceClassification, set_seed

from craft_trainer.anchors import auto, building
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main
from craft_trainer.language import auto as of_texts
from craft_trainer.language.checkpoints import load_checkpoint
from craft_trainer.language.samples import TextSamples
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset, collate
from craft_trainer.training.auto import own_anchors
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.language_config import LanguageConfig
from craft_trainer.training.trainer import CraftTrainer

TRAIN = {"max_steps": 4, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
SAVED = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
FRAMES, STATES, VIEWS, TEXTS = 6, 5, 3, 12
TOLD = f"auto: statistics,new_task, {VIEWS} views, view_noise 1.0"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Tiny models need few anchors."""
    monkeypatch.setattr(auto, "NUM_FRAMES", FRAMES)
    monkeypatch.setattr(auto, "NUM_STATES", STATES)
    monkeypatch.setattr(auto, "NUM_VIEWS", VIEWS)
    monkeypatch.setattr(of_texts, "NUM_TEXTS", TEXTS)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    save_tiny_lm(folder / "model")
    save_lines(folder / "new.jsonl", [{"text": f"the puck {n} is left of the goal"} for n in range(16)])
    return folder


def weights(folder):
    return load_file(next(folder.glob("*model.safetensors")))


def assert_same_weights(left, right):
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def train(teacher, tiny_dataset):
    def run(folder, **options):
        given = TRAIN | {"model": teacher, "dataset": tiny_dataset, "output_dir": folder, "anchors": "auto"}
        return main(["train", *flags(**given | options)])

    return run


@pytest.fixture
def train_texts(texts):
    def run(folder, **options):
        given = TRAIN | {"model": texts / "model", "dataset": texts / "new.jsonl", "output_dir": folder}
        return main(["train", *flags(**given | {"anchors": "auto", "learning_rate": 0.005} | options)])

    return run


def test_a_policy_is_held_on_what_nobody_showed(train, teacher, tiny_dataset, tmp_path, capsys):
    """No anchor is a frame that is learned or has an action; all is told in one line, in run.json and on the card."""
    assert train(tmp_path / "run") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "anchors: auto" in line]
    counts = {"new_task": FRAMES * VIEWS, "statistics": STATES * (VIEWS + 1)}
    assert said == [
        f"anchors: auto takes {counts['new_task']} of new_task and {counts['statistics']} of statistics "
        f"({VIEWS} views, view_noise 1), which {teacher} labels itself: {tmp_path / 'run/_anchors'}"
    ]
    cache, policy = AnchorCache(tmp_path / "run/_anchors"), PolicyModel.from_pretrained(teacher)
    assert cache.provenance.groups == counts
    assert not cache.has_labels
    inputs, frames = cache.batch(range(len(cache))).inputs, PolicyDataset.of(policy, str(tiny_dataset))
    for name, (_, std) in policy.observed_moments().items():
        every = frames.batch(list(range(len(frames))))[name]
        apart = (inputs[name][:, None] - every[None]).abs() / std
        assert apart.flatten(2).max(dim=2).values.min() > 0.05  # none is a frame
    rows = history(tmp_path / "run")
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-6)
    settings = json.loads((tmp_path / "run/run.json").read_text())["settings"]
    assert settings["anchors"] == "auto"
    assert settings["anchors_source"] == TOLD
    assert TOLD in (tmp_path / "run/README.md").read_text()


def test_they_are_those_of_cache_build(train, teacher, tiny_dataset, tmp_path, monkeypatch):
    """The documentation says by which command."""
    monkeypatch.setattr(auto, "NUM_STATES", FRAMES)
    assert train(tmp_path / "run") == 0
    words = {"teacher": teacher, "source": "statistics,new_task", "dataset": tiny_dataset, "anchors": 2 * FRAMES}
    words |= {"views": VIEWS, "view_noise": 1.0, "output_dir": tmp_path / "built"}
    assert main(["cache", "build", *flags(**words)]) == 0
    chosen, built = AnchorCache(tmp_path / "run/_anchors"), AnchorCache(tmp_path / "built")
    assert chosen.provenance.data["fingerprint"] == built.provenance.data["fingerprint"]
    assert chosen.groups == built.groups


def test_a_policy_with_cameras_is_refused_before_anything_is_read(image_policy, tmp_path):
    """On copies of the new task's pictures it would not learn the new task."""
    with pytest.raises(ValueError, match="nothing that stands in for the pictures") as refusal:
        auto.auto_anchors(image_policy, None, tmp_path / "anchors")
    assert all(source in str(refusal.value) for source in ("--source dataset", "--source rollouts", "--prompts_file"))
    assert not (tmp_path / "anchors").exists()


def test_it_is_the_run_with_that_cache(train, tmp_path):
    """What is drawn while anchors are built is not missing in training."""
    assert train(tmp_path / "auto") == 0
    shutil.copytree(tmp_path / "auto/_anchors", tmp_path / "cache")
    assert train(tmp_path / "given", anchors=tmp_path / "cache") == 0
    assert_same_weights(tmp_path / "auto", tmp_path / "given")


def test_a_resumed_policy_is_held_by_the_same_anchors(train, tmp_path, monkeypatch):
    """They are not built again, for the weights are no teacher any more."""
    assert train(tmp_path / "whole", **SAVED) == 0
    assert train(tmp_path / "run", **SAVED, max_steps=2) == 0
    monkeypatch.setattr(auto, "build_auto", None)
    assert train(tmp_path / "run", **SAVED, resume_from_checkpoint="last") == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_an_interrupted_build_goes_on(train, tmp_path, monkeypatch):
    """The second shard is not begun; the next start builds that one alone."""
    monkeypatch.setattr(auto, "NUM_VIEWS", 60)  # 665 anchors, shards of 512
    made, write = [], building.Shards.write

    def killed_once(self, number, shard):
        if made == [0]:
            made.append("killed")
            raise KeyboardInterrupt
        made.append(number)
        write(self, number, shard)

    monkeypatch.setattr(building.Shards, "write", killed_once)
    assert train(tmp_path / "run") == 130  # interrupted
    assert (tmp_path / "run/_anchors.partial").is_dir()
    assert train(tmp_path / "run") == 0
    assert made == [0, "killed", 1]
    assert not (tmp_path / "run/_anchors.partial").exists()


def test_anchors_of_another_run_are_refused(train, tmp_path, tiny_policy, capsys, monkeypatch):
    """A folder is tried a second time with another policy, or other numbers."""
    assert train(tmp_path / "run") == 0
    (tmp_path / "run/model.safetensors").unlink()
    other = tiny_policy()
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    other.save_pretrained(tmp_path / "other")
    assert train(tmp_path / "run", model=tmp_path / "other") == 1
    error = capsys.readouterr().err
    assert "_anchors holds anchors of another run (" in error
    assert "teacher" in error
    monkeypatch.setattr(auto, "VIEW_NOISE", 0.5)
    assert train(tmp_path / "run") == 1
    assert "(fingerprint differ)" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}, {"layers": "-2", "retention_terms": "hidden"}])
def test_a_language_model_is_held_on_its_own_texts(train_texts, texts, tmp_path, options, capsys):
    assert train_texts(tmp_path / "run", **options) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "anchors: auto" in line]
    assert len(said) == 1
    assert f"{TEXTS} texts that {texts / 'model'} writes itself" in said[0]
    cache = AnchorCache(tmp_path / "run/_anchors")
    assert len(cache) == TEXTS
    assert main(["cache", "verify", *flags(cache=tmp_path / "run/_anchors", teacher=texts / "model")]) == 0
    rows = history(tmp_path / "run")
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["retention_loss"] > 0
    settings = json.loads((tmp_path / "run/run.json").read_text())["settings"]
    assert settings["anchors_source"] == "auto: own_texts"
    assert "auto: own_texts" in (tmp_path / "run/README.md").read_text()


def test_a_resumed_language_model_is_held_by_what_it_wrote_at_the_start(train_texts, tmp_path, monkeypatch):
    assert train_texts(tmp_path / "whole", **SAVED) == 0
    assert train_texts(tmp_path / "run", **SAVED, max_steps=2) == 0
    monkeypatch.setattr(of_texts, "own_texts", None)
    assert train_texts(tmp_path / "run", **SAVED, resume_from_checkpoint="last") == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"anchors_dataset": "org/old"}, "anchors_dataset has no effect with anchors: auto"),
        ({"statistics": "dataset"}, "statistics dataset and anchors exclude each other"),
    ],
)
def test_options_that_do_not_fit_are_refused(train, tmp_path, options, reason, capsys):
    assert train(tmp_path / "run", **options) == 1
    assert reason in capsys.readouterr().err


def test_a_new_policy_has_nothing_to_keep(tiny_dataset, tmp_path, capsys):
    given = flags(policy_type="act", dataset=tiny_dataset, output_dir=tmp_path / "run", anchors="auto", **TRAIN)
    assert main(["train", *given]) == 1
    assert "anchors: auto holds what a policy does already" in capsys.readouterr().err


def test_texts_of_a_language_model_are_its_own(train_texts, texts, tmp_path, capsys):
    assert train_texts(tmp_path / "run", anchors_dataset=texts / "new.jsonl") == 1
    assert "anchors_dataset has no effect with anchors: auto" in capsys.readouterr().err


def script(policy, folder, dataset, terms=("hidden", "output"), **given):
    """What the command does, in three lines."""
    config = CraftConfig(output_dir=str(folder), retention_terms=list(terms), **TRAIN)
    return CraftTrainer(policy, config, anchors="auto", train_dataset=dataset, data_collator=collate, **given)


def test_a_script_says_the_same_word(train, teacher, tiny_dataset, tmp_path, capsys):
    """It takes what the command takes, says so, and learns the same; of a part of a dataset it perturbs the whole."""
    assert train(tmp_path / "command") == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "anchors: auto" in line]
    set_seed(42)
    policy = PolicyModel.from_pretrained(teacher)
    dataset = PolicyDataset.of(policy, str(tiny_dataset))
    trainer = script(policy, tmp_path / "script", dataset)
    assert told.replace(str(tmp_path / "command"), trainer.args.output_dir) in capsys.readouterr().out.splitlines()
    made = trainer.anchors.provenance.fingerprint
    assert made == AnchorCache(tmp_path / "command/_anchors").provenance.fingerprint
    trainer.train()
    trainer.save_model()
    assert_same_weights(tmp_path / "command", tmp_path / "script")
    part = Subset(dataset, range(8))
    again = script(PolicyModel.from_pretrained(teacher), tmp_path / "script", part)
    assert again.anchors.provenance.fingerprint == made


@pytest.mark.parametrize(("dataset", "found"), [(None, "there is none"), ([1, 2], "a list has none that it can read")])
def test_a_dataset_without_frames_is_refused(teacher, tmp_path, dataset, found):
    with pytest.raises(ValueError, match=rf"perturbs the frames of train_dataset, and {found}: give PolicyDataset"):
        script(PolicyModel.from_pretrained(teacher), tmp_path / "run", dataset)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_script_with_a_language_model_says_the_same_word(texts, tmp_path, adapted, capsys):
    """The teacher of a fresh adapter is its base."""
    model, tokenizer = load_checkpoint(str(texts / "model"), dtype="float32")
    samples = TextSamples.open(str(texts / "new.jsonl"), model, tokenizer)
    if adapted:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    config = LanguageConfig(output_dir=str(tmp_path / "run"), **TRAIN | {"learning_rate": 0.005})
    given = {"train_dataset": samples, "data_collator": samples.collate, "processing_class": tokenizer}
    trainer = CraftTrainer(model, config, anchors="auto", **given)
    assert f"anchors: auto takes {TEXTS} texts that {texts / 'model'} writes itself" in capsys.readouterr().out
    assert main(["cache", "verify", *flags(cache=tmp_path / "run/_anchors", teacher=texts / "model")]) == 0
    trainer.train()
    rows = history(tmp_path / "run")
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["retention_loss"] > 0


def test_a_script_says_how_many_texts_a_language_model_writes(texts, teacher, tmp_path, capsys):
    """A reader waited a quarter of an hour for 512 texts, and could not ask for fewer."""
    model, tokenizer = load_checkpoint(str(texts / "model"), dtype="float32")
    samples = TextSamples.open(str(texts / "new.jsonl"), model, tokenizer)
    config = LanguageConfig(output_dir=str(tmp_path / "run"), **TRAIN)
    few = own_anchors(model, config, processor=tokenizer, num_texts=5, own_tokens=3)
    assert "auto takes 5 texts that" in (told := capsys.readouterr().out)
    assert "each of at most 3 tokens" in told
    assert len(few) == 5
    lengths = [few.batch([row]).inputs["attention_mask"].sum().item() for row in range(5)]
    assert max(lengths) <= 1 + 3  # the token that a text begins with
    with pytest.raises(ValueError, match=r"holds anchors of another run \(frames differ\)"):
        own_anchors(model, config, processor=tokenizer, num_texts=6, own_tokens=3)
    for idle in ({"num_texts": 0}, {"own_tokens": 0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            own_anchors(model, config, processor=tokenizer, **idle)
    with pytest.raises(ValueError, match="a policy writes no texts"):
        own_anchors(PolicyModel.from_pretrained(teacher), config, num_texts=5)
    given = {"train_dataset": samples, "data_collator": samples.collate, "processing_class": tokenizer}
    CraftTrainer(model, config, anchors=few, **given).train()
    assert history(tmp_path / "run")


def test_a_script_with_a_language_model_is_told_of_its_terms_before_a_text_is_written(texts, tmp_path, monkeypatch):
    """Seen by a reader after minutes of writing: hidden features and an output are held by default."""
    model, tokenizer = load_checkpoint(str(texts / "model"), dtype="float32")
    monkeypatch.setattr("craft_trainer.training.auto.auto_texts", lambda *_, **__: pytest.fail("it wrote texts"))
    with pytest.raises(ValueError, match=r"term 'hidden' cannot be held: .* Set retention_terms to some of .*token_kl"):
        script(model, tmp_path / "run", None, processing_class=tokenizer)


def test_a_script_is_told_which_function_to_call(teacher, texts, tmp_path):
    """Seen to fail with an AttributeError of the dataset, or of None."""
    policy = PolicyModel.from_pretrained(teacher)
    for dataset in (None, [{"task": "lift"}]):
        with pytest.raises(ValueError, match=r"PolicyDataset\.of.*auto_anchors\(model, dataset, folder\)"):
            script(policy, tmp_path / "run", dataset)
    model, _ = load_checkpoint(str(texts / "model"), dtype="float32")
    with pytest.raises(ValueError, match=r"processing_class, or build .*build_anchor_cache"):
        script(model, tmp_path / "run", None, terms=["token_kl"])
    encoder = BertForSequenceClassification(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    with pytest.raises(ValueError, match=r"BertForSequenceClassification is neither: .*build_anchor_cache"):
        script(encoder, tmp_path / "run", None)
    assert not (tmp_path / "run/_anchors").exists()


def test_the_function_builds_them_or_opens_them_again(teacher, tiny_dataset, tmp_path):
    policy = PolicyModel.from_pretrained(teacher)
    dataset = PolicyDataset.of(policy, str(tiny_dataset))
    built = auto.auto_anchors(policy, dataset, tmp_path / "anchors")
    again = auto.auto_anchors(policy, dataset, tmp_path / "anchors")
    assert built.provenance.fingerprint == again.provenance.fingerprint
