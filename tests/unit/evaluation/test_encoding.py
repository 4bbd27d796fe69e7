"""Where a prompt ends and a choice begins, against counting by hand."""

import pytest
from bpe import bpe_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from craft_trainer.evaluation.choices.text import TextChoices
from craft_trainer.evaluation.encoding import EncodedQuestion, boundary

TOKENS = st.lists(st.integers(0, 3), max_size=6)
TEXT = st.text(alphabet="answer hold.\n é?", max_size=12)


def tiny_llama(max_tokens=64):
    """Never run: only its configuration is read."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=400, max_position_embeddings=max_tokens, **sizes))


ADDED = pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (False, True), (True, True)])


@pytest.fixture(scope="module")
def readers():
    """One for each way a tokenizer adds special tokens; the model is never run."""
    return {
        (bos, eos): TextChoices(tiny_llama(), bpe_tokenizer(bos=bos, eos=eos))
        for bos in (False, True)
        for eos in (False, True)
    }


def whole(reader, text, bos):
    """The oracle's tokens: those of the bare text, BOS in front if the tokenizer would put it there."""
    return [0] * bos + reader.tokenizer(text, add_special_tokens=False).input_ids


def sequences_of(encoded):
    return [[*encoded.prefix, *choice] for choice in encoded.choices]


@settings(max_examples=60, deadline=None)
@given(TOKENS, st.lists(TOKENS.filter(len), min_size=1, max_size=4))
def test_the_boundary_is_the_longest_common_beginning_that_leaves_a_token(prompt, sequences):
    """Fails if a sequence that is all prompt keeps no token to score (``size`` without ``- 1``)."""
    num_prefix, starts = boundary(prompt, sequences)
    shared = [
        max(size for size in range(len(sequence)) if size <= len(prompt) and sequence[:size] == prompt[:size])
        for sequence in sequences
    ]
    assert num_prefix == min(shared)
    assert [start + num_prefix for start in starts] == shared


@ADDED
@settings(max_examples=60, deadline=None)
@given(prompt=TEXT, choices=st.lists(TEXT.filter(str.strip), min_size=1, max_size=3))
def test_prefix_and_choices_are_the_tokens_of_the_text(readers, bos, eos, prompt, choices):
    """Nothing lost and nothing twice, whatever is merged where; the one token more is a BOS where there is none.

    Fails if EOS is left behind a sequence, or if BOS is put before a text that has it.
    """
    reader = readers[bos, eos]
    encoded = reader.encode(prompt, choices)
    for sequence, choice in zip(sequences_of(encoded), choices, strict=True):
        tokens = whole(reader, prompt + choice, bos)
        assert sequence in (tokens, [0, *tokens])
        assert (sequence != tokens) == (len(encoded.prefix) == 1 and not bos and encoded.prefix == (0,))
    assert all(count >= 1 for count in encoded.num_tokens)
    assert len(encoded.prefix) >= 1


@ADDED
@settings(max_examples=60, deadline=None)
@given(prompt=TEXT, choices=st.lists(TEXT.filter(str.strip), min_size=1, max_size=3))
def test_scoring_begins_where_a_sequence_parts_from_the_prompt(readers, bos, eos, prompt, choices):
    """Fails if the starts of choices are forgotten where the first of them shares nothing with the prompt."""
    reader = readers[bos, eos]
    stripped = prompt.rstrip(" ")
    context = whole(reader, stripped, bos) if stripped else []
    encoded = reader.encode(prompt, choices)
    exact = True
    for choice, part, start in zip(choices, encoded.choices, encoded.starts, strict=True):
        tokens = whole(reader, prompt + choice, bos)
        common = next(
            (place for place, (a, b) in enumerate(zip(context, tokens, strict=False)) if a != b),
            min(len(context), len(tokens) - 1),
        )
        exact = exact and common == len(context)
        assert list(part[start:]) == tokens[max(common, int(bos)) :]
    assert encoded.boundary_ok == exact


def test_a_merge_across_the_boundary_is_seen_and_the_whole_of_it_scored(readers):
    """ "Ans" + "wer" is one token more than "Ans" in no tokenizer of this kind: lm-evaluation-harness is left with
    nothing to score, and fails. Here the choice begins where the sequences part."""
    reader = readers[False, False]
    for prompt, choice in [("?\nAns", "wer"), ("hello wor", "ld")]:
        joint, alone = whole(reader, prompt + choice, False), whole(reader, prompt, False)
        assert joint[: len(alone)] != alone  # the tokenizer does merge
        encoded = reader.encode(prompt, [choice])
        assert not encoded.boundary_ok
        assert sequences_of(encoded) == [joint]
        assert encoded.num_cut == len(alone) - len(encoded.prefix) > 0


