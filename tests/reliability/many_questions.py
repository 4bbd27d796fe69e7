"""What ``craft-trainer mcq`` takes for ten thousand and for a hundred thousand questions: time and peak memory.

    python tests/reliability/many_questions.py --questions 10000 100000

Every run is a process of its own, with a tiny language model: what grows with the questions is theirs.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

TWINS = Path(__file__).resolve().parents[1] / "twins"
WORDS = ("puck", "door", "drawer", "gripper", "goal", "left", "right", "open", "red", "blue")


def write(path: Path, number: int) -> None:
    """``number`` questions of six words with four choices of two."""
    draw = random.Random(0)
    with path.open("w") as file:
        for row in range(number):
            choices = [" ".join(pair) for pair in draw.sample([(a, b) for a in WORDS for b in WORDS if a != b], 4)]
            question = f"{row}: {' '.join(draw.choices(WORDS, k=6))}?"
            file.write(json.dumps({"question": question, "choices": choices, "answer_index": draw.randrange(4)}) + "\n")


def measured(folder: Path, number: int) -> tuple[float, float]:
    """Seconds of processor time and peak memory in bytes of ``mcq`` on ``number`` questions."""
    questions = folder / f"{number}.jsonl"
    write(questions, number)
    words = ["-m", "craft_trainer", "mcq", "--model", str(folder / "model"), "--data", str(questions)]
    with subprocess.Popen(
        [sys.executable, *words, "--output", str(folder / f"{number}.json"), "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"mcq ended with status {process.returncode} on {number} questions")
    scored = json.loads((folder / f"{number}.json").read_text())["num_items"]
    if scored != number:
        raise RuntimeError(f"mcq scored {scored} questions of {number}")
    return used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss


def main() -> None:
    """Measure each number, and print what another question takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, nargs="+", default=[10_000, 100_000])
    numbers = parser.parse_args().questions
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = [TWINS / "tiny_question_model.py", folder / "model", folder / "few.jsonl"]
        subprocess.run([sys.executable, *map(str, model)], check=True)
        found = {number: measured(folder, number) for number in numbers}
    for number, (seconds, peak) in found.items():
        print(f"{number:,} questions: {seconds:.0f} s of processor time, {peak / 1e6:,.0f} MB at the peak")
    if len(found) > 1:
        (few, (_, small)), *_, (many, (_, large)) = sorted(found.items())
        print(f"memory: {(large - small) / (many - few):,.0f} bytes a question")


if __name__ == "__main__":
    main()
