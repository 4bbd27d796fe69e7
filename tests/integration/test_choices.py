"""Choices of vision-language models and policies, through their real processors, against loops of our own."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from bpe import bpe_tokenizer
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from PIL import Image
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM
from vlm_processors import FAMILIES, vlm_and_processor

from craft_trainer.evaluation.choices.images import ImageChoices, PrefixChoices, opened
from craft_trainer.evaluation.choices.opening import open_choices, reader
from craft_trainer.evaluation.choices.pi0_fast import PI0FastChoices
from craft_trainer.evaluation.choices.text import TextChoices
from craft_trainer.evaluation.mcq import encode_all
from craft_trainer.evaluation.prompts import PromptStyle
from craft_trainer.evaluation.question_images import StoredImage
from craft_trainer.evaluation.questions import Question
from craft_trainer.evaluation.scoring import agrees, score

SIZES = [(60, 40), (28, 28), (40, 60)]  # the processors make different numbers of tokens of them
TEXTS = [
    ("push the", [" red puck", " door", " open the red door 12 13"]),
    ("push the red puck : 12 13 14 open the", [" door", " puck 12"]),
    ("open", [" the door", " the puck", " the", " 14", " 13 13 13 13"]),
    ("the puck the door :", [" red", " 12 13", " open the door push"]),
]


def picture(seed, size=(40, 40)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@functools.cache
def family(name):
    return reader(*vlm_and_processor(name))


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Folders of a PI0-FAST and of a SmolVLA checkpoint, with two cameras each."""
    from policies import tiny_policy_maker

    root = tmp_path_factory.mktemp("policies")
    with tiny_policy_maker(root) as make:
        for kind in ("pi0_fast", "smolvla"):
            make(kind, cameras=("front", "top")).save_pretrained(root / kind)
        yield root


@pytest.fixture(scope="module")
def pi0_fast(policies):
    return open_choices(str(policies / "pi0_fast"), device="cpu")


@pytest.fixture(scope="module")
def smolvla(policies):
    return open_choices(str(policies / "smolvla"), device="cpu")


def questions_of(choices):
    """(prompt, choices, image or None): each text with a picture of some size, and without."""
    with_images = [
        (choices.placeholder + prompt, many, picture(index, SIZES[index % 3]))
        for index, (prompt, many) in enumerate(TEXTS)
    ]
    return [*with_images, *((prompt, many, None) for prompt, many in TEXTS)]


def scored(choices, questions, **options):
    encoded = [choices.encode(*question) for question in questions]
    found = dict(score(choices, encoded, **options))
    return [found[index] for index in range(len(questions))]


@pytest.mark.parametrize("kind", ["pi0_fast", "smolvla"])
def test_the_adapter_of_a_policy_answers_as_its_merged_whole(policies, kind, tmp_path):
    """Where it is on the language model. It was refused."""
    from craft_trainer.models.lerobot import PolicyModel

    model = PolicyModel.from_pretrained(policies / kind)
    model.add_adapter({"r": 2, "target_modules": ["q_proj", "gate_proj"]})
    with torch.no_grad():
        for parameter in (one for one in model.parameters() if one.requires_grad):
            parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    whole = PolicyModel(model.peft_model.merge_and_unload(), *model.processors)
    whole.save_pretrained(tmp_path / "whole")
    base, adapter, merged = (
        scored(choices, questions_of(choices)[:2])
        for choices in (
            open_choices(str(folder), device="cpu")
            for folder in (policies / kind, tmp_path / "adapter", tmp_path / "whole")
        )
    )
    torch.testing.assert_close(adapter, merged, rtol=1e-4, atol=1e-4)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(adapter, base, rtol=1e-2, atol=1e-2)


def log_likelihoods(model, inputs, num_tokens, num_behind=0):
    """Of the last ``num_tokens`` tokens, before ``num_behind`` that are not the choice's, from one whole pass."""
    with torch.no_grad():
        logits = model(**inputs).logits[0].float().log_softmax(dim=-1)
    ids = inputs["input_ids"][0]
    end = len(ids) - num_behind
    return [float(logits[place - 1, ids[place]]) for place in range(end - num_tokens, end)]


