"""Multiple-choice data: what is read, what is refused and why; thousands of broken rows, never a traceback."""

import hashlib
import json
import random
import string

import numpy as np
import pytest

from craft_trainer.evaluation.questions import Question, read_questions

Image = pytest.importorskip("PIL.Image", reason="pip install 'craft-trainer[mcq]': images are read with Pillow")

GOOD = {"question": "Where is the cup?", "choices": ["left", "right", "on top"], "answer_index": 1}


@pytest.fixture
def folder(tmp_path):
    """A data folder with one image, a file that is none, a link that leads out, and an image outside."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    Image.new("RGB", (6, 4), "red").save(data / "images/red.png")
    (data / "images/text.png").write_text("no image")
    png = (data / "images/red.png").read_bytes()
    (data / "images/header.png").write_bytes(png[:20])
    Image.new("RGB", (6, 4), "blue").save(tmp_path / "outside.png")
    (data / "link.png").symlink_to(tmp_path / "outside.png")
    (data / "up").symlink_to(tmp_path)
    (data / "loop.png").symlink_to(data / "loop.png")
    (data / "inside.png").symlink_to(data / "images/red.png")
    return data


def write(folder, *rows, name="questions.jsonl"):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / name).write_bytes(b"\n".join(lines) + b"\n")
    return folder / name


def refused(path, **options):
    return [one.reason for one in read_questions(path, on_bad_row="skip", **options).refused]


def test_questions_are_what_the_file_says(folder):
    """Line numbers count blank lines; a byte-order mark, CRLF and U+2028 inside text do no harm."""
    second = GOOD | {"choices": ["a\u2028b", "ä"], "answer_index": 0, "id": "x", "image_path": "images/red.png", "y": 1}
    path = write(folder, b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", b"", b"  \t", second, GOOD | {"id": 7})
    questions = read_questions(path)
    assert questions.items == (
        Question("1", "Where is the cup?", ("left", "right", "on top"), 1, None, 1),
        Question("x", "Where is the cup?", ("a\u2028b", "ä"), 0, (folder / "images/red.png").resolve(), 4),
        Question("7", "Where is the cup?", ("left", "right", "on top"), 1, None, 5),
    )
    assert questions.refused == ()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert questions.source == {"path": str(path), "sha256": digest, "num_rows": 3}


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_image_may_be_left_empty(folder, nothing):
    assert read_questions(write(folder, GOOD | {"image_path": nothing})).items[0].image is None


def test_a_link_that_stays_inside_is_followed(folder):
    path = write(folder, GOOD | {"image_path": "inside.png"})
    assert read_questions(path).items[0].image == (folder / "images/red.png").resolve()


BAD_ROWS = {
    "not JSON": (b"{", "not JSON"),
    "text": (b'"words"', "text ('words'), not an object"),
    "list": (b"[1]", "a list"),
    "null": (b"null", "null"),
    "number": (b"1e400", "a float"),
    "two objects": (b"{} {}", "not JSON"),
    "not UTF-8": (b'{"question": "\xff"}', "not UTF-8"),
    "utf-16": (json.dumps(GOOD).encode("utf-16"), "not UTF-8"),
    "NaN": (b'{"a": NaN}', "NaN is no number"),
    "Infinity": (b'{"answer_index": -Infinity}', "-Infinity is no number"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "digits": (b'{"answer_index": ' + b"1" * 5000 + b"}", "not JSON that can be read"),
    "key twice": (b'{"answer_index": 1, "answer_index": 2}', "key 'answer_index' twice"),
    "empty object": ({}, "no 'question'"),
    "no choices": ({"question": "?", "answer_index": 0}, "no 'choices'"),
    "no answer": ({"question": "?", "choices": ["a", "b"]}, "no 'answer_index'"),
    "question number": (GOOD | {"question": 3}, "question must be text"),
    "question null": (GOOD | {"question": None}, "question must be text, not null"),
    "question empty": (GOOD | {"question": ""}, "question is empty"),
    "question blank": (GOOD | {"question": " \n\u3000"}, "question is blank"),
    "surrogate": (GOOD | {"question": "\ud800"}, "lone surrogate"),
    "NUL": (GOOD | {"choices": ["a\0", "b"]}, "NUL"),
    "choices text": (GOOD | {"choices": "ab"}, "choices must be a list"),
    "choices object": (GOOD | {"choices": {"a": 1}}, "choices must be a list"),
    "one choice": (GOOD | {"choices": ["a"], "answer_index": 0}, "two or more, not 1"),
    "none": (GOOD | {"choices": []}, "two or more, not 0"),
    "choice number": (GOOD | {"choices": ["a", 1]}, "choice 1 must be text"),
    "choice empty": (GOOD | {"choices": ["a", ""]}, "choice 1 is empty"),
    "choice blank": (GOOD | {"choices": [" ", "a"]}, "choice 0 is blank"),
    "same choices": (GOOD | {"choices": ["a", "b", "a"]}, "choices 0 and 2 are the same"),
    "same but spaces": (GOOD | {"choices": ["a", " a"]}, "choices 0 and 1 are the same"),
    "answer text": (GOOD | {"answer_index": "1"}, "whole number"),
    "answer true": (GOOD | {"answer_index": True}, "whole number, not true or false"),
    "answer float": (GOOD | {"answer_index": 1.0}, "whole number"),
    "answer null": (GOOD | {"answer_index": None}, "whole number"),
    "answer negative": (GOOD | {"answer_index": -1}, "none of the 3"),
    "answer beyond": (GOOD | {"answer_index": 3}, "none of the 3"),
    "answer huge": (GOOD | {"answer_index": 10**4000}, "none of the 3"),
    "answer 1e400": (b'{"question": "?", "choices": ["a", "b"], "answer_index": 1e400}', "whole number"),
    "id list": (GOOD | {"id": [1]}, "id must be text"),
    "id true": (GOOD | {"id": True}, "id must be text"),
    "id blank": (GOOD | {"id": " "}, "id is blank"),
    "image number": (GOOD | {"image_path": 0}, "image_path must be text"),
    "image empty": (GOOD | {"image_path": {"name": "red"}}, "image has neither bytes nor a path"),
    "image list": (GOOD | {"image_path": []}, "image_path must be text"),
    "image missing": (GOOD | {"image_path": "images/none.png"}, "no image"),
    "image absolute": (GOOD | {"image_path": "/etc/hostname"}, "stay inside"),
    "image up": (GOOD | {"image_path": "../outside.png"}, "stay inside"),
    "image up and back": (GOOD | {"image_path": "images/../images/red.png"}, "stay inside"),
    "image drive": (GOOD | {"image_path": "C:\\red.png"}, "stay inside"),
    "image backslashes": (GOOD | {"image_path": "images\\..\\red.png"}, "stay inside"),
    "image linked": (GOOD | {"image_path": "link.png"}, "outside the data's folder"),
    "image over a link": (GOOD | {"image_path": "up/outside.png"}, "outside the data's folder"),
    "image in a loop": (GOOD | {"image_path": "loop.png"}, "no image"),
    "image folder": (GOOD | {"image_path": "images"}, "not a file"),
    "image dot": (GOOD | {"image_path": "."}, "not a file"),
    "image NUL": (GOOD | {"image_path": "a\0.png"}, "no image"),
    "image surrogate": (GOOD | {"image_path": "\ud800.png"}, "no image"),
    "image long": (GOOD | {"image_path": "a" * 10_000}, "no image"),
    "image text": (GOOD | {"image_path": "images/text.png"}, "not an image that Pillow knows"),
    "image cut": (GOOD | {"image_path": "images/header.png"}, "not an image"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_has_a_reason(folder, name):
    row, reason = BAD_ROWS[name]
    questions = read_questions(write(folder, GOOD, row, GOOD), on_bad_row="skip")
    assert [item.row for item in questions.items] == [1, 3]
    ((number, said),) = [(one.row, one.reason) for one in questions.refused]
    assert number == 2
    assert reason in said
    assert said.isprintable()
    assert len(said) < 300


@pytest.mark.filterwarnings("ignore")  # as a user runs it
def test_an_image_too_large_for_pillow_is_refused(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # the image has 24; Pillow warns from here, fails at twice
    assert "too large" in refused(write(folder, GOOD, GOOD | {"image_path": "images/red.png"}))[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert "too large" in refused(write(folder, GOOD, GOOD | {"image_path": "images/red.png"}))[0]


def test_ids_are_unique_also_against_row_numbers(folder):
    path = write(folder, GOOD | {"id": "a"}, GOOD | {"id": "a"}, GOOD | {"id": "4"}, GOOD, GOOD | {"id": 4})
    questions = read_questions(path, on_bad_row="skip")
    assert [item.id for item in questions.items] == ["a", "4"]
    assert [one.row for one in questions.refused] == [2, 4, 5]
    assert "that of row 3" in questions.refused[1].reason


def test_all_bad_rows_are_told_at_once_with_a_way_out(folder):
    path = write(folder, *[GOOD | {"answer_index": 9}] * 13, GOOD)
    with pytest.raises(ValueError, match="13 bad rows") as error:
        read_questions(path)
    lines = str(error.value).splitlines()
    assert str(path) in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:11]] == [f"row {number}" for number in range(1, 11)]
    assert "3 more" in lines[11]
    assert "--on-bad-row skip" in lines[12]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xff\xfe\x00", b"[]\n{", b"\0" * 100])
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_file_without_questions_is_refused(folder, content, on_bad_row):
    path = folder / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"empty\.jsonl"):
        read_questions(path, on_bad_row=on_bad_row)


def test_the_limit_counts_rows(folder):
    path = write(folder, GOOD, b"{", b"", GOOD, GOOD, b"{")
    questions = read_questions(path, on_bad_row="skip", limit=3)
    assert ([item.row for item in questions.items], [one.row for one in questions.refused]) == ([1, 4], [2])
    assert questions.source["num_rows"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad_row": "ignore"}, "'error' or 'skip'"),
        ({"limit": 0}, "at least 1"),
        ({"split": "test"}, "JSON lines: it has no split"),
        ({"revision": "main"}, "JSON lines: it has no revision"),
        ({"columns": {"prompt": "question"}}, "'prompt' is not a field"),
        ({"columns": {"question": "qestion"}}, "did you mean 'question'"),
        ({"columns": {"id": "name"}}, "no column 'name'"),
        ({"columns": {"image": "question", "image_path": "question"}}, "one image"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        read_questions(write(folder, GOOD), **options)


def test_data_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_questions(tmp_path / "nothing.jsonl")


def test_columns_have_other_names(folder):
    row = {"prompt": "Which?", "options": ["a", "b"], "gold": 1, "question": 5, "picture": "images/red.png", "nr": 3}
    names = {"question": "prompt", "choices": "options", "answer_index": "gold", "image_path": "picture", "id": "nr"}
    item = read_questions(write(folder, row), columns=names).items[0]
    assert (item.question, item.choices, item.answer_index, item.id) == ("Which?", ("a", "b"), 1, "3")
    assert item.image == (folder / "images/red.png").resolve()


def test_no_column_at_all_names_those_there_are(folder):
    with pytest.raises(ValueError, match=r"no column 'question'.*'prompt', 'choices'.*--columns question=NAME"):
        read_questions(write(folder, {"prompt": "?", "choices": ["a", "b"], "answer_index": 0}))


# ---------------------------------------------------------------- ten thousand bad rows

JUNK = [
    None, True, False, 0, -1, 3, 10**30, 1.5, 1e308, "", " ", "\0", "\ud83d", "ok", [], {}, [[]], [None], ["a"],
    ["a", "a"], ["a", 1], [["a"], ["b"]], {"a": 1}, "../x", "/x", "images", ["\udfff", "b"], [True, False],
]  # fmt: skip


def broken(generator):
    """A row that is surely bad, as bytes."""
    row = GOOD | {"question": f"Where is cup {generator.random()}?", "image_path": "images/red.png"}
    kind = generator.randrange(7)
    if kind == 0:  # cut short
        text = json.dumps(row).encode()
        return text[: generator.randrange(1, len(text) - 1)]
    if kind == 1:  # a byte that no UTF-8 text has
        text = bytearray(json.dumps(row).encode())
        text[generator.randrange(len(text))] = generator.choice([0xFF, 0xFE, 0xC0, 0x80])
        return bytes(text)
    if kind == 2:  # a needed key is gone or misspelt
        key = generator.choice(["question", "choices", "answer_index"])
        value = row.pop(key)
        return json.dumps(row | {key + generator.choice(string.ascii_letters): value}).encode()
    if kind == 3:  # a value that none of these can be
        key = generator.choice(["question", "choices", "answer_index", "image_path"])
        fits = {"question": str, "choices": list, "answer_index": int, "image_path": str}[key]
        values = [value for value in JUNK if not isinstance(value, fits) or isinstance(value, bool)]
        values = [value for value in values if not (key == "image_path" and value is None)]
        return json.dumps(row | {key: generator.choice(values)}).encode()
    if kind == 4:  # of the right type, and wrong
        wrong = {
            "question": ["", "\t ", "a\0b", "x\ud800"],
            "choices": [[], ["a"], ["a", "a"], ["a", " "], ["a", None], ["a", "b", "b "], ["\udc00", "b"]],
            "answer_index": [-1, 3, 10**20, -(10**4000)],
            "image_path": ["none.png", "../outside.png", "/x.png", "link.png", "images", "images/text.png", "\0"],
        }
        key = generator.choice(list(wrong))
        return json.dumps(row | {key: generator.choice(wrong[key])}).encode()
    if kind == 5:  # JSON, and no object
        return json.dumps(generator.choice([value for value in JUNK if not isinstance(value, dict)])).encode()
    noise = generator.randbytes(generator.randrange(1, 60)).replace(b"\n", b"")
    return b"]" + noise  # nothing that starts so is JSON


def test_ten_thousand_bad_rows_each_have_a_reason(folder):
    """Good rows between them are all read. Seen to fail with lines that also end at a lone CR."""
    generator = random.Random(0)
    bad = [broken(generator) for _ in range(10_000)]
    assert len(set(bad)) > 7000
    rows = [line for row in bad for line in (row, json.dumps(GOOD).encode())]
    questions = read_questions(write(folder, *rows), on_bad_row="skip")
    assert [item.row for item in questions.items] == list(range(2, 20_001, 2))
    assert {(item.question, item.choices, item.answer_index) for item in questions.items} == {
        (GOOD["question"], tuple(GOOD["choices"]), 1)
    }
    assert [one.row for one in questions.refused] == list(range(1, 20_000, 2))
    assert all(one.reason.isprintable() and 5 < len(one.reason) < 300 for one in questions.refused)
    assert len({one.reason for one in questions.refused}) > 50
    json.dumps([vars(one) for one in questions.refused]).encode()


def test_bytes_of_any_kind_are_never_a_traceback_as_image(folder):
    """Headers of real formats with noise behind them."""
    generator = np.random.default_rng(0)
    heads = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "EPS", "PDF"):
        path = folder / f"head.{kind}"
        Image.new("RGB", (9, 9), "green").save(path, kind)
        heads.append(path.read_bytes())
    rows = []
    for number in range(1000):
        content = bytearray(heads[number % len(heads)])
        for place in generator.integers(2, min(len(content), 64), generator.integers(1, 9)):
            content[place] = generator.integers(256)
        (folder / f"fuzz{number}.img").write_bytes(content[: generator.integers(4, len(content) + 1)])
        rows.append(GOOD | {"image_path": f"fuzz{number}.img"})
    questions = read_questions(write(folder, GOOD, *rows), on_bad_row="skip")
    assert len(questions.items) + len(questions.refused) == 1001
    assert len(questions.refused) > 200
    assert all(one.reason.isprintable() for one in questions.refused)


def test_what_columns_name_is_in_every_row(folder):
    """Seen to fail: rows without it were asked without their image, or had the number of the row for an id. Null is
    said on purpose."""
    picture = {"picture": "images/red.png"}
    path = write(folder, GOOD | picture, GOOD | {"picture": None}, GOOD | {"pictrue": "images/red.png"})
    reason = "it has no 'picture'; it has 'question', 'choices', 'answer_index', 'pictrue'"
    for ours in ("image", "image_path"):
        assert refused(path, columns={ours: "picture"}) == [reason]
    with pytest.raises(ValueError, match="row 3: it has no 'picture'"):
        read_questions(path, columns={"id": "picture"})


@pytest.mark.parametrize("name", ["image", "images", "file_name"])
def test_images_are_not_left_out_silently(folder, name):
    """Seen to fail: every question was asked without its picture."""
    path = write(folder, GOOD, GOOD | {name: "images/red.png"})
    with pytest.raises(ValueError, match=f"images in the column '{name}', .* by --columns image={name}, or ask with"):
        read_questions(path)
    assert [item.image for item in read_questions(path, columns={"image": ""}).items] == [None, None]
    beside = write(folder, GOOD | {name: "none.png", "image_path": "images/red.png"})
    assert read_questions(beside).items[0].image == (folder / "images/red.png").resolve()


# ---------------------------------------------------------------- datasets


@pytest.fixture
def dataset():
    datasets = pytest.importorskip("datasets")
    features = {
        "image": datasets.Image(),
        "question": datasets.Value("string"),
        "answer_index": datasets.Value("int64"),
    }
    features |= {"choices": datasets.List(datasets.Value("string")), "image_path": datasets.Value("string")}
    rows = {
        "image": [Image.new("RGB", (6, 4), "red"), None, Image.new("RGB", (5, 5), "blue")],
        "question": ["One?", "Two?", "Three?"],
        "choices": [["x", "y"], ["x", "y", "z"], ["x", "x"]],
        "answer_index": [0, 2, 0],
        "image_path": ["of no concern.png"] * 3,
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def check_items(questions):
    assert [(item.question, item.choices, item.answer_index, item.row) for item in questions.items] == [
        ("One?", ("x", "y"), 0, 1),
        ("Two?", ("x", "y", "z"), 2, 2),
    ]
    assert [(one.row, one.reason) for one in questions.refused] == [(3, "choices 0 and 1 are the same: 'x'")]
    image = questions.items[0].image
    assert image.open().convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert image.open().size == (6, 4)
    assert questions.items[1].image is None


@pytest.mark.parametrize("kind", ["saved", "split", "parquet"])
def test_a_folder_of_a_dataset_is_read(dataset, tmp_path, kind, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    if kind == "saved":
        dataset.save_to_disk(tmp_path / kind)
    elif kind == "split":
        datasets.DatasetDict(test=dataset, train=dataset.select([0])).save_to_disk(tmp_path / kind)
    else:
        (tmp_path / kind).mkdir()
        dataset.to_parquet(tmp_path / kind / "test.parquet")
    questions = read_questions(tmp_path / kind, on_bad_row="skip", split="test" if kind == "split" else None)
    check_items(questions)
    assert questions.source["path"] == str(tmp_path / kind)
    assert questions.source["num_rows"] == 3
    assert questions.source["fingerprint"]
    one = read_questions(tmp_path / kind, split="test" if kind == "split" else None, limit=1)
    assert len(one.items) == 1


def test_an_image_column_of_another_name_is_not_left_out_silently(dataset, tmp_path):
    """Seen to fail with every question asked without its picture."""
    renamed = dataset.remove_columns("image_path").rename_column("image", "photo")
    renamed.save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match=r"images in the column 'photo', .* --columns image=photo"):
        read_questions(tmp_path / "one", on_bad_row="skip")
    check_items(read_questions(tmp_path / "one", on_bad_row="skip", columns={"image": "photo"}))
    plain = read_questions(tmp_path / "one", on_bad_row="skip", columns={"image": ""})
    assert [item.image for item in plain.items] == [None, None]


@pytest.mark.parametrize(
    ("split", "ids"),
    [("train[:2]", "0 1"), ("train[-1:]", "3"), ("train[50%:75%]", "2"), ("train[3:]+test[:1]", "3 9")],
)
def test_a_part_of_a_split(tmp_path, split, ids):
    """By datasets' own words. Seen to fail where a split had to be whole."""
    import datasets

    parts = {"train": [0, 1, 2, 3], "test": [9]}
    two = {
        name: datasets.Dataset.from_list(
            [{"question": str(n), "choices": ["a", "b"], "answer_index": 0} for n in found]
        )
        for name, found in parts.items()
    }
    datasets.DatasetDict(two).save_to_disk(tmp_path / "two")
    assert [item.question for item in read_questions(tmp_path / "two", split=split).items] == ids.split()


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ("train[:2", r"split 'train\[:2' cannot be read: .*Write e.g. train\[:100\]"),
        ("train[2:1]", "has no rows"),
        ("train[:1]+tset", "cannot be read: Unknown split"),
        ("tset[:1]", "there is no split .*; its splits are train"),
    ],
)
def test_a_part_that_is_not_there(tmp_path, split, reason):
    import datasets

    rows = [{"question": "q", "choices": ["a", "b"], "answer_index": 0}] * 3
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match=reason):
        read_questions(tmp_path / "one", split=split)


