"""Kill commands at random moments, and give them again: what they leave must be what they leave undisturbed.

    python tests/reliability/kills_of_commands.py FOLDER [--seed 0] [--only mcq report] [--kills 20]

Each child runs a command and gets SIGKILL after a random fraction of the time that the command takes. The same command
is then given again (a suite goes on by it as well). Every file that it leaves must be the one that the undisturbed
command has left, bit for bit, apart from times, process numbers and the name of the folder itself. What a suite had
finished before the kill is not touched again.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "integration"))
sys.path.append(str(Path(__file__).parents[1] / "twins"))
sys.path.append(str(Path(__file__).parents[1] / "unit/report"))

import torch
from command_words import flags
from kills import child, text_of
from lm_folders import save_lines, save_tiny_lm
from report_inputs import write_demo, write_mcq, write_run

from craft_trainer.cli.main import main
from craft_trainer.hub.run_folder import all_files

TINY_ACT = {"chunk_size": 4, "n_action_steps": 2, "dim_model": 16, "n_heads": 2, "dim_feedforward": 16}
TINY_ACT |= {"n_encoder_layers": 1, "n_decoder_layers": 1, "use_vae": False, "dropout": 0.0}
TRAIN = {"max_steps": 2, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
TIMES = (  # and the checksum of a document that has some
    rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.+:\d]*|"
    rb"\"\w*(?:seconds|runtime|per_second|time)\": [\d.e+-]+|\"sha256\": \"\w+\"|"
    rb"\"seconds\": \{[^}]*\}"
)
NOT_COMPARED = ("logs/*", "*/training_args.bin")  # progress and times; a name with a time
SUITE = """
streams: {one: {start: FOLDER/teacher, old: FOLDER/old.jsonl, new: FOLDER/new.jsonl, questions: FOLDER/q.jsonl}}
seeds: [0]
commands:
  anchors: {run: cache build, teacher: "{start}", dataset: "{old}", anchors: 16, num_tokens: 8, seed: "{seed}"}
  student: {run: train, model: "{start}", dataset: "{new}", max_steps: 2, seed: "{seed}", use_cpu: true,
    report_to: none, save_strategy: "no", disable_tqdm: true}
  asked: {run: mcq, model: "{start}", compare: "{student}", data: "{questions}", device: cpu}
evaluations: [asked]
methods:
  plain: {}
  craft: {student: {anchors: "{anchors}"}}
"""
Write = Callable[[Path], Any]


@dataclass
class Command:
    """``make`` writes the inputs into a folder; ``words`` are the command, of that folder and of the output's."""

    make: Write
    words: Callable[[Path, Path], list[str]]
    kills: int = 20
    warms_up: bool = True  # not what starts a server of processes, which children would take for theirs
    finished: Callable[[Path], dict[str, int]] = lambda _: {}  # files that no later run may touch, with their times


def run(*words: str) -> None:
    """A command that must succeed."""
    if main(list(words)) != 0:
        raise RuntimeError(f"{words[0]} failed")


def make_texts(folder: Path) -> None:
    """A language model, another one made of it, its anchors, and questions."""
    for seed, name in enumerate(("teacher", "tuned")):
        save_tiny_lm(folder / name, seed=seed)
    save_lines(folder / "old.jsonl", [{"text": "hello world " + "the answer is yes " * (n % 5)} for n in range(60)])
    questions = [
        {"id": f"q{n}", "question": f"is it {n}", "choices": ["yes", "no"], "answer_index": 0} for n in range(60)
    ]
    save_lines(folder / "q.jsonl", questions)
    given = {"teacher": folder / "teacher", "dataset": folder / "old.jsonl", "output_dir": folder / "anchors"}
    run("cache", "build", *flags(**given, anchors=16, num_tokens=8))


def make_suite(folder: Path) -> None:
    """A suite of two cells over these, and a cache."""
    make_texts(folder)
    save_lines(folder / "new.jsonl", [{"text": f"no {n}"} for n in range(16)])
    (folder / "toy.yaml").write_text(SUITE.replace("FOLDER", str(folder)))


def finished_of_suite(output: Path) -> dict[str, int]:
    """Raw results, and the logs of the commands that have ended well."""
    timed = output / "logs/seconds.json"
    names = json.loads(timed.read_text()) if timed.is_file() else {}
    logs = [output / f"logs/{name}.log" for name in names if name != "total"]
    return {str(file): file.stat().st_mtime_ns for file in (*(output / "raw").rglob("*.json"), *logs)}


def make_policy(folder: Path) -> None:
    """Recorded episodes, and a policy."""
    run("record", *flags(tasks="push-v3", episodes=1, output_dir=folder / "data"))
    given = {"policy_type": "act", "policy_options": str(TINY_ACT).replace("'", '"').replace("False", "false")}
    run("train", *flags(**TRAIN, **given, dataset=folder / "data", output_dir=folder / "policy"))


def make_evidence(folder: Path) -> None:
    """What a report is made of."""
    write_demo(folder / "demo")
    write_run(folder / "run")
    write_mcq(folder / "mcq.json")


