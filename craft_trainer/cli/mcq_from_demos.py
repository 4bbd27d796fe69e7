"""``craft-trainer mcq-from-demos``: questions about pictures of the simulator, answered by its state."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from craft_trainer.cli.demo import NEW, OLD
from craft_trainer.cli.hints import nearest
from craft_trainer.options import option, refuse_idle, require_at_least, split_list

EXAMPLE = "craft-trainer mcq-from-demos --tasks push-v3,drawer-open-v3,door-open-v3 --episodes 20 --output outputs/mcq"


@dataclass
class QuestionArguments:
    """The tasks, the questions about them, and the folder."""

    tasks: list[str] = option("Meta-World v3 tasks; wrong choices come from them as well", OLD + NEW)
    episodes: int = option("episodes per task, of the expert and of worse players; up to five pictures each", 20)
    size: int = option("rows and columns of the pictures", 320)
    seed: int = option("chooses goals, players, wrong choices and their order", 0)
    kinds: list[str] = option("task, object, gripper, side, gripper_side, near, success; or all", ["all"])
    output: str = option("folder of the questions; it must not exist", "outputs/mcq")
    push_to_hub: str | None = option("dataset repository of the Hub, owner/name; it is made if it is not there", None)
    private: bool = option("a repository that is made is private; one that is there and public is refused", False)

    def __post_init__(self) -> None:
        require_at_least(self, 0, ["seed"])
        if self.push_to_hub is None:
            refuse_idle(self, ["private"], "it is of the repository to push to, and push_to_hub names none")


def run(arguments: QuestionArguments) -> None:
    """Make the questions, and say where they are and what can be had without looking."""
    from craft_trainer.simulation.question_folder import QUESTIONS, format_table, make_questions, push, repository_of

    folder, kinds = Path(arguments.output), check_kinds(split_list(arguments.kinds))
    if arguments.push_to_hub is not None:
        repository_of(arguments.push_to_hub, private=arguments.private)  # before the work, not after it
    tasks = split_list(arguments.tasks)
    settings = {"tasks": ",".join(tasks), "episodes": arguments.episodes, "size": arguments.size}
    settings |= {"seed": arguments.seed, "kinds": ",".join(kinds)}
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    scores = make_questions(
        tasks,
        folder,
        num_episodes=arguments.episodes,
        size=arguments.size,
        seed=arguments.seed,
        kinds=kinds,
        command=shlex.join(["craft-trainer", "mcq-from-demos", *words]),
    )
    print("| kind | questions | chance | one position | one choice |\n|---|---|---|---|---|\n" + format_table(scores))
    for kind in kinds:
        if kind not in scores:
            print(f"{kind}: no questions, for only one answer occurred in each task")
    if arguments.push_to_hub is not None:
        push(folder, arguments.push_to_hub, private=arguments.private)
        print(f"pushed to {arguments.push_to_hub}")
    total = sum(blind.num_questions for blind in scores.values())
    print(f"{total} questions: {folder}. Next: craft-trainer mcq --data {folder / QUESTIONS} --model …")


def check_kinds(kinds: Sequence[str]) -> list[str]:
    """Put the kinds of question asked for into their own order; refuse one that does not exist."""
    from craft_trainer.simulation.embodied import KINDS

    for kind in kinds:
        if kind not in (*KINDS, "all"):
            raise ValueError(f"no kind of question {kind!r}{nearest(kind, KINDS)}; there are {', '.join(KINDS)}")
    return [kind for kind in KINDS if kind in kinds or "all" in kinds]
