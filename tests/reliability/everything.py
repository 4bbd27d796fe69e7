"""Try every fault that docs/reliability.md counts, one harness after another: hours, two of them for one run alone.

    python tests/reliability/everything.py FOLDER [--only kills mutations] [--short]

What a harness prints goes to FOLDER/NAME.log too. One that is done (FOLDER/NAME.done) is not run again, so the same
command goes on after a pause. The exit status is the number of harnesses that failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RUNS = {  # what is run, then what replaces its words in the short form
    "kills by script": ("kills.py FOLDER --kills 20 --by script", {"20": "2"}),
    "kills by command": ("kills.py FOLDER --kills 20 --by command", {"20": "2"}),
    "kills of two processes": ("kills.py FOLDER --kills 20 --by script --processes 2", {"20": "2"}),
    "kills of commands": ("kills_of_commands.py FOLDER --kills 20", {"20": "1"}),
    "mutations": ("mutations.py --number 1350 --seed 0", {"1350": "90"}),
    "Arrow files": ("bad_arrow.py --number 1000 --seed 0", {"1000": "50"}),
    "generated inputs": ("-m pytest -q -n 2 test_generated_inputs.py", {}),
    "tests of faults": (
        "-m pytest -q -n 2 ../integration/test_full_disks.py ../integration/test_finishing.py "
        "../integration/test_interrupted.py ../integration/test_terminated.py ../integration/test_not_a_number.py "
        "../integration/test_whole_checkpoints.py ../integration/test_one_run_at_a_time.py "
        "../integration/test_code_of_strangers.py ../distributed/test_disagreeing.py ../unit/hub/test_manifest.py "
        "../unit/hub/test_in_use.py ../unit/files/test_leftovers.py ../unit/cli/test_read_only.py "
        "../unit/cli/test_output.py ../unit/cli/test_report_command.py",
        {},
    ),
    "saving": ("saving.py FOLDER --width 512 --steps 24 --trainings 3", {"512": "64", "24": "4", "3": "1"}),
    "a million anchors": ("million.py --anchors 1000000", {"1000000": "10000"}),
    "many questions": ("many_questions.py --questions 10000 100000", {"10000": "100", "100000": "1000"}),
    "two hours": ("flat.py FOLDER --minutes 120", {"120": "2"}),
}


def run(name: str, folder: Path, *, short: bool) -> bool:
    """Run one harness, unless it is done; returns whether it succeeded."""
    line, shorter = RUNS[name]
    done, log, place = (folder / (name.replace(" ", "_") + ending) for ending in (".done", ".log", ""))
    if done.exists():
        return True
    shutil.rmtree(place, ignore_errors=True)  # of an interrupted one
    words = [shorter.get(word, word) if short else word for word in line.split()]
    first, *rest = [str(place) if word == "FOLDER" else word for word in words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RELIABILITY_EXAMPLES": "25" if short else "5000"}
    began = time.monotonic()
    print(f"{name}: {' '.join(words)}", flush=True)
    with log.open("w") as file:
        command = [sys.executable, *([first] if first == "-m" else [str(HERE / first)]), *rest]
        status = subprocess.run(command, cwd=HERE, env=environment, stdout=file, stderr=file, check=False).returncode
    said = "\n".join(f"  {line}" for line in log.read_text().splitlines()[-12:])
    print(f"{said}\n  {time.monotonic() - began:.0f} s, status {status}", flush=True)
    if status == 0:
        done.touch()
    return status == 0


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--short", action="store_true", help="a few faults of each")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return sum(not run(name, folder, short=given.short) for name in given.only)


if __name__ == "__main__":
    sys.exit(main())
