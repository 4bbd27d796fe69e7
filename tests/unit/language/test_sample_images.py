"""Texts with images for every family, by its own processor: what is learned, and that batches change nothing."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from vlm_processors import FAMILIES, vlm_and_processor

from craft_trainer.evaluation.choices.images import PLACEHOLDERS
from craft_trainer.evaluation.choices.opening import reader
from craft_trainer.evaluation.question_rows import BadRowError
from craft_trainer.language.chat import with_images
from craft_trainer.language.encoding import EncodingSettings
from craft_trainer.language.images import aligned
from craft_trainer.language.samples import TextSamples

ROWS = [
    {"prompt": "push the red puck :", "completion": "12 open", "image": "0.png"},
    {"prompt": "door :", "completion": "puck 13 the", "image": "1.png"},
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' }}{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ MARK }}"
    "{% elif m['role'] == 'assistant' %}{% generation %}{{ p['text'] }}{% endgeneration %}{{ ' ' }}"
    "{% else %}{{ p['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    for number, width in enumerate((28, 42, 28)):
        pixels = np.random.default_rng(number).integers(0, 255, (28, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    return path


def opened(folder, name, rows, **options):
    model, processor = vlm_and_processor(name)
    settings = EncodingSettings(max_length=options.pop("max_length", None))
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return model, processor, TextSamples.open(str(path), model, processor, settings=settings, **options)


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*")
@pytest.mark.parametrize("name", FAMILIES)
def test_batches_learn_the_completions_whoever_is_beside_them(folder, name):
    """The loss of two samples of other sizes is the mean over the tokens of each alone. Seen to fail with labels that
    are not at the end, and with padding unmasked."""
    model, processor, samples = opened(folder, name, ROWS)
    end = processor.tokenizer.eos_token_id
    batch = samples.batch([0, 1])
    for row, labels in zip(ROWS, batch["labels"], strict=True):
        wanted = processor.tokenizer(row["completion"], add_special_tokens=False).input_ids
        assert labels[labels != -100].tolist() == [*wanted, end]
    assert batch["attention_mask"].sum(dim=1).tolist() == samples.lengths
    counts = [int((samples.batch([index])["labels"] != -100).sum()) for index in (0, 1)]
    with torch.no_grad():
        together = model(**batch).loss.item()
        alone = [model(**samples.batch([index])).loss.item() for index in (0, 1)]
    assert together == pytest.approx(sum(a * n for a, n in zip(alone, counts, strict=True)) / sum(counts), rel=1e-4)
    assert alone[0] != pytest.approx(alone[1], rel=2e-5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "<image> door <image>", "image": "0.png"}, "its text holds 2 times '<image>', its columns 1 images"),
        ({"text": "door", "images": "0.png"}, "images must be a list, not text"),
    ],
)
def test_pictures_that_do_not_fit_the_text_are_refused(folder, row, message):
    with pytest.raises(ValueError, match=f"row 1: {message}"):
        opened(folder, "smolvlm", [row])


def test_messages_that_name_another_number_of_pictures_are_refused():
    with pytest.raises(BadRowError, match="its messages name 1 images, its columns hold 0"):
        with_images([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "door"}]}], 0)


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*")
@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_of_tokenizer_config_is_followed(folder, name):
    """Processors take what they are not told from there: sides, lengths, padding. Seen to fail with truncation left
    open, by an error or by texts cut short."""
    model, processor, samples = opened(folder, name, ROWS)
    wanted = samples.batch([0, 1])
    settings = {"padding_side": "left", "truncation_side": "left", "truncation": True, "max_length": 2, "stride": 1}
    processor.tokenizer.init_kwargs.update(settings | {"padding": "max_length", "pad_to_multiple_of": 64})
    processor.tokenizer.padding_side = processor.tokenizer.truncation_side = "left"
    again = TextSamples.open(str(folder / "rows.jsonl"), model, processor, settings=EncodingSettings(None))
    torch.testing.assert_close(again.batch([0, 1]), wanted)
    choices = reader(model, processor)
    asked = [choices.encode(f"{choices.placeholder}{row['prompt']}", [" 12"], folder / row["image"]) for row in ROWS]
    inputs = choices._inputs(asked)
    assert inputs["attention_mask"].sum(dim=1).tolist() == [question.num_prefix_tokens for question in asked]


def test_pixels_are_those_of_the_row(folder):
    """Seen to fail with the first row's image for all."""
    _, processor, samples = opened(folder, "smolvlm", ROWS)
    ours = samples.batch([1])["pixel_values"]
    with Image.open(folder / "1.png") as image:
        theirs = processor(text=["<image>door"], images=[[image.convert("RGB")]], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_vl", "gemma3"])
def test_of_a_text_its_words_are_learned_and_not_its_images(folder, name):
    """Seen to fail with every token learned."""
    _, processor, samples = opened(folder, name, [{"text": "push the red puck", "image": "1.png"}])
    labels = samples.batch([0])["labels"][0]
    words = processor.tokenizer("push the red puck", add_special_tokens=False).input_ids
    learned = [token for token in labels.tolist() if token in words]
    assert learned == words
    assert processor.tokenizer.convert_tokens_to_ids(processor.image_token) not in labels.tolist()


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_vl", "gemma3"])
def test_messages_with_images(folder, name):
    """The image goes in front of the first message of the user; both answers are learned, nothing else. Seen to fail
    with the mask of the unexpanded text."""
    messages = [
        {"role": "user", "content": "push the puck"},
        {"role": "assistant", "content": "12 13"},
        {"role": "user", "content": "open 12"},
        {"role": "assistant", "content": "door"},
    ]
    model, processor = vlm_and_processor(name)
    mark = PLACEHOLDERS.get(model.config.model_type) or processor.image_token
    processor.chat_template = processor.tokenizer.chat_template = TEMPLATE.replace("MARK", repr(mark))
    path = folder / "talk.jsonl"
    path.write_text(json.dumps({"messages": messages, "images": ["0.png"]}) + "\n")
    samples = TextSamples.open(str(path), model, processor)
    batch = samples.batch([0])
    answers = processor.tokenizer("12 13 door", add_special_tokens=False).input_ids
    labels = batch["labels"][0]
    assert labels[labels != -100].tolist() == answers
    image = model.config.image_token_id
    places = [(batch["input_ids"][0] == image).nonzero().min().item(), (labels != -100).nonzero().min().item()]
    assert places[0] < places[1]


def test_an_image_column_of_a_dataset(folder, tmp_path):
    """Files inside of the data, one or a list in a row, give what paths give."""
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in ROWS]
    files = [str(folder / row["image"]) for row in ROWS]
    model, processor, named = opened(folder, "idefics3", ROWS)
    for column, values, kind in (
        ("image", files, datasets.Image()),
        ("images", [[file] for file in files], datasets.List(datasets.Image())),
    ):
        dataset = datasets.Dataset.from_list(rows).add_column(column, values).cast_column(column, kind)
        dataset.save_to_disk(tmp_path / column)
        samples = TextSamples.open(str(tmp_path / column), model, processor, settings=EncodingSettings(None))
        assert samples.fingerprint() == named.fingerprint()
        torch.testing.assert_close(samples.batch([0, 1]), named.batch([0, 1]))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("smolvlm", {"prompt": "push", "completion": "12", "image": "9.png"}, "there is no image '9.png'"),
        ("smolvlm", {"prompt": "push", "completion": "12", "image": "rows.jsonl"}, "not an image"),
        (
            "smolvlm",
            {"prompt": "<image> <image> push", "completion": "12", "image": "0.png"},
            "holds 2 times '<image>'",
        ),
        (
            "smolvlm",
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "1.png"}]}], "image": "0.png"},
            r"messages[0] brings an image of its own (url): put it into the column images",
        ),
        ("paligemma", {"text": "push the puck", "image": "0.png"}, "give prompt and completion, as text"),
    ],
)
def test_bad_rows_are_named(folder, name, row, message, monkeypatch):
    """Seen to fail with the image of the column shown in place of the message's own."""
    monkeypatch.setattr("craft_trainer.language.chat.Chat.template", TEMPLATE)
    with pytest.raises(ValueError, match="row 1: ") as error:
        opened(folder, name, [row])
    assert message in str(error.value)


