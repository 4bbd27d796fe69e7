"""A resumed run sees the samples in the order of one that was never interrupted."""

import pytest
import torch
from runs import BASE, assert_same_weights, weights
from tiny_lm import TokenTask, collate, tiny_llama
from torch.utils.data import IterableDataset

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.training.order import EpochOrder

PER_EPOCH = 8  # optimizer steps
DRAWN_ANEW = {
    "grouped by length": {"train_sampling_strategy": "group_by_length"},
    "with workers": {"train_sampling_strategy": "group_by_length", "dataloader_num_workers": 1},
    "no seed": {"accelerator_config": {"use_seedable_sampler": False}},
    "dispatched": {"accelerator_config": {"dispatch_batches": True}},
}


class Stream(IterableDataset):
    """The samples of a task, shuffled by torch's own generator."""

    def __iter__(self):
        task = TokenTask()
        yield from (task[index] for index in torch.randperm(len(task)).tolist())


def train(folder, *, resume=None, data=None, max_steps=PER_EPOCH + 4, **options):
    torch.manual_seed(len(str(resume)))  # the program that resumes has drawn other numbers before
    settings = BASE | {"max_steps": max_steps, "save_strategy": "steps", "save_steps": 1, "optim": "sgd"} | options
    trainer = CraftTrainer(
        tiny_llama(),
        CraftConfig(output_dir=str(folder), **settings),
        train_dataset=data or TokenTask(),
        data_collator=collate,
    )
    torch.rand(3 if resume else 1)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer


@pytest.mark.parametrize("options", DRAWN_ANEW.values(), ids=DRAWN_ANEW)
def test_a_resumed_run_goes_on_in_the_order_of_its_epoch(tmp_path, options):
    """In the middle of an epoch, at its end, and again after that. Seen to fail without the callback, without the epoch
    told to the sampler (dispatched), and with the order of the epoch before kept at the end of one."""
    whole = train(tmp_path / "whole", **options)
    assert any(isinstance(callback, EpochOrder) for callback in whole.callback_handler.callbacks)
    middle = train(tmp_path / "middle", resume=tmp_path / f"whole/checkpoint-{PER_EPOCH + 2}", **options)
    assert_same_weights(weights(whole), weights(middle))
    end = train(tmp_path / "end", resume=tmp_path / f"whole/checkpoint-{PER_EPOCH}", **options)
    assert_same_weights(weights(whole), weights(end))
    again = train(tmp_path / "again", resume=tmp_path / f"end/checkpoint-{PER_EPOCH + 1}", **options)
    assert_same_weights(weights(whole), weights(again))


def test_a_stream_goes_on_and_one_that_began_again_is_warned_of(tmp_path, caplog):
    """Seen to fail without the callback, and without the warning."""
    whole = train(tmp_path / "whole", data=Stream(), max_steps=6)
    resumed = train(tmp_path / "a", data=Stream(), max_steps=6, resume=tmp_path / "whole/checkpoint-4")
    assert_same_weights(weights(whole), weights(resumed))
    assert "stream" not in caplog.text
    train(tmp_path / "long", data=Stream(), max_steps=PER_EPOCH + 2)
    last = tmp_path / f"long/checkpoint-{PER_EPOCH + 1}"
    train(tmp_path / "b", data=Stream(), max_steps=PER_EPOCH + 2, resume=last)
    assert f"the stream had begun again before step {PER_EPOCH + 1}" in caplog.text


def test_a_checkpoint_without_its_order_is_warned_of(tmp_path, caplog):
    grouped = DRAWN_ANEW["grouped by length"]
    usual = train(tmp_path / "usual", max_steps=2)
    assert not any(isinstance(callback, EpochOrder) for callback in usual.callback_handler.callbacks)
    train(tmp_path / "usual", max_steps=3, resume=tmp_path / "usual/checkpoint-2", **grouped)
    assert "does not hold its order of samples" in caplog.text
