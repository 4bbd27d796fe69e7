"""No token in a message, a file or a representation."""

import pickle
from types import SimpleNamespace

import pytest
from fakehub import http_library
from huggingface_hub.errors import HfHubHTTPError

from craft_trainer.hub.errors import masked, plain_errors
from craft_trainer.hub.hub_trainer import HubMixin
from craft_trainer.hub.repository import Repository
from craft_trainer.training.config import CraftConfig

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    "text", [f"no {TOKEN}!", f"Illegal header value b'Bearer {TOKEN}\\n'", "Bearer other-9.token x"]
)
def test_messages_are_masked(text):
    shown = masked(text)
    assert TOKEN not in shown
    assert "other-9" not in shown
    assert "hf_…" in shown


def test_an_error_of_the_connection_is_masked():
    """A token with a line break makes httpx repeat it. Seen to fail with the line as it is."""
    httpx = http_library()
    with pytest.raises(ConnectionError) as raised, plain_errors("org/a", "model"):
        raise httpx.LocalProtocolError(f"Illegal header value b'Bearer {TOKEN}\\n'")
    assert TOKEN not in str(raised.value)
    assert "Illegal header value" in str(raised.value)


def test_the_message_of_the_hub_is_masked():
    httpx = http_library()
    request = httpx.Request("POST", "http://127.0.0.1/")
    response = httpx.Response(403, headers={"X-Error-Message": f"{TOKEN} may not"}, request=request)
    with pytest.raises(PermissionError) as raised, plain_errors("org/a", "model"):
        raise HfHubHTTPError("refused", response=response)
    assert TOKEN not in str(raised.value)
    assert "may not" in str(raised.value)


def test_a_configuration_hides_it(tmp_path):
    """When it is printed, logged, or pickled; the run itself has it. Seen to fail with the dataclass's own repr."""
    config = CraftConfig(output_dir=str(tmp_path), hub_token=TOKEN, use_cpu=True)
    assert config.hub_token == TOKEN
    for shown in (repr(config), str(config), config.to_json_string(), str(config.to_sanitized_dict())):
        assert TOKEN not in shown
    assert TOKEN.encode() not in pickle.dumps(config)
    assert pickle.loads(pickle.dumps(config)).learning_rate == config.learning_rate
    assert TOKEN not in repr(Repository("org/a", token=TOKEN))


def test_the_token_of_a_push_is_used(tmp_path, monkeypatch):
    """Seen to fail: once the repository was open, push_to_hub(token=…) went on with the run's own token."""
    monkeypatch.setattr(Repository, "opened", lambda self: self)
    nothing = dict.fromkeys(("save_model", "create_model_card", "_finish_current_push"), lambda *_, **__: None)
    trainer = SimpleNamespace(
        **nothing,
        **dict.fromkeys(("state", "control")),
        args=SimpleNamespace(output_dir=str(tmp_path)),
        callback_handler=SimpleNamespace(on_push_begin=lambda *_: None),
        is_world_process_zero=lambda: True,
        _push=lambda *_: SimpleNamespace(job=None),
        _repository=Repository("org/a", revision="trial", token="of the run"),
    )
    HubMixin.push_to_hub(trainer, blocking=False)
    assert trainer._repository == Repository("org/a", revision="trial", token="of the run")
    HubMixin.push_to_hub(trainer, blocking=False, token=TOKEN)
    assert trainer._repository == Repository("org/a", revision="trial", token=TOKEN)
    HubMixin.push_to_hub(trainer, blocking=False, revision="other")
    assert trainer._repository == Repository("org/a", revision="other", token=TOKEN)
