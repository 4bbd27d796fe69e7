"""What is whole, and what is damaged: of every kind of file in a checkpoint, with a manifest and without."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from craft_trainer.hub.manifest import DamagedCheckpointError, newest_whole, require_whole, seal
from craft_trainer.hub.run_folder import MANIFEST, model_files

STATE = {"global_step": 4, "epoch": 1.0, "stateful_callbacks": {"DualState": {"attributes": {"multiplier": 0.5}}}}
FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "config.json")
SEEDS = range(3)


def write(folder: Path, step: int = 4) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps(STATE | {"global_step": step}))
    (checkpoint / "config.json").write_text('{"hidden": 8}')
    (checkpoint / "README.md").write_text("card")
    for name in FILES[1:4]:
        torch.save({"state": torch.arange(50.0)}, checkpoint / name)
    save_file({"weight": torch.ones(8, 8)}, checkpoint / "model.safetensors")
    return checkpoint


def flipped(data: bytes, seed: int) -> bytes:
    place, bit = random.Random(seed).randrange(len(data)), 1 << seed
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


DAMAGES = {
    "emptied": lambda data, _: b"",
    "truncated": lambda data, seed: data[: random.Random(seed).randrange(1, len(data))],
    "flipped": flipped,
    "longer": lambda data, _: data + b"\0",
}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    checkpoint = write(tmp_path)
    seal(checkpoint)
    return checkpoint


def test_a_checkpoint_is_whole_until_it_is_changed(sealed: Path) -> None:
    require_whole(sealed)
    (sealed / "README.md").write_text("by hand")
    (sealed / "notes.txt").write_text("a file more")
    require_whole(sealed)
    assert set(json.loads((sealed / MANIFEST).read_text())["files"]) == set(FILES)
    assert MANIFEST not in model_files(sealed)


@pytest.mark.parametrize("name", FILES)
def test_every_damage_of_every_file_is_named(sealed: Path, name: str) -> None:
    """The digests see what is flipped, the sizes the rest."""
    before = (sealed / name).read_bytes()
    for damage in DAMAGES.values():
        for seed in SEEDS:
            (sealed / name).write_bytes(damage(before, seed))
            with pytest.raises(DamagedCheckpointError, match=rf"checkpoint-4 is not whole: {name} "):
                require_whole(sealed)
    (sealed / name).unlink()
    with pytest.raises(DamagedCheckpointError, match=rf"checkpoint-4 is not whole: {name} is missing"):
        require_whole(sealed)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"files": {}}', b'{"files": []}', b'{"files": {"model.safetensors": 5}}', b"\xff\xfe"],
)
def test_a_damaged_manifest_is_named(sealed: Path, content: bytes) -> None:
    (sealed / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=MANIFEST):
        require_whole(sealed)


def test_a_file_that_would_be_loaded_and_is_not_in_the_manifest(sealed: Path) -> None:
    """Trainer reads pytorch_model.bin where it finds one."""
    torch.save({}, sealed / "pytorch_model.bin")
    with pytest.raises(DamagedCheckpointError, match=r"pytorch_model\.bin is not in manifest\.json"):
        require_whole(sealed)


@pytest.mark.parametrize("name", ["trainer_state.json", "optimizer.pt", "scheduler.pt", "model.safetensors"])
@pytest.mark.parametrize("damage", ["emptied", "truncated"])
def test_without_a_manifest_a_half_written_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    """A checkpoint of Trainer's own."""
    checkpoint = write(tmp_path)
    require_whole(checkpoint)
    (checkpoint / name).write_bytes(DAMAGES[damage]((checkpoint / name).read_bytes(), 1))
    with pytest.raises(DamagedCheckpointError, match=rf"checkpoint-4 is not whole: {name} "):
        require_whole(checkpoint)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_without_a_manifest_torchs_own_checksums_are_used(tmp_path: Path, name: str) -> None:
    checkpoint = write(tmp_path)
    data = (checkpoint / name).read_bytes()
    place = data.index(torch.arange(50.0).numpy().tobytes())
    (checkpoint / name).write_bytes(data[: place + 9] + bytes([data[place + 9] ^ 4]) + data[place + 10 :])
    with pytest.raises(DamagedCheckpointError, match=f"{name} is no file that torch has saved, or is damaged"):
        require_whole(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        *({"global_step": value} for value in (-3, 10**9, "4", True)),
        *({"epoch": value} for value in (-1.0, float("nan"), "one")),
    ],
)
def test_counters_that_no_run_has(tmp_path: Path, change: dict[str, object]) -> None:
    checkpoint = write(tmp_path)
    (checkpoint / "trainer_state.json").write_text(json.dumps(STATE | change))
    with pytest.raises(DamagedCheckpointError, match=rf"trainer_state.json has {next(iter(change))} "):
        require_whole(checkpoint)


def test_the_model_alone_is_not_resumed_unless_that_is_asked_for(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).unlink()
    seal(checkpoint)
    with pytest.raises(DamagedCheckpointError, match=r"optimizer\.pt is missing; it may be of .* save_only"):
        require_whole(checkpoint)
    require_whole(checkpoint, model_only=True)


def test_the_newest_whole_one_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (8, 20, 100):
        seal(write(tmp_path, step))
    (tmp_path / "checkpoint-100/optimizer.pt").write_bytes(b"")
    (tmp_path / "checkpoint-20/model.safetensors").unlink()
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-8"
    assert [record.message.split(" is not whole: ")[1][:12] for record in caplog.records] == [
        "optimizer.pt",
        "model.safete",
    ]
    (tmp_path / "checkpoint-8/trainer_state.json").write_text("")
    assert newest_whole(tmp_path) is None
