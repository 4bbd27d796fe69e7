"""The benchmark of a step: what it compares is the same work, its meters are exact, its table tells the truth."""

import json
import math
import re
import sys
import time
from pathlib import Path

import pytest
import torch

from craft_trainer.cli.main import main
from craft_trainer.costs import measurement
from craft_trainer.costs.llama import QUICK, encoder
from craft_trainer.costs.measurement import Figure, Quantity, highest_sum, paired_ratios, peak_bytes
from craft_trainer.costs.step import JOINT, QUANTITIES, Bench

CPU = torch.device("cpu")
KEYS = [
    "craft_over_floor",
    "craft_over_torchjd",
    "extra_memory_copies",
    "layer_extra_memory_copies",
    "k5_over_plain",
    "groups_16_over_1",
]
ONE_MULTIPLIER = {"multiplier": "fixed", "multiplier_init": 1.0}


def test_a_quick_run_writes_every_median_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "step.json"
    assert main(["bench", "step", "--quick", "--json", str(path)]) == 0
    medians = json.loads(path.read_text())
    assert list(medians) == KEYS
    assert all(math.isfinite(value) and value > 0 for value in medians.values())
    lines = capsys.readouterr().out.splitlines()
    for quantity in QUANTITIES:
        (line,) = [line for line in lines if line.startswith(f"{quantity.name} ")]
        assert (" met " in line) == (quantity.goal is not None)
        assert line.endswith(quantity.meaning)
    assert list(path.parent.iterdir()) == [path]


def weights_after(step_of: str, folder: Path, **options: object) -> torch.Tensor:
    """The student after one step, as one vector."""
    bench = Bench(QUICK, folder)
    getattr(bench, step_of)(**options)()
    return torch.cat([parameter.detach().flatten() for parameter in bench.model.parameters()])


def test_the_floor_does_the_work_of_a_step_without_surgery(tmp_path: Path) -> None:
    floor = weights_after("floor", tmp_path / "floor")
    craft = weights_after("craft", tmp_path / "craft", surgery="none", **ONE_MULTIPLIER)
    plain = weights_after("plain", tmp_path / "plain")
    torch.testing.assert_close(craft, floor)
    assert not torch.allclose(plain, floor)


def test_one_backward_pass_takes_the_step_of_two(tmp_path: Path) -> None:
    separate = weights_after("craft", tmp_path / "separate", surgery="none")
    torch.testing.assert_close(weights_after("craft", tmp_path / "joint", **JOINT), separate)
    assert not torch.allclose(weights_after("plain", tmp_path / "plain"), separate)


def test_an_encoder_takes_the_step_of_its_floor(tmp_path: Path) -> None:
    after = []
    for name, options in {"floor": {}, "craft": {"surgery": "none", **ONE_MULTIPLIER}}.items():
        torch.manual_seed(0)
        bench = Bench(QUICK, tmp_path / name, encoder(QUICK))
        getattr(bench, name)(**options)()
        after.append(torch.cat([parameter.detach().flatten() for parameter in bench.model.parameters()]))
    torch.testing.assert_close(*after)


def test_torchjd_takes_the_step_that_symmetric_surgery_takes(tmp_path: Path) -> None:
    torchjd = weights_after("torchjd", tmp_path / "torchjd")
    tuned = weights_after("torchjd", tmp_path / "tuned", tuned=True)
    torch.testing.assert_close(tuned, torchjd)
    craft = weights_after("craft", tmp_path / "craft", surgery="symmetric", **ONE_MULTIPLIER)
    torch.testing.assert_close(craft, torchjd)


def test_the_peak_is_that_of_the_calls_own_memory() -> None:
    before = [torch.empty(1_000_000)]

    def step() -> None:
        kept = torch.empty(250_000)  # 1 MB
        torch.empty(500_000)  # 2 MB, released at once
        before.clear()  # 4 MB that were not the call's
        also_kept = torch.empty(300_000)  # 1.2 MB
        del kept, also_kept

    assert peak_bytes(step, CPU) == 3_000_000
    assert peak_bytes(lambda: None, CPU) == 0


def test_the_peak_of_a_backward_pass_is_the_tensors_it_needs() -> None:
    weight = torch.nn.Parameter(torch.ones(1000, 100))
    x = torch.ones(10, 1000)

    def step() -> None:
        torch.autograd.backward((x @ weight).sum())
        weight.grad = None

    product, scalar, gradient = 10 * 100 * 4, 4, 1000 * 100 * 4
    assert gradient + scalar <= peak_bytes(step, CPU) <= gradient + product + 4 * scalar


def test_a_release_of_earlier_memory_does_not_count() -> None:
    assert highest_sum([(7, -99), (1, 10), (1, -10), (1, 4), (2, 5)]) == 10
    assert highest_sum([]) == 0


def test_pairs_are_timed_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    cost = {"a": 6.0, "b": 2.0, "c": 1.0, "d": 4.0}
    clock = {name: (lambda name=name: called.append(name)) for name in cost}

    def seconds(step: measurement.Step, device: torch.device) -> float:
        step()
        return cost[called[-1]]

    monkeypatch.setattr(measurement, "seconds", seconds)
    pairs = {"ab": (clock["a"], clock["b"]), "cd": (clock["c"], clock["d"])}
    ratios = paired_ratios(pairs, 2, CPU, often=["cd"])
    assert ratios == {"ab": [3.0] * 2, "cd": [0.25] * 4}
    warm_up, first, second = "".join(called[:4]), "".join(called[4:10]), "".join(called[10:])
    assert (warm_up, first, second) == ("abcd", "abcddc", "cddcba")


def test_on_one_thread_the_time_is_that_of_this_process() -> None:
    with measurement.using_threads(1):
        assert measurement.seconds(lambda: time.sleep(0.2), CPU) < 0.1
    with measurement.using_threads(2):
        assert measurement.seconds(lambda: time.sleep(0.2), CPU) >= 0.2
        with measurement.using_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("values", "goal", "expected"),
    [
        ([1.3, 1.0, 1.1], 1.1, "1.000   1.100   1.300  ≤ 1.10  met"),
        ([1.3, 1.0, 1.1], 1.05, "1.000   1.100   1.300  ≤ 1.05  not met"),
        ([0.5], None, "0.500   0.500   0.500"),
    ],
)
def test_a_line_says_whether_the_goal_is_met(values: list[float], goal: float | None, expected: str) -> None:
    line = str(Figure(Quantity("speed", goal, "how fast"), values))
    assert line.split("speed")[1].removesuffix("how fast").strip() == expected


def test_without_torchjd_its_figures_are_null_and_a_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("craft_trainer.costs.step.find_spec", lambda _name: None)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    path = tmp_path / "step.json"
    assert main(["bench", "step", "--quick", "--repeats", "1", "--json", str(path)]) == 0
    medians = json.loads(path.read_text())
    missing = [name for name, value in medians.items() if value is None]
    assert [name for name in missing if "4bit" not in name] == ["craft_over_torchjd"]
    output = capsys.readouterr().out
    assert len(re.findall(r"torchjd\S* +not measured", output)) == 3
    assert "craft_over_torchjd needs TorchJD: pip install torchjd" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stop"], "no benchmark 'stop': did you mean 'step'?"),
        (["step", "--repeats", "0"], "repeats 0"),
        (["step", "--threads", "0"], "threads 0"),
    ],
)
def test_a_mistake_is_said_at_once(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 1
    assert message in capsys.readouterr().err
