"""Which tokens of a text count, what is cut, what is refused, and that padding changes nothing."""

import json
from contextlib import nullcontext
from pathlib import Path

import datasets
import pytest
import torch
from bpe import bpe_tokenizer
from lm_folders import CHAT, UNMARKED
from transformers import GPT2Config, GPT2LMHeadModel

from craft_trainer.cli.texts import TextArguments
from craft_trainer.language.checkpoints import load_checkpoint
from craft_trainer.language.encoding import EncodingSettings
from craft_trainer.language.samples import TextSamples

TALK = [
    {"role": "user", "content": "Where is the puck?"},
    {"role": "assistant", "content": "The red puck is left of the goal"},
    {"role": "user", "content": "hello world"},
    {"role": "assistant", "content": "yes"},
]


def opened(lm, name, **options):
    settings = EncodingSettings(
        **{key: options.pop(key) for key in list(options) if key in EncodingSettings.__dataclass_fields__}
    )
    return TextSamples.open(name, lm.model, lm.processor, settings=settings, **options)


def learned(samples, index=0):
    return [token for token in samples[index]["labels"] if token != -100]


def tokens_with(tokenizer, text, *parts, begin=0):
    """The naive way: tokens that hold a character of one of the parts of ``text``, from the tokenizer's own offsets."""
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = []
    for part in parts:
        begin = text.index(part, begin)
        spans.append((begin, begin + len(part)))
        begin += len(part)
    inside = [any(start < stop and end > first for first, stop in spans) for start, end in encoded.offset_mapping]
    return [token for token, counts in zip(encoded.input_ids, inside, strict=True) if counts]


def test_of_a_text_everything_is_learned_but_its_first_token(lm, lines):
    """Nothing predicts the first. Seen to fail with all labels kept, and with EOS left out."""
    samples = opened(lm, lines([{"text": "The answer is yes"}]))
    ids = lm.processor("The answer is yes").input_ids
    assert samples[0]["input_ids"] == [*ids, lm.processor.eos_token_id]
    assert samples[0]["labels"] == [-100, *ids[1:], lm.processor.eos_token_id]
    assert "1 samples" in samples.report()
    assert f"{len(ids)} tokens" in samples.report().split("every token: ")[1]


@pytest.mark.parametrize("prompt", ["Where is the puck?", "Question: hello", "Is the gripper open?\nAnswer:"])
def test_of_a_prompt_and_completion_the_completion_is_learned(lm, lines, prompt):
    """Seen to fail with the completion tokenised by itself, and with the prompt learned."""
    completion = " left of the goal"
    samples = opened(lm, lines([{"prompt": prompt, "completion": completion}]))
    whole = prompt + completion
    assert learned(samples) == [*tokens_with(lm.processor, whole, completion), lm.processor.eos_token_id]
    assert samples[0]["input_ids"][:-1] == lm.processor(whole).input_ids
    everything = opened(lm, lines([{"prompt": prompt, "completion": completion}]), completion_only=False)
    assert learned(everything) == everything[0]["input_ids"][1:]


def test_wherever_a_completion_begins_no_character_of_it_is_left_out(lm, lines):
    """Where the tokenizer merges over the boundary more is learned, never less. Seen to fail with the start taken from
    the length of the prompt's own tokens."""
    text = "The red puck is left of the goal, hello world"
    rows = [{"prompt": text[:cut], "completion": text[cut:]} for cut in range(4, len(text)) if text[cut:].strip()]
    samples = opened(lm, lines(rows))
    assert len(samples) == len(rows)
    for index, row in enumerate(rows):
        wanted = tokens_with(lm.processor, text, row["completion"], begin=len(row["prompt"]))
        assert learned(samples, index)[-len(wanted) - 1 : -1] == wanted


def test_of_messages_what_the_template_marks_is_learned(lm, lines):
    """Both answers, each with the EOS that the template writes. Seen to fail with the mask turned round."""
    samples = opened(lm, lines([{"messages": TALK}]))
    text = lm.processor.apply_chat_template(TALK, tokenize=False)
    answers = [TALK[1]["content"] + "<eos>", TALK[3]["content"] + "<eos>"]
    assert learned(samples) == tokens_with(lm.processor, text, *answers)
    assert "of what the assistant says alone" in samples.report()
    every = opened(lm, lines([{"messages": TALK}]), assistant_only=False)
    assert learned(every) == every[0]["input_ids"][1:]


def test_an_unmarked_template_is_said_and_refused_if_it_matters(lm, lines, monkeypatch):
    monkeypatch.setattr(lm.processor, "chat_template", UNMARKED)
    samples = opened(lm, lines([{"messages": TALK}]))
    assert learned(samples) == samples[0]["input_ids"][1:]
    assert "of every token of the messages: the chat template does not mark the assistant's" in samples.report()
    with pytest.raises(ValueError, match="assistant_only_loss needs a chat template"):
        opened(lm, lines([{"messages": TALK}]), assistant_only=True)


