"""Building a cache: killed and resumed, shared by processes, refused where it would mix two."""

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from seer import GROUPS, NUM_ROWS, Seer, build, contents, samples
from together import FRESH, build_together
from torch.distributed import TCPStore

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.anchors.processes import GO_ON, Processes


def build_slowly(folder: Path, begun: Any) -> None:
    """In another process."""
    begun.set()
    build(folder, Seer(seconds=0.01))


def test_killed_at_ten_random_moments_and_resumed_it_has_the_same_bytes(whole: AnchorCache, tmp_path: Path) -> None:
    """SIGKILL. Seen to fail with random fingerprints of the shards."""
    random.seed(0)
    folder = tmp_path / "cache"
    for _ in range(10):
        begun = FRESH.Event()
        child = FRESH.Process(target=build_slowly, args=(folder, begun))
        child.start()
        assert begun.wait(timeout=60)
        time.sleep(random.uniform(0.0, 0.25))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert not folder.exists() or child.exitcode == 0
    if not folder.exists():
        build(folder)
    assert contents(folder) == contents(whole.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_finished_shards_are_not_made_again(whole: AnchorCache, tmp_path: Path) -> None:
    """Sixteen rows each: after 2½ shards the last twenty batches of the first three are made again, no others."""
    first = Seer()
    calls: list[int] = []

    def failing(rows: list[int]) -> dict[str, Any]:
        calls.append(len(calls))
        if len(calls) > 21:  # one of them to know the samples again
            raise KeyboardInterrupt
        return samples(rows)

    with pytest.raises(KeyboardInterrupt) as error:
        build(tmp_path / "cache", first, failing)
    assert error.value.__notes__ == [
        f"32 of 100 anchors are kept in {tmp_path / 'cache.partial'}: the same call goes on"
    ]
    second = Seer()
    resumed = build(tmp_path / "cache", second)
    assert (first.passes, second.passes) == (20, 50 - 16)
    assert contents(resumed.folder) == contents(whole.folder)


def test_half_a_shard_does_not_count(whole: AnchorCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its file is written. Seen to fail when a shard was written in place."""

    def killed(_dataset: datasets.Dataset, folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "data-00000-of-00001.arrow").write_bytes(b"half of i")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(datasets.Dataset, "save_to_disk", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "cache")
    assert contents(build(tmp_path / "cache").folder) == contents(whole.folder)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"specs": [FeatureSpec("ear", "none")]}, "features"),
        ({"dtype": "float16"}, "storage"),
        ({"rows": list(range(NUM_ROWS))}, "data"),
        ({"source": {"dataset": "seen", "frames": 1000, "fingerprint": "other"}}, "data"),
        ({"groups": [*GROUPS[1:], GROUPS[0]]}, "group_of_each"),
    ],
)
def test_shards_of_another_cache_are_refused_with_both_plans(tmp_path: Path, options: dict[str, Any], key: str) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path / "cache", load=fail_after(12))
    with pytest.raises(
        ValueError, match=rf"cache.partial holds part of a cache with {key} .* but this one has .*: del"
    ):
        build(tmp_path / "cache", **options)
    assert len(build(tmp_path / "cache")) == NUM_ROWS


def fail_after(calls: int) -> Callable[[list[int]], dict[str, Any]]:
    left = [calls]

    def load(rows: list[int]) -> dict[str, Any]:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("out of memory")
        return samples(rows)

    return load


def test_three_processes_build_what_one_builds(whole: AnchorCache, tmp_path: Path) -> None:
    """Every file; each process makes every third shard of seven, the last of which is two batches."""
    told = build_together(tmp_path / "cache", tmp_path / "told")
    assert [one["message"] for one in told] == [""] * 3
    assert [one["passes"] for one in told] == [18, 16, 16]
    assert contents(tmp_path / "cache") == contents(whole.folder)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("kill", "has not been heard of for 3 s: it was killed, or its machine is gone."),
        ("raise", "failed: out of memory."),
    ],
)
def test_a_process_that_ends_ends_the_others(whole: AnchorCache, tmp_path: Path, end: str, reason: str) -> None:
    """They say why, and all together go on. Seen to fail with accelerate's barriers: nobody said who was gone."""
    told = build_together(tmp_path / "cache", tmp_path / "told", end=end, silence=3.0)
    for one in (told[0], told[2]):
        assert one["message"] == f"process 1 of 3 (counted from 0) {reason} {GO_ON}"
        assert one["seconds"] < 60
    again = build_together(tmp_path / "cache", tmp_path / "again")
    assert again[1]["passes"] == 8
    assert contents(tmp_path / "cache") == contents(whole.folder)


def serve(told: Connection) -> None:
    """Hold the store of a launcher until it is killed."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told.send(store.port)
    signal.pause()


def test_a_launcher_that_is_killed_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the store where they meet: torch's own error says that a connection was reset."""
    ours, theirs = FRESH.Pipe()
    launcher = FRESH.Process(target=serve, args=(theirs,))
    launcher.start()
    store = TCPStore("127.0.0.1", ours.recv(), is_master=False)
    monkeypatch.setattr("craft_trainer.anchors.processes._store", lambda _prefix: store)
    state: Any = SimpleNamespace(process_index=1, num_processes=2, device=torch.device("cpu"))

    def work() -> None:
        with Processes(state) as processes:
            processes.check()
            os.kill(launcher.pid, signal.SIGKILL)
            launcher.join()
            processes.wait_for_everyone()

    with pytest.raises(RuntimeError, match=f"the launcher where the others meet, is gone. {GO_ON}"):
        work()


def test_workers_load_the_same_samples(whole: AnchorCache, tmp_path: Path) -> None:
    assert contents(build(tmp_path / "cache", num_workers=2).folder) == contents(whole.folder)


def test_the_callers_random_numbers_stay_as_they_are(tmp_path: Path) -> None:
    teacher = Seer()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build(tmp_path / "cache", teacher)
    assert torch.equal(torch.rand(2), expected)


def test_samples_that_changed_do_not_go_on_with_old_shards(tmp_path: Path) -> None:
    """Of a dataset without fingerprint."""
    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path / "cache", load=fail_after(12))
    with pytest.raises(ValueError, match="holds part of a cache with first_samples"):
        build(tmp_path / "cache", load=lambda rows: samples([row + 1 for row in rows]))


def test_two_builders_of_one_cache_do_not_meet(whole: AnchorCache, tmp_path: Path) -> None:
    """The second begins while the first is at its work. Seen to fail without a lock: both wrote into one folder."""
    refused: list[str] = []

    def load(rows: list[int]) -> dict[str, Any]:
        if not refused:
            with pytest.raises(RuntimeError) as error:
                build(tmp_path / "cache")
            refused.append(str(error.value))
        return samples(rows)

    build(tmp_path / "cache", load=load)
    assert refused[0].startswith(f"another process is building {tmp_path / 'cache.partial'}")
    assert contents(tmp_path / "cache") == contents(whole.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_build_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path / "cache", load=fail_after(0))
    assert list(tmp_path.iterdir()) == []


class HalfBlind(Seer):
    """Sees nothing before the pass of this number; from then on what there is."""

    def __init__(self, sees_from: int) -> None:
        super().__init__()
        self._sees_from = sees_from

    def predict(self, inputs: Any) -> torch.Tensor:
        seen = super().predict(inputs)
        return seen if self.passes >= self._sees_from else torch.ones_like(seen)


def test_a_constant_feature_is_found_in_the_first_shard(tmp_path: Path) -> None:
    """That holds every old task. Seen to fail: it was found after all fifty passes."""
    blind = HalfBlind(1000)
    with pytest.raises(ValueError, match="the teacher's output is the same for all anchors"):
        build(tmp_path / "cache", blind)
    assert blind.passes == 8
    assert list(tmp_path.iterdir()) == []


def test_a_feature_that_only_some_old_task_varies_is_accepted(tmp_path: Path) -> None:
    """It is not known before there are anchors of all. Seen to fail without a look at the groups."""
    groups = ["first"] * 40 + ["second"] * 60
    assert len(build(tmp_path / "cache", HalfBlind(20), groups=groups)) == NUM_ROWS
    late = HalfBlind(1000)
    with pytest.raises(ValueError, match="the teacher's output is the same for all anchors"):
        build(tmp_path / "late", late, groups=groups)
    assert late.passes == 24
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_shards_of_another_version_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with a plan without versions: a cache was half of one torch and half of another."""
    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path / "cache", load=fail_after(12))
    monkeypatch.setattr("craft_trainer.anchors.building.version", lambda name: f"{name} of tomorrow")
    with pytest.raises(ValueError, match=r"part of a cache with versions .*torch of tomorrow"):
        build(tmp_path / "cache")