def test_rows_with_and_without_images_are_two_datasets(folder):
    with pytest.raises(ValueError, match="row 2: it shows nothing, unlike those before it"):
        opened(folder, "smolvlm", [ROWS[0], {"prompt": "push", "completion": "12"}])


def test_an_image_is_not_cut(folder):
    with pytest.raises(ValueError, match="would be cut inside of an image: raise max_length"):
        opened(folder, "smolvlm", ROWS, max_length=8)


def test_alignment_by_hand():
    """9 stands for an image, which becomes 8 9 9 8. Learned: 3, then 1 2 behind the second image."""
    written = [5, 9, 6, 3, 7, 9, 4, 1, 2]
    learned = [place in (3, 7, 8) for place in range(9)]
    ids = [5, 8, 9, 9, 8, 6, 3, 7, 8, 9, 9, 8, 4, 1, 2]
    found = aligned(written, learned, ids, {9})
    assert [place for place, counts in enumerate(found) if counts] == [6, 13, 14]
    with pytest.raises(BadRowError, match="otherwise"):
        aligned(written, learned, [*ids[:-1], 0], {9})


def saved(folder, rows):
    """A dataset that names its pictures, in a folder of its own with two of them."""
    picture(folder / "0.png", 0)
    picture(folder / "1.png", 1)
    datasets.Dataset.from_list(rows).save_to_disk(folder)
    return lambda model, processor: TextSamples.open(
        str(folder), model, processor, settings=EncodingSettings(max_length=None)
    )


