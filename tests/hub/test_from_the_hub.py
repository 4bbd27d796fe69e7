"""``org/name@revision`` wherever a folder is accepted: to resume, to start from, as anchors, as data."""

import csv

import pytest
from runs_on_the_hub import REPO, files_of

LFS_ONLY = pytest.mark.parametrize("client", ["lfs"], indirect=True)
RUN = {"hub_strategy": "all_checkpoints", "hub_always_push": True, "max_steps": 4, "save_steps": 2}
NOT_PUSHED = dict.fromkeys(["push_to_hub", "hub_model_id", "hub_strategy", "hub_always_push"])


def uploaded(hub, kind, name, folder):
    return hub.upload(kind, name, files_of(folder))


def tag(hub, kind, name, tag_name, commit):
    hub.repos[kind, name].tags[tag_name] = commit


def history(folder):
    with (folder / "lambda_history.csv").open(newline="") as file:
        return list(csv.reader(file))


@LFS_ONLY
def test_resumed_from_the_hub_is_never_interrupted(hub, train, tmp_path):
    """Weights and history bit for bit, in another folder. Seen to fail without the history that the run had pushed,
    and with the newest checkpoint where an older one is named."""
    assert train(**RUN).status == 0
    whole = tmp_path / "craft"
    for number, place in enumerate((f"{REPO}/checkpoint-2", f"{REPO}/checkpoint-2@main")):
        folder = tmp_path / f"resumed{number}"
        options = {"output_dir": folder} | NOT_PUSHED
        result = train(**RUN | options | {"resume_from_checkpoint": place})
        assert result.status == 0, result.err
        assert history(folder) == history(whole)
        assert len(history(folder)) == 5
        assert files_of(folder)["model.safetensors"] == files_of(whole)["model.safetensors"]
        assert not (folder / "checkpoint-2").exists(), "it began after step 2"


@LFS_ONLY
def test_the_checkpoint_with_the_most_steps_is_taken(hub, train, tmp_path):
    """``last-checkpoint`` of another strategy is older here. Resumed from step 4 of 4, nothing is left to do."""
    assert train(**RUN).status == 0
    older = files_of(tmp_path / "craft/checkpoint-2")
    hub.upload("model", REPO, {f"last-checkpoint/{name}": content for name, content in older.items()})
    options = {"output_dir": tmp_path / "more", "max_steps": 5} | NOT_PUSHED
    result = train(**RUN | options | {"resume_from_checkpoint": REPO})
    assert result.status == 0, result.err
    assert [row[0] for row in history(tmp_path / "more")[1:]] == ["1", "2", "3", "4", "5"]
    assert [path.name for path in (tmp_path / "more").glob("checkpoint-*")] == ["checkpoint-5"]


@LFS_ONLY
def test_a_checkpoint_that_is_not_there(hub, train, teacher):
    uploaded(hub, "model", "org/teacher", teacher)
    for place, said in [
        ("org/teacher", "org/teacher holds no checkpoint to resume from"),
        ("org/none", "no model repository org/none"),
        ("org/teacher@v9", "org/teacher has no revision 'v9'; it has main"),
    ]:
        result = train(resume_from_checkpoint=place, push_to_hub=None, hub_model_id=None)
        assert result.status == 1
        assert said in result.err
    hub.upload("model", "org/run", {"checkpoint-2/trainer_state.json": b"{}"})
    result = train(resume_from_checkpoint="org/run/checkpoint-3", push_to_hub=None, hub_model_id=None)
    assert "org/run has no such checkpoint; it has checkpoint-2" in result.err


@LFS_ONLY
def test_everything_comes_from_a_revision(
    hub, client, train, teacher, tiny_policy, tiny_anchors, tiny_dataset, tmp_path
):
    """Policy, anchors and dataset are those of the tag: the run is that of the folders, bit for bit, and its card names
    them. Seen to fail with the newest policy, which is not the anchors' teacher."""
    tiny_policy(seed=5).save_pretrained(tmp_path / "other")
    for kind, name, folder in (
        ("model", "org/teacher", teacher),
        ("dataset", "org/anchors", tiny_anchors.folder),
        ("dataset", "org/data", tiny_dataset),
    ):
        tag(hub, kind, name, "v1", uploaded(hub, kind, name, folder))
    uploaded(hub, "model", "org/teacher", tmp_path / "other")
    hub.upload("dataset", "org/anchors", {"anchors.json": b"{}"})
    hub.upload("dataset", "org/data", {"meta/info.json": b"{}"})
    plain = {"push_to_hub": None, "hub_model_id": None}
    places = {"model": "org/teacher@v1", "anchors": "org/anchors@v1", "dataset": "org/data@v1"}
    result = train(output_dir=tmp_path / "hub", **plain | places)
    assert result.status == 0, result.err
    assert train(output_dir=tmp_path / "folders", **plain).status == 0
    assert files_of(tmp_path / "hub")["model.safetensors"] == files_of(tmp_path / "folders")["model.safetensors"]
    card = (tmp_path / "hub/README.md").read_text()
    assert "base_model: org/teacher\n" in card
    assert "datasets:\n- org/data\n" in card
    assert "[org/teacher@v1](https://huggingface.co/org/teacher)" in card
    newest = train(output_dir=tmp_path / "newest", **plain | {"model": "org/teacher"})
    assert newest.status == 1
    assert "was made by a teacher with" in newest.err


@LFS_ONLY
def test_other_commands_know_revisions(hub, client, teacher, tiny_anchors, tmp_path):
    tag(hub, "model", "org/teacher", "v1", uploaded(hub, "model", "org/teacher", teacher))
    tag(hub, "dataset", "org/anchors", "v1", uploaded(hub, "dataset", "org/anchors", tiny_anchors.folder))
    hub.upload("dataset", "org/anchors", {"anchors.json": b"{}"})
    words = ["cache", "verify", "--cache", "org/anchors@v1", "--teacher", "org/teacher@v1", "--device", "cpu"]
    result = client.command(*words)
    assert result.status == 0, result.err
    assert "ok  made by this teacher" in result.out
    result = client.command("cache", "info", "--cache", "org/anchors@v1")
    assert tiny_anchors.provenance.fingerprint in result.out, result.err
    result = client.command("cache", "pull", "--repo", "org/anchors@v1", "--output_dir", tmp_path / "cache")
    assert result.status == 0, result.err
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Where?", "choices": ["here", "there"], "answer_index": 0}\n')
    for words in (
        ["cache", "info", "--cache", "org/anchors@v2"],
        ["cache", "pull", "--repo", "org/anchors@v2", "--output_dir", tmp_path / "no"],
        ["cache", "verify", "--cache", "org/anchors@v1", "--teacher", "org/teacher@v2"],
        ["rollout", "--policy", "org/teacher@v2", "--tasks", "push-v3"],
        ["mcq", "--model", "org/teacher@v2", "--data", questions, "--output", tmp_path / "mcq.json"],
        ["mcq", "--model", "org/teacher@v1", "--data", "org/anchors@v2", "--output", tmp_path / "mcq.json"],
    ):
        result = client.command(*words)
        assert result.status == 1, words
        assert "has no revision 'v2'; it has main, v1: give a branch" in result.err, (words, result.err)
