"""Signals, sent for real, and full disks meet commands that train nothing: what is done is kept, and goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_words import flags
from datasets import fingerprint
from datasets.arrow_writer import ArrowWriter
from full_disk import files_up_to
from lm_folders import save_lines, save_tiny_lm
from pyarrow import ArrowInvalid

from craft_trainer.cli.main import main
from craft_trainer.progress import progress
from craft_trainer.termination import INTERRUPTS, Terminated, interruptible

MANY = 2_000  # more than are done before the signal


@pytest.fixture
def listens() -> Iterator[None]:
    """SIGINT interrupts, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, texts, and questions."""
    folder = tmp_path_factory.mktemp("made")
    save_tiny_lm(folder / "model")
    save_lines(folder / "old.jsonl", [{"text": f"hello world {n} the answer is yes"} for n in range(MANY)])
    questions = [{"id": f"q{n}", "question": f"is it {n}", "choices": ["yes", "no"], "answer_index": 0}
                 for n in range(MANY)]  # fmt: skip
    save_lines(folder / "q.jsonl", questions)
    return folder


def words_of(command: str, made: Path, to: Path) -> tuple[list[str], str, str]:
    """A command, the files that show that some of it is done, and its result."""
    if command == "mcq":
        given = {"model": made / "model", "data": made / "q.jsonl", "batch_tokens": 64, "device": "cpu"}
        return ["mcq", *flags(**given, output=to / "mcq.json")], "mcq.json.partial*", "mcq.json"
    given = {"teacher": made / "model", "dataset": made / "old.jsonl", "anchors": MANY, "num_tokens": 8}
    words = ["cache", "build", *flags(**given, batch_size=2, output_dir=to / "cache")]
    return words, "cache.partial/*.done", "cache/anchors.json"


@pytest.mark.parametrize("command", ["cache build", "mcq"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_done_is_kept_and_told(made: Path, tmp_path: Path, command: str, number: int, status: int) -> None:
    """Seen to fail with SIGTERM: the command ended by it and said nothing."""
    words, some, result = words_of(command, made, tmp_path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    default = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler);"
    run = [sys.executable, "-c", f"{default} runpy.run_module('craft_trainer', run_name='__main__')", *words]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(run, env=environment, stdout=log, stderr=log)
        while not any(file.stat().st_size for file in tmp_path.glob(some)) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        try:
            assert process.wait(timeout=60) == status, (tmp_path / "log").read_text()
        finally:
            process.kill()
    told = (tmp_path / "log").read_text()
    assert f"craft-trainer {words[0]}: interrupted" in told
    assert "the same call goes on" in told or "the same command goes on" in told
    assert not (tmp_path / result).exists()
    assert main(words) == 0
    assert (tmp_path / result).is_file()


@pytest.mark.usefixtures("listens")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_that_datasets_swallows(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    """By the bare ``except:`` around its hashing. Seen to fail: the build went on to its end."""
    words, some, result = words_of("cache build", made, tmp_path)
    hashed, sent = fingerprint.Hasher.update, list[int]()

    def interrupted(self: fingerprint.Hasher, value: object) -> None:
        if not sent and isinstance(value, str) and value == "arrow" and any(tmp_path.glob(some)):
            sent.append(number)
            signal.raise_signal(number)
        hashed(self, value)

    monkeypatch.setattr(fingerprint.Hasher, "update", interrupted)
    assert main(words) == status
    assert sent
    assert not (tmp_path / result).exists()
    assert main(words) == 0


@pytest.mark.usefixtures("listens")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_that_becomes_an_error(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: int, status: int,
) -> None:  # fmt: skip
    """As in Arrow: where it compares the types of columns it prints what a callback raises and says that they differ.
    Seen to fail: status 1 and Arrow's message alone, in a test run where the signal arrived in there by chance."""
    words, some, result = words_of("cache build", made, tmp_path)
    written, sent = ArrowWriter.write_batch, list[int]()

    def interrupted(self: ArrowWriter, *args: Any, **given: Any) -> None:
        if not sent and any(tmp_path.glob(some)):
            sent.append(number)
            with suppress(BaseException):
                signal.raise_signal(number)
            raise ArrowInvalid("Column data for field 4 is inconsistent with schema")
        written(self, *args, **given)

    monkeypatch.setattr(ArrowWriter, "write_batch", interrupted)
    assert main(words) == status
    assert sent
    told = capsys.readouterr().err
    assert "craft-trainer cache: interrupted" in told
    assert "then: ArrowInvalid: " in told
    assert "the same call goes on" in told
    assert not (tmp_path / result).exists()
    assert main(words) == 0


@pytest.mark.usefixtures("listens")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_an_interruption_that_a_library_swallows(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    """Work that counts, and work that is iterated over."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    for number, error in INTERRUPTS.items():
        with interruptible(), progress(total=2, desc="work", unit="bit") as bar:
            bar.update()
            with suppress(BaseException):
                signal.raise_signal(number)
            with pytest.raises(error):
                bar.update()
        with interruptible():
            bits = iter(progress(range(3), desc="work", unit="bit"))
            next(bits)
            with suppress(BaseException):
                signal.raise_signal(number)
            with pytest.raises(error):
                next(bits)
    with interruptible(), progress(total=1, desc="work", unit="bit") as bar:
        bar.update()  # what came before is forgotten


@pytest.mark.parametrize("command", ["cache build", "mcq"])
@pytest.mark.parametrize("num_bytes", [100, 2_000, 30_000, 200_000])
def test_a_full_disk_is_told_with_what_is_kept(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, num_bytes: int
) -> None:
    """In small files, and in those that hold the work. Seen to fail: `[Errno 27] File too large` was all of the
    message, a tokenizer that could not be written was a traceback, and the half of a cache kept the disk full."""
    words, some, result = words_of(command, made, tmp_path)
    with files_up_to(num_bytes):
        assert main(words) == 1
    told = capsys.readouterr().err
    assert "no room was left for a file" in told
    assert "GB in " in told
    assert not (tmp_path / result).exists()
    assert not (tmp_path / "cache.partial/joined").exists()
    if any(file.stat().st_size for file in tmp_path.glob(some)):
        assert "the same call goes on" in told or "the same command goes on" in told
    assert main(words) == 0
    assert (tmp_path / result).is_file()


def test_a_forked_worker_ends_by_the_signal_itself() -> None:
    """`DataLoader` and pools end their workers so. Afterwards the default is there again."""
    with interruptible():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_program_stays() -> None:
    """Of a script that calls the command."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with interruptible():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_one_of_several_processes_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait for another one, where Python handles no signal."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