def picture(path, seed, width=28):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (28, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_pictures_that_changed_are_read_anew(tmp_path):
    """The tokens of a saved dataset are cached beside it, and the pictures that it names are not in it. Seen to fail
    with a key of the rows alone: the fingerprint stayed, and labels stood on the tokens of the picture."""
    model, processor = vlm_and_processor("qwen2_vl")
    opened_again = saved(tmp_path / "data", ROWS)
    before = opened_again(model, processor)
    assert opened_again(model, processor).fingerprint() == before.fingerprint()
    picture(tmp_path / "data" / "0.png", 2, width=56)
    after = opened_again(model, processor)
    assert after.fingerprint() != before.fingerprint()
    assert after.lengths[0] > before.lengths[0]
    labels = after.batch([0])["labels"][0]
    end = processor.tokenizer.eos_token_id
    assert labels[labels != -100].tolist() == [
        *processor.tokenizer("12 open", add_special_tokens=False).input_ids,
        end,
    ]
    with pytest.raises(ValueError, match=r"push the red puck' no longer has the tokens .*0.png\) changed"):
        before.batch([0])


@pytest.mark.parametrize("held", [{"bytes": None}, {}])
def test_pictures_of_the_working_folder_that_changed_are_read_anew(held, tmp_path, monkeypatch):
    """Where the row holds a place itself. Seen to fail: such a picture was not watched, and without ``bytes`` in the
    table the end was a traceback."""
    monkeypatch.chdir(tmp_path)
    model, processor = vlm_and_processor("qwen2_vl")
    rows = [row | {"image": {"path": f"data/{row['image']}"} | held} for row in ROWS]
    opened_again = saved(tmp_path / "data", rows)
    before = opened_again(model, processor)
    picture(tmp_path / "data" / "0.png", 2, width=56)
    assert opened_again(model, processor).lengths[0] > before.lengths[0]


def test_rows_rewritten_under_the_same_fingerprint_are_read_anew(tmp_path):
    """As ``datasets`` leaves them when what they were mapped from changed. Seen to fail with that fingerprint alone."""
    model, processor = vlm_and_processor("qwen2_vl")
    opened_again = saved(tmp_path / "data", ROWS)
    before = opened_again(model, processor)
    state = tmp_path / "data" / "state.json"
    same = state.read_text()
    datasets.Dataset.from_list([row | {"completion": "12 13 14"} for row in ROWS]).save_to_disk(tmp_path / "data")
    state.write_text(same)
    after = opened_again(model, processor)
    assert after.fingerprint() != before.fingerprint()


def test_how_pictures_are_read_is_part_of_the_fingerprint(tmp_path):
    """Seen to fail with the bytes of the pictures alone: references were followed into other pixels."""
    model, processor = vlm_and_processor("qwen2_vl")
    opened_again = saved(tmp_path / "data", ROWS)
    before = opened_again(model, processor).fingerprint()
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert opened_again(model, processor).fingerprint() != before


def test_a_tokenizer_of_the_same_size_makes_other_tokens(tmp_path):
    """Saved in the same folder, for the same rows."""
    model, processor = vlm_and_processor("qwen2_vl")
    opened_again = saved(tmp_path / "data", ROWS)
    before = opened_again(model, processor)
    content = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    words = content["model"]["vocab"]
    words["puck"], words["door"] = words["door"], words["puck"]
    processor.tokenizer._tokenizer = type(processor.tokenizer.backend_tokenizer).from_str(json.dumps(content))
    assert opened_again(model, processor).fingerprint() != before.fingerprint()
