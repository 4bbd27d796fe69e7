"""Files that commands wrote, changed at random, and read back: is what was changed named, or taken for the truth?

    python tests/reliability/mutations.py --number 1000 --seed 0

Half of the changes of a JSON file that has a checksum are made to fit it. What comes out of a changed file is
  named      refused by one of the documented errors, which says which file it is;
  the same   read, and equal to what was written: the change touched nothing that is used;
  forged     read as something else, its checksums made to fit: only a signature could tell;
  accepted   read as something else although nothing was made to fit;
  traceback  any other exception, or one that does not say which file.
A line of the table is a kind of file. Exit status 1 if anything was accepted or ended in a traceback.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "unit/report"), str(TESTS / "unit/anchors")]

from report_inputs import write_demo, write_json, write_mcq, write_rollout, write_run  # noqa: E402
from seer import build  # noqa: E402

from craft_trainer.anchors.cache import AnchorCache  # noqa: E402
from craft_trainer.anchors.provenance import PROVENANCE_FILE, Provenance, file_digest  # noqa: E402
from craft_trainer.anchors.verification import require_own_values  # noqa: E402
from craft_trainer.evaluation.progress import ProgressFile  # noqa: E402
from craft_trainer.evaluation.questions import read_questions  # noqa: E402
from craft_trainer.files import CHECKSUM, checksum  # noqa: E402
from craft_trainer.hub.facts import FACTS_FILE, Retained, RunFacts, Source, Teacher  # noqa: E402
from craft_trainer.report.choices import load_choices  # noqa: E402
from craft_trainer.report.results import load_results  # noqa: E402
from craft_trainer.report.rollouts import load_rollout  # noqa: E402
from craft_trainer.report.run import load_run  # noqa: E402

OUTCOMES = ("named", "the same", "forged", "accepted", "traceback")
DOCUMENTED = (ValueError, FileNotFoundError)
ABSURD: list[Any] = [
    None, True, False, 0, -1, 5, 99, 10**9, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "-1", "\0",
    "../../etc/passwd", "<script>", [], {}, [1], [[]], {"a": 1}, "é" * 1000, [None], "9" * 5000,
]  # fmt: skip


@dataclass
class Kind:
    """One kind of file: ``make`` writes it into a folder, ``read`` gives what is used of it, to be compared.

    ``forge`` makes its checksums fit; ``files`` are those that may be changed, all if there are none.
    """

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    forge: Callable[[Path], None] | None = None
    files: tuple[str, ...] = ()


def changed_json(text: str, rng: random.Random) -> str:
    """A document with one place of it changed: another value, none, a key more, a value of elsewhere, or a number."""
    document = json.loads(text)
    places = list(_places(document))
    if not places:
        return json.dumps(rng.choice(ABSURD))
    holder, key = rng.choice(places)
    how = rng.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1:
        holder[key] = deepcopy(rng.choice(ABSURD))
    elif how == 2:
        other, name = rng.choice(places)
        holder[key] = deepcopy(other[name])
    elif how == 3 and isinstance(holder, list):
        holder.append(deepcopy(holder[key]))
    elif how == 3:
        holder["unknown"] = 1
    elif isinstance(holder[key], bool):
        holder[key] = not holder[key]
    elif isinstance(holder[key], int | float):
        holder[key] = rng.choice([-holder[key], holder[key] + 1, holder[key] * 1.01, holder[key] * 1000])
    elif isinstance(holder[key], str):
        holder[key] = holder[key][::-1] + "x"
    else:
        holder[key] = type(holder[key])()
    return json.dumps(document)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield value, key
        yield from _places(one)


def changed_bytes(content: bytes, rng: random.Random) -> bytes | None:
    """Bytes flipped, cut, doubled, emptied, exchanged for noise; None: the file is gone."""
    how = rng.randrange(7)
    if how == 0:
        return None
    if how == 1:
        return b""
    if how == 2:
        return content[: rng.randrange(len(content))]
    if how == 3:
        return content + content[rng.randrange(len(content)) :]
    if how == 4:
        return rng.randbytes(rng.randrange(1, 200))
    flipped = bytearray(content)
    for _ in range(rng.choice([1, 1, 8])):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def mutate(kind: Kind, folder: Path, rng: random.Random) -> bool:
    """Change one file in ``folder``; whether its checksums were made to fit."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "README.md")
    file = rng.choice([one for one in files if not kind.files or one.name in kind.files])
    content = file.read_bytes()
    as_json = file.suffix == ".json" and rng.random() < 0.7
    if as_json:
        changed: bytes | None = changed_json(content.decode(), rng).encode()
    elif file.suffix == ".jsonl" and rng.random() < 0.7:
        lines = content.decode().splitlines()
        number = rng.randrange(len(lines))
        lines[number] = changed_json(lines[number], rng)
        changed = "".join(f"{line}\n" for line in lines).encode()
    else:
        changed = changed_bytes(content, rng)
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)
    if kind.forge is None or not as_json or rng.random() < 0.5:
        return False
    try:
        kind.forge(folder)
    except Exception:  # noqa: BLE001  # what cannot even be forged is read as it is
        return False
    return True


