"""A command that leaves files instead of results. It imports nothing heavy: every process of a test imports it."""

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path


def pretend(argv: Sequence[str]) -> int:
    """Write what a command of this name would leave; a student whose method is agem fails."""
    place = Path(argv[argv.index("--output" if "--output" in argv else "--output_dir") + 1])
    place.parent.mkdir(parents=True, exist_ok=True)
    work = next(folder for folder in place.parents if folder.name == "work")
    with (work / "ran").open("a") as ran:
        ran.write(f"{argv[0]} {place}\n")
    if "agem" in argv:
        print("no gradient")
        return 3
    if argv[0] == "rollout":
        tasks = takewhile(lambda word: not word.startswith("--"), argv[argv.index("--tasks") + 1 :])
        rows = [{"task": task, "episodes": 2, "successes": 1, "outcomes": "10"} for task in tasks]
        place.write_text(json.dumps({"policy": "of its own", "max_steps": 500, "rows": rows}))
        return 0
    place.mkdir()
    (place / "trainer_state.json").write_text("{}")
    return 0
