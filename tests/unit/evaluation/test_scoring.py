"""Log-likelihoods of choices against a loop that runs the whole sequence and takes log_softmax of everything."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from craft_trainer.evaluation import scoring
from craft_trainer.evaluation.choices.text import TextChoices
from craft_trainer.evaluation.encoding import EncodedQuestion
from craft_trainer.evaluation.scoring import agrees, batches, score

VOCABULARY = 50
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = {"head_dim": 8}
ONE_SIZE = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 9,
}
METHODS = ("packed", "prefix", "separate")


class NoTokenizer:
    """Questions of these tests are tokens already."""

    bos_token_id, eos_token_id, model_max_length = 1, 2, 10**30

    def __call__(self, text, **_):
        return type("Encoding", (), {"input_ids": [ord(letter) % VOCABULARY for letter in text]})


def reader(model, *, dtype=torch.float32, seed=0):
    """``model`` with weights that make every token matter."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return TextChoices(model.to(dtype), NoTokenizer())


def llama(**options):
    return LlamaForCausalLM(LlamaConfig(**SIZES | options))


def random_questions(num=7, *, seed=0, longest=9):
    """Prompts of 1 to ``longest`` tokens, with 1 to 5 choices of 1 to 5 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(most):
        size = int(torch.randint(1, most + 1, (), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (size,), generator=generator).tolist())

    questions = []
    for index in range(num):
        choices = tuple(tokens(5) for _ in range(1 + index % 5))
        starts = tuple(min(index % 3, len(choice) - 1) for choice in choices)
        questions.append(EncodedQuestion(prefix=tokens(longest), choices=choices, starts=starts))
    shared = EncodedQuestion(prefix=(5, 6), choices=((7, 8, 9), (7, 8), (7, 8, 9), (7,), (4,)), starts=(0,) * 5)
    return [*questions, shared]


@torch.no_grad()
def naive(model, questions):
    """One whole pass per choice, log_softmax over the vocabulary at every position, then the tokens of the choice."""
    found = []
    for question in questions:
        found.append([])
        for choice, start in zip(question.choices, question.starts, strict=True):
            ids = torch.tensor([[*question.prefix, *choice]])
            everything = model(input_ids=ids).logits.float().log_softmax(dim=-1)
            places = range(len(question.prefix) + start, ids.shape[1])
            found[-1].append([float(everything[0, place - 1, ids[0, place]]) for place in places])
    return found


def scored(choices, questions, **options):
    found = dict(score(choices, questions, **options))
    assert len(found) == len(questions)
    return [found[index] for index in range(len(questions))]


def assert_equal(found, expected, tolerance=1e-5):
    assert [[len(choice) for choice in one] for one in found] == [[len(choice) for choice in one] for one in expected]
    for one, other in zip(found, expected, strict=True):
        for choice, right in zip(one, other, strict=True):
            assert choice == pytest.approx(right, abs=tolerance, rel=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_every_method_and_batch_gives_what_a_naive_loop_gives(method, batch_tokens, dtype):
    """Fails with positions that count nodes instead of depths, with a mask that is causal instead of the tree's, with
    rows one place later, and where padding moves positions."""
    choices = reader(llama(), dtype=dtype)
    questions = random_questions()
    found = scored(choices, questions, method=method, batch_tokens=batch_tokens)
    assert_equal(found, naive(choices.model, questions))


def changed(question, choice, place):
    """``question`` with another token at ``place`` of ``choice``."""
    tokens = list(question.choices[choice])
    tokens[place] = 3 + (tokens[place] - 2) % (VOCABULARY - 3)
    assert tokens[place] != question.choices[choice][place]
    parts = list(question.choices)
    parts[choice] = tuple(tokens)
    return replace(question, choices=tuple(parts))


@pytest.mark.parametrize("method", METHODS)
def test_a_choice_does_not_leak_into_another(method):
    """Whichever is changed, and whichever comes first in memory. Fails with a causal mask over the packed choices."""
    choices = reader(llama())
    question = random_questions(5)[4]
    before = scored(choices, [question], method=method)[0]
    for other, part in enumerate(question.choices):
        for place in range(len(part)):
            after = scored(choices, [changed(question, other, place)], method=method)[0]
            assert after[other] != before[other] or place < question.starts[other]
            for index in set(range(len(before))) - {other}:
                assert after[index] == pytest.approx(before[index], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_token_changes_nothing_before_it(method):
    """Fails if a node sees its children, and with rows one place later, which is how the original read its choices."""
    choices = reader(llama())
    question = EncodedQuestion(prefix=(5, 6, 7), choices=((8, 9, 10, 11, 12), (8, 9, 4)), starts=(0, 0))
    before = scored(choices, [question], method=method)[0]
    for place in range(5):
        after = scored(choices, [changed(question, 0, place)], method=method)[0]
        assert after[0][:place] == pytest.approx(before[0][:place], rel=1e-5)
        assert after[0][place] != pytest.approx(before[0][place], abs=1e-3)
        assert after[1] == pytest.approx(before[1], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_question_does_not_leak_into_another(method):
    """Another prompt, and a longer one, so that all others are padded. Fails where padding is visible."""
    choices = reader(llama())
    questions = random_questions(6)
    before = scored(choices, questions, method=method, batch_tokens=10_000)
    other = replace(questions[2], prefix=tuple(range(10, 30)))
    after = scored(choices, [*questions[:2], other, *questions[3:]], method=method, batch_tokens=10_000)
    assert_equal([*after[:2], *after[3:]], [*before[:2], *before[3:]], tolerance=1e-6)
    assert after[2] != before[2]


FAMILIES = {
    "llama": llama,
    "tied": lambda: llama(tie_word_embeddings=True),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES | HEADS)),
    "gpt2 (learned positions)": lambda: GPT2LMHeadModel(
        GPT2Config(**ONE_SIZE, n_embd=16, n_layer=3, n_head=2, n_positions=64)
    ),
    "opt (learned positions)": lambda: OPTForCausalLM(
        OPTConfig(
            **ONE_SIZE,
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=64,
            word_embed_proj_dim=16,
            pad_token_id=0,
        )
    ),
    "granite (scaled logits)": lambda: GraniteForCausalLM(
        GraniteConfig(**SIZES, logits_scaling=3.0, embedding_multiplier=2.0)
    ),
    "cohere (scaled logits)": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.3)),
    "gemma2 (soft caps)": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES | HEADS, sliding_window=64, final_logit_softcapping=2.0, attn_logit_softcapping=5.0)
    ),
    "mistral (window beyond)": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=64)),
    "mistral (window within)": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)),
    "mistral (window 1)": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=1)),
    "gemma2 (window within)": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES | HEADS, sliding_window=6)),
    "gemma3 (window beyond)": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES | HEADS, sliding_window=64)),
    "gemma3 (window within)": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES | HEADS, sliding_window=6)),
    "phi3 (long rotations)": lambda: Phi3ForCausalLM(
        Phi3Config(**SIZES, rope_parameters=LONGROPE, original_max_position_embeddings=9)
    ),
}
SEPARATE = {
    "bloom (ALiBi)": lambda: BloomForCausalLM(BloomConfig(**ONE_SIZE, hidden_size=16, n_layer=2, n_head=2)),
    "falcon (ALiBi)": lambda: FalconForCausalLM(
        FalconConfig(
            **ONE_SIZE,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            alibi=True,
            new_decoder_architecture=False,
        )
    ),
    "gpt-neo (window in order of memory)": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(
            **ONE_SIZE,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=6,
            max_position_embeddings=64,
        )
    ),
    "recurrent gemma": lambda: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(**SIZES, attention_window_size=64, lru_width=16)
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(**ONE_SIZE, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=2)
    ),
    "jamba (mamba and attention)": lambda: JambaForCausalLM(
        JambaConfig(
            **SIZES,
            num_experts=1,
            num_experts_per_tok=1,
            mamba_d_state=4,
            mamba_dt_rank=2,
            use_mamba_kernels=False,
            attn_layer_period=2,
            attn_layer_offset=1,
        )
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_fast_methods_give_every_family_what_a_naive_loop_gives(name):
    """Scaled and capped logits fail if the head's weight is applied by hand; windows within the questions fail without
    ``window`` (a tree's nodes are further apart in memory than in text); long rotations if a batch of short and long
    questions is one pass."""
    choices = reader(FAMILIES[name]())
    questions = random_questions(10)
    assert choices.method == "packed"
    expected = naive(choices.model, questions)
    for method in METHODS:
        assert_equal(scored(choices, questions, method=method, batch_tokens=200), expected)


@pytest.mark.parametrize("name", ["mistral (window within)", "gemma3 (window within)"])
def test_a_window_within_the_questions_changes_what_is_found(name):
    """Or the test above would not see it."""
    near = reader(FAMILIES[name]())
    far = FAMILIES[name]().config
    far.sliding_window = 64
    same = reader(type(near.model)(far))
    questions = [EncodedQuestion(prefix=(5, 6, 7, 8, 9), choices=((10, 11, 12),), starts=(0,))]
    assert scored(near, questions)[0][0] != pytest.approx(scored(same, questions)[0][0], abs=1e-3)


@pytest.mark.parametrize("name", SEPARATE)
def test_models_that_take_no_tree_are_scored_one_choice_at_a_time(name):
    """ALiBi measures distances in memory and recurrent layers read in order: in a tree both are wrong."""
    choices = reader(SEPARATE[name]())
    questions = random_questions(4)
    assert choices.method == "separate"
    assert_equal(scored(choices, questions), naive(choices.model, questions))


def test_a_model_with_a_state_is_scored_one_choice_at_a_time_whatever_its_layers_are_called():
    class Stateful(LlamaForCausalLM):
        _is_stateful = True

    assert reader(Stateful(LlamaConfig(**SIZES))).method == "separate"


def test_attention_that_takes_no_mask_is_scored_one_choice_at_a_time():
    model = llama()
    model.config._attn_implementation = "flash_attention_2"
    assert reader(model).method == "separate"


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_weights_have_their_softmax_in_float32(method):
    """The oracle runs the same bfloat16 model and takes the softmax in float32. Fails with a softmax in bfloat16: there
    a log-likelihood of −8 has steps of 0.03; here the two orders of summation differ by less than a logit's step."""
    choices = reader(llama(), dtype=torch.bfloat16)
    questions = random_questions()
    found = scored(choices, questions, method=method)
    assert_equal(found, naive(choices.model, questions), tolerance=0.05)
    values = torch.tensor([token for one in found for choice in one for token in choice])
    assert (values != values.bfloat16().float()).float().mean() > 0.5


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["lm_head", "embed_tokens"]])
def test_an_adapter_is_scored_with_its_weights(targets):
    """Fails if the base model's layers are run, or if its head is not the adapter's."""
    plain = llama()
    torch.manual_seed(1)
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    choices = reader(model)
    questions = random_questions()
    expected = naive(model, questions)
    for method in METHODS:
        assert_equal(scored(choices, questions, method=method), expected)
    with model.disable_adapter():
        without = naive(model, questions)
    assert expected[0][0] != pytest.approx(without[0][0], abs=1e-3)


