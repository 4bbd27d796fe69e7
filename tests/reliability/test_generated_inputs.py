"""Files and words that nobody wrote on purpose: only the documented errors come out, and they name the file.

    RELIABILITY_EXAMPLES=4000 python -m pytest -q tests/reliability/test_generated_inputs.py

The variable says how many inputs each test is given; by default they are few.
"""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from craft_trainer.anchors.provenance import PROVENANCE_FILE, SCHEMA, Provenance
from craft_trainer.cli.arguments import parse_all
from craft_trainer.cli.mcq import McqArguments
from craft_trainer.cli.yaml_files import mapping_in
from craft_trainer.evaluation.progress import ProgressFile
from craft_trainer.evaluation.questions import read_questions
from craft_trainer.hub.facts import FACTS_FILE, RunFacts
from craft_trainer.report.choices import load_choices
from craft_trainer.report.results import load_results
from craft_trainer.report.rollouts import load_rollout
from craft_trainer.report.run import RECORD_FILE, STATE_FILE, load_run
from craft_trainer.training.settings import RetentionSettings

EXAMPLES = int(os.environ.get("RELIABILITY_EXAMPLES", "25"))
MANY = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 100
)
KEYS = st.sampled_from([
    "schema", "model", "items", "metrics", "compare", "comparison", "refused", "settings", "data", "rows", "task",
    "episodes", "successes", "seeds", "stream", "summary", "policy", "question", "choices", "answer_index", "id",
    "image_path", "files", "groups", "teachers", "features", "storage", "log_history", "step", "loss", "starts",
    "end", "units", "retained", "retention_every", "epsilon", "retention_terms", "retention_weights", "multiplier",
    "method", "epsilon_per_group", "epsilon_final", "epsilon_schedule", "constraints", "hidden_distance",
])  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=5)
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=8)


def only_documented(read: Callable[[Path], Any], file: str, content: str | bytes) -> None:
    """``read`` a folder with ``content`` in ``file``: it succeeds, or says in which file what is wrong."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / file
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        try:
            read(Path(place))
        except (ValueError, FileNotFoundError) as error:
            if place not in str(error):
                raise AssertionError(f"the message names no file: {error}") from error


def loader(load: Callable[[Path], Any], file: str) -> Callable[[Path], Any]:
    return lambda folder: load(folder / file)


READERS = {
    "mcq.json": (loader(load_choices, "mcq.json"), {"schema": 1, "metrics": {}}),
    "results.json": (loader(load_results, "results.json"), {"schema": 1}),
    "rollout.json": (loader(load_rollout, "rollout.json"), {"policy": "p", "rows": [{}]}),
    FACTS_FILE: (RunFacts.read, {"schema": 1}),
    STATE_FILE: (load_run, {"log_history": [{"step": 1}]}),
    RECORD_FILE: (load_run, {"starts": [{}]}),
    PROVENANCE_FILE: (Provenance.read, {"schema": SCHEMA, "files": {}}),
}


@pytest.mark.parametrize("file", READERS)
@given(found=OBJECTS | VALUES, known=st.booleans())
@MANY
def test_json_of_strangers(file, found, known):
    """Seen to fail with `anchors.json` = `[]`, `end` of run.json = text, a step that is text."""
    read, usual = READERS[file]
    content = usual | found if known and isinstance(found, dict) else found
    only_documented(read, file, json.dumps(content))


@pytest.mark.parametrize("file", READERS)
@given(content=st.binary(max_size=40) | st.text(max_size=40))
@MANY
def test_bytes_that_are_no_json(file, content):
    only_documented(READERS[file][0], file, content)


@given(rows=st.lists(OBJECTS | VALUES, max_size=4), skip=st.booleans())
@MANY
def test_questions_of_strangers(rows, skip):
    def read(folder: Path) -> None:
        read_questions(folder / "q.jsonl", on_bad_row="skip" if skip else "error")

    only_documented(read, "q.jsonl", "\n".join(map(json.dumps, rows)))


@given(content=st.binary(max_size=60) | st.text(max_size=60))
@MANY
def test_lines_that_are_no_questions(content):
    only_documented(lambda folder: read_questions(folder / "q.jsonl"), "q.jsonl", content)


@given(lines=st.lists(VALUES | st.tuples(st.integers(0, 2), VALUES, st.text(max_size=16)), max_size=4))
@MANY
def test_progress_of_strangers(lines):
    """No line that was not written is taken, and none ends the run."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "p.jsonl"
        progress = ProgressFile(path, {"weights": "w"})
        progress.read([])
        path.write_text(path.read_text() + "".join(json.dumps(line) + "\n" for line in lines))
        assert progress.read([[1], [1], [1]]) == {}


@given(
    text=st.text(alphabet="abc: -[]{}&*!|>#'\"\n\t?,.0", max_size=60) | st.text(max_size=40) | st.binary(max_size=40)
)
@MANY
def test_yaml_of_strangers(text):
    """No tag makes an object, no alias a bomb; what is no mapping is named."""
    only_documented(lambda folder: mapping_in(folder / "c.yaml"), "c.yaml", text)


@given(values=OBJECTS)
@MANY
def test_settings_of_a_yaml_file(values):
    """Seen to fail with `retention_every: []`, `{}` and `.nan`."""

    def read(folder: Path) -> None:
        path = folder / "c.yaml"
        try:
            (filled,) = parse_all("train", "", [RetentionSettings], ["--config", str(path)])
            filled.check()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error  # settings name the field, the file of it is known

    only_documented(read, "c.yaml", yaml.safe_dump(values, allow_unicode=True))


WORDS = st.sampled_from(["--model", "--data", "--limit", "--config", "--chat", "--help", "-", "--", "="]) | st.text(
    max_size=6
)


@given(words=st.lists(WORDS, max_size=6))
@MANY
def test_words_of_a_command_line(words):
    """They are understood, or the process ends with a status, or a ValueError or a missing file is told."""
    with suppress(ValueError, OSError, SystemExit):
        parse_all("mcq", "", [McqArguments], words)
