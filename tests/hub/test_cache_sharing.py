"""``craft-trainer cache push | pull`` against a double of the Hub, over Xet and over LFS."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from fakehub.server import READ_ONLY_TOKEN, TOKEN

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.joining import join_caches
from craft_trainer.anchors.provenance import PROVENANCE_FILE, Provenance
from craft_trainer.files import as_json

REPO = "org/anchors"
LFS_ONLY = pytest.mark.parametrize("client", ["lfs"], indirect=True)


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def failed(result):
    """What a command that failed says: one line, and the one with the name of the error; never a token."""
    assert result.status == 1, result
    lines = [line for line in result.err.splitlines() if line.startswith(("craft-trainer", "("))]
    assert len(lines) == 2, result.err
    assert result.err.splitlines()[-2:] == lines, result.err
    assert "Traceback" not in result.err
    assert "hf_double" not in result.out + result.err
    return lines[0]


@pytest.fixture(scope="module")
def cache(tiny_anchors):
    return tiny_anchors.folder


@pytest.fixture(scope="module")
def other_cache(tiny_policy, build_tiny_anchors, tmp_path_factory):
    return build_tiny_anchors(tiny_policy(seed=1), tmp_path_factory.mktemp("other") / "cache").folder


def published(cache):
    """What is in the repository of ``cache``: its files, and its provenance without the folders of this machine."""
    made = Provenance.read(cache)
    assert str(cache.parents[2]) not in as_json(made.published().document())
    return contents(cache) | {PROVENANCE_FILE: as_json(made.published().document()).encode()}


def relabelled_path(cache, folder, teacher_path):
    """A copy of ``cache`` whose teacher is called ``teacher_path``."""
    made = Provenance.read(shutil.copytree(cache, folder))
    replace(made, teachers=[one | {"path": teacher_path} for one in made.teachers]).write(folder)
    return AnchorCache(folder)


def push(client, cache, *more, repo=REPO, **environment):
    return client.command("cache", "push", "--cache", cache, "--repo", repo, *more, **environment)


def pull(client, folder, *more, repo=REPO, **environment):
    return client.command("cache", "pull", "--repo", repo, "--output_dir", folder, *more, **environment)


def test_the_same_bytes_come_back(hub, client, cache, tmp_path):
    """Seen to fail with the notes of the download (.cache) and the repository's .gitattributes left in the folder."""
    assert push(client, cache).status == 0
    assert ("dataset", REPO) in hub.repos
    assert any("xet-write-token" in call["path"] for call in hub.calls) == client.xet
    result = pull(client, tmp_path / "new" / "cache")
    assert result.status == 0, result.err
    assert contents(tmp_path / "new" / "cache") == published(cache)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "cache"]
    assert client.command("cache", "verify", "--cache", tmp_path / "new" / "cache").status == 0
    assert not any(call["authorized"] for call in hub.calls if call["path"].startswith("/_lfs/"))


@LFS_ONLY
@pytest.mark.slow
def test_what_was_pulled_is_its_teachers(hub, client, cache, tiny_policy, tmp_path):
    tiny_policy().save_pretrained(tmp_path / "teacher")
    assert push(client, cache).status == 0
    assert pull(client, tmp_path / "cache").status == 0
    words = ["--cache", tmp_path / "cache", "--teacher", tmp_path / "teacher", "--device", "cpu"]
    result = client.command("cache", "verify", *words)
    assert "ok  made by this teacher" in result.out, result.err
    assert result.status == 0