def causal_inputs(choices, prompt, choice, image):
    """Prompt and choice as one text, as the processor has it."""
    images = {} if image is None else {"images": [[image]]}
    if image is None:
        return dict(choices.processor.tokenizer([prompt + choice], return_tensors="pt", return_token_type_ids=False))
    options = {"return_mm_token_type_ids": True} if "qwen" in choices.model.config.model_type else {}
    return dict(choices.processor(text=[prompt + choice], return_tensors="pt", **images, **options))


def naive_causal(choices, questions):
    """The tokenizer has one token for each word."""
    return [
        [
            log_likelihoods(
                choices.model, _typed(choices, causal_inputs(choices, prompt, one, image)), len(one.split())
            )
            for one in many
        ]
        for prompt, many, image in questions
    ]


def _typed(choices, inputs):
    return {key: value.to(choices.dtype) if value.is_floating_point() else value for key, value in inputs.items()}


def naive_paligemma(choices, questions):
    """The processor's own inputs for training, with the choice as ``suffix``; an EOS stands behind it."""
    found = []
    for prompt, many, image in questions:
        found.append([])
        for one in many:
            if image is None:
                ids = choices.tokenizer(f"<bos>{prompt}\n{one}<eos>", add_special_tokens=False).input_ids
                types = [0] * (len(ids) - len(one.split()) - 1) + [1] * (len(one.split()) + 1)
                given = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
                given["attention_mask"] = torch.ones_like(given["input_ids"])
            else:
                given = dict(choices.processor(text=[prompt], images=[image], suffix=[one], return_tensors="pt"))
                del given["labels"]
            found[-1].append(log_likelihoods(choices.model, _typed(choices, given), len(one.split()), num_behind=1))
    return found


def naive(choices, questions):
    return (naive_paligemma if isinstance(choices, PrefixChoices) else naive_causal)(choices, questions)


def assert_equal(found, expected, tolerance=2e-5):
    assert [[len(choice) for choice in one] for one in found] == [[len(choice) for choice in one] for one in expected]
    for one, other in zip(found, expected, strict=True):
        for choice, right in zip(one, other, strict=True):
            assert choice == pytest.approx(right, abs=tolerance, rel=tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gives_what_a_naive_loop_gives(name):
    """Images of three sizes and texts of four lengths in one batch. Fails with positions that go on from the number of
    tokens (Qwen: an image is many tokens and few positions), with padding that is attended to, and, of PaliGemma, with
    a choice among the prompt's ``token_type_ids``, where it is seen by what comes before it."""
    choices = family(name)
    questions = questions_of(choices)
    expected = naive(choices, questions)
    assert choices.method == "prefix"
    assert_equal(scored(choices, questions, batch_tokens=10_000), expected)
    assert_equal(scored(choices, questions, method="separate"), expected)
    assert_equal(scored(choices, questions, batch_tokens=1), expected)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "paligemma"])