def test_of_plain_texts_nobody_says_what_the_assistant_wrote(lm, lines):
    """Seen to fail: every token of them was learned."""
    alone = {"assistant_only_loss": True}
    with pytest.raises(ValueError, match=r"of the texts of \S+ nobody says what the assistant wrote"):
        TextArguments(dataset=str(lines([{"text": "hello world"}])), **alone).open_texts(lm)
    samples = TextArguments(dataset=str(lines([{"messages": TALK}])), **alone).open_texts(lm)
    assert "of what the assistant says alone" in samples.report()


def test_either_the_completion_is_learned_alone_or_the_prompt_as_well(lm, lines):
    """Seen to fail: with both asked for, prompts were learned."""
    data = str(lines([{"prompt": "hello", "completion": " world"}]))
    with pytest.raises(ValueError, match="assistant_only_loss has no effect here: completion_only_loss is false"):
        TextArguments(dataset=data, assistant_only_loss=True, completion_only_loss=False).open_texts(lm)
    TextArguments(dataset=data, assistant_only_loss=True).open_texts(lm)


def test_columns_that_nothing_reads(lm, lines):
    """Seen to fail: the samples were those without the option."""
    texts = lines([{"text": "hello world", "topic": "x", "kind": "y"}])
    with pytest.raises(ValueError, match=r"group_column is 'topic', and columns names 'kind': give one of them"):
        opened(lm, texts, columns={"group": "kind"}, group_column="topic")
    with pytest.raises(ValueError, match=r"columns names a completion, and what is read of \S+ is text"):
        opened(lm, texts, columns={"completion": "topic"})


WITH_TOOLS = (
    "{{ mood }}{% for t in tools or [] %}{{ t['name'] + (t['parameters'] | tojson) }}{% endfor %}"
    "{% for m in messages %}"
    "{{ m['role'] + ': ' + m['content'] }}{% for c in m.tool_calls or [] %}{{ c['name'] + (c['arguments'] | tojson) }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
TOOLS = [
    {"name": "grip", "parameters": {"wide": "flag"}},
    {"name": "go", "parameters": {"to": "place", "speed": "m/s"}},
]


def called(arguments, **more):
    call = {"name": "grip", "arguments": arguments}
    return [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": [call], **more}]


@pytest.mark.parametrize("kind", ["lines", "dataset", "JSON in a dataset", "prompt and completion"])
def test_the_template_gets_tools_and_calls_as_they_are(lm, lines, tmp_path, monkeypatch, kind):
    """Seen to fail with the column left out, and with the keys that Arrow fills in."""
    monkeypatch.setattr(lm.processor, "chat_template", {"default": UNMARKED, "tool_use": WITH_TOOLS})
    calm, glad = {"mood": "calm"}, {"mood": "glad"}
    rows = [
        {
            "messages": called({"wide": True}, content="ok"),
            "tools": TOOLS[:1],
            "chat_template_kwargs": calm,
        },
        {"messages": called({"speed": 3, "to": {"x": 1}}), "tools": TOOLS, "chat_template_kwargs": glad},
    ]
    wanted = [
        lm.processor.apply_chat_template(
            [row["messages"][0], {"content": "", **row["messages"][1]}],
            tools=row["tools"],
            **row["chat_template_kwargs"],
            tokenize=False,
        )
        for row in rows
    ]
    assert "null" not in wanted[0]
    if kind.startswith("JSON"):
        rows = [row | {"tools": json.dumps(row["tools"])} for row in rows]
    if kind.startswith("prompt"):
        rows = [row | {"prompt": row["messages"][:1], "completion": row.pop("messages")[1:]} for row in rows]
    if "dataset" in kind:
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
    samples = opened(lm, str(tmp_path / "rows") if "dataset" in kind else lines(rows))
    assert [lm.processor.decode(sample["input_ids"]) for sample in samples] == wanted


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        (CHAT, {"messages": TALK, "tools": TOOLS}, "it has tools, which the chat template does not read"),
        (CHAT, {"messages": TALK, "documents": [{"text": "a"}]}, "it has documents, which the chat template does"),
        (CHAT, {"messages": TALK, "chat_template_kwargs": {"mood": "calm"}}, "it has mood, which the chat template"),
        (WITH_TOOLS, {"messages": TALK, "tools": "grip"}, "its tools are text, but not JSON"),
        (WITH_TOOLS, {"messages": TALK, "chat_template_kwargs": [1]}, "chat_template_kwargs must be an object"),
        (CHAT, {"messages": [*TALK[:1], TALK[1] | {"weight": 0}]}, "has a weight, which is not followed"),
    ],
)
def test_what_a_conversation_brings_is_read_or_refused(lm, lines, monkeypatch, template, row, reason):
    """Seen to fail with each of them left out of the text without a word."""
    monkeypatch.setattr(lm.processor, "chat_template", template)
    with pytest.raises(ValueError, match=f"row 1: .*{reason}"):
        opened(lm, lines([row]))


