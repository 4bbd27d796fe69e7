"""What the card says of the constraint."""

from dataclasses import replace
from pathlib import Path

import pytest

from craft_trainer.hub.card import body, last_pass, snippet
from craft_trainer.hub.facts import Retained, RunFacts, Source, Teacher


@pytest.mark.parametrize(
    ("units", "said"),
    [
        (["variance"], "the teacher's variance;"),
        (["mean entropy"], "the teacher's mean entropy;"),
        (["mean entropy", "variance"], "the teacher's mean entropy or variance;"),
        (["cosine distance"], "a cosine distance of 1;"),
        (["cosine distance", "variance"], "the teacher's variance or a cosine distance of 1;"),
    ],
)
def test_the_unit_is_that_of_the_terms(tmp_path: Path, units: list[str], said: str) -> None:
    """Seen to fail: every language model was said to be retained in units of a variance."""
    history = tmp_path / "lambda_history.csv"
    history.write_text("step,retention_loss,multiplier,epsilon\n1,0.01,2.0,0.05\n")
    retained = Retained("", [Teacher(Source("org/lm", "org/lm"), 3)], {"hidden": 1.0}, units, [], {"old": 3})
    text = body(RunFacts("craft", retained=retained, step=1), last_pass(history, 1), None, "run")
    assert f"L_retain and ε are in units of {said}" in text
    assert "| 0.01 | 0.05 | 2 |" in text


def test_a_baseline_has_no_constraint_to_show(tmp_path: Path) -> None:
    """Seen to fail: the loss of replay was called L_retain, beside an ε that nothing held it to."""
    last = {"step": "1", "retention_loss": "0.7", "multiplier": "1.0", "epsilon": "0.01"}
    assert "The constraint at the end" in body(RunFacts("craft", step=1), last, None, "run")
    assert "The constraint at the end" not in body(RunFacts("replay", step=1), last, None, "run")


HEADER = "step,retention_loss,multiplier,epsilon\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("retention_loss,multiplier,epsilon\n0.01,2.0,0.05\n", "'0.01,2.0,0.05' has no number for step"),
        ("step,retention_loss,multiplier\n1,0.01,2.0\n", "'1,0.01,2.0' has no number for epsilon"),
        (HEADER + "1,0.01,2.0,0.05\n1,0.", "'1,0.' has no number for epsilon"),
        (HEADER + "1,0.01,2.0,0.05\n\0\0,\n", r"'\\x00\\x00,' has no number for step"),
        (HEADER + "1,few,2.0,0.05\n", "'1,few,2.0,0.05' has no number for retention_loss"),
    ],
)
def test_a_damaged_history_is_named(tmp_path: Path, text: str, said: str) -> None:
    """Seen to fail with KeyError, TypeError and `could not convert string to float`, or a card of an earlier pass."""
    history = tmp_path / "lambda_history.csv"
    history.write_text(text)
    with pytest.raises(ValueError, match=f"^{history}: the line {said}: remove it"):
        last_pass(history, 1)


def test_the_last_pass_of_a_long_history_is_read_from_its_end(tmp_path: Path) -> None:
    """Seen to fail: every save read all of it, and took the longer the longer the run was."""
    history = tmp_path / "lambda_history.csv"
    assert last_pass(history, 1) is None
    history.write_text(HEADER)
    assert last_pass(history, 1) is None
    history.write_text(HEADER + "".join(f"{step},0.01,{step}.0,0.05\n" for step in range(1, 40_001, 2)))
    for step, expected in ((40_000, "39999"), (37_002, "37001"), (20_001, "20001"), (2, "1")):
        assert (last_pass(history, step) or {})["step"] == expected
    assert last_pass(history, 0) is None
    history.write_bytes(history.read_bytes().replace(b"\n1,", b"\n\xff,", 1))  # no text: whoever reads it, fails
    assert (last_pass(history, 40_000) or {})["step"] == "39999"


def test_a_file_is_not_called_a_folder() -> None:
    """Seen to fail with the texts of language models."""
    facts = RunFacts("plain", dataset=Source("new.jsonl"), base=Source("org/lm@v1", "org/lm"))
    text = body(facts, None, None, "run")
    assert "| dataset | `new.jsonl`, not on the Hub |" in text
    assert "| base model | [org/lm@v1](https://huggingface.co/org/lm) |" in text


def test_the_code_of_an_adapter_quantises_its_base_as_it_was() -> None:
    """Only a base that was quantised when it was loaded; one that is saved quantised needs no words for it."""
    facts = RunFacts("craft", library="peft", loader="AutoModelForCausalLM", processor="AutoTokenizer")
    plain = snippet(facts, "org/run")
    said = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    quantised = snippet(replace(facts, base_quantization=said), "org/run")
    assert plain is not None
    assert quantised is not None
    compile(quantised, "card", "exec")
    assert "import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig\n" in quantised
    given = ", quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4'))"
    assert f".base_model_name_or_path{given}\n" in quantised
    assert quantised.replace(given, ")").replace(", BitsAndBytesConfig\n", "\n") == plain
