"""Pushes that fail: what is told, what is tried again; nothing here is lost, and `craft-trainer push` makes good."""

import json
import os
import shutil

import pytest
from fakehub.server import READ_ONLY_TOKEN
from runs_on_the_hub import REPO, STEPS, files_of, in_repository, titles

LFS_ONLY = pytest.mark.parametrize("client", ["lfs"], indirect=True)


@pytest.fixture(scope="module")
def finished(tiny_policy, tiny_anchors, tiny_dataset, tmp_path_factory):
    """The folder of a run that was never pushed."""
    from craft_trainer import CraftConfig, CraftTrainer
    from craft_trainer.models.lerobot_dataset import PolicyDataset, collate

    folder, model = tmp_path_factory.mktemp("run") / "craft", tiny_policy()
    config = CraftConfig(output_dir=str(folder), **STEPS)
    dataset = PolicyDataset(str(tiny_dataset), model.policy_config)
    trainer = CraftTrainer(model, config, anchors=tiny_anchors, train_dataset=dataset, data_collator=collate)
    trainer.train()
    trainer.save_model()
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "craft")


def push(client, run, *more, **environment):
    return client.command("push", "--run", run, "--repo", REPO, *more, **environment)


def pushed(run):
    """What belongs into the repository."""
    stays = ("checkpoint-", "run.json")
    return {name: content for name, content in files_of(run).items() if not name.startswith(stays)}


def failed(result):
    """What a command that failed says, in one line; never a token."""
    assert result.status == 1, result
    assert "Traceback" not in result.err
    assert "hf_double" not in result.out + result.err
    return next(line for line in result.err.splitlines() if line.startswith("craft-trainer push:"))


def test_a_run_is_one_commit(hub, client, run):
    """Without the states of the optimizer, which ``--checkpoints`` brings; again changes nothing."""
    result = push(client, run, "--private", "true")
    assert result.status == 0, result.err
    there = in_repository(hub)
    del there[".gitattributes"]
    assert there == pushed(run)
    assert hub.repos["model", REPO].private
    assert len(titles(hub)) == 2
    assert hub.repos["model", REPO].refs["main"] in result.out
    assert push(client, run, "--checkpoints", "true").status == 0
    assert "checkpoint-2/optimizer.pt" in in_repository(hub)
    again = client.command("push", "--run", run)
    assert again.status == 0, again.err
    assert len(titles(hub)) == 3, "where it went is in the run; nothing was new"


@LFS_ONLY
def test_a_private_run_does_not_go_where_everybody_reads(hub, client, run):
    """Seen to fail: it was pushed into the public repository, and nothing said so."""
    hub.create("model", REPO)
    message = failed(push(client, run, "--private", "true", "--revision", "trial", "--checkpoints", "true"))
    assert f"{REPO} is to be private, and there is a public model repository of that name" in message
    assert set(in_repository(hub)) <= {".gitattributes"}
    assert list(hub.repos["model", REPO].refs) == ["main"]


@LFS_ONLY
def test_an_adapter_whose_base_is_a_folder_is_pushed_with_a_warning(hub, client, run):
    """Seen to fail without it: nobody else could load the adapter, and nothing said so."""
    facts = json.loads((run / "card.json").read_text()) | {"adapter": True, "base": {"name": "teacher", "repo": None}}
    (run / "card.json").write_text(json.dumps(facts))
    result = push(client, run)
    assert result.status == 0, result.err
    assert "warning: the base of this adapter, teacher, is a folder of this machine" in result.out


@LFS_ONLY
def test_weights_of_an_earlier_run_do_not_stay(hub, client, run):
    """Which a library would load instead of the new ones. Seen to fail without ``replaces``; a file of the user's and
    the checkpoints stay."""
    old = {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "notes.txt": b"mine"}
    hub.upload("model", REPO, old | {"checkpoint-9/model.safetensors": b"old"})
    assert push(client, run).status == 0
    there = set(in_repository(hub))
    assert {"notes.txt", "checkpoint-9/model.safetensors"} <= there
    assert not there & {"model-00001-of-00002.safetensors", "model.safetensors.index.json"}


