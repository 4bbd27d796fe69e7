"""Noise of a dataset's rows: a function of the row, distributed as in training."""

import pytest
import torch
from scipy import stats

DENOISERS = ["diffusion", "pi0", "pi05", "smolvla"]


@pytest.mark.parametrize("kind", DENOISERS)
def test_noise_is_a_function_of_the_row(make_twin, kind):
    """Fails if rows are drawn one after the other from one generator."""
    model = make_twin(kind)
    noise = model.noise([5, 2, 5, 3])
    assert set(noise) == {"noise/noise", "noise/time"}
    alone = make_twin(kind, seed=1).noise([2])
    for name, values in noise.items():
        assert torch.equal(values[0], values[2])
        assert torch.equal(values[1], alone[name][0])
    assert not torch.equal(noise["noise/noise"][0], noise["noise/noise"][1])


@pytest.mark.parametrize("kind", DENOISERS)
def test_drawing_noise_leaves_the_generator_alone(make_twin, kind):
    model = make_twin(kind)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    model.noise(range(3))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", DENOISERS)
def test_noise_is_distributed_as_in_training(make_twin, kind):
    """Kolmogorov-Smirnov against the densities of the papers: fails if times are uniform in a flow."""
    noise = make_twin(kind).noise(range(1000))
    assert stats.kstest(noise["noise/noise"][:, 0].flatten().numpy(), "norm").pvalue > 0.01
    times = noise["noise/time"].numpy()
    if kind == "diffusion":
        assert {times.min(), times.max()} == {0, 99}
        assert stats.kstest(times / 100, "uniform").pvalue > 0.01
    else:
        assert stats.kstest((times - 0.001) / 0.999, stats.beta(1.5, 1.0).cdf).pvalue > 0.01