def test_a_prompt_whose_end_is_merged_into_a_choice_is_cut(name):
    """The word tokenizer reads "re" + "d" as "red": the prompt's last token is in none of the sequences. Fails if the
    processor's inputs keep it."""
    choices = family(name)
    for image in (picture(0), None):
        prompt = choices.placeholder * (image is not None) + "push the re"
        encoded = choices.encode(prompt, ["d puck", "d door 12"], image)
        assert not encoded.boundary_ok
        assert encoded.num_cut == 1
        whole = [("push the ", ["red puck", "red door 12"], image)]
        expected = naive(choices, [(choices.placeholder * (image is not None) + one, *rest) for one, *rest in whole])
        for method in ("prefix", "separate"):
            assert_equal([next(score(choices, [encoded], method=method)).log_likelihoods], expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_image_matters_and_its_tokens_are_counted(name):
    """Fails if the pixels are left out, or if ``num_image_tokens`` forgets what stands around an image."""
    choices = family(name)
    prompt, many = choices.placeholder + TEXTS[0][0], TEXTS[0][1]
    first, second = scored(choices, [(prompt, many, picture(0)), (prompt, many, picture(1))])
    assert (
        max(abs(a - b) for left, right in zip(first, second, strict=True) for a, b in zip(left, right, strict=True))
        > 1e-2
    )
    for size in SIZES:
        encoded = choices.encode(prompt, many, picture(0, size))
        inputs = choices.processor(text=[prompt], images=[[picture(0, size)]], return_tensors="pt")
        assert encoded.num_prefix_tokens == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_weights(name):
    """Pixels go in as bfloat16, and probabilities come out in float32."""
    model, processor = vlm_and_processor(name)
    choices = reader(model.bfloat16(), processor)
    questions = questions_of(choices)[::3]
    found = scored(choices, questions)
    for one, other in zip(found, naive(choices, questions), strict=True):
        for choice, right in zip(one, other, strict=True):
            assert choice == pytest.approx(right, abs=0.3, rel=0.05)
    values = torch.tensor([token for one in found for choice in one for token in choice])
    assert (values != values.bfloat16().float()).float().mean() > 0.5


def naive_pi0_fast(choices, questions):
    """The policy's own loss, which is the mean over the tokens behind the first, BOS, of one choice."""
    policy = choices._policy
    found = []
    for prompt, many, image in questions:
        prefix = choices.tokenizer(f"{prompt}\n", return_tensors="pt").input_ids
        front = torch.zeros(1, 3, 28, 28)
        if image is not None:
            array = np.asarray(_letterbox(image, 28)) / 255
            front = torch.from_numpy(array).permute(2, 0, 1)[None].float()
        images, masks = policy._preprocess_images({"observation.images.front": front})
        masks[0] = torch.tensor([image is not None])
        found.append([])
        for one in many:
            ids = [choices.tokenizer.bos_token_id, *choices.tokenizer(one, add_special_tokens=False).input_ids]
            actions = torch.tensor([ids])
            given = (images, masks, prefix, torch.ones_like(prefix).bool(), actions, torch.ones_like(actions).bool())
            with torch.no_grad():
                loss = policy.model.forward(*given)["loss"]  # divided by the number of tokens, BOS not among them
            found[-1].append(-float(loss) * (len(ids) - 1))
    return found


def _letterbox(image, side):
    """The picture as large as fits, in the middle of black."""
    scale = side / max(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    whole = Image.new("RGB", (side, side))
    whole.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return whole


def test_pi0_fast_gives_what_the_policys_own_loss_gives(pi0_fast):
    """Fails if BOS is scored, if the picture goes to both cameras, if a question without one sees a black one, or if a
    choice is put among the prompt, which sees itself whole."""
    questions = questions_of(pi0_fast)
    expected = naive_pi0_fast(pi0_fast, questions)
    for options in ({"batch_tokens": 10_000}, {"method": "separate"}, {"batch_tokens": 1}):
        found = scored(pi0_fast, questions, **options)
        assert [[len(choice) for choice in one] for one in found] == [
            [len(choice.split()) for choice in many] for _, many, _ in questions
        ]
        sums = [[[sum(choice)] for choice in one] for one in found]
        assert_equal(sums, [[[choice] for choice in one] for one in expected])


def test_smolvlas_backbone_gives_what_a_naive_loop_gives(smolvla):
    """SmolVLA keeps some of the layers of its SmolVLM; these are what answers."""
    assert isinstance(smolvla, ImageChoices)
    questions = questions_of(smolvla)
    expected = naive(smolvla, questions)
    assert_equal(scored(smolvla, questions), expected)
    assert_equal(scored(smolvla, questions, method="separate"), expected)


@pytest.mark.parametrize("kind", ["paligemma", "pi0_fast"])
@pytest.mark.parametrize("method", ["prefix", "separate"])
def test_choices_of_models_whose_prompt_sees_itself_whole_do_not_leak(kind, method, request):
    """Another choice, or a later token of this one, changes nothing. The original put choices into the prompt; so does
    ``_type_of_choices = 0`` here."""
    choices = request.getfixturevalue(kind) if kind == "pi0_fast" else family(kind)
    first = [" open the red door 12 13", " push the puck", " red"]
    words = first[0].split()
    for image in (picture(0), None):
        prompt = choices.placeholder * (image is not None) + "push the red"
        before = scored(choices, [(prompt, first, image)], method=method)[0]
        other = scored(choices, [(prompt, [first[0], " puck the push", " 14"], image)], method=method)[0]
        assert other[0] == pytest.approx(before[0], rel=1e-5)
        assert other[1] != pytest.approx(before[1], abs=1e-3)
        for place in range(len(words)):
            text = " ".join([*words[:place], "14", *words[place + 1 :]])
            after = scored(choices, [(prompt, [text, *first[1:]], image)], method=method)[0]
            assert after[0][:place] == pytest.approx(before[0][:place], rel=1e-5)
            assert after[0][place] != pytest.approx(before[0][place], abs=1e-4)
            assert after[1] == pytest.approx(before[1], rel=1e-5)


def test_the_picture_matters_to_a_policy(pi0_fast, smolvla):
    for choices in (pi0_fast, smolvla):
        prompt, many = choices.placeholder + TEXTS[0][0], TEXTS[0][1]
        first, second = scored(choices, [(prompt, many, picture(0)), (prompt, many, picture(1))])
        assert (
            max(abs(a - b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
            > 1e-4
        )


def test_pi0_fast_counts_the_tokens_of_all_cameras(pi0_fast):
    """What ``max_length`` is compared with."""
    encoded = pi0_fast.encode("push", [" open"], picture(0))
    images, masks, tokens, token_masks = pi0_fast._prompts([encoded])
    embedded = pi0_fast._model.embed_prefix_fast(images, masks, tokens, token_masks)[0]
    assert encoded.num_prefix_tokens == embedded.shape[1]


# opening


def save_language_model(folder):
    torch.manual_seed(0)
    tokenizer = bpe_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, **sizes)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


LANGUAGE = [("Where is the puck?", [" left of the goal", " right"], None), ("", [" yes", " no"], None)]


def test_open_a_causal_language_model(tmp_path):
    model, tokenizer = save_language_model(tmp_path)
    opened = open_choices(str(tmp_path), device="cpu")
    assert type(opened) is TextChoices
    assert scored(opened, LANGUAGE) == scored(TextChoices(model, tokenizer), LANGUAGE)
    assert open_choices(str(tmp_path), dtype="bfloat16", device="cpu").dtype == torch.bfloat16


@pytest.mark.parametrize("beside", ["adapter", "base"])
def test_open_an_adapter_on_its_base_model(tmp_path, beside):
    """The tokenizer is the adapter's if it has one, the base's if not. Fails if the adapter is left out."""
    base, tokenizer = save_language_model(tmp_path / "base")
    torch.manual_seed(1)
    base.name_or_path = str(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    if beside == "adapter":
        tokenizer.save_pretrained(tmp_path / "adapter")
    found = scored(open_choices(str(tmp_path / "adapter"), device="cpu"), LANGUAGE)
    assert_equal(found, scored(TextChoices(model, tokenizer), LANGUAGE), tolerance=1e-6)
    assert found != scored(open_choices(str(tmp_path / "base"), device="cpu"), LANGUAGE)


@pytest.mark.parametrize(("name", "kind"), [("paligemma", PrefixChoices), ("qwen2_vl", ImageChoices)])
def test_open_a_vision_language_model(tmp_path, name, kind):
    choices = family(name)
    choices.model.save_pretrained(tmp_path)
    choices.processor.save_pretrained(tmp_path)
    opened = open_choices(str(tmp_path), device="cpu")
    assert type(opened) is kind
    assert_equal(scored(opened, questions_of(choices)), scored(choices, questions_of(choices)), tolerance=1e-6)


def test_open_policies(pi0_fast, smolvla, policies):
    assert type(pi0_fast) is PI0FastChoices
    assert type(smolvla) is ImageChoices
    for choices in (pi0_fast, smolvla):
        question = choices.encode(choices.placeholder + "push the", [" door", " red puck"], picture(0))
        assert agrees(choices, question, "prefix")
    half = open_choices(str(policies / "pi0_fast"), dtype="bfloat16", device="cpu")
    assert half.dtype == torch.bfloat16
    question = half.encode("push the", [" door", " red puck"], picture(0))
    assert agrees(half, question, "prefix")


def test_a_branch_of_a_repository_is_named_behind_an_at(tmp_path, monkeypatch):
    """Fails if the name with its ``@`` is looked for as a folder."""
    save_language_model(tmp_path)
    asked = []

    def download(name, revision=None, **_):
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr("craft_trainer.hub.resolve_path.snapshot_download", download)
    for name, options in [("org/model", {}), ("org/model@v1", {}), ("org/model", {"revision": "main"})]:
        open_choices(name, device="cpu", **options)
    assert asked == [("org/model", None), ("org/model", "v1"), ("org/model", "main")]


def test_a_model_that_is_not_here_is_named_without_a_network(monkeypatch):
    """Seen to fail with the advice of huggingface_hub alone, which names no model."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"org/never-there@v1 is not on this machine, .* cannot be reached"):
        open_choices("org/never-there@v1")


def test_what_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*missing"):
        open_choices(str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match=r"holds no config.json: it is not a LeRobot checkpoint, nor"):
        open_choices(str(tmp_path))
    (tmp_path / "act").mkdir()
    (tmp_path / "act" / "config.json").write_text(json.dumps({"type": "act", "n_obs_steps": 1}), "utf-8")
    with pytest.raises(
        ValueError, match="LeRobot policy of type act, which has no words to choose from; pi0_fast and smolvla have"
    ):
        open_choices(str(tmp_path / "act"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match=r"adapter_config.json: base_model_name_or_path is missing"):
        open_choices(str(tmp_path / "adapter"))


def test_a_model_without_its_tokenizer_says_so(tmp_path):
    save_language_model(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer for the model, save it beside the weights"):
        open_choices(str(tmp_path), device="cpu")


def test_a_vision_language_model_without_its_processor_says_so(tmp_path):
    """A tokenizer alone would read the questions and none of their pictures."""
    choices = family("qwen2_vl")
    choices.model.save_pretrained(tmp_path)
    choices.processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no processor for the model, save it beside the weights"):
        open_choices(str(tmp_path), device="cpu")


def test_a_tokenizer_that_adds_eos_does_not_put_it_behind_a_prompt():
    """Fails if the processor's inputs keep it between the prompt and its choices."""
    choices = family("idefics3")
    prompt, many = choices.placeholder + TEXTS[0][0], TEXTS[0][1]
    expected = choices.encode(prompt, many, picture(0))
    model, processor = vlm_and_processor("idefics3")
    processor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 2)]
    )
    adding = reader(model, processor)
    encoded = adding.encode(prompt, many, picture(0))
    assert replace(encoded, image=None) == replace(expected, image=None)
    found = next(score(adding, [encoded])).log_likelihoods
    assert_equal([found], [next(score(choices, [expected])).log_likelihoods], tolerance=1e-6)


CHAT = (  # as those of LLaVA, SmolVLM and Qwen: over the parts of a turn
    "<bos>{% for turn in messages %}{% for part in turn.content %}{% if part.type == 'image' %}IMAGE"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %} : {% endfor %}"
)


