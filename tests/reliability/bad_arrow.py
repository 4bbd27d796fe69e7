"""Arrow files with bits flipped, parts cut off, and offsets that lead out of them: is it told, or does the process die?

    python tests/reliability/bad_arrow.py --number 1000 --seed 0

Every changed file is read in a process of its own, because a wrong offset can end one. What comes of it is
  named      refused by one of the documented errors, which says which file or folder it is;
  the same   read, and equal to what was written (of the parts of a cache: made again, and told);
  another    read as something else where no checksum could say so: data of a user, or a cache whose checksums fit;
  accepted   read as something else although a checksum covers it;
  traceback  any other exception, or one that does not say which file;
  died       the process was ended by a signal, or was still busy after a minute.
Exit status 1 if anything was accepted, ended in a traceback, or died.
"""

import argparse
import hashlib
import multiprocessing
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "unit/anchors"), str(Path(__file__).parent)]

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from mutations import DOCUMENTED, copies, forge_cache  # noqa: E402
from seer import BATCH, Seer, build  # noqa: E402

from craft_trainer.anchors.cache import AnchorCache  # noqa: E402
from craft_trainer.anchors.shards import Shards  # noqa: E402
from craft_trainer.evaluation.questions import read_questions  # noqa: E402
from craft_trainer.language.rows import open_rows  # noqa: E402

OUTCOMES = ("named", "the same", "another", "accepted", "traceback", "died")
FAULTS = ("accepted", "traceback", "died")
LIMIT_S = 60
NUM_SHARDS = 3  # that are finished of a build that was interrupted
HEADER = 2000  # bytes, in which a file says how long its parts are
NUMBERS = (-1, 1, 2**31 - 1, -(2**31), 2**16, 10**6)


@dataclass
class Kind:
    """``make`` writes into a folder; ``read`` gives what is used of it; a cache is ``sealed`` by its checksums."""

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    forge: Callable[[Path], None] | None = None
    sealed: bool = False


def read_cache(folder: Path) -> str:
    """All that training takes from the anchors."""
    cache = AnchorCache(folder / "cache")
    batch = cache.batch(range(len(cache)))
    tensors = [*batch.inputs.values(), *batch.teacher.hidden.values(), batch.teacher.output]
    return digest([*(one.numpy().tobytes() if hasattr(one, "numpy") else one for one in tensors), batch.groups])


def begin_cache(folder: Path) -> None:
    """Make some shards of a cache, and be interrupted."""
    finish, write = Shards.finish, Shards.write

    def interrupted(self: Shards, number: int, shard: datasets.Dataset) -> None:
        if number == NUM_SHARDS:
            raise KeyboardInterrupt
        write(self, number, shard)

    Shards.write = interrupted  # type: ignore[method-assign]
    try:
        build(folder / "cache")
    except KeyboardInterrupt:
        pass
    finally:
        Shards.write, Shards.finish = write, finish  # type: ignore[method-assign]


def go_on(folder: Path) -> str:
    """Go on with the build; the teacher must have made again what was damaged."""
    build(folder / "cache", Seer(), batch_size=BATCH)
    return read_cache(folder)


def write_questions(folder: Path) -> None:
    """Questions as a folder of ``datasets``."""
    rows = [
        {"id": f"q{n}", "question": f"What is {n}?", "choices": ["one", f"two {n}"], "answer_index": n % 2}
        for n in range(40)
    ]
    datasets.Dataset.from_list(rows).save_to_disk(folder / "questions")


def write_texts(folder: Path) -> None:
    """Conversations as a folder of ``datasets``."""
    rows = [{"messages": [{"role": "user", "content": f"Is it {n}?"}], "text": f"text {n}"} for n in range(40)]
    datasets.Dataset.from_list(rows).save_to_disk(folder / "texts")


def read_texts(folder: Path) -> str:
    """Every row."""
    rows = open_rows(str(folder / "texts"))
    return digest([rows.value(rows.source[index]) for index in range(len(rows))])