@LFS_ONLY
@pytest.mark.parametrize(
    "fault",
    [
        {"pattern": "/commit/", "status": 500},
        {"pattern": "/commit/", "status": 503, "times": 2},
        {"pattern": "/commit/", "status": 429},
        {"pattern": "/commit/", "status": 412},
        {"pattern": "/commit/", "drop": True},
        {"pattern": "repos/create", "status": 502},
        {"pattern": "repos/create", "drop": True},
        {"pattern": "/commit/", "silent": True},
    ],
    ids=["500", "503 twice", "429", "412", "dropped", "502 at first", "dropped at first", "silent"],
)
def test_what_passes_is_tried_again(hub, client, run, fault):
    """Seen to fail without the loop over the pauses; ``silent`` would never end without a limit to silence."""
    hub.fail(**fault)
    result = push(client, run, CRAFT_TRAINER_HUB_TIMEOUT="1")
    assert result.status == 0, result.err
    assert "once more in" in result.err
    assert not [fault for fault in hub.faults if fault["left"]]
    assert in_repository(hub)["model.safetensors"] == pushed(run)["model.safetensors"]


@LFS_ONLY
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"pattern": "repos/create", "status": 401}, "the Hub answered 401: `hf auth login`"),
        ({"pattern": "/preupload/", "status": 403}, "the Hub answered 403: the token may not do this"),
        ({"pattern": "/objects/batch", "status": 403}, "the Hub answered 403: the token may not do this"),
        ({"pattern": "/commit/", "status": 401}, "the Hub answered 401: `hf auth login`"),
        ({"pattern": "/commit/", "status": 409}, "something else is being written there"),
        ({"pattern": "/commit/", "status": 413}, "a file is too large"),
    ],
    ids=["401", "403", "403 on a file", "401 at the end", "409", "413"],
)
def test_what_does_not_pass_is_said_at_once(hub, client, run, fault, said):
    """In one line; what is here is as it was, and the next push makes good. Seen to fail with 409 tried again."""
    before = files_of(run)
    hub.fail(**{"times": 99} | fault)
    result = push(client, run)
    assert said in failed(result)
    assert REPO in failed(result)
    assert "once more in" not in result.err
    changed = {name for name, content in files_of(run).items() if before.get(name) != content}
    assert changed <= {"README.md", "card.json"}
    hub.faults.clear()
    assert push(client, run).status == 0
    assert in_repository(hub)["model.safetensors"] == before["model.safetensors"]


@pytest.mark.parametrize("client", ["xet"], indirect=True)
@pytest.mark.parametrize(("status", "attempts"), [(401, 1), (403, 1), (500, 3)])
def test_xet_says_the_same(hub, client, run, status, attempts):
    """Its errors keep no response. Seen to fail with 401 taken for a broken connection."""
    hub.fail("xet-write-token", status, times=99)
    result = push(client, run)
    message = failed(result)
    assert str(status) in message
    assert ("hf auth login" in message, "may not do this" in message) == (status == 401, status == 403)
    assert result.err.count("once more in") == attempts - 1


@LFS_ONLY
def test_the_hub_says_how_long_to_wait(hub, client, run, monkeypatch):
    from fakehub.handler import Handler

    reply = Handler.reply
    told = {"Retry-After": "77"}
    monkeypatch.setattr(
        Handler,
        "reply",
        lambda self, status, data=None, headers=None, raw=None: reply(
            self, status, data, (headers or {}) | (told if status == 429 else {}), raw
        ),
    )
    hub.fail("/commit/", 429)
    result = push(client, run)
    assert result.status == 0
    assert "once more in 77 s" in result.err


@LFS_ONLY
@pytest.mark.parametrize("token", [READ_ONLY_TOKEN, None], ids=["reader", "none"])
def test_who_may_not_push_is_told_so(hub, client, run, token):
    message = failed(push(client, run, HF_TOKEN=token))
    assert ("the token may not do this" if token else "hf auth login") in message
    assert not hub.repos


