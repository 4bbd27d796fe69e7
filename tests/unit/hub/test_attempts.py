"""Three attempts, with longer and longer pauses, for what may pass; one for the rest."""

import pytest

from craft_trainer.hub import repository


@pytest.fixture
def pauses(monkeypatch):
    slept = []
    monkeypatch.setattr(repository.time, "sleep", slept.append)
    return slept


def failing(times, error):
    calls = []

    def call():
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    return call


@pytest.mark.parametrize(("times", "waited"), [(0, []), (1, [5.0]), (2, [5.0, 20.0])])
def test_it_arrives_in_the_end(pauses, times, waited):
    assert repository.with_retries(failing(times, ConnectionError("busy"))) == times + 1
    assert pauses == waited


def test_it_gives_up(pauses):
    with pytest.raises(ConnectionError, match="busy"):
        repository.with_retries(failing(3, ConnectionError("busy")))
    assert len(pauses) == 2


@pytest.mark.parametrize("error", [PermissionError("no"), FileNotFoundError("no"), OSError("no"), ValueError("no")])
def test_what_does_not_pass_is_raised_at_once(pauses, error):
    with pytest.raises(type(error)):
        repository.with_retries(failing(1, error))
    assert pauses == []
