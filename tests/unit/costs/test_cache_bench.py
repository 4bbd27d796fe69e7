"""``craft-trainer bench cache``: a quick run prints every ratio, and bytes that are those of the shape."""

import json
from pathlib import Path

import pytest

from craft_trainer.cli.main import main
from craft_trainer.costs import cache, storage


def test_a_quick_run_measures_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "BATCHES", 16)
    path = tmp_path / "cache.json"
    assert main(["bench", "cache", "--quick", "--repeats", "1", "--json", str(path)]) == 0
    medians = json.loads(path.read_text())
    assert set(medians) == {"hidden_over_forward"}  # what has a goal
    assert medians["hidden_over_forward"] > 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    named = {line[0]: line[1:4] for line in lines}
    for name in ("hidden_over_forward", "hidden_over_body", "tokens_over_forward"):
        assert all(float(value) > 0 for value in named[name])
    assert ["bytes", "per", "anchor"] in [line[:3] for line in lines]


def test_bytes_are_those_of_the_shape() -> None:
    """Numbers of four bytes, and the little that Arrow adds. Seen to fail with the inputs counted as well."""
    sizes = storage.bytes_per_anchor()
    every = (storage.CAMERAS * storage.IMAGE_TOKENS + storage.TEXT_TOKENS + storage.ACTION_TOKENS) * storage.WIDTH * 4
    likeliest = storage.ACTION_TOKENS * 32 * (4 + 4)
    assert sizes["hidden, mean over image tokens"] == storage.WIDTH * 4
    assert every <= sizes["hidden, every token"] <= 1.001 * every
    assert likeliest <= sizes["tokens, the likeliest 32 at every position"] <= 1.1 * likeliest
    lines = storage.storage_table(sizes).splitlines()
    assert len(lines) == 5
    assert lines[2].split()[-2:] == [f"{sizes['hidden, every token']:,.0f}", "-99.9%"]
