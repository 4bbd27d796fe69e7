"""``push_to_hub`` of `craft-trainer train` and of CraftTrainer: what is in the repository, in every strategy."""

import json
import re
from pathlib import Path

import pytest
from fakehub.server import READ_ONLY_TOKEN, TOKEN
from runs_on_the_hub import REPO, STEPS, files_of, in_repository, titles

LFS_ONLY = pytest.mark.parametrize("client", ["lfs"], indirect=True)
STATES = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
POLICY = {
    "config.json",
    "model.safetensors",
    "policy_preprocessor.json",
    "policy_preprocessor_step_3_normalizer_processor.safetensors",
    "policy_postprocessor.json",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
}
OURS = {"README.md", "card.json", "lambda_history.csv", "lineage.json"}


# Executed where only LeRobot is known: the code of the card, then what it made against the files here.
LOADS_AS_LEROBOT = """
import torch
from safetensors.torch import load_file
saved = load_file({folder!r} + "/model.safetensors")
assert set(saved) == set(policy.state_dict())
assert all(torch.equal(saved[name], value) for name, value in policy.state_dict().items())
statistics = load_file({folder!r} + "/policy_preprocessor_step_3_normalizer_processor.safetensors")
held = next(step for step in preprocessor.steps if hasattr(step, "stats")).state_dict()
assert statistics and all(torch.equal(statistics[name], held[name].cpu()) for name in statistics)
state = {{"observation.state": torch.zeros(1, 4), "observation.environment_state": torch.zeros(1, 39)}}
action = postprocessor(policy.select_action(preprocessor(state)))
assert action.shape == (1, 4) and torch.isfinite(action).all()
print("loaded", place)
"""


def code_of(card):
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return block


@LFS_ONLY
@pytest.mark.parametrize(
    ("strategy", "folders"),
    [("end", set()), ("every_save", set()), ("all_checkpoints", {"checkpoint-1", "checkpoint-2"})],
)
def test_the_repository_is_a_lerobot_policy(hub, client, train, tmp_path, strategy, folders):
    """Whichever strategy; the card's own code loads it. Seen to fail with Trainer's push, which brings no processors
    before the end, and with an optimizer's state outside the folders."""
    check_the_repository(hub, client, train, tmp_path / "craft", strategy, folders)


def test_the_newest_checkpoint_is_there_over_xet_and_over_lfs(hub, client, train, tmp_path):
    check_the_repository(hub, client, train, tmp_path / "craft", "checkpoint", {"last-checkpoint"})


def check_the_repository(hub, client, train, folder, strategy, folders):
    result = train(hub_strategy=strategy, hub_always_push=None if strategy == "end" else True)
    assert result.status == 0, result.err
    there, here = in_repository(hub), files_of(folder)
    top = {name for name in there if "/" not in name}
    assert top == POLICY | OURS | {".gitattributes", "training_args.bin", "trainer_state.json"}
    assert {name.partition("/")[0] for name in there if "/" in name} == folders
    for name in top - {".gitattributes"}:
        assert there[name] == here[name], name
    for name in folders:
        inside = {path.removeprefix(f"{name}/") for path in there if path.startswith(f"{name}/")}
        assert inside >= POLICY | STATES
    saves = [f"Training in progress, step {step}" for step in (1, 2)] if strategy != "end" else []
    assert titles(hub) == ["initial commit", *saves, "End of training"]
    assert not [name for name in here if name.startswith("_")]
    loads = code_of(there["README.md"].decode()) + LOADS_AS_LEROBOT.format(folder=str(folder))
    loaded = client.python(loads)
    assert f"loaded {REPO}" in loaded.out, loaded.err


@LFS_ONLY
def test_a_push_during_training_is_a_whole_policy(hub, client, train, tmp_path):
    """At the commit of the first save. Seen to fail without the processors in it, and with the weights of the end."""
    assert train(hub_strategy="all_checkpoints", hub_always_push=True).status == 0
    commits = hub.repos["model", REPO].commits
    (oid,) = [oid for oid, commit in commits.items() if commit["title"].endswith("step 1")]
    there = in_repository(hub, revision=oid)
    assert set(there) >= POLICY | OURS
    assert len(there["lambda_history.csv"].decode().splitlines()) == 2, "the names and one retention pass"
    saved = files_of(tmp_path / "craft/checkpoint-1")
    assert there["model.safetensors"] == saved["model.safetensors"] != in_repository(hub)["model.safetensors"]
    code = code_of(there["README.md"].decode()).replace("(place)", f"(place, revision={oid!r})")
    code = code.replace("pretrained_path=place", f"pretrained_path=place, pretrained_revision={oid!r}")
    loaded = client.python(code + LOADS_AS_LEROBOT.format(folder=str(tmp_path / "craft/checkpoint-1")))
    assert "loaded" in loaded.out, loaded.err


