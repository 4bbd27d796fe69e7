"""The classes of other libraries and ours beside them: names, defaults, and what is refused when a trainer is made."""

import ast
import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import PEERS, Toys, num_letters, rows
from transformers import Trainer

from craft_trainer import CraftConfig, retaining, retaining_config
from craft_trainer.hub.hub_trainer import HubMixin
from craft_trainer.training.checkpoints import CheckpointMixin
from craft_trainer.training.mixin import RetentionMixin
from craft_trainer.training.settings import RetentionSettings

CONFIGS = sorted({(peer.library, peer.config) for peer in PEERS.values()})
ON_CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


def names_in(source: str) -> set[str]:
    """What the classes in ``source`` call their attributes and methods, and what they use of ``self``."""
    names = set()
    for node in ast.walk(ast.parse(inspect.cleandoc(source) if source[:1] == " " else source)):
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", part)]
            names |= {getattr(target, "name", getattr(target, "id", "")) for target in targets}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            names.add(node.attr)
    return {name for name in names if not name.startswith("__")}


def names_of_ours() -> set[str]:
    mixins = [inspect.getsource(kind) for kind in (RetentionMixin, CheckpointMixin, HubMixin)]
    return set.union(*map(names_in, mixins)) - names_in(inspect.getsource(Trainer))


def trainers_in(library: str) -> Iterator[Path]:
    found = find_spec(library)
    assert found is not None
    yield from Path(str(found.origin)).parent.rglob("*trainer.py")


@pytest.mark.parametrize("library", ["trl", "sentence_transformers"])
def test_no_name_of_ours_is_used_by_a_trainer_of_theirs(library: str) -> None:
    """GRPO counts its batches in ``_step``. Seen to fail with a method of that name in RetentionMixin."""
    pytest.importorskip(library)
    ours, files = names_of_ours(), list(trainers_in(library))
    assert {"anchors", "_retention_step", "_repository", "_untouched"} <= ours
    assert len(files) > 3
    used = {f"{file.name}: {name}" for file in files for name in ours & names_in(file.read_text("utf-8"))}
    assert used == set()


@pytest.mark.parametrize(("library", "name"), CONFIGS)
def test_every_default_of_theirs_is_kept(library: str, name: str, tmp_path: Path) -> None:
    base = getattr(pytest.importorskip(library), name)
    made, plain = (kind(output_dir=str(tmp_path), **ON_CPU) for kind in (retaining_config(base), base))
    names = [item.name for item in dataclasses.fields(base) if item.init]
    assert {name for name in names if str(getattr(made, name)) != str(getattr(plain, name))} == set()
    defaults = RetentionSettings()
    assert [vars(made.retention_settings)[name] for name in vars(defaults)] == list(vars(defaults).values())


def test_grpo_keeps_its_epsilon(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    config = retaining_config(trl.GRPOConfig)
    assert config.__name__ == "CraftGRPOConfig"
    made = config(output_dir=str(tmp_path), epsilon=0.3, retention_epsilon=0.05, **ON_CPU)
    assert (made.epsilon, made.retention_settings.epsilon) == (0.3, 0.05)


def test_arguments_are_loaded_in_a_new_process(tmp_path: Path) -> None:
    """Without an import of the library before: the names of the classes say where they come from."""
    expected = []
    for library, name in CONFIGS:
        if find_spec(library) is not None:
            config = retaining_config(getattr(pytest.importorskip(library), name))
            torch.save(config(output_dir="out", **ON_CPU, retention_every=3), tmp_path / f"{name}.bin")
            expected.append(f"{config.__name__} 3")
    code = (
        "import sys, torch\n"
        "for file in sys.argv[1:]:\n"
        "    args = torch.load(file, weights_only=False)\n"
        "    print(type(args).__name__, args.retention_every)"
    )
    files = [str(tmp_path / f"{name.split()[0].removeprefix('Craft')}.bin") for name in expected]
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == expected


@pytest.mark.parametrize("key", ["sft", "dpo", "grpo", "sentences"])
def test_arguments_of_transformers_alone_are_refused(key: str, toys: Toys) -> None:
    peer = PEERS[key]
    base, config = peer.classes
    wanted = rf"Craft{base.__name__} takes the arguments of {config.__name__}.*retaining_config\({config.__name__}\)"
    with pytest.raises(TypeError, match=wanted):
        retaining(base)(args=CraftConfig(output_dir=str(toys.folder), use_cpu=True), **peer.given(toys))


@pytest.mark.filterwarnings("ignore:You are importing from .trl.experimental")
def test_a_backward_pass_of_its_own_is_refused_by_name(toys: Toys) -> None:
    """Online DPO calls ``accelerator.backward`` in a ``training_step`` that does not reach Trainer's."""
    pytest.importorskip("trl")
    online = pytest.importorskip("trl.experimental.online_dpo")
    given: dict[str, Any] = {"model": toys.model("lm"), "reward_funcs": num_letters} | toys.processing_class("lm")
    args = retaining_config(online.OnlineDPOConfig)(
        output_dir=str(toys.folder), retention_terms=["hidden", "token_kl"], **ON_CPU
    )
    with pytest.raises(TypeError, match=r"OnlineDPOTrainer\.training_step does not call super\(\)\.training_step"):
        retaining(online.OnlineDPOTrainer)(
            args=args, train_dataset=rows(prompt=["Where is the puck?"] * 4), anchors=toys.anchors("lm"), **given
        )