@LFS_ONLY
def test_what_is_not_a_run_is_not_pushed(hub, client, run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no card.json" in failed(client.command("push", "--run", tmp_path / "empty", "--repo", REPO))
    assert "say where with --repo" in failed(client.command("push", "--run", run))
    assert hub.calls == []


@LFS_ONLY
def test_a_push_that_failed_during_training_is_told_at_its_end(hub, train, tmp_path):
    """The last one arrived, but a checkpoint is missing: the status says so. Seen to fail with Trainer's own pushes,
    which are silent."""
    hub.fail("/commit/", 500, times=3)  # all attempts of the first
    result = train(hub_strategy="all_checkpoints", hub_always_push=True)
    assert result.status == 1
    said = result.err[result.err.index("craft-trainer train:") :]
    assert "1 of 3 pushes to the Hub failed" in said
    assert "step 1 (model, checkpoint-1): org/craft: the Hub answered 500" in said
    assert f"craft-trainer push --run {tmp_path / 'craft'} --checkpoints" in said
    assert "checkpoint-1/model.safetensors" not in in_repository(hub)
    assert in_repository(hub)["model.safetensors"] == files_of(tmp_path / "craft")["model.safetensors"]


@LFS_ONLY
def test_a_push_that_a_later_one_makes_good_for_is_told_and_no_failure(hub, train):
    hub.fail("/commit/", 500, times=3)
    result = train(hub_strategy="every_save", hub_always_push=True)
    assert result.status == 0, result.err
    assert "step 1 (model): org/craft: the Hub answered 500" in result.err
    assert "model.safetensors" in in_repository(hub)


@LFS_ONLY
@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 500}, {"drop": True}], ids=["403", "500", "dropped"])
def test_nothing_is_lost_when_no_push_arrives(hub, client, train, tmp_path, fault):
    """The run is complete here, the command that is named brings it there. Seen to fail with save_state after the push,
    which was not reached."""
    hub.fail("/commit/", times=99, **fault)
    result = train(hub_strategy="checkpoint")
    assert result.status == 1
    folder = tmp_path / "craft"
    assert f"it is all in {folder}" in result.err
    here = files_of(folder)
    assert {"model.safetensors", "trainer_state.json", "lambda_history.csv", "README.md"} <= set(here)
    assert {"checkpoint-1/optimizer.pt", "checkpoint-2/optimizer.pt"} <= set(here)
    assert len(here["lambda_history.csv"].decode().splitlines()) == 3
    assert set(in_repository(hub)) == {".gitattributes"}
    command = result.err.split("to try again: craft-trainer ")[1].splitlines()[0].split()
    hub.faults.clear()
    retried = client.command(*command)
    assert retried.status == 0, retried.err
    there = in_repository(hub)
    assert there["model.safetensors"] == here["model.safetensors"]
    assert "checkpoint-2/optimizer.pt" in there, "what was to be there of the checkpoints"


@LFS_ONLY
def test_the_only_push_that_fails_names_the_command(hub, client, train, tmp_path):
    """With hub_strategy end nothing failed before. Seen to fail: the push was still on its way when it was judged."""
    hub.fail("/commit/", 403, times=99)
    result = train(hub_strategy="end")
    assert result.status == 1
    assert "1 of 1 pushes to the Hub failed" in result.err
    command = result.err.split("to try again: craft-trainer ")[1].splitlines()[0].split()
    hub.faults.clear()
    retried = client.command(*command)
    assert retried.status == 0, retried.err
    assert in_repository(hub)["model.safetensors"] == files_of(tmp_path / "craft")["model.safetensors"]


@LFS_ONLY
def test_options_that_bring_nothing_are_refused(hub, client, run, tmp_path):
    """Seen to fail: a run without checkpoints, and a card by hand, were pushed as if nothing had been asked for."""
    (run / "README.md").write_text("# Mine\n")
    results = tmp_path / "results.json"
    results.write_text("{}")
    message = failed(push(client, run, "--results", results))
    assert "results has no effect" in message
    assert "README.md is by hand" in message
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert "checkpoints has no effect" in failed(push(client, run, "--checkpoints", "true"))
    assert not hub.repos
    assert not (run / "results.json").exists()


@LFS_ONLY
def test_results_are_shown(hub, client, run):
    """Table, figure and file; older ones than the weights are refused. Numbers by hand: 18 of 20 is 90 %."""
    rows = [
        {"seed": 0, "method": method, "task": task, "group": group, "episodes": 20, "successes": successes}
        for method, task, group, successes in [
            ("teacher", "push-v3", "old", 18),
            ("teacher", "reach-v3", "new", 1),
            ("craft", "push-v3", "old", 17),
            ("craft", "reach-v3", "new", 20),
        ]
    ]
    summary = {"teacher": {"old": 0.9, "new": 0.05}, "craft": {"old": 0.85, "new": 1.0}}
    stream = {"old": ["push-v3"], "new": ["reach-v3"]}
    content = {
        "schema": 1,
        "stream": stream,
        "seeds": [0],
        "settings": {},
        "rows": rows,
        "summary": summary,
        "seconds": {},
        "provenance": {},
    }
    results = run.parent / "results.json"
    results.write_text(json.dumps(content))
    assert push(client, run, "--results", results).status == 0
    there = in_repository(hub)
    card = there["README.md"].decode()
    assert "| push-v3 | 90 (70–97) | 85 (64–95) |" in card
    assert "figures/success.png" in card
    assert there["figures/success.png"].startswith(b"\x89PNG")
    assert there["results.json"] == results.read_bytes()
    os.utime(run / "results.json", (0, 0))
    assert "is older than the weights" in failed(push(client, run))
