"""Two processes with batches of b are one process with a batch of 2b: DistributedDataParallel, the real trainer."""

import pytest
import torch
from averaging import TOUCHED_BY, gradient_of
from cases import DDP_CASES, chosen
from comparing import HISTORIES, assert_identical, assert_same_run, assert_same_tensors, read
from launch import InProcessError

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.training.callbacks import LOGGED

pytestmark = pytest.mark.slow
EXACT = [name for name in DDP_CASES if name != "lm_count_per_process"]


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_train_as_one_with_twice_the_batch(together, alone, name):
    """Weights, λ, both history files and the logs. Seen to fail without the mean of g_retain over processes (all but l2
    and ewc, whose gradient is the same everywhere), with the same anchors in both (all but l2, ewc), with losses that
    are not summed over processes, with a group's anchors counted in the own process (both per_group), and with a mean
    over the processes that touched a parameter (both routed)."""
    one, folder = alone(name)
    assert len(read(folder / "lambda_history.csv")) > 1
    first, second = together.result(name, 0), together.result(name, 1)
    assert_same_run(one, folder, first, together.folder / name / "0")
    assert_identical(first, second)


@pytest.mark.parametrize("name", ["accumulation", "every_second_step", "lm_accumulation"])
def test_joint_is_separate_without_surgery(together, name):
    """Under two processes: weights, λ, and L_retain of every pass. Seen to fail with λ = 1 in the sum."""
    separate, joint = (together.result(f"{backward}_{name}") for backward in ("none", "joint"))
    assert_same_tensors(separate["weights"], joint["weights"])
    assert joint["multipliers"] == pytest.approx(separate["multipliers"], rel=2e-6)
    passes = [[log for log in run["logs"] if LOGGED["retention_loss"] in log] for run in (separate, joint)]
    assert len(passes[0]) == len(passes[1]) > 1
    for left, right in zip(*passes, strict=True):
        shared = [LOGGED["retention_loss"], LOGGED["multiplier"], "loss", "grad_norm"]
        assert [right[key] for key in shared] == pytest.approx([left[key] for key in shared], rel=1e-5, abs=1e-6)


def test_the_processes_never_share_an_anchor(together):
    """The first epoch, three passes, is all 24 anchors once. Seen to fail with the same anchors in both."""
    mine, other = together.result("one_sided", 0)["asked"], together.result("one_sided", 1)["asked"]
    first_epoch = [row for rows in mine[:3] + other[:3] for row in rows]
    assert sorted(first_epoch) == list(range(24))


@pytest.mark.parametrize("name", ["one_sided", "per_group", "every_second_step", "fsdp_one_sided"])
def test_together_they_draw_what_one_process_draws(together, alone, name):
    """Seen to fail with the same anchors in both; by_multiplier also when every process follows its own losses."""
    one, _ = alone(name)
    asked = [together.result(name, rank)["asked"] for rank in (0, 1)]
    assert [mine + others for mine, others in zip(*asked, strict=True)] == one["asked"]


@pytest.mark.parametrize("name", ["one_sided", "per_group", "fsdp_lm"])
def test_only_the_main_process_writes_the_history(together, name):
    """Each process has an output folder of its own here. Seen to fail when all write."""
    written = [{file.name for file in (together.folder / name / rank).glob("*.csv*")} for rank in "01"]
    assert "lambda_history.csv" in written[0]
    assert not written[1]


def test_a_count_of_labels_per_process_is_noticed(together, alone):
    """Labels are counted over all processes by default (case lm); Trainer's option to count them per process makes
    another run. Seen to fail with that option left at its default."""
    with pytest.raises(AssertionError):
        assert_same_tensors(
            alone("lm_count_per_process")[0]["weights"], together.result("lm_count_per_process")["weights"]
        )


def test_some_passes_reach_the_routed_part_in_one_process_only(together):
    """The case routed is what it says; the rows are those of any case with as many anchors. Seen to fail with the same
    anchors in both."""
    anchors = AnchorCache(together.folder / "anchors" / "routed")
    reached = [
        [bool(chosen(anchors.batch(rows).inputs["x"]).any()) for rows in together.result("one_sided", rank)["asked"]]
        for rank in (0, 1)
    ]
    assert any(first != second for first, second in zip(*reached, strict=True))


@pytest.mark.parametrize("name", TOUCHED_BY)
def test_average_counts_an_untouched_parameter_as_zero(together, name):
    """``gradients.average`` by itself. Seen to fail with a sum, with a mean over those that touched it, and when every
    process asks only itself what was touched."""
    parts = [gradient_of(name, rank) for rank in (0, 1)]
    touched = [part for part in parts if part is not None]
    for rank in (0, 1):
        mean = together.result("average", rank)[name]
        if not touched:
            assert mean is None
            continue
        assert mean.dtype == touched[0].dtype
        torch.testing.assert_close(mean, sum(touched) / 2, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resumed", "fsdp_resumed"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(together, name):
    """Seen to fail with a λ that starts again, and when every process follows its own losses; on shards also with the
    whole model's loading."""
    for rank in (0, 1):
        assert_identical(together.result(f"{name}_not", rank), together.result(name, rank))
    for file in HISTORIES:
        whole, resumed = (together.folder / run / file for run in (f"{name}_not", name))
        assert whole.read_bytes() == resumed.read_bytes()


@pytest.mark.parametrize("name", ["poisoned", "fsdp_poisoned"])
def test_a_loss_that_is_infinite_in_one_process_stops_both(together, name):
    """At the same step, so that neither waits for the other. Seen to fail without the mean of g_retain over processes,
    and on shards when g_retain is averaged as under DDP."""
    for rank in (0, 1):
        with pytest.raises(InProcessError, match=r"FloatingPointError: step 1: L_retain is (nan|inf)"):
            together.result(name, rank)


@pytest.mark.parametrize("num_texts", [5, 7, 12])
def test_eval_loss_of_texts_is_the_mean_over_all_labels(together, num_texts):
    """Seen to fail: 18.25 instead of 11.52 with 12 texts, and texts that fill up the last batches counted twice."""
    for rank in (0, 1):
        found, right = together.result(f"texts_{num_texts}", rank)
        assert found == pytest.approx(right, rel=1e-5)
