"""A Hub to push to: ``hub`` is a double of it on 127.0.0.1, ``client`` a process that knows no other."""

import pytest
from fakehub import Client, HubDouble
from runs_on_the_hub import REPO, STEPS, words


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


@pytest.fixture(scope="session")
def clients(running_hub, tmp_path_factory):
    """One process for each way of transfer, begun when it is first needed: importing takes longer than most tests."""
    begun = {}

    def client(way):
        if way not in begun:
            begun[way] = Client(running_hub.url, tmp_path_factory.mktemp("hf_home"), xet=way == "xet")
        return begun[way]

    yield client
    for one in begun.values():
        one.close()


@pytest.fixture(params=["xet", "lfs"])
def client(request, clients):
    """A process with an HF_HOME of its own, which transfers over Xet or over LFS."""
    return clients(request.param)


@pytest.fixture(scope="module")
def teacher(tiny_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    tiny_policy().save_pretrained(folder)
    return folder


@pytest.fixture
def train(client, teacher, tiny_anchors, tiny_dataset, tmp_path):
    """Runs `craft-trainer train`, by default on the teacher, its data and its anchors, and pushes."""

    def run(*, environment=None, **options):
        given = {"model": teacher, "dataset": tiny_dataset, "anchors": tiny_anchors.folder}
        given |= STEPS | {"output_dir": tmp_path / "craft", "push_to_hub": True, "hub_model_id": REPO} | options
        return client.command("train", *words(**given), **(environment or {}))

    return run
