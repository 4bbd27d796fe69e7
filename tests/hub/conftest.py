"""A Hub to push to: ``hub`` is a double of it on 127.0.0.1, ``client`` a process that knows no other."""

import pytest
from hubdouble import Client, HubDouble


@pytest.fixture(scope="session")
def running_hub():
    with HubDouble() as hub:
        yield hub


@pytest.fixture
def hub(running_hub):
    """The double, empty."""
    running_hub.forget()
    yield running_hub
    running_hub.forget()


@pytest.fixture(scope="session", params=["xet", "lfs"])
def client(request, running_hub, tmp_path_factory):
    """A process with a fresh HF_HOME, which transfers over Xet or over LFS."""
    client = Client(running_hub.url, tmp_path_factory.mktemp("hf_home"), xet=request.param == "xet")
    yield client
    client.close()