@pytest.mark.parametrize("name", ["idefics3", "qwen2_vl", "gemma3"])
def test_a_chat_template_of_parts_is_given_parts(name):
    """The processor's template; with a tokenizer that puts BOS in front, which the template has done. Seen to fail with
    the question given as a text, of which such a template writes nothing, and with two BOS."""
    model, processor = vlm_and_processor(name)
    processor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    choices = reader(model, processor)
    processor.chat_template = CHAT.replace("IMAGE", choices.placeholder)
    processor.tokenizer.chat_template = None
    choices = reader(model, processor)
    style = PromptStyle("{image}{question}", chat=True)
    asked = [Question("0", TEXTS[0][0], ("red puck", "door"), 0, picture(0), 1)]
    asked.append(replace(asked[0], id="1", image=None))
    encoded = encode_all(choices, asked, style)
    assert encoded.refused == []
    for one, mark in zip(encoded.tokens, (choices.placeholder, ""), strict=True):
        assert one.text == f"<bos>{mark}push the :"
        given = causal_inputs(choices, "<bos>" + mark + "push the : ", "red puck", one.image)
        ids = given["input_ids"][:, 1:]  # one BOS, of two
        given = {
            key: value[:, 1:] if value.shape[:2] == (1, ids.shape[1] + 1) else value for key, value in given.items()
        }
        expected = log_likelihoods(choices.model, _typed(choices, given), 2)
        for method in ("prefix", "separate"):
            found = next(score(choices, [one], method=method)).log_likelihoods
            assert found[0] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3", "paligemma"])