def report_words(folder: Path, output: Path) -> list[str]:
    given = {"results": folder / "demo/results.json", "run": folder / "run", "mcq": folder / "mcq.json"}
    return ["report", *flags(**given, output=output / "report.html")]


COMMANDS = {
    "cache build": Command(make_texts, lambda at, to: [
        "cache", "build", *flags(teacher=at / "teacher", dataset=at / "old.jsonl", output_dir=to / "cache", anchors=60,
                                 num_tokens=8, batch_size=2)]),
    "mcq": Command(make_texts, lambda at, to: [
        "mcq", *flags(model=at / "teacher", compare=at / "tuned", data=at / "q.jsonl", output=to / "mcq.json",
                      batch_tokens=64, device="cpu")]),
    "merge": Command(make_texts, lambda at, to: [
        "merge", *flags(teacher=at / "teacher", tuned=at / "tuned", anchors=at / "anchors", output_dir=to / "merged",
                        points=5, device="cpu")]),
    "suite run": Command(make_suite, warms_up=False, finished=finished_of_suite, words=lambda at, to: [
        "suite", "run", str(at / "toy.yaml"), *flags(output=to, jobs=2)]),
    "report": Command(make_evidence, report_words),
    "record": Command(lambda _: None, lambda _, to: [
        "record", *flags(tasks="push-v3", episodes=2, output_dir=to / "data")]),
    "rollout": Command(make_policy, kills=10, words=lambda at, to: [
        "rollout", *flags(policy=at / "policy", tasks="push-v3,reach-v3", episodes=2, max_steps=20, device="cpu",
                          output=to / "rollout.json")]),
}  # fmt: skip


def left(folder: Path, output: Path) -> dict[str, bytes]:
    """Every file that is no lock, without times and without the name of ``output``."""
    files = {name: file for name, file in all_files(output).items() if not Path(name).name.startswith(".")}
    names = {name: file for name, file in files.items() if not any(fnmatch(name, one) for one in NOT_COMPARED)}
    words = {str(output).encode(): b"OUTPUT", str(folder).encode(): b"FOLDER"}
    return {name: _without(file.read_bytes(), words) for name, file in names.items()}


def _without(content: bytes, words: dict[bytes, bytes]) -> bytes:
    for word, instead in words.items():
        content = content.replace(word, instead)
    return re.sub(TIMES, b"TIME", content)


def killed_after(seconds: float, words: list[str]) -> Callable[[int], None]:
    """The command, in a process that dies after so many seconds."""

    def work(_: int) -> None:
        threading.Thread(
            target=lambda: (time.sleep(seconds), os.kill(os.getpid(), signal.SIGKILL)), daemon=True
        ).start()
        run(*words)

    return work


def try_kills(command: Command, folder: Path, kills: int, seed: int) -> tuple[int, int]:
    """How often it was killed, of how many tries; an AssertionError tells what was lost."""
    command.make(folder)
    draw = random.Random(seed)

    def words(output: Path) -> list[str]:
        return command.words(folder, output)

    first, whole = folder / "first", folder / "whole"
    first.mkdir()
    whole.mkdir()
    if command.warms_up:
        run(*words(first))  # modules are imported in this process, once: the second one is as the children are
    else:
        status, _ = child(lambda _: run(*words(first)), first)
        assert status == 0, text_of(first)
    begin = time.perf_counter()
    status, _ = child(lambda _: run(*words(whole)), whole)
    assert status == 0, text_of(whole)
    duration, expected = time.perf_counter() - begin, left(folder, whole)
    assert_same(left(folder, first), expected, "two undisturbed ones")
    count = tries = 0
    while count < kills and tries < 3 * kills:
        output, tries = folder / f"run{tries}", tries + 1
        output.mkdir()
        status, _ = child(killed_after(draw.uniform(0, duration), words(output)), output)
        assert status in (0, -signal.SIGKILL), text_of(output)
        if status == 0:
            continue
        count += 1
        finished = command.finished(output)
        status, _ = child(lambda _, output=output: run(*words(output)), output)
        said = text_of(output)
        assert status == 0 or "exists" in said, said  # it was complete already
        assert_same(left(folder, output), expected, f"{output}")
        again = {name for name, time_ns in command.finished(output).items() if finished.get(name, time_ns) != time_ns}
        assert not again, f"{output}: {sorted(again)} were made again"
        shutil.rmtree(output)
    return count, tries


def assert_same(found: dict[str, bytes], expected: dict[str, bytes], what: str) -> None:
    """Equal files, with a message that names those that are not."""
    assert found.keys() == expected.keys(), f"{what}: {sorted(found.keys() ^ expected.keys())}"
    other = [name for name in expected if found[name] != expected[name]]
    assert not other, f"{what}: {other} are not the same"


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, help="of each command; by default 20, fewer of those that take long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    for name in given.only:
        place = (given.folder / name.replace(" ", "-")).absolute()
        place.mkdir(parents=True)
        began = time.perf_counter()
        count, tries = try_kills(COMMANDS[name], place, given.kills or COMMANDS[name].kills, given.seed)
        spent = time.perf_counter() - began
        print(f"{name}: {count} kills in {tries} runs, seed {given.seed}, {spent:.0f} s; nothing lost", flush=True)