@pytest.mark.parametrize("chat", [False, True])
def test_a_conversation_as_prompt_and_completion(lm, lines, chat):
    """Whatever the template marks, the completion alone is learned; ``chat`` makes messages of texts."""
    prompt, completion = TALK[:1], TALK[1:2]
    if chat:
        prompt, completion = prompt[0]["content"], completion[0]["content"]
    samples = opened(lm, lines([{"prompt": prompt, "completion": completion}]), chat=chat)
    text = lm.processor.apply_chat_template(TALK[:2], tokenize=False)
    assert samples[0]["input_ids"] == lm.processor(text, add_special_tokens=False).input_ids
    assert lm.processor.decode(learned(samples)).strip() == TALK[1]["content"] + "<eos>"


def log_likelihood(model, ids, labels):
    """Σ log p of the learned tokens of one sample, unpadded, by hand."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    return sum(logits[place - 1, token].item() for place, token in enumerate(labels) if token != -100)


def test_a_padded_batch_has_the_loss_of_its_samples_alone(lm, lines):
    """The mean over all learned tokens. Seen to fail with padding learned, and with it unmasked."""
    rows = [{"prompt": "Where is", "completion": " the puck" + " left" * count} for count in (1, 7, 3)]
    samples = opened(lm, lines(rows))
    batch = samples.batch([0, 1, 2])
    assert len({len(samples[index]["input_ids"]) for index in range(3)}) == 3
    with torch.no_grad():
        loss = lm.model(**batch).loss.item()
    alone = [log_likelihood(lm.model, samples[i]["input_ids"], samples[i]["labels"]) for i in range(3)]
    count = sum(len(learned(samples, index)) for index in range(3))
    assert loss == pytest.approx(-sum(alone) / count, rel=1e-5)
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert batch["attention_mask"].sum(dim=1).tolist() == samples.lengths


def test_long_texts_are_cut_and_counted(lm, lines):
    rows = [{"text": "hello world " * count} for count in (1, 30, 40)]
    samples = opened(lm, lines(rows), max_length=16)
    assert [len(samples[index]["input_ids"]) for index in (1, 2)] == [16, 16]
    assert samples.num_cut == 2
    assert "2 samples were cut to max_length = 16 tokens" in samples.report()
    assert opened(lm, lines(rows), max_length=None).num_cut == 0


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": ""}, "text is empty"),
        ({"text": " \n"}, "text is blank"),
        ({"text": None}, "it has no 'text'"),
        ({"text": ["a"]}, "text must be text, not a list"),
        ([1], "it is not a JSON object"),
        ("broken", "it is not JSON"),
    ],
)
def test_a_bad_row_is_named(lm, lines, tmp_path, row, reason):
    """File, line and reason; the line is that of the file, blank lines counted."""
    name = lines([{"text": "hello world"}])
    with Path(name).open("a") as file:
        file.write("\n" + ("{" if row == "broken" else json.dumps(row)) + "\n")
    with pytest.raises(ValueError, match="row 3: ") as error:
        opened(lm, name)
    assert name in str(error.value)
    assert reason in str(error.value)
    samples = opened(lm, name, on_bad_row="skip")
    assert len(samples) == 1
    assert "1 bad row (the first is row 3: " in samples.report()


def says(content):
    return [{"messages": [{"role": "user", "content": content}]}]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [{"prompt": "hello world " * 9, "completion": "yes"}],
            {"max_length": 8},
            "row 1: nothing that is learned is left of it",
        ),
        ([{"prompt": "a", "completion": ""}], {}, "row 1: completion is empty"),
        ([{"prompt": "a"}], {}, "none of completions: --columns completion=NAME"),
        ([{"txt": "a"}], {}, "say which are meant, like --columns text=NAME or prompt=NAME,completion=NAME"),
        ([{"text": "a b"}], {"columns": {"text": "tetx"}}, "has no column 'tetx'"),
        ([{"text": "a b"}], {"columns": {"texts": "text"}}, "it can name text, prompt"),
        ([{"text": "a b"}], {"group_column": "topic"}, "has no column 'topic'"),
        ([{"text": "a b"}], {"on_bad_row": "drop"}, "on_bad_row is 'drop'"),
        ([{"text": "a b"}], {"chat": True}, "chat needs prompts"),
        ([{"text": "a b", "image": "x.png"}], {}, "has images, but the model sees none"),
        ([{"messages": []}], {}, "messages must be a list of messages"),
        ([{"messages": [{"role": "user"}]}], {}, r"the content of messages\[0\] must be text, not null"),
        ([{"messages": ["hello"]}], {}, r"messages\[0\] must be an object with role and content, not "),
        (says([]), {}, r"the content of messages\[0\] is empty"),
        (says([{"type": "image"}]), {}, r"messages\[0\] has parts that are not text, which the model does not take"),
        (says([{"type": "sound"}]), {}, r"messages\[0\] has a part that is neither text nor image: "),
        ([{"text": "a b"}], {"max_length": 1}, "max_length is 1: the second token is the first that can be learned"),
        (
            [{"messages": [{"role": "user", "content": "hello"}]}],
            {},
            "no token of it is learned: the assistant says nothing",
        ),
        ([], {}, "is empty"),
    ],
)
def test_what_cannot_be_learned_is_refused(lm, lines, rows, options, message):
    with pytest.raises(ValueError, match=message):
        opened(lm, lines(rows), **options)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the model has no chat template for messages: give text"),
        ("{{ raise_exception('no user may speak') }}", "row 1: .*: no user may speak"),
        (UNMARKED.replace("assistant: ", "robot: "), "the chat template writes the prompt otherwise"),
    ],
)
def test_a_template_that_cannot_write_it_is_refused(lm, lines, monkeypatch, template, message):
    monkeypatch.setattr(lm.processor, "chat_template", template)
    with pytest.raises(ValueError, match=message):
        opened(lm, lines([{"prompt": TALK[:1], "completion": TALK[1:2]}]))


def test_columns_and_groups_by_other_names(lm, lines):
    samples = opened(
        lm, lines([{"q": "Where", "a": " left", "n": 3}]), columns={"prompt": "q", "completion": "a"}, group_column="n"
    )
    assert samples.groups == ["3"]
    assert learned(samples)[:-1] == tokens_with(lm.processor, "Where left", " left")


@pytest.mark.parametrize("splits", [False, True])
def test_a_saved_dataset_is_read_like_lines(lm, lines, tmp_path, splits):
    """The same tokens from a folder of ``save_to_disk``, of one dataset or of splits, of which train is taken."""
    rows = [{"messages": TALK}, {"messages": TALK[:2]}]
    dataset = datasets.Dataset.from_list(rows)
    whole = datasets.DatasetDict({"test": dataset.select([1]), "train": dataset}) if splits else dataset
    whole.save_to_disk(tmp_path / "saved")
    saved, lined = opened(lm, str(tmp_path / "saved")), opened(lm, lines(rows))
    assert saved.fingerprint() == lined.fingerprint()
    if splits:
        assert len(opened(lm, str(tmp_path / "saved"), split="test")) == 1


@pytest.mark.parametrize("first", ["short", "long"])
def test_which_rows_are_bad_is_asked_of_every_model(tmp_path, first):
    """A saved dataset keeps its tokens beside it. Seen to fail: rows were refused, or not, as the first model said."""
    tokenizer = bpe_tokenizer()
    for name, positions in (("short", 32), ("long", 256)):
        sizes = {"n_positions": positions, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
        GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"text": "The red puck" + ", hello world" * 30}] * 8
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
    for name in sorted(("short", "long"), key=lambda name: name != first):
        model = load_checkpoint(str(tmp_path / name), dtype="float32")
        with pytest.raises(ValueError, match="embeddings of 32 positions") if name == "short" else nullcontext():
            assert len(opened(model, str(tmp_path / "rows"))) == 8


def test_a_dataset_of_the_hub_is_asked_for_by_name_and_revision(lm, monkeypatch, tmp_path):
    """Of its splits train is taken."""
    asked = []

    def load(*place, **options):
        asked.append((*place, options))
        made = datasets.Dataset.from_list([{"text": "hello world"}] * 3)
        return datasets.DatasetDict({"train": made, "test": made.select([0])})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("craft_trainer.evaluation.question_data.load_any", load)
    samples = opened(lm, "org/name@v2", config="main")
    assert asked == [(None, "org/name", {"revision": "v2", "config": "main", "streaming": False})]
    assert (len(samples), samples.revision, samples.place) == (3, "v2", "org/name (train)")


def test_the_fingerprint_is_that_of_tokens_and_labels(lm, lines):
    rows = [{"prompt": "Where is the puck?", "completion": " left"}]
    same = opened(lm, lines(rows)).fingerprint()
    assert opened(lm, lines(rows, "copy.jsonl")).fingerprint() == same
    assert opened(lm, lines(rows), completion_only=False).fingerprint() != same
    assert opened(lm, lines([{**rows[0], "completion": " right"}])).fingerprint() != same


def test_processes_share_the_encoding(lm, lines):
    rows = [{"text": f"hello world {index}"} for index in range(8)]
    assert opened(lm, lines(rows), num_proc=2).fingerprint() == opened(lm, lines(rows)).fingerprint()
