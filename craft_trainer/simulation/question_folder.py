"""Embodied questions as a folder: JSON lines and pictures that `datasets` and a plain reader both understand."""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub import DatasetCard, HfApi
from PIL import Image

from craft_trainer.files import appears_when_complete
from craft_trainer.hub.repository import Repository
from craft_trainer.progress import progress
from craft_trainer.simulation.embodied import Asker
from craft_trainer.simulation.episodes import Shot, Stage
from craft_trainer.simulation.metaworld import check_tasks, describe
from craft_trainer.simulation.question_set import Asked, Blind, Row, blind_scores, fair, path_of, to_rows

QUESTIONS = "questions.jsonl"  # for a reader of JSON lines: the picture's path is in image_path
METADATA = "metadata.jsonl"  # for datasets' imagefolder: the same rows, the path in file_name
SPLIT = "test"
CARD = """---
pretty_name: Embodied questions
task_categories:
- visual-question-answering
- multiple-choice
language:
- en
tags:
- robotics
- meta-world
configs:
- config_name: default
  drop_labels: true
  data_files:
  - split: {split}
    path:
    - {metadata}
    - images/*.png
---

{body}"""
BODY = """# Embodied questions

{total} multiple-choice questions about {pictures} rendered pictures of the Meta-World tasks {tasks}.
The answers are the simulator's own state. Made with

    {command}

| kind | questions | chance | best constant position | best choice without a picture |
|---|---|---|---|---|
{table}

The last column knows how often each choice is right with each question, which nobody does beforehand. Whatever is
above chance there can be had without looking; a model has to be compared with it, not with chance.

Columns: `id`, `image`, `question`, `choices`, `answer_index`, `kind`, `task`, `episode`, `frame`, `moment`, `seed`.
"""


def make_questions(
    tasks: Sequence[str], folder: Path, *, num_episodes: int, size: int, seed: int, kinds: Sequence[str], command: str
) -> dict[str, Blind]:
    """Play ``num_episodes`` of each task, ask and write; returns what can be had without a picture, per kind.

    The folder appears only when it is complete, and is the same, byte for byte, for the same arguments on one machine.

    Raises:
        ValueError: Meta-World has no such task, a number is not positive, or no fair question came out.
        FileExistsError: ``folder`` exists.
        RuntimeError: nothing here renders images.
    """
    for name, value in (("episodes", num_episodes), ("size", size)):
        if value <= 0:
            raise ValueError(f"{name} is {value}: give a positive number")
    tasks = check_tasks(tasks)
    with appears_when_complete(folder) as partial:
        asked, pictures = collect(tasks, num_episodes=num_episodes, size=size, seed=seed, kinds=kinds)
        generator = np.random.default_rng(seed)
        rows = to_rows(fair(asked, generator), seed, generator)
        if not rows:
            raise ValueError(
                f"{num_episodes} episodes of {', '.join(tasks)} gave no questions of the kinds {', '.join(kinds)} "
                "with more than one answer: take more episodes, more tasks or other kinds"
            )
        write(partial, rows, pictures, tasks, command)
    return blind_scores(rows)


def collect(
    tasks: Sequence[str], *, num_episodes: int, size: int, seed: int, kinds: Sequence[str]
) -> tuple[list[Asked], dict[str, bytes]]:
    """All questions that have an answer, and the pictures as PNG under their paths."""
    asker = Asker(tasks, describe, kinds)
    generator = np.random.default_rng([seed, 1])
    asked: list[Asked] = []
    pictures: dict[str, bytes] = {}
    with progress(total=num_episodes * len(tasks), desc="questions", unit="episode") as bar:
        for task in tasks:
            with closing(Stage(task, size)) as stage:
                for shots in stage.shots(num_episodes, seed):
                    for shot in shots:
                        questions = list(asker.ask(shot.facts, generator))
                        asked += [Asked(task, shot.episode, shot.frame, shot.moment, found) for found in questions]
                        pictures[path_of(task, shot.episode, shot.frame)] = to_png(shot)
                    bar.update()
    return asked, pictures


def write(folder: Path, rows: Sequence[Row], pictures: Mapping[str, bytes], tasks: Sequence[str], command: str) -> None:
    """Fill ``folder`` with the questions, the pictures they are about, and a card."""
    (folder / "images").mkdir(parents=True)
    for path in {row["image_path"] for row in rows}:
        (folder / path).write_bytes(pictures[path])
    renamed = [{"file_name" if key == "image_path" else key: value for key, value in row.items()} for row in rows]
    for name, lines in ((QUESTIONS, rows), (METADATA, renamed)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    body = BODY.format(
        total=len(rows),
        pictures=len({row["image_path"] for row in rows}),
        tasks=", ".join(tasks),
        command=command,
        table=format_table(blind_scores(rows)),
    )
    (folder / "README.md").write_text(CARD.format(split=SPLIT, metadata=METADATA, body=body))


def repository_of(repo: str, *, private: bool) -> Repository:
    """Open the dataset repository ``repo``; OSError if it cannot be written to, or is public and not to be."""
    return Repository(repo, "dataset", private=private or None).opened()


def push(folder: Path, repo: str, *, private: bool) -> None:
    """Upload the questions of ``folder`` with their pictures to a dataset repository of the Hub, and their card.

    Raises:
        OSError: the repository cannot be written to, or is to be ``private`` and is there and public.
    """
    repo = repository_of(repo, private=private).name
    dataset = datasets.load_dataset(str(folder), split=SPLIT)
    dataset.push_to_hub(repo, split=SPLIT)
    card = DatasetCard.load(repo)  # datasets wrote down what it uploaded
    ours = DatasetCard.load(folder / "README.md")
    card.text = ours.text
    for key in ("pretty_name", "task_categories", "language", "tags"):
        card.data[key] = ours.data[key]
    HfApi().upload_file(
        path_or_fileobj=str(card).encode(),
        path_in_repo="README.md",
        repo_id=repo,
        repo_type="dataset",
        commit_message="Card of the questions",
    )


def format_table(scores: Mapping[str, Blind]) -> str:
    """One Markdown row per kind."""
    return "\n".join(
        f"| {kind} | {blind.num_questions} | {blind.chance:.0%} | {blind.position:.0%} | {blind.choice:.0%} |"
        for kind, blind in scores.items()
    )


def to_png(shot: Shot) -> bytes:
    """The picture of a shot as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(shot.picture).save(file, format="PNG")
    return file.getvalue()
