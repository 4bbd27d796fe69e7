"""Many questions as one fair set: no constant answer, position or favourite choice does better than chance."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from craft_trainer.simulation.embodied import KINDS, Question

type Row = dict[str, Any]


class Asked(NamedTuple):
    """A question about one frame."""

    task: str
    episode: int
    frame: int
    moment: str
    question: Question


class Blind(NamedTuple):
    """Scores of answering without the pictures, as fractions of the questions of one kind."""

    num_questions: int
    chance: float  # guessing
    position: float  # always the position that is right most often
    choice: float  # the choice that is right most often when it is offered with that question: known afterwards only


def fair(asked: Sequence[Asked], generator: np.random.Generator) -> list[Asked]:
    """As many of ``asked`` as leave all answers of one kind and scope equally frequent; one-sided scopes are left out.

    Which ones go is drawn at random; the rest stays in order.
    """
    scopes: dict[Hashable, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (*_, question) in enumerate(asked):
        scopes[question.kind, question.scope][question.answer_class].append(index)
    kept: list[int] = []
    for classes in scopes.values():
        if len(classes) < 2:
            continue
        smallest = min(map(len, classes.values()))
        for indices in classes.values():
            kept += generator.choice(indices, smallest, replace=False).tolist()
    return [asked[index] for index in sorted(kept)]


def to_rows(asked: Sequence[Asked], seed: int, generator: np.random.Generator) -> list[Row]:
    """Questions with their choices in order: every answer stands equally often (± 1) at each position."""
    answers = Counter((item.question.kind, item.question.answer, len(item.question.others)) for item in asked)
    dealt: Counter[str] = Counter()  # goes on from answer to answer of a kind, for all of them to be even together
    decks: dict[Hashable, Iterator[int]] = {}
    for (kind, answer, num_others), count in answers.items():
        deck = (np.arange(count) + dealt[kind]) % (1 + num_others)
        decks[kind, answer] = iter(generator.permutation(deck).tolist())
        dealt[kind] += count
    rows = []
    for task, episode, frame, moment, question in asked:
        answer_index = next(decks[question.kind, question.answer])
        choices = generator.permutation(question.others).tolist()
        choices.insert(answer_index, question.answer)
        path = path_of(task, episode, frame)
        rows.append(
            {
                "id": f"{PurePosixPath(path).stem}-{question.kind}",
                "question": question.question,
                "choices": choices,
                "answer_index": answer_index,
                "image_path": path,
                "kind": question.kind,
                "task": task,
                "episode": episode,
                "frame": frame,
                "moment": moment,
                "seed": seed,
            }
        )
    return rows


def path_of(task: str, episode: int, frame: int) -> str:
    """The path of a frame's picture in the folder of the questions."""
    return f"images/{task}-{episode:03d}-{frame:03d}.png"


def blind_scores(rows: Iterable[Row]) -> dict[str, Blind]:
    """Per kind, in the order of `KINDS`: what can be had without a picture."""
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_kind[row["kind"]].append(row)
    return {kind: _blind(by_kind[kind]) for kind in KINDS if kind in by_kind}


def _blind(rows: Sequence[Row]) -> Blind:
    offered: Counter[Hashable] = Counter()
    right: Counter[Hashable] = Counter()
    for row in rows:
        offered.update((row["question"], choice) for choice in row["choices"])
        right[row["question"], row["choices"][row["answer_index"]]] += 1
    hits = 0.0
    for row in rows:
        rates = [right[row["question"], choice] / offered[row["question"], choice] for choice in row["choices"]]
        best = np.isclose(rates, max(rates))  # all of them, if several are
        hits += best[row["answer_index"]] / best.sum()
    positions = Counter(row["answer_index"] for row in rows)
    return Blind(
        num_questions=len(rows),
        chance=float(np.mean([1 / len(row["choices"]) for row in rows])),
        position=max(positions.values()) / len(rows),
        choice=hits / len(rows),
    )