def outcome(kind: Kind, folder: Path, expected: Any, *, is_forged: bool) -> str:
    """What comes of reading ``folder``, of which ``expected`` was to be read; one of ``OUTCOMES``."""
    try:
        with redirect_stdout(StringIO()):
            found = kind.read(folder)
    except DOCUMENTED as error:
        return "named" if str(folder) in str(error) else f"traceback: names no file: {error!r}"
    except Exception as error:  # noqa: BLE001  # this is what is looked for
        return f"traceback: {error!r}"
    return "the same" if found == expected else "forged" if is_forged else "accepted"


def forge_object(name: str) -> Callable[[Path], None]:
    """Make the checksum of the JSON object in the file ``name`` fit."""

    def forge(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        write_json(folder / name, content | {CHECKSUM: checksum(content)})

    return forge


def forge_cache(folder: Path) -> None:
    """Make the checksums of the files of a cache, its fingerprint and the checksum of its provenance fit."""
    content = json.loads((folder / PROVENANCE_FILE).read_text())
    content["files"] |= {name: file_digest(folder / name) for name in content["files"]}
    content["fingerprint"] = Provenance(**{k: v for k, v in content.items() if k != CHECKSUM}).compute_fingerprint()
    write_json(folder / PROVENANCE_FILE, content | {CHECKSUM: checksum(content)})


def read_cache(folder: Path) -> Any:
    """Everything that training takes from a cache, as bytes; after the checks of `cache verify`."""
    cache = AnchorCache(folder)
    require_own_values(cache)
    batch = cache.batch(range(len(cache)))
    tensors = [*batch.inputs.values(), *batch.teacher.hidden.values(), batch.teacher.output]
    parts = [one.numpy().tobytes() if hasattr(one, "numpy") else repr(one) for one in tensors]
    scales = {name: value.tolist() for name, value in cache.scales().items()}
    return [*parts, batch.groups, scales, {k: v for k, v in vars(cache.provenance).items() if k != "files"}]


def facts() -> RunFacts:
    """What a run says of itself."""
    retained = Retained(
        "while it is held",
        [Teacher(Source("teacher", "org/teacher"), 3)],
        {"hidden": 1.0},
        ["variance"],
        [["layer", "none"]],
        {"push": 3},
    )
    return RunFacts("craft", "lerobot", "act", base=Source("base", "org/base"), retained=retained, step=5)


def write_questions(path: Path) -> None:
    """Twenty questions."""
    rows = [
        {"id": f"q{number}", "question": f"What is {number}?", "choices": ["one", "two"], "answer_index": number % 2}
        for number in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_progress(path: Path) -> None:
    """Progress of ten questions of two choices."""
    progress = ProgressFile(path, {"weights": "w"})
    progress.read([])
    for number in range(10):
        progress.add(number, [[-1.0, -0.5 * number], [-2.0]])


def read_progress(path: Path) -> str:
    """Whether every question that is taken as done has the log-likelihoods that were written."""
    found = ProgressFile(path, {"weights": "w"}).read([[2, 1]] * 10)
    assert all(sums == [[-1.0, -0.5 * number], [-2.0]] for number, sums in found.items())
    return "only what was written"


KINDS = {
    "anchor cache": Kind(lambda folder: build(folder / "cache"), lambda folder: read_cache(folder / "cache"),
                         lambda folder: forge_cache(folder / "cache")),
    "mcq.json": Kind(lambda folder: write_mcq(folder / "mcq.json"), lambda folder: load_choices(folder / "mcq.json"),
                     forge_object("mcq.json")),
    "mcq.json of one": Kind(lambda folder: write_mcq(folder / "mcq.json", compare=False),
                            lambda folder: load_choices(folder / "mcq.json"), forge_object("mcq.json")),
    "results.json": Kind(lambda folder: (write_demo(folder), forge_object("results.json")(folder)),
                         lambda folder: load_results(folder / "results.json"), forge_object("results.json"),
                         files=("results.json",)),
    "rollout": Kind(lambda folder: (write_rollout(folder / "r.json"), forge_object("r.json")(folder)),
                    lambda folder: load_rollout(folder / "r.json"), forge_object("r.json")),
    "progress of mcq": Kind(lambda folder: write_progress(folder / "p.jsonl"),
                            lambda folder: read_progress(folder / "p.jsonl")),
}  # fmt: skip
# files that people write, or that say nothing of each other: what is read is checked, but another value is no fault
FREE = {
    "questions": Kind(lambda folder: write_questions(folder / "q.jsonl"),
                      lambda folder: read_questions(folder / "q.jsonl")),
    "card.json": Kind(lambda folder: facts().write(folder), RunFacts.read, files=(FACTS_FILE,)),
    "run folder": Kind(write_run, lambda folder: repr(load_run(folder))),
}  # fmt: skip


def copies(make: Callable[[Path], object], number: int) -> Iterator[Path]:
    """One folder as ``make`` fills it, first untouched and then ``number`` times to be changed."""
    with tempfile.TemporaryDirectory() as place:
        whole, folder = Path(place) / "whole", Path(place) / "changed"
        whole.mkdir()
        make(whole)
        for _ in range(1 + number):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            yield folder


def count(kind: Kind, number: int, seed: str) -> tuple[Counter[str], list[str]]:
    """Outcomes of ``number`` changes, and what is to be repaired."""
    counts: Counter[str] = Counter()
    faults = []
    fresh = copies(kind.make, number)
    expected = kind.read(next(fresh))
    for index, folder in enumerate(fresh):
        is_forged = mutate(kind, folder, random.Random(f"{seed} {index}"))
        found = outcome(kind, folder, expected, is_forged=is_forged)
        counts[found.partition(":")[0]] += 1
        if found.startswith(("accepted", "traceback")):
            faults.append(f"change {index}: {found}"[:300])
    return counts, faults


def main() -> int:
    """Print the table, and the first faults of every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1000, help="changes in all, shared out among the kinds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    total: Counter[str] = Counter()
    print(f"{'':<18}" + "".join(f"{name:>11}" for name in OUTCOMES))
    is_bad = False
    for name, kind in (KINDS | FREE).items():
        counts, faults = count(kind, -(-arguments.number // len(KINDS | FREE)), f"{arguments.seed} {name}")
        print(f"{name:<18}" + "".join(f"{counts[one]:>11}" for one in OUTCOMES), flush=True)
        faults = [fault for fault in faults if name not in FREE or "accepted" not in fault]
        for fault in faults[:5]:
            print(f"    {fault}")
        is_bad |= bool(faults)
        total += counts
    print(f"{'in all':<18}" + "".join(f"{total[one]:>11}" for one in OUTCOMES))
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