def test_which_split_must_be_said(dataset, tmp_path):
    import datasets

    datasets.DatasetDict(test=dataset, train=dataset).save_to_disk(tmp_path / "two")
    for split in (None, "tset"):
        with pytest.raises(ValueError, match="its splits are test, train"):
            read_questions(tmp_path / "two", split=split)


def test_a_saved_dataset_has_no_configurations(dataset, tmp_path):
    """Seen to fail: any name was taken, and the same questions were asked."""
    dataset.save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match="one was written by save_to_disk and has no configuration 'hard'"):
        read_questions(tmp_path / "one", config="hard")


def test_paths_in_a_dataset_stay_in_its_folder(tmp_path, folder, monkeypatch):
    """As text, and as an image column whose bytes are elsewhere. Seen to fail with the roots not checked."""
    import datasets
    from pyarrow import parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    outside, inside = str(tmp_path / "outside.png"), str(folder / "images/red.png")
    rows = {"question": ["?"] * 2, "choices": [["a", "b"]] * 2, "answer_index": [0] * 2}
    column = {"image": [{"bytes": None, "path": outside}, {"bytes": None, "path": inside}]}
    dataset = datasets.Dataset.from_dict(rows | column).cast_column("image", datasets.Image())
    (tmp_path / "columns").mkdir()
    parquet.write_table(dataset.data.table, tmp_path / "columns/test.parquet")  # save_to_disk would read the files
    assert ["outside the data's folder" in reason for reason in refused_of(tmp_path / "columns")] == [True, True]
    parquet.write_table(dataset.data.table, folder / "images/test.parquet")
    (outside_row,) = read_questions(folder / "images", on_bad_row="skip").refused
    assert outside_row.row == 1
    texts = datasets.Dataset.from_dict(rows | {"image_path": ["../outside.png", "../images/red.png"]})
    texts.save_to_disk(folder / "texts")
    assert ["stay inside" in reason for reason in refused_of(folder / "texts")] == [True, True]


def refused_of(path):
    with pytest.raises(ValueError, match="bad rows") as error:
        read_questions(path)
    return str(error.value).splitlines()[1:-1]


def test_broken_json_in_a_folder_says_what_to_do(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw", GOOD, GOOD | {"answer_index": "left"}, b"{")
    with pytest.raises(ValueError, match="Name a file of JSON lines itself"):
        read_questions(tmp_path / "raw")