@LFS_ONLY
def test_a_checkpoint_that_is_deleted_while_it_is_pushed_arrives(hub, train, tmp_path):
    """``save_total_limit`` 1 deletes each before the next. Seen to fail with files read from the checkpoint itself."""
    hub.fail("/preupload/", slow=3.0, after=1)  # the first push of files; the training goes on meanwhile
    result = train(
        hub_strategy="all_checkpoints",
        hub_always_push=True,
        save_total_limit=1,
        max_steps=4,
        lr_scheduler_type="constant",
    )
    assert result.status == 0, result.err
    assert [path.name for path in (tmp_path / "craft").glob("checkpoint-*")] == ["checkpoint-4"]
    folders = {name.partition("/")[0] for name in in_repository(hub) if "/" in name}
    assert folders == {f"checkpoint-{step}" for step in (1, 2, 3, 4)}


@LFS_ONLY
def test_the_card_says_what_was_done(hub, train, tiny_anchors, tmp_path):
    """Figures of the last line of the history and of the cache, not of the settings."""
    assert train(hub_strategy="end", epsilon=0.02, surgery="symmetric").status == 0
    card = in_repository(hub)["README.md"].decode()
    facts = json.loads(in_repository(hub)["card.json"])
    last = (tmp_path / "craft/lambda_history.csv").read_text().splitlines()[-1].split(",")
    assert f"| {float(last[2]):.4g} | 0.02 | {float(last[3]):.4g} |" in card
    for said in (
        "`surgery` | symmetric",
        "hidden × 1, output × 1",
        "16 of open the door",
        "`policy.model.decoder` (none)",
    ):
        assert said in card
    assert tiny_anchors.provenance.fingerprint[:12] in card
    assert "library_name: lerobot" in card
    assert facts["retained"]["teachers"][0]["weights"] == tiny_anchors.provenance.teachers[0]["weights"][:12]
    assert str(tmp_path) not in card + json.dumps(facts), "folders of this machine are nobody's business"


@LFS_ONLY
def test_a_card_by_hand_stays(hub, train, tmp_path):
    """Here, in the repository and in every checkpoint. Seen to fail with the card written regardless."""
    folder, text = tmp_path / "craft", "---\nlicense: mit\n---\n# Mine\n\nBy hand.\n"
    folder.mkdir()
    (folder / "README.md").write_text(text)
    assert train(hub_strategy="all_checkpoints", hub_always_push=True).status == 0
    there = in_repository(hub)
    assert there["README.md"] == there["checkpoint-1/README.md"] == text.encode()
    assert (folder / "README.md").read_text() == text
    first = next(oid for oid, one in hub.repos["model", REPO].commits.items() if one["title"].endswith("step 1"))
    assert in_repository(hub, revision=first)["README.md"] == text.encode()


@LFS_ONLY
def test_a_private_run_is_not_trained_for_a_public_repository(hub, train, tmp_path):
    """Seen to fail with every checkpoint in public. It is found before training."""
    hub.create("model", REPO)
    result = train(hub_private_repo=True, hub_strategy="every_save")
    assert result.status == 1
    assert f"{REPO} is to be private, and there is a public model repository of that name" in result.err
    assert titles(hub) == ["initial commit"]
    assert not list((tmp_path / "craft").glob("checkpoint-*"))


@LFS_ONLY
def test_private_and_on_a_branch(hub, train):
    assert train(hub_strategy="end", hub_private_repo=True, hub_revision="trial").status == 0
    repo = hub.repos["model", REPO]
    assert repo.private
    assert "model.safetensors" in in_repository(hub, revision="trial")
    assert set(in_repository(hub)) == {".gitattributes"}, "main is as it was made"
    assert "revision='trial'" in in_repository(hub, revision="trial")["README.md"].decode()


