"""Things side by side that were not made alike: what differs between them, and so is part of every difference."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from craft_trainer.report.choices import Asked, Choices
from craft_trainer.report.evidence import Evidence
from craft_trainer.report.results import GROUPS, Count, Json, Results
from craft_trainer.report.rollouts import Rollout

type Made = Mapping[str, Mapping[str, str]]  # of each thing by its name: what decides the result beside the weights

MOST_NAMED = 3  # of the things that share a value
OF_L_RETAIN: Mapping[str, Json] = {"retention_weights": "1 for each", "hidden_distance": "mse"}  # by default
AGAIN = "To compare them, measure them again in the same way."
DIGITS = 8  # of a checksum: enough to tell two apart


class Unlike(NamedTuple):
    """``text`` says what differs between the things that ``about`` names; ``kind`` is what they are."""

    kind: str
    about: tuple[str, ...]
    text: str


def unlike(evidence: Evidence) -> list[Unlike]:
    """Find all that stands side by side in a figure or a table and was not made alike."""
    kinds = {
        "results": (of_demos(evidence), "These results are not of the same rollouts"),
        "held_out": (of_held_out(evidence), "These losses are not of the same data"),
        "rollouts": (of_rollouts(evidence), "These rollouts were not made alike"),
        "choices": (of_choices(evidence), "These checkpoints were not asked alike"),
        "runs": (of_runs(evidence), "The losses of these runs were not measured alike"),
    }
    found = [
        Unlike(
            kind,
            tuple(made),
            f"{said}, so what differs between them is not the models alone: {'; '.join(what)}. {AGAIN}",
        )
        for kind, (made, said) in kinds.items()
        if (what := differences(made))
    ]
    return found + [Unlike("rollouts", (), text) for text in _of_teacher(evidence)]


def differences(made: Made) -> list[str]:
    """For everything that ``made`` has in more than one way, say who has which; what a thing lacks is not compared."""
    found = []
    for what in dict.fromkeys(key for own in made.values() for key in own):
        names: dict[str, list[str]] = {}
        for name, own in made.items():
            if what in own:
                names.setdefault(own[what], []).append(name)
        if len(names) > 1:
            found.append(f"{what}: " + " against ".join(f"{value} ({_named(own)})" for value, own in names.items()))
    return found


def of_demos(evidence: Evidence) -> Made:
    """Tasks and episodes of the results of several demos or comparisons."""

    def made(results: Results) -> dict[str, str]:
        tasks = {f"{group} tasks": _listed(results.stream.tasks(group)) for group in GROUPS}
        return tasks | _episodes({row.task: row for row in results.rows})

    return {name: made(demo.results) for name, demo in evidence.demos.items()}


def of_held_out(evidence: Evidence) -> Made:
    """Tell what the losses of several comparisons were measured on: teacher, datasets and frames."""

    def made(settings: Mapping[str, Json], frames: Mapping[str, int]) -> dict[str, str]:
        datasets = settings.get("datasets")
        given = {f"{key} dataset": value for key, value in datasets.items()} if isinstance(datasets, dict) else {}
        given |= {"teacher": settings["policy"]} if "policy" in settings else {}
        return {key: str(value) for key, value in given.items()} | {
            f"{key} frames": f"{n}" for key, n in frames.items()
        }

    return {name: made(one.settings, one.frames) for name, one in evidence.held_out.items()}


def of_rollouts(evidence: Evidence) -> Made:
    """Tasks, episodes, goals (by their seed), limits and environments of rollouts; tasks by role where it is known."""
    roles = evidence.roles

    def made(rollout: Rollout) -> dict[str, str]:
        groups = {"tasks": tuple(rollout.counts)}
        if roles is not None:
            groups = {f"{g} tasks": tuple(t for t in roles.tasks(g) if t in rollout.counts) for g in GROUPS}
        tasks = {what: _listed(own) for what, own in groups.items() if own}
        return tasks | _episodes(rollout.counts) | {name: str(value) for name, value in rollout.settings.items()}

    return {name: made(rollout) for name, rollout in evidence.rollouts.items()}


def of_choices(evidence: Evidence) -> Made:
    """Questions, prompts and number types of every checkpoint that was asked."""
    names = {
        (f"{name}: " if len(evidence.asked) > 1 else "") + asked.model: (document, asked)
        for name, document in evidence.asked.items()
        for asked in document.asked
    }
    return {name: _asked(document, asked) for name, (document, asked) in names.items()}


def of_runs(evidence: Evidence) -> Made:
    """Tell what the task losses were measured on, and what L_retain was of the runs that were held."""
    found = {}
    for name, run in evidence.runs.items():
        own = {"dataset": run.settings["dataset"]} if "dataset" in run.settings else {}
        if run.history is not None:
            own |= {what: run.settings[what] for what in ("anchors", "retention_terms") if what in run.settings}
            own |= {what: run.settings.get(what, usual) for what, usual in OF_L_RETAIN.items()}
        found[name] = {what: str(value) for what, value in own.items()}
    return found


def _asked(document: Choices, asked: Asked) -> dict[str, str]:
    settings = dict(document.settings)
    data = settings.pop("data", None)
    known = {"questions": _questions(data)} if isinstance(data, dict) and data else {}
    digest = hashlib.sha256(repr(sorted(asked.ids)).encode()).hexdigest()
    known["asked"] = f"{len(asked.ids)} questions (ids {digest[:DIGITS]})"
    style = {name: repr(settings[name]) for name in ("template", "delimiter", "answers", "chat") if name in settings}
    return known | style | {"dtype": asked.dtype}


def _questions(data: Mapping[str, Json]) -> str:
    """Name data by its contents where they are known, or else by its place: a file may lie in another folder."""
    if "sha256" in data:
        return f"a file with sha256 {str(data['sha256'])[:DIGITS]} and {data.get('num_rows', '?')} rows read"
    return ", ".join(f"{key} {value}" for key, value in data.items() if value is not None)


def _episodes(counts: Mapping[str, Count]) -> dict[str, str]:
    """The episodes of each task: one number where it is the same for all."""
    numbers = {count.episodes for count in counts.values()}
    each = ", ".join(f"{count.episodes} of {task}" for task, count in sorted(counts.items()))
    return {"episodes per task": f"{min(numbers)}" if len(numbers) == 1 else each}


def _of_teacher(evidence: Evidence) -> Iterator[str]:
    """Say where the policy that others are measured against is not the one that they come from, or is one of them."""
    roles = evidence.roles
    if roles is None or roles.teacher is None:
        return
    teacher = _place(evidence.rollouts[roles.teacher].policy)
    starts = {str(run.settings["model"]) for run in evidence.runs.values() if "model" in run.settings}
    if starts and teacher not in map(_place, starts):
        policy, others = evidence.rollouts[roles.teacher].policy, ", ".join(sorted(starts))
        text = f"The teacher's rollout is of {policy}, and the training runs started from {others}"
        yield f"{text}: what was kept is measured against another policy than the one they come from."
    for name, one in evidence.rollouts.items():
        if name != roles.teacher and _place(one.policy) == teacher:
            yield f"{name} is a rollout of {one.policy}, and so is the teacher's: a policy is compared with itself."


def _place(policy: str) -> Path:
    return Path(policy).resolve()


def _listed(tasks: Iterable[str]) -> str:
    return ", ".join(sorted(tasks))


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
