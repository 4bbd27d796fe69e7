"""Log-likelihoods against those of lm-evaluation-harness, side by side in one process."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from bpe import bpe_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from craft_trainer.evaluation.choices.text import TextChoices
from craft_trainer.evaluation.scoring import score

with warnings.catch_warnings():  # its own dependencies' deprecations, at import
    warnings.simplefilter("ignore")
    lm_eval = pytest.importorskip("lm_eval.models.huggingface", reason="pip install 'craft-trainer[dev]'")
    from lm_eval.api.instance import Instance

TOLERANCE = 1e-3  # nats of a choice
SETS = ("truthfulqa_mc1", "truthfulqa_mc0", "mmlu_dev_cot")
QUESTIONS = [
    ("What happens to you if you eat watermelon seeds?", ["You die", "The seeds pass through you", "Yes"]),
    ("Where is the puck?", ["left of the goal", "right", "open the door and then push the red puck to the goal", "?"]),
    ("Is the gripper open?", ["yes", "no"]),
    ("", ["the answer is yes", "hello world"]),
]


def prompt(question):
    return f"Question: {question}\nAnswer:"


def of_lm_eval(model, tokenizer, pairs):
    """Log-likelihood of each (context, continuation), and whether it is what greedy decoding gives."""
    other = lm_eval.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    return [value for value, _ in other.loglikelihood(requests, disable_tqdm=True)]


def of_craft(model, tokenizer, questions):
    """The same, of each (context, continuations)."""
    reader = TextChoices(model, tokenizer)
    encoded = [reader.encode(context, continuations) for context, continuations in questions]
    assert all(question.boundary_ok for question in encoded)
    found = dict(score(reader, encoded))
    return [[sum(choice) for choice in found[index]] for index in range(len(questions))]


def assert_same(model, tokenizer, questions):
    """The same numbers and the same best choices; prints the largest difference."""
    theirs = iter(of_lm_eval(model, tokenizer, [(context, one) for context, many in questions for one in many]))
    theirs = [[next(theirs) for _ in many] for _, many in questions]
    ours = of_craft(model, tokenizer, questions)
    pairs = list(zip(theirs, ours, strict=True))
    difference = max(abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True))
    flips = sum(int(np.argmax(left) != np.argmax(right)) for left, right in pairs)
    num_choices = sum(map(len, theirs))
    print(f"{len(questions)} questions, {num_choices} choices: largest difference {difference:.2e}, {flips} flips")
    assert difference < TOLERANCE
    assert flips == 0


@pytest.fixture(scope="module", params=[False, True], ids=["no-bos", "bos"])
def tiny(request):
    """A random Llama, its logits spread by large weights, and its BPE tokenizer with and without a BOS of its own."""
    tokenizer = bpe_tokenizer(bos=request.param)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, **sizes)).eval()
    return model, tokenizer


def test_ragged_choices_have_the_log_likelihoods_of_lm_eval(tiny):
    """Fails with predictors one token later in ``tree_batch``, which is how the original read its choices."""
    assert_same(*tiny, [(prompt(question), [f" {choice}" for choice in choices]) for question, choices in QUESTIONS])


def test_spaces_at_the_end_of_the_context_are_part_of_the_choice_as_in_lm_eval(tiny):
    """Fails if the prompt is tokenised with its spaces."""
    assert_same(*tiny, [(prompt(question) + " ", choices) for question, choices in QUESTIONS])


def test_the_unconditional_log_likelihood_of_a_choice_is_that_of_lm_eval(tiny):
    """What PMI subtracts: nothing but BOS before the choice."""
    assert_same(*tiny, [("", [f" {choice}" for choice in choices]) for _, choices in QUESTIONS])


@pytest.mark.full_size
@pytest.mark.parametrize("name", SETS)
def test_smollm2_on_real_items_has_the_log_likelihoods_of_lm_eval(name):
    """Every item of a file, float32; CRAFT_TRAINER_SMOLLM2 is the model's folder, CRAFT_TRAINER_MCQ_DATA the items'."""
    places = [os.environ.get(name, "") for name in ("CRAFT_TRAINER_SMOLLM2", "CRAFT_TRAINER_MCQ_DATA")]
    if not all(place and Path(place).is_dir() for place in places):
        pytest.skip("CRAFT_TRAINER_SMOLLM2 and CRAFT_TRAINER_MCQ_DATA do not both name a folder")
    model = AutoModelForCausalLM.from_pretrained(places[0], dtype=torch.float32).eval()
    lines = (Path(places[1]) / f"{name}.jsonl").read_text("utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    questions = [
        (prompt(item["question"]), [f" {choice}" for choice in item["choices"]])
        for item in items
        if all(choice.strip() for choice in item["choices"])
    ]
    assert_same(model, AutoTokenizer.from_pretrained(places[0]), questions)
