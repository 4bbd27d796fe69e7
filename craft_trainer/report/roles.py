"""Find the teacher's rollout, the old tasks and the new ones: as it was said, or as runs recorded it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from craft_trainer.report.results import GROUPS, Count, Group, pooled
from craft_trainer.report.rollouts import Rollout
from craft_trainer.report.run import Run


@dataclass(frozen=True)
class Roles:
    """``teacher`` is the name of a rollout, ``old`` and ``new`` are tasks as rollouts name them; none is None or ()."""

    teacher: str | None
    old: tuple[str, ...]
    new: tuple[str, ...]

    def tasks(self, group: Group) -> tuple[str, ...]:
        """The tasks of one group."""
        return self.old if group == "old" else self.new

    def count(self, rollout: Rollout, group: Group) -> Count | None:
        """Successes and episodes of a policy, pooled over the tasks of a group; None if it was rolled out on none."""
        counts = [rollout.counts[task] for task in self.tasks(group) if task in rollout.counts]
        return pooled(counts) if counts else None

    def kept(self, rollout: Rollout, rollouts: Mapping[str, Rollout]) -> float | None:
        """Old-task success as a share of the teacher's; None without a teacher that succeeds on the same old tasks."""
        if self.teacher is None or self._old_of(rollout) != self._old_of(rollouts[self.teacher]):
            return None
        teacher, mine = self.count(rollouts[self.teacher], "old"), self.count(rollout, "old")
        return None if mine is None or teacher is None or not teacher.successes else mine.rate / teacher.rate

    def _old_of(self, rollout: Rollout) -> set[str]:
        return set(self.old) & set(rollout.counts)


def roles_of(
    rollouts: Mapping[str, Rollout],
    runs: Iterable[Run],
    *,
    teacher: str | None = None,
    old: Sequence[str] = (),
    new: Sequence[str] = (),
) -> Roles | None:
    """Find the roles of ``rollouts``; None if nothing tells old tasks from new ones.

    The name ``teacher`` and the tasks, by their names or their sentences, are those that were given. Otherwise the new
    tasks are those that one of ``runs`` learned, and the teacher is the policy that it started from. A task that is not
    of one group is of the other.

    Raises:
        ValueError: no rollout has a task that is given, or one is given as both; or there is a ``teacher``, and nothing
            tells old tasks from new ones.
    """
    runs = list(runs)
    tasks = tuple(dict.fromkeys(task for one in rollouts.values() for task in one.counts))
    sentences = {task: sentence for one in rollouts.values() for task, sentence in one.sentences.items()}
    found = {name: _known(given, tasks, sentences) for name, given in zip(GROUPS, (old, new), strict=True)}
    if both := set(found["old"]) & set(found["new"]):
        raise ValueError(f"{', '.join(sorted(both))}: a task is either old or new")
    if not found["old"] and not found["new"]:
        learned = {sentence for run in runs for sentence in run.new_tasks}
        found["new"] = tuple(task for task in tasks if task in learned or sentences.get(task) in learned)
    if not found["old"] and not found["new"]:
        if teacher is not None:
            raise ValueError(
                "teacher has no effect where nothing tells old tasks from new ones: name the tasks of one kind by "
                "--old or --new, or give by --run the run that learned some; or name that file by --rollout"
            )
        return None
    if found["old"] and found["new"] and (others := set(tasks) - {*found["old"], *found["new"]}):
        raise ValueError(f"{', '.join(sorted(others))}: neither in old nor in new; name each task in one of the two")
    rest = {"old": found["new"], "new": found["old"]}
    groups = {name: own or tuple(task for task in tasks if task not in rest[name]) for name, own in found.items()}
    return Roles(teacher or _start(rollouts, runs), **groups)


def _known(given: Sequence[str], tasks: Collection[str], sentences: Mapping[str, str]) -> tuple[str, ...]:
    """The ``tasks`` that are ``given`` by their names or their sentences."""
    of_sentence = {sentence: task for task, sentence in sentences.items()}
    named = [task if task in tasks else of_sentence.get(task) for task in given]
    for task, found in zip(given, named, strict=True):
        if found is None:
            near = get_close_matches(task, [*tasks, *of_sentence], n=1)
            hint = f": did you mean {near[0]!r}?" if near else f"; there are {', '.join(tasks)}"
            raise ValueError(f"no rollout has the task {task!r}{hint}")
    return tuple(task for task in named if task is not None)


def _start(rollouts: Mapping[str, Rollout], runs: Iterable[Run]) -> str | None:
    """The rollout of the one policy that ``runs`` started from."""
    starts = {Path(str(run.settings["model"])).resolve() for run in runs if "model" in run.settings}
    names = [name for name, one in rollouts.items() if Path(one.policy).resolve() in starts]
    return names[0] if len(names) == 1 else None