def test_a_text_that_holds_the_mark_of_an_image_is_refused(name):
    """Seen to fail with an error of the processor, or the model, in the middle of the run."""
    choices = family(name)
    asked = [Question("0", "push the", ("red", "door"), 0, picture(0), 1)]
    marks = {choices.placeholder, choices.processor.image_token}
    asked += [
        replace(asked[0], question=f"push {mark} the", image=image) for mark in marks for image in (picture(0), None)
    ]
    asked += [replace(asked[0], choices=("red", mark)) for mark in marks]
    encoded = encode_all(choices, asked, PromptStyle("{image}{question}"))
    assert len(encoded.questions) == 1
    assert all("stands for an image" in one.reason for one in encoded.refused)


def sideways(folder):
    """A photograph whose file says that it is to be turned by a quarter, and what it shows when turned."""
    shown = picture(3, (60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    shown.transpose(Image.Transpose.ROTATE_90).save(folder / "sideways.png", exif=exif)
    return folder / "sideways.png", shown


def test_a_photograph_is_seen_upright(tmp_path):
    """As datasets and transformers read it. Seen to fail with the orientation in the file left out."""
    path, shown = sideways(tmp_path)
    for found in (opened(path), opened(Image.open(path)), opened(StoredImage(path.read_bytes()))):
        assert found.size == (60, 40)
        assert np.array_equal(np.asarray(found), np.asarray(shown))


def ramp(kind):
    """Numbers from 300 to 65535 in rows, as what 16-bit, 32-bit and float pictures hold."""
    return Image.fromarray(np.linspace(300, 65535, 28 * 28).reshape(28, 28).astype(kind))


@pytest.mark.parametrize(
    ("kind", "name", "mode"),
    [
        (np.uint16, "depth.png", "I;16"),
        (">u2", "depth.tif", "I;16B"),
        (np.int32, "depth.tif", "I"),
        (np.float32, "depth.tif", "F"),
    ],
)
def test_a_picture_of_more_than_8_bits_is_refused_with_its_row(tmp_path, kind, name, mode):
    """In whichever way it comes. Seen to fail: every model saw one white square, whatever was in the picture."""
    ramp(kind).save(tmp_path / name)
    with Image.open(tmp_path / name) as file:
        ways = [tmp_path / name, file, StoredImage((tmp_path / name).read_bytes())]
        for way in ways:
            with pytest.raises(ValueError, match=rf"pixels of mode {mode}, .* 8 bits a colour .* to 0 … 255"):
                opened(way)
    encoded = encode_all(
        family("smolvlm"),
        [Question("depth", "push the", ("red", "door"), 0, tmp_path / name, 7)],
        PromptStyle("{image}{question}"),
    )
    assert [(one.row, one.reason[:28]) for one in encoded.refused] == [(7, "its image has pixels of mode")]


def test_what_is_transparent_is_white(tmp_path):
    """As browsers show it. Seen to fail: black letters on nothing were black on black, so all of them looked alike."""
    letters = picture(5, (20, 10)).convert("L")
    nothing = Image.new("L", letters.size, 0)
    white = np.full((10, 20), 255, dtype=np.uint8) - np.asarray(letters)
    kinds = {"LA": [nothing, letters], "RGBA": [nothing, nothing, nothing, letters]}
    for mode, bands in kinds.items():
        Image.merge(mode, bands).save(tmp_path / f"{mode}.png")
        shown = np.asarray(opened(tmp_path / f"{mode}.png"))
        assert np.abs(shown.astype(int) - white[..., None]).max() <= 1
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "P.png", transparency=0)
    assert np.asarray(opened(tmp_path / "P.png")).tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBA"])
def test_other_colours_are_those_of_rgb(mode):
    """Grey, palette, CMYK and single bits keep what they show."""
    shown = picture(4, (12, 8)).convert(mode)
    assert np.array_equal(np.asarray(opened(shown)), np.asarray(shown.convert("RGB")))


@pytest.mark.parametrize("kind", ["idefics3", "paligemma", "pi0_fast"])
@pytest.mark.parametrize("stored", [True, False])
def test_an_image_that_ends_too_early_is_refused_with_its_row(kind, stored, tmp_path, request):
    """Its header can be read, its pixels cannot. Seen to fail with an OSError that names no row."""
    choices = request.getfixturevalue("pi0_fast") if kind == "pi0_fast" else family(kind)
    picture(0, (200, 200)).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    asked = [
        Question(name, "push the", ("red", "door"), 0, StoredImage(path.read_bytes()) if stored else path, row)
        for row, (name, path) in enumerate([("whole", tmp_path / "whole.png"), ("half", tmp_path / "half.png")], 1)
    ]
    encoded = encode_all(choices, asked, PromptStyle("{image}{question}"))
    assert [one.id for one in encoded.questions] == ["whole"]
    assert [(one.row, one.id) for one in encoded.refused] == [(2, "half")]
    assert "cannot be decoded" in encoded.refused[0].reason