class Deaf(LlamaForCausalLM):
    """Takes a mask and does not use it."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **options):
        del attention_mask
        return super().forward(input_ids=input_ids, position_ids=position_ids, **options)


class Lost(LlamaForCausalLM):
    """Takes positions and does not use them."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **options):
        del position_ids
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)


@pytest.mark.parametrize("kind", [Deaf, Lost])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_does_not_use_mask_or_positions_is_found_out(kind, dtype):
    """Fails with a probe of one choice, or one that compares a method with itself."""
    question = EncodedQuestion(
        prefix=(5, 6, 7), choices=((8, 9, 10, 11), (12, 13, 14), (15, 16, 17, 18)), starts=(0,) * 3
    )
    assert not agrees(reader(kind(LlamaConfig(**SIZES)), dtype=dtype), question, "packed")
    good = reader(llama(), dtype=dtype)
    assert agrees(good, question, "packed")
    assert agrees(good, question, "prefix")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_tokens", [1, 20, 64, 10_000])
def test_a_batch_holds_what_it_may(method, batch_tokens):
    """Each question once; more than one only within the limit, counted as (questions × the largest's size)."""
    questions = random_questions(30)
    found = list(batches(questions, batch_tokens, method, VOCABULARY))
    assert sorted(index for batch in found for index in batch) == list(range(len(questions)))
    for batch in found:
        prompts = [len(questions[index].prefix) for index in batch]
        tails = [sum(len(choice) - 1 for choice in questions[index].choices) for index in batch]
        together = [a + b for a, b in zip(prompts, tails, strict=True)]
        size = max(*prompts, *tails) if method == "prefix" else max(together)
        assert len(batch) == 1 or (method != "separate" and len(batch) * size <= batch_tokens)
    if batch_tokens == 10_000 and method != "separate":
        assert len(found) == 1