# ``trainer`` is one of CraftTrainer on a language model; {before} and {after} are code around its push.
LANGUAGE_MODEL = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from craft_trainer import CraftConfig, CraftTrainer
from tiny_lm import TokenTask, collate, lm_anchors, tiny_llama
from transformers import LlamaForCausalLM
settings = dict({settings!r}, hub_strategy={strategy!r}, hub_always_push=True, remove_unused_columns=False)
{model}
config = CraftConfig(output_dir={folder!r}, push_to_hub=True, hub_model_id="org/craft", **settings)
anchors = lm_anchors(Path({anchors!r}), model=base)
trainer = CraftTrainer(model, config, anchors=anchors, train_dataset=TokenTask(), data_collator=collate)
trainer.train()
trainer.save_model()
"""
BASE = "tiny_llama().save_pretrained({base!r})\nbase = LlamaForCausalLM.from_pretrained({base!r})\n"
FULL = BASE + "model = base"
ADAPTER = BASE + (
    "from peft import LoraConfig, get_peft_model\n"
    "model = get_peft_model(base, LoraConfig(target_modules=['q_proj'], r=2, task_type='CAUSAL_LM'))"
)
SAME = """
import torch
from safetensors.torch import load_file
saved = load_file({file!r})
mine = {{name.replace(".default", ""): value for name, value in model.state_dict().items()}}
assert saved and all(torch.equal(saved[name], mine[name]) for name in saved)
print("the same")
"""


@LFS_ONLY
@pytest.mark.parametrize(
    ("model", "weights", "library"),
    [(FULL, "model.safetensors", "transformers"), (ADAPTER, "adapter_model.safetensors", "peft")],
    ids=["transformers", "peft"],
)
def test_language_models_and_adapters_have_their_own_layout(hub, client, tmp_path, model, weights, library):
    """Loaded by the card's code; PEFT's own card has gone. Seen to fail with PEFT's card, which has no code."""
    base, folder = str(tmp_path / "base"), str(tmp_path / "craft")
    code = LANGUAGE_MODEL.format(
        tests=str(Path(__file__).parents[1] / "integration"),
        model=model.format(base=base),
        settings=STEPS | {"retention_terms": ["hidden"]},
        strategy="every_save",
        folder=folder,
        anchors=str(tmp_path / "anchors"),
    )
    result = client.python(code)
    assert result.status == 0, result.err
    there = in_repository(hub)
    assert {weights, "README.md", "lambda_history.csv", "card.json"} <= set(there)
    assert ("config.json" in there) == (library == "transformers")
    assert ("adapter_config.json" in there) == (library == "peft")
    card = there["README.md"].decode()
    assert f"library_name: {library}" in card
    assert "More Information Needed" not in card
    loaded = client.python(code_of(card) + SAME.format(file=f"{folder}/{weights}"), HF_HUB_OFFLINE=None)
    assert "the same" in loaded.out, loaded.err


SECRET = "hf_doublesecretfortraining"


@LFS_ONLY
def test_the_token_of_the_run_is_nowhere(hub, train, tmp_path, monkeypatch):
    """Not in any byte of the folder, of the repository, or of what is printed. Seen to fail with training_args.bin as
    Trainer writes it, and with the representation that a dataclass gives itself."""
    monkeypatch.setitem(hub.tokens, SECRET, {"name": "writer", "orgs": ["org"], "role": "write"})
    file = tmp_path / "run.yaml"
    file.write_text(f"hub_token: {SECRET}\nhub_strategy: all_checkpoints\n")
    result = train(config=file, hub_always_push=True, environment={"HF_TOKEN": None, "TRANSFORMERS_VERBOSITY": "debug"})
    assert result.status == 0, result.err
    assert any(call["authorized"] for call in hub.calls)
    assert len([name for name in in_repository(hub) if name.endswith("training_args.bin")]) == 3
    for place in (files_of(tmp_path / "craft"), in_repository(hub), files_of(hub.root)):
        assert place
        assert not [name for name, content in place.items() if SECRET.encode() in content]
    assert SECRET not in result.out + result.err
    hub.fail("/commit/", 403, times=99)
    refused = train(config=file, environment={"HF_TOKEN": None, "CRAFT_TRAINER_TRACEBACK": "1"})
    assert refused.status == 1
    assert "Traceback" in refused.err
    assert SECRET not in refused.out + refused.err


@LFS_ONLY
@pytest.mark.parametrize(
    ("token", "repo", "said"),
    [
        ("hf_doublewrongtoken", REPO, "hf auth login"),
        (READ_ONLY_TOKEN, REPO, "the token may not do this"),
        (READ_ONLY_TOKEN, "org/there", "the token may not do this"),
        (TOKEN, "another/craft", "the token may not do this"),
    ],
    ids=["unknown", "reader", "reader of a repository that is there", "not of this organisation"],
)
def test_who_may_not_push_learns_it_before_training(hub, train, tmp_path, token, repo, said):
    """Nothing is trained. Seen to fail without the question after create_repo, which a reader passes where the
    repository exists."""
    hub.create("model", "org/there")
    result = train(hub_model_id=repo, environment={"HF_TOKEN": token})
    assert result.status == 1
    assert "Traceback" not in result.err
    assert said in result.err
    assert repo in result.err
    assert not list((tmp_path / "craft").glob("*")) if (tmp_path / "craft").exists() else True
    assert "train_runtime" not in result.out
