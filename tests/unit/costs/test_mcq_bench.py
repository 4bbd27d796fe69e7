"""``craft-trainer bench mcq``: both sides of every pair do the same work, and a quick run prints every ratio."""

import json
from pathlib import Path

import pytest
import torch

from craft_trainer.cli.main import main
from craft_trainer.costs import mcq
from craft_trainer.evaluation.choices.opening import reader

pytest.importorskip("lm_eval", reason="one side of the pairs is lm-evaluation-harness: pip install lm-eval")


def test_both_sides_find_the_same() -> None:
    """Seen to fail with the choices of the two sides in another order."""
    torch.manual_seed(0)
    model, tokenizer = mcq.language_model(mcq.QUICK.text).eval(), mcq.word_tokenizer()
    for num_words, num_choices in ((14, (2, 8)), (150, (4, 4))):
        asked = mcq.ask(3, num_words=num_words, num_choices=num_choices, answer_words=(3, 14))
        theirs = mcq.lm_eval(model, tokenizer, asked)
        assert theirs is not None
        assert mcq.ours(reader(model, tokenizer), asked)() == pytest.approx(theirs(), abs=1e-3)
    shared, separate = mcq.with_images(mcq.QUICK, torch.device("cpu"))
    assert shared() == pytest.approx(separate(), abs=1e-3)


def test_what_is_asked_is_as_long_as_the_goals_say() -> None:
    """Contexts over 130 tokens and a prefix of 256 image tokens. Seen to fail with 120 words."""
    tokenizer, size = mcq.word_tokenizer(), mcq.FULL
    for one in mcq.ask(size.num_long, **mcq.LONG):
        assert len(tokenizer(one.prompt).input_ids) > 130
        assert len(one.continuations) == 4
    assert mcq.image_processor(size).image_seq_length == 256


def test_a_quick_run_measures_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mcq.json"
    assert main(["bench", "mcq", "--quick", "--repeats", "1", "--json", str(path)]) == 0
    medians = json.loads(path.read_text())
    assert set(medians) == {quantity.name for quantity in mcq.QUANTITIES}
    assert all(value > 0 for value in medians.values())
    assert "not measured" not in capsys.readouterr().out