def test_each_choice_has_its_own_start(readers):
    """A choice that merges with the prompt costs the others no tokens: theirs are scored from the prompt's end on."""
    reader = readers[False, False]
    encoded = reader.encode("Where is hello wor", ["ld", " goal", "!"])
    context = whole(reader, "Where is hello wor", False)
    assert not encoded.boundary_ok
    assert encoded.starts[0] == 0
    assert encoded.starts[1:] == (len(context) - len(encoded.prefix),) * 2
    for part, start, choice in list(zip(encoded.choices, encoded.starts, ["ld", " goal", "!"], strict=True))[1:]:
        assert reader.tokenizer.decode(part[start:]) == choice


def test_starts_are_kept_where_one_choice_swallows_the_whole_prompt(readers):
    """ "Quest" + "ion" leaves no token of the prompt; "Quest" + "!" does, and its first token is none of the choice.

    Fails if the starts are all 0 there: "!" was charged for the prompt's tokens.
    """
    reader = readers[False, False]
    prompt = "Quest"
    encoded = reader.encode(prompt, ["ion", "!"])
    joint = whole(reader, prompt + "!", False)
    if whole(reader, "Question", False)[0] == joint[0]:
        pytest.fail("the tokenizer does not merge what this test needs")
    assert encoded.prefix == (0,)
    assert reader.tokenizer.decode(encoded.choices[1][encoded.starts[1] :]) == "!"


@ADDED
def test_after_an_empty_prompt_comes_bos(readers, bos, eos):
    encoded = readers[bos, eos].encode("", [" yes", " no"])
    assert encoded.prefix == (0,)
    assert encoded.starts == (0, 0)
    assert encoded.boundary_ok
    assert [readers[bos, eos].tokenizer.decode(part) for part in encoded.choices] == [" yes", " no"]


@ADDED
def test_a_prompt_that_begins_with_bos_gets_no_second_one(readers, bos, eos):
    """Chat templates write it. Seen to fail with the tokenizer's own put before it."""
    reader = readers[bos, eos]
    begin = reader.tokenizer.bos_token
    encoded, bare = (
        reader.encode(f"{begin}Is it open?", [" yes", " no"]),
        readers[True, eos].encode("Is it open?", [" yes", " no"]),
    )
    assert (encoded.prefix, encoded.choices, encoded.starts) == (bare.prefix, bare.choices, bare.starts)
    assert encoded.prefix[:2] != (0, 0)


def test_eos_stands_in_for_a_bos_that_there_is_not(readers):
    tokenizer = bpe_tokenizer()
    tokenizer.bos_token = None
    assert TextChoices(tiny_llama(), tokenizer).encode("", [" yes"]).prefix == (1,)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="empty prompt needs a tokenizer with a BOS or EOS"):
        TextChoices(tiny_llama(), tokenizer).encode("", [" yes"])


@ADDED
def test_spaces_at_the_end_of_a_prompt_go_to_the_choices(readers, bos, eos):
    """Fails if the prompt is tokenised with them: " yes" is one token, and a space before "yes" another."""
    reader = readers[bos, eos]
    with_space, without = reader.encode("Is it open? ", ["yes", "no"]), reader.encode("Is it open?", [" yes", " no"])
    assert with_space == without
    assert reader.encode("   ", ["yes"]).choices == reader.encode("", ["   yes"]).choices


def test_counts_include_the_image():
    question = EncodedQuestion(
        prefix=(1, 2), choices=((3, 4, 5), (6,)), starts=(1, 0), image="x.png", num_image_tokens=10
    )
    assert question.num_tokens == [2, 1]
    assert question.num_prefix_tokens == 12
    assert question.length == 15


@pytest.mark.parametrize(
    ("choices", "starts", "prefix"), [(((3,), ()), (0, 0), (1,)), (((3, 4),), (2,), (1,)), (((3,),), (0,), ())]
)
def test_a_choice_without_tokens_and_an_empty_prefix_are_refused(choices, starts, prefix):
    """They have no log-likelihood; what came of them was an index out of range, or a sum of nothing."""
    with pytest.raises(ValueError, match="no token"):
        EncodedQuestion(prefix=prefix, choices=choices, starts=starts)


def test_the_maximum_length_is_the_smaller_of_model_and_tokenizer():
    tokenizer = bpe_tokenizer()  # whose limit is 10^30
    assert TextChoices(tiny_llama(77), tokenizer).max_length == 77
    tokenizer.model_max_length = 20
    assert TextChoices(tiny_llama(77), tokenizer).max_length == 20


def test_a_language_model_refuses_an_image(readers):
    with pytest.raises(ValueError, match="LlamaForCausalLM reads no images"):
        readers[False, False].encode("what is it?", [" yes"], image="picture.png")