@LFS_ONLY
@pytest.mark.slow
def test_the_commands_as_they_are_typed(hub, client, cache, tmp_path):
    """Processes of their own, not the one that serves all tests."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    for words in (["push", "--cache", cache], ["pull", "--output_dir", tmp_path / "cache"]):
        command = [sys.executable, "-m", "craft_trainer", "cache", *map(str, words), "--repo", REPO]
        subprocess.run(command, env=environment | client.environment, check=True, capture_output=True, timeout=120)
    assert contents(tmp_path / "cache") == published(cache)


def test_a_private_cache_is_for_those_who_may_read_it(hub, client, cache, tmp_path):
    assert push(client, cache, "--private").status == 0
    assert hub.repos["dataset", REPO].private
    assert pull(client, tmp_path / "reader", HF_TOKEN=READ_ONLY_TOKEN).status == 0
    message = failed(pull(client, tmp_path / "nobody", HF_TOKEN=None))
    assert REPO in message
    assert "hf auth login" in message
    assert not list(tmp_path.glob("nobody*"))


@LFS_ONLY
def test_a_private_cache_does_not_go_where_everybody_reads(hub, client, cache):
    """Seen to fail: the Hub leaves a repository that is there as it is, and the cache was public."""
    hub.create("dataset", REPO)
    message = failed(push(client, cache, "--private"))
    assert f"{REPO} is to be private, and there is a public dataset repository of that name" in message
    assert "Make it private in its settings on the Hub" in message
    assert set(hub.repos["dataset", REPO].resolve("main")["tree"]) <= {".gitattributes"}
    hub.repos["dataset", REPO].private = True
    assert push(client, cache, "--private").status == 0
    assert hub.repos["dataset", REPO].private


def test_every_push_can_be_pulled(hub, client, cache, other_cache, tmp_path):
    """By the commit that the push printed, by a tag on it, by a branch; without a revision it is the newest."""
    first = push(client, cache)
    commit = first.out.split()[-1]
    assert hub.repos["dataset", REPO].refs["main"] == commit
    client.python(f"from huggingface_hub import HfApi; HfApi().create_tag('{REPO}', tag='v1', repo_type='dataset')")
    assert push(client, other_cache).status == 0
    assert push(client, cache, "--revision", "trial").status == 0
    for name, words, expected in (
        ("commit", ["--revision", commit], cache),
        ("tag", ["--revision", "v1"], cache),
        ("branch", ["--revision", "trial"], cache),
        ("newest", [], other_cache),
    ):
        result = pull(client, tmp_path / name, *words)
        assert result.status == 0, result.err
        assert contents(tmp_path / name) == published(expected), name
    assert "has no revision 'v2'" in failed(pull(client, tmp_path / "no", "--revision", "v2"))


def test_a_push_is_one_commit(hub, client):
    """Whoever pulls meanwhile gets the old cache or the new one. Seen to fail with ``upload_folder`` over Xet.

    Which makes a commit of every 250 files, and one after five minutes.
    """
    client.python(
        "from craft_trainer.hub.repository import Repository; "
        f"Repository('{REPO}', 'dataset').opened().commit({{f'data-{{n}}.arrow': b'x' for n in range(260)}}, 'many')"
    )
    assert len(hub.repos["dataset", REPO].commits) == 2  # the first is the empty repository


@LFS_ONLY
def test_only_the_cache_is_pushed(hub, client, cache, tmp_path):
    """Seen to fail: whatever lay in the folder was published."""
    folder = shutil.copytree(cache, tmp_path / "cache")
    for name in (".env", "notes.txt"):
        (folder / name).write_text("mine")
    assert push(client, folder).status == 0
    assert set(hub.repos["dataset", REPO].resolve("main")["tree"]) - {".gitattributes"} == set(contents(cache))


@LFS_ONLY
def test_a_repository_of_something_else_is_refused(hub, client, cache):
    """Seen to fail: the card of a dataset was overwritten, and its norms were deleted, with status 0."""
    hub.create("dataset", REPO)
    theirs = {"README.md": b"# theirs", "norms.safetensors": b"x", "meta/info.json": b"{}"}
    hub.upload("dataset", REPO, theirs)
    message = failed(push(client, cache))
    assert f"{REPO} holds meta/info.json, norms.safetensors and no anchors.json" in message
    assert "name another repository" in message
    assert set(hub.repos["dataset", REPO].resolve("main")["tree"]) - {".gitattributes"} == set(theirs)


@LFS_ONLY
def test_a_card_that_was_edited_on_the_hub_stays(hub, client, cache, other_cache, tmp_path):
    """And so do lines of its header. Seen to fail: the next push overwrote both."""
    assert push(client, cache).status == 0
    ours = (cache / "README.md").read_text()
    hub.upload("dataset", REPO, {"README.md": ours.replace("tags:", "license: mit\ntags:").encode()})
    assert push(client, other_cache).status == 0
    assert pull(client, tmp_path / "header").status == 0
    card = (tmp_path / "header/README.md").read_text()
    assert "license: mit" in card
    assert Provenance.read(other_cache).fingerprint in card
    hub.upload("dataset", REPO, {"README.md": b"# mine"})
    result = push(client, cache)
    assert f"README.md of {REPO} is by hand and stays" in result.out
    assert pull(client, tmp_path / "text").status == 0
    assert contents(tmp_path / "text") == published(cache) | {"README.md": b"# mine"}


@LFS_ONLY
def test_a_branch_may_stand_behind_the_name(hub, client, cache):
    """Seen to fail with a message about the characters of a name."""
    result = push(client, cache, repo=f"{REPO}@trial")
    assert result.status == 0, result.err
    assert "anchors.json" in hub.repos["dataset", REPO].resolve("trial")["tree"]
    assert "anchors.json" not in hub.repos["dataset", REPO].resolve("main")["tree"]


@LFS_ONLY
def test_every_teacher_of_a_joined_cache_gets_its_command(hub, client, cache, other_cache, tmp_path):
    """Seen to fail: only that of the cache that was joined last, and as a stranger had written it."""
    names = ("first", "second; touch /tmp/there")
    made = [
        relabelled_path(one, tmp_path / str(number), name)
        for number, (one, name) in enumerate(zip((cache, other_cache), names, strict=True))
    ]
    joined = join_caches(made, tmp_path / "joined", num_anchors=1000, seed=0).folder
    assert push(client, joined).status == 0
    said = pull(client, tmp_path / "pulled").out
    for name in ("first", "'second; touch /tmp/there'"):
        assert f"craft-trainer cache verify --cache {tmp_path / 'pulled'} --teacher {name}\n" in said


@LFS_ONLY
def test_shards_of_an_earlier_cache_do_not_stay(hub, client, cache, tmp_path):
    hub.create("dataset", REPO)
    hub.upload("dataset", REPO, {"data-00001-of-00002.arrow": b"old", "LICENSE": b"theirs", "anchors.json": b"{}"})
    assert push(client, cache).status == 0
    assert pull(client, tmp_path / "cache").status == 0
    assert contents(tmp_path / "cache") == published(cache) | {"LICENSE": b"theirs"}


@LFS_ONLY
def test_a_repository_without_an_owner_is_the_users_own(hub, client, cache):
    result = push(client, cache, repo="mine")
    assert result.status == 0, result.err
    assert ("dataset", "writer/mine") in hub.repos
    assert "writer/mine" in result.out


@LFS_ONLY
def test_nothing_is_overwritten(hub, client, cache, tmp_path):
    assert push(client, cache).status == 0
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    hub.calls.clear()
    assert f"{folder} exists" in failed(pull(client, folder))
    assert contents(folder) == {"mine": b"mine"}
    assert not [call for call in hub.calls if call["method"] == "GET"]  # the push before may be noted late


@LFS_ONLY
def test_what_is_not_a_cache_is_not_pushed_and_not_pulled(hub, client, cache, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "not a finished anchor cache" in failed(push(client, tmp_path / "empty"))
    assert hub.calls == []
    hub.upload("dataset", REPO, {"README.md": b"# something else"})
    assert f"{REPO} holds no anchors.json" in failed(pull(client, tmp_path / "cache"))
    assert not list(tmp_path.glob("cache*"))


@LFS_ONLY
def test_bytes_that_changed_on_the_way_are_refused(hub, client, cache, tmp_path):
    assert push(client, cache).status == 0
    hub.upload("dataset", REPO, {"state.json": b"{}"})
    message = failed(pull(client, tmp_path / "cache"))
    assert f"{REPO}/state.json is missing or damaged" in message
    assert not list(tmp_path.glob("cache*"))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"pattern": "/revision/", "status": 401}, "401"),
        ({"pattern": "/revision/", "drop": True}, "connection"),
        ({"pattern": "/resolve/.*statistics", "status": 403}, "403"),
        ({"pattern": "/resolve/.*arrow", "status": 500}, "500"),
        ({"pattern": "/_lfs/|xet-read-token", "status": 503}, "503"),
        ({"pattern": "/_lfs/|xet-read-token", "drop": True}, "connection"),
        ({"pattern": "/resolve/.*anchors.json", "method": "GET", "half": True}, "connection"),
    ],
    ids=["unauthorized", "unreachable", "forbidden", "error", "unavailable", "dropped", "cut off"],
)
def test_a_pull_that_fails_leaves_nothing(hub, client, cache, tmp_path, fault, said):
    assert push(client, cache).status == 0
    hub.fail(**{"times": 99} | fault)
    message = failed(pull(client, tmp_path / "cache"))
    assert REPO in message
    assert said in message
    assert list(tmp_path.iterdir()) == []
    hub.faults.clear()
    assert pull(client, tmp_path / "cache").status == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"pattern": "repos/create", "status": 500}, "500"),
        ({"pattern": "/preupload/", "status": 403}, "403"),
        ({"pattern": "/objects/batch|xet-write-token", "status": 401}, "401"),
        ({"pattern": "/commit/", "status": 503}, "503"),
        ({"pattern": "/commit/", "drop": True}, "connection"),
    ],
    ids=["create", "forbidden", "unauthorized", "unavailable", "dropped"],
)
def test_a_push_that_fails_changes_nothing(hub, client, cache, other_cache, tmp_path, fault, said):
    assert push(client, cache).status == 0
    hub.fail(**{"times": 99} | fault)
    message = failed(push(client, other_cache))
    assert REPO in message
    assert said in message
    hub.faults.clear()
    assert pull(client, tmp_path / "cache").status == 0
    assert contents(tmp_path / "cache") == published(cache)
    assert push(client, other_cache).status == 0


@LFS_ONLY
@pytest.mark.parametrize(
    ("token", "said"),
    [(READ_ONLY_TOKEN, "the token may not do this"), ("hf_doublewrongtoken", "hf auth login")],
    ids=["reader", "unknown"],
)
def test_a_token_that_may_not_push_is_told_so(hub, client, cache, token, said):
    message = failed(push(client, cache, HF_TOKEN=token))
    assert said in message
    assert REPO in message
    assert not hub.repos


@LFS_ONLY
def test_a_repository_that_is_not_there(hub, client, tmp_path):
    message = failed(pull(client, tmp_path / "cache", repo="org/mistyped"))
    assert "no dataset repository org/mistyped" in message


def test_the_token_is_in_none_of_the_output(hub, client, cache, tmp_path):
    for result in (push(client, cache), pull(client, tmp_path / "cache"), pull(client, tmp_path / "cache")):
        assert TOKEN not in result.out + result.err