def digest(parts: Any) -> str:
    """SHA-256 of what ``parts`` look like."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


KINDS = {
    "anchor cache": Kind(lambda at: build(at / "cache"), read_cache, sealed=True),
    "its checksums made to fit": Kind(lambda at: build(at / "cache"), read_cache, lambda at: forge_cache(at / "cache")),
    "parts of a cache": Kind(begin_cache, go_on, sealed=True),
    "questions": Kind(write_questions, lambda at: digest(list(read_questions(at / "questions").items))),
    "texts": Kind(write_texts, read_texts),
}


def offsets(file: Path) -> list[tuple[int, int]]:
    """Place and number of the offsets (of 32 bits) of every string and list in an Arrow file."""
    mapped = pa.memory_map(str(file))
    start = mapped.read_buffer().address
    mapped.seek(0)
    found = []
    for column in pa.ipc.open_stream(mapped).read_all().columns:
        for chunk in column.chunks:
            for array in _nested(chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk):
                found.append((array.buffers()[1].address - start, len(array) + 1))
    return found


def _nested(array: pa.Array) -> Iterator[pa.Array]:
    if pa.types.is_list(array.type) or pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        yield array
    if pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        yield from _nested(array.values)
    if pa.types.is_struct(array.type):
        for index in range(array.type.num_fields):
            yield from _nested(array.field(index))


def changed(file: Path, rng: random.Random) -> bytes:
    """The bytes of an Arrow file, changed in one of five ways."""
    content = bytearray(file.read_bytes())
    how = rng.randrange(6)
    if how == 0:
        return bytes(content[: rng.randrange(len(content))])
    if how == 1:  # a length or a place in its description
        place = rng.randrange(0, min(HEADER, len(content)) - 4, 4)
        content[place : place + 4] = np.int32(rng.choice(NUMBERS)).tobytes()
    elif how in (2, 3) and (found := offsets(file)):
        place, number = rng.choice(found)
        place += 4 * rng.randrange(number)
        content[place : place + 4] = np.int32(rng.choice([*NUMBERS, rng.randrange(1000)])).tobytes()
    elif how == 4:
        place = rng.randrange(len(content))
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    else:
        for _ in range(rng.choice([1, 1, 8])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def outcome(kind: Kind, folder: Path, expected: str) -> str:
    """What comes of reading ``folder``, in a process of its own."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_read, args=(kind, folder, theirs))
    process.start()
    theirs.close()
    said = None
    if ours.poll(LIMIT_S):
        try:
            said = ours.recv()
        except EOFError:
            process.join()
            return f"died: of {signal.Signals(-(process.exitcode or 0)).name}"
    process.kill()
    process.join()
    if said is None:
        return f"died: was busy for {LIMIT_S} s"
    what, value = said
    if what == "read":
        return "the same" if value == expected else "accepted" if kind.sealed else "another"
    return value if what == "traceback" else "named" if str(folder) in value else f"traceback: names no file: {value}"


def _read(kind: Kind, folder: Path, answer: Any) -> None:
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            answer.send(("read", kind.read(folder)))
    except DOCUMENTED as error:
        answer.send(("named", str(error)))
    except BaseException as error:  # noqa: BLE001  # this is what is looked for
        answer.send(("traceback", f"traceback: {error!r}"))


def count(kind: Kind, number: int, seed: str) -> tuple[Counter[str], list[str]]:
    """Outcomes of ``number`` changes, and what is to be repaired."""
    counts: Counter[str] = Counter()
    faults = []
    fresh = copies(kind.make, number)
    expected = kind.read(next(fresh))
    for index, folder in enumerate(fresh):
        rng = random.Random(f"{seed} {index}")
        file = rng.choice(sorted(folder.rglob("*.arrow")))
        file.write_bytes(changed(file, rng))
        if kind.forge is not None:
            kind.forge(folder)
        found = outcome(kind, folder, expected)
        counts[found.partition(":")[0]] += 1
        if found.startswith(FAULTS):
            faults.append(f"change {index} of {file.name}: {found}"[:300])
    return counts, faults


def main() -> int:
    """Print the table, and the first faults of every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1000, help="changes in all, shared out among the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    print(f"{'':<26}" + "".join(f"{name:>11}" for name in OUTCOMES))
    is_bad = False
    for name in arguments.only:
        counts, faults = count(KINDS[name], -(-arguments.number // len(KINDS)), f"{arguments.seed} {name}")
        print(f"{name:<26}" + "".join(f"{counts[one]:>11}" for one in OUTCOMES), flush=True)
        for fault in faults[:5]:
            print(f"    {fault}")
        is_bad |= bool(faults)
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
