"""Code in the documentation: Python compiles, what is marked runs, commands are understood by their own parsers."""

import logging
import re

import pytest
from command_line import check
from draccus.utils import DecodingError, ParsingError
from pages import PAGES, ROOT, blocks, command_lines, inline_codes

BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
STEPS = re.compile(r"max_steps=\d+")


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles(block):
    """Seen to fail with a bracket taken away."""
    compile(block.text, str(block), "exec")


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """A working directory with what a block needs: nothing, or a tiny policy, its data and its anchors in outputs."""
    if request.param == "policy":
        outputs = tmp_path / "outputs"
        (outputs / "data").mkdir(parents=True)
        (outputs / "data/new").symlink_to(request.getfixturevalue("tiny_dataset"))
        request.getfixturevalue("tiny_policy")().save_pretrained(outputs / "teacher")
        (outputs / "anchors").symlink_to(request.getfixturevalue("tiny_anchors").folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")  # as a user without a GPU sees it
@pytest.mark.parametrize(
    ("block", "place"),
    [(block, block.runnable) for block in PYTHON if block.runnable],
    ids=str,
    indirect=["place"],
)
def test_what_is_marked_runs(block, place, monkeypatch):
    """On tiny models and in two or three steps. Seen to fail with an argument of CraftTrainer misspelt."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    fewer = "max_steps=2"
    if block.runnable == "policy":
        fewer += ", learned_inputs='allow'"  # the tiny dataset is both what is known and what is learned
    exec(compile(STEPS.sub(fewer, block.text), str(block), "exec"), {"__name__": "__main__"})
    (history,) = place.glob("outputs/*/lambda_history.csv")
    assert len(history.read_text().splitlines()) == 3, "a line for each of two steps, under the names of the columns"


def test_something_is_marked():
    marked = {(name_of(block.page), block.runnable) for block in PYTHON if block.runnable}
    assert {("docs/quickstart.md", "nothing"), ("docs/training.md", "policy"), ("README.md", "policy")} <= marked


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_understood(page, monkeypatch, capsys):
    """Command, options and values of every line. Seen to fail with --learning_rat, with a YAML file renamed."""
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    for block in blocks(page):
        for words in command_lines(block):
            check(words, monkeypatch, capsys)


def test_scripts_named_in_a_sentence_exist():
    for page in PAGES:
        for code in inline_codes(page):
            for path in re.findall(r"(?:scripts|configs)/[\w/]+\.(?:sh|py|yaml)", code):
                original = page.name == "migration.md"  # its left column names files of another project
                assert original or (ROOT / path).is_file(), f"{page}: {code}"


@pytest.mark.parametrize(
    "line",
    [
        "craft-trainer trian --config configs/train/dryrun.yaml",
        "craft-trainer cache biuld --teacher a --dataset b --output_dir c",
        "craft-trainer train --dataset a --model b --output_dir c --retention_evry 2",
        "craft-trainer train --dataset a --model b --output_dir c --retention_every often",
        "craft-trainer train --dataset a --model b --output_dir c --epsilon -1",
        "accelerate launch -m craft_trainer train --config configs/train/missing.yaml",
        "accelerate launch --mutli_gpu -m craft_trainer train --config configs/train/metaworld_plain.yaml",
        "bash scripts/missing.sh",
        "bash scripts/demo.sh --quik",
        "pip install -e .[everything]",
        "craft-triner info",
        "lerobot-train --dataset.repo_id=a --policy.type=act --stepz=3",
        "lerobot-eval --policy.path=a --env.type=pushed",
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch, capsys):
    with pytest.raises((AssertionError, pytest.fail.Exception, SystemExit, DecodingError, ParsingError)):
        check(line.split(), monkeypatch, capsys)
