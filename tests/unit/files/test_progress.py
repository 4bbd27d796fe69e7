"""What is said of long work where there is no terminal."""

import sys

import pytest
from tqdm.auto import tqdm

from craft_trainer import progress as module
from craft_trainer.progress import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def said(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_line_every_half_minute_with_what_is_left(clock, capsys):
    bar = progress(total=512, initial=112, desc="anchors", unit="anchor")
    clock[0] += 29
    bar.update(40)
    assert said(capsys) == []
    clock[0] += 31
    bar.update(40)
    assert said(capsys) == ["anchors: 192 of 512 anchors in 01:00, about 04:00 left"]  # those of before took no time
    clock[0] += 29
    bar.update(1)
    assert said(capsys) == []


def test_hours_leave_few_lines(clock, capsys):
    lines = progress(desc="merge", unit="batch")
    for _ in range(36_000):
        clock[0] += 1
        lines.update()
    found = said(capsys)
    assert 40 < len(found) < 70
    assert found[0] == "merge: 30 batches in 00:30"


def test_what_is_gone_through_is_counted_and_what_is_done_is_named(clock, capsys):
    seen = []
    for one in progress(range(4), desc="verify", unit="batch"):
        seen.append(one)
        clock[0] += 20
    assert seen == [0, 1, 2, 3]
    assert said(capsys) == [
        "verify: 2 of 4 batches in 00:40, about 00:40 left",
        "verify: 4 of 4 batches in 01:20, about 00:00 left",
    ]
    with progress(total=3, desc="jobs", unit="job") as bar:
        clock[0] += 40
        bar.set_postfix_str("train + merge")
    assert said(capsys) == ["jobs: 0 of 3 jobs in 00:40 (train + merge)"]


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress(total=3, desc="jobs", unit="job", leave=False) as bar:
        assert isinstance(bar, tqdm)