def test_a_batch_has_no_more_logits_than_fit(monkeypatch):
    """Fails if the vocabulary is not counted: 257,000 logits for a token are 1 MB."""
    monkeypatch.setattr(scoring, "MAX_LOGITS", 40 * VOCABULARY)
    questions = random_questions(30)
    found = list(batches(questions, 10_000, "packed", VOCABULARY))
    assert len(found) > 1
    for batch in found:
        assert len(batch) == 1 or sum(sum(questions[index].num_tokens) for index in batch) <= 40


def test_questions_with_and_without_an_image_are_apart():
    questions = [replace(one, image="x.png" if index % 2 else None) for index, one in enumerate(random_questions(9))]
    for batch in batches(questions, 10_000, "prefix", VOCABULARY):
        assert len({questions[index].image is None for index in batch}) == 1


def test_between_questions_nothing_of_the_model_is_left_changed():
    """A loop over results may train: gradients are on in its body, the head has no hooks. The passes make no graph; nor
    are they in inference mode: if a model keeps one of its tensors (rope frequencies), training it later fails."""
    choices = reader(llama())
    inside = []
    handle = choices.model.register_forward_hook(
        lambda *_: inside.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    )
    list(score(choices, random_questions()))
    handle.remove()
    assert set(inside) == {(False, False)}
    for _ in score(choices, random_questions(), batch_tokens=10):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not choices.model.lm_head._forward_pre_hooks
        loss = choices.model(input_ids=torch.tensor([[1, 2]])).logits.sum()
        loss.backward()


def test_an_error_of_the_model_leaves_no_hook_behind():
    choices = reader(llama())
    bad = EncodedQuestion(prefix=(5,), choices=((VOCABULARY + 3, 4),), starts=(0,))
    with pytest.raises(IndexError):
        list(score(choices, [bad]))
    assert not choices.model.lm_head._forward_pre_hooks
