"""A folder, a repository, or a repository at a revision: read in one place."""

from types import SimpleNamespace

import pytest

from craft_trainer.cli.cache_pull import PullArguments, run
from craft_trainer.cli.push import PushArguments, destination
from craft_trainer.evaluation.questions import read_questions
from craft_trainer.hub.facts import Source
from craft_trainer.hub.resolve_path import HubPlace, parse, resolve_path


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("org/name", HubPlace("org/name", None)),
        ("org/name@v1", HubPlace("org/name", "v1")),
        ("org/name@refs/pr/1", HubPlace("org/name", "refs/pr/1")),
        ("org/na.me-2@0a1b2c3", HubPlace("org/na.me-2", "0a1b2c3")),
    ],
)
def test_names_of_the_hub(place, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse(place) == expected


def test_one_revision_is_meant_where_two_are_given(tmp_path, monkeypatch):
    """By every reader and writer of a repository. Seen to fail: one of the two was taken, without a word."""
    monkeypatch.chdir(tmp_path)
    facts = SimpleNamespace(repo=None, revision=None)
    for given_twice in (
        lambda: resolve_path("org/name@v1", revision="v2"),
        lambda: read_questions("org/name@v1", revision="v2"),
        lambda: run(PullArguments(repo="org/name@v1", output_dir="cache", revision="v2")),
        lambda: destination(PushArguments(run="run", repo="org/name@v1", revision="v2"), facts),
    ):
        with pytest.raises(ValueError, match="org/name@v1 is at revision v1, and revision v2 is asked for as well"):
            given_twice()
    assert list(tmp_path.iterdir()) == []
    for repo, revision in (("org/name@v1", None), ("org/name", "v1"), ("org/name@v1", "v1")):
        assert parse(repo).at(revision) == HubPlace("org/name", "v1")
        assert destination(PushArguments(run="run", repo=repo, revision=revision), facts) == ("org/name", "v1")


def test_a_folder_comes_first(tmp_path, monkeypatch):
    """Even one with an @ in its name. Seen to fail with the @ looked for first."""
    monkeypatch.chdir(tmp_path)
    for name in ("org/name", "org/name@v1"):
        (tmp_path / name).mkdir(parents=True)
        assert parse(name).resolve() == tmp_path / name


@pytest.mark.parametrize(
    "place", ["name@v1", "org/name@", "a/b/c", "/no/where", "here/mistyped", "outputs/gone", "outputs/gone@v1"]
)
def test_what_is_neither(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*owner/name@revision"):
        parse(place)


def test_a_folder_called_like_the_owner_hides_no_revision(tmp_path, monkeypatch):
    """As a clone of lerobot beside which one works. Seen to fail: none of its names could be given in any way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lerobot").mkdir()
    with pytest.raises(FileNotFoundError, match=r"which the folder lerobot here hides, .* e.g. lerobot/act@main"):
        parse("lerobot/act")
    assert parse("lerobot/act@main") == HubPlace("lerobot/act", "main")
    assert Source.of("lerobot/act@main") == Source("lerobot/act@main", "lerobot/act")
    assert Source.of("lerobot/act") == Source("lerobot/act", None)


def test_what_a_card_calls_it(tmp_path, monkeypatch):
    """No absolute path. Seen to fail with str(place)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/teacher").mkdir(parents=True)
    assert Source.of("org/name@v1") == Source("org/name@v1", "org/name")
    assert Source.of("outputs/teacher") == Source("outputs/teacher", None)
    assert Source.of("outputs/gone") == Source("outputs/gone", None)
    assert Source.of(tmp_path / "outputs/teacher") == Source("teacher", None)
    assert Source.of(None) is None
    assert Source.of("") is None
