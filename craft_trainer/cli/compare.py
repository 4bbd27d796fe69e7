"""``craft-trainer compare``: plain fine-tuning beside CRaFT, on a policy and datasets of your own."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_trainer.cli.building import named_sources, weights_of
from craft_trainer.cli.demo import PRELOAD, run_claimed
from craft_trainer.cli.loading import LoadArguments
from craft_trainer.cli.sources import SOURCES
from craft_trainer.options import json_mapping, option, refuse_idle, require_at_least, split_list

if TYPE_CHECKING:
    from craft_trainer.suites.comparison import Comparison
    from craft_trainer.suites.jobs import Job

PLACES = ("policy", "old_dataset", "new_dataset")
EXAMPLE = (
    "craft-trainer compare --policy outputs/teacher --old_dataset outputs/data/old --new_dataset outputs/data/new "
    "--learning_rate 5e-4 --steps 800 --output outputs/compared"
)
MOST_ANCHORS = 1000  # unless more are asked for
MAPPINGS = ("env_options", "env_rename", "train", "cache", "rename", "policy_options")
OF_SIMULATORS = ("env", "env_options", "env_rename", "episodes")


@dataclass(kw_only=True)
class CompareArguments:
    """Name the policy, what it knows, what it is to learn, and where that can be measured."""

    policy: str = option("LeRobot checkpoint that both runs start from, and the teacher: a folder or a Hub repository")
    old_dataset: str | None = option(
        "LeRobot dataset of what it knows already: a folder or a Hub repository. With old_tasks you can leave it out "
        "where no source reads it, e.g. with source rollouts",
        None,
    )
    new_dataset: str = option("LeRobot dataset of what it is to learn: a folder or a Hub repository")
    old_tasks: list[str] = option(
        "tasks of a simulator that it knows already: then rollouts decide. By default held-out episodes do", []
    )
    new_tasks: list[str] = option("tasks of the simulator that it is to learn", [])
    env: str | None = option(
        "with old_tasks: one of LeRobot's own environments (metaworld, pusht, aloha, …); by default Meta-World by this "
        "package, as in `rollout`",
        None,
    )
    env_options: dict | str | None = option(  # type: ignore[type-arg]  # argparse wants it bare
        "with env: fields of LeRobot's configuration of it, as in `rollout` (a mapping, or JSON); by default none", None
    )
    env_rename: dict | str | None = option(  # type: ignore[type-arg]
        "with env: what it shows under another name than the policy's (a mapping, or JSON); by default nothing", None
    )
    episodes: int = option("with old_tasks: rollouts per task, method and seed", 20)
    held_out: float = option(
        "without old_tasks: share of the episodes of every task, in both datasets, on which nothing is trained and the "
        "losses are measured; in (0, 1)",
        0.1,
    )
    seeds: list[str] = option("one pair of fine-tuned policies per seed", ["0"])
    steps: int = option("optimizer steps of plain and of CRaFT fine-tuning", 5000)
    batch_size: int = option("samples of one step", 8)
    learning_rate: float = option(
        "of both runs, with a cosine schedule. LeRobot's presets, for policies of full size: 1e-5 for ACT, 2.5e-5 for "
        "π0 and π0.5, 1e-4 for SmolVLA and Diffusion; a small policy needs more, the demo's ACT 5e-4"
    )
    retention: float = option("of CRaFT: 0.99 keeps 99 % of the policy's behaviour; in (0, 1)", 0.99)
    anchors: int | None = option(
        f"samples whose behaviour is held; by default {MOST_ANCHORS}, or all frames where there are fewer", None
    )
    source: list[str] = option(
        "where they come from, as in `cache build`: dataset, rollouts, new_task (without views in cache, hidden "
        "features alone are held), …",
        ["dataset"],
    )
    train: dict | str | None = option(  # type: ignore[type-arg]
        "other settings of `train`, for both runs, e.g. bf16, peft, warmup_steps (a mapping, or JSON); by default none",
        None,
    )
    cache: dict | str | None = option(  # type: ignore[type-arg]
        "other settings of `cache build`, e.g. views, selection (a mapping, or JSON); by default none", None
    )
    rename: dict | str | None = option(  # type: ignore[type-arg]
        "features that the datasets name otherwise than the policy, as in `train` (a mapping, or JSON)",
        None,
    )
    policy_options: dict | str | None = option(  # type: ignore[type-arg]
        "how the policy runs, e.g. dtype, as in `train` (a mapping, or JSON); by default as it was saved", None
    )
    device: str | None = option("cpu, cuda, …; by default the first accelerator", None)
    workers: int = option("processes that run at once; one is enough for a GPU", 1)
    output: str = option("folder of the results; a comparison that was interrupted goes on in it", "outputs/compared")

    def __post_init__(self) -> None:
        for name in MAPPINGS:
            setattr(self, name, json_mapping(name, getattr(self, name)))
        self._refuse_own()
        self.old_tasks, self.new_tasks = split_list(self.old_tasks), split_list(self.new_tasks)
        self.source = named_sources(self.source, SOURCES)
        if bool(self.old_tasks) is not bool(self.new_tasks):
            raise ValueError("rollouts need tasks of both kinds: give old_tasks and new_tasks, or neither")
        if both := set(self.old_tasks) & set(self.new_tasks):
            raise ValueError(f"{', '.join(sorted(both))}: a task is either old or new")
        if self.old_tasks:
            refuse_idle(self, ["held_out"], "the verdict comes from rollouts")
            if "dataset" not in self.source:
                refuse_idle(self, ["old_dataset"], f"rollouts decide, and source {' '.join(self.source)} reads none")
        else:
            refuse_idle(self, OF_SIMULATORS, "it is of rollouts, and no old_tasks and new_tasks are given")
            if "rollouts" in self.source:
                raise ValueError("source rollouts lets the policy act in old tasks: give old_tasks and new_tasks")
        if self.old_dataset is None and not self.old_tasks:
            raise ValueError("the losses are measured on old_dataset: give it, or old_tasks and new_tasks for rollouts")
        if self.old_dataset is None and "dataset" in self.source:
            raise ValueError(
                "source dataset takes anchors from old_dataset: give it, or another source, e.g. rollouts or new_task"
            )
        self._refuse_idle()
        require_at_least(self, 1, ["steps", "batch_size", "anchors", "workers", "episodes"])
        self.seeds = split_list(self.seeds)
        if not self.seeds or len({int(seed) for seed in self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}: name at least one, and none twice")

    def _refuse_own(self) -> None:
        """Refuse, in the settings of other commands, what is an option of this one (their `output` is another)."""
        from craft_trainer.suites.comparison import SET_HERE

        for name in ("train", "cache"):
            if own := sorted(self.mapping(name).keys() & ({field.name for field in fields(self)} - {"output"})):
                raise ValueError(f"{name} has {own[0]}, which is an option of compare itself: give it by --{own[0]}")
            for word in sorted(self.mapping(name).keys() & SET_HERE[name]):
                raise ValueError(f"{name} has {word}, which compare itself sets: {SET_HERE[name][word]}")

    def _refuse_idle(self) -> None:
        """Refuse what the commands of the comparison would not do as it was asked."""
        from craft_trainer.suites.demo import terms_of

        terms = self.mapping("train").get("retention_terms", ["hidden"])
        if terms_of({"source": self.source} | self.mapping("cache")) and terms not in ("hidden", ["hidden"]):
            raise ValueError(
                f"train has retention_terms {terms}, and of frames of the new task without views hidden features alone "
                "are held: leave it out, or give views in cache"
            )
        if self.device is not None and ":" in self.device:
            raise ValueError(
                f"device is {self.device}, and training takes the first: leave out the number, and choose by "
                "CUDA_VISIBLE_DEVICES"
            )
        if "rollouts" in self.source and len(self.source) > 1 and self.env_rename not in ({}, self.rename):
            raise ValueError("source rollouts beside others: give the same rename and env_rename, or rollouts alone")

    def mapping(self, name: str) -> dict[str, Any]:
        """One of the options that are mappings; empty where it was not given."""
        value = getattr(self, name)
        assert isinstance(value, dict)
        return value


def planned(arguments: CompareArguments) -> "Comparison":
    """Lay out the comparison, after everything was compared that can be before any of it is run.

    Raises:
        ValueError: the policy is none of LeRobot, a dataset does not fit it or has too few episodes, or the simulator
            has no such task.
    """
    from craft_trainer.models.pretrained import checkpoint_folder, is_policy
    from craft_trainer.suites.comparison import SAVES, Comparison
    from craft_trainer.suites.demo import terms_of

    policy, old, new = arguments.policy, arguments.old_dataset, arguments.new_dataset
    if not is_policy(checkpoint_folder(policy)):
        raise ValueError(f"{policy} is no LeRobot policy; a language model is compared by `train` and `mcq --compare`")
    datasets = {name: path for name, path in {"old": old, "new": new}.items() if path is not None}
    loaded_as = LoadArguments(rename=arguments.rename, policy_options=arguments.policy_options)
    loaded_as.require_fit(policy, datasets.values())
    check_tasks(arguments)
    device = {} if arguments.device is None else {"device": arguments.device}
    loading = {name: getattr(arguments, name) for name in ("rename", "policy_options") if getattr(arguments, name)}
    of_rollouts = {"env": arguments.env, "env_options": arguments.env_options, "rename": arguments.env_rename}
    anchoring = {"source": arguments.source} | arguments.mapping("cache")
    if "rollouts" in arguments.source:
        anchoring |= {name: value for name, value in of_rollouts.items() if value}
    held_out = 0.0 if arguments.old_tasks else arguments.held_out
    frames = {name: frames_of(path, held_out) for name, path in datasets.items()}
    weights = weights_of(arguments.source, anchoring.get("source_weights"))
    num_learned = {name: found[0] for name, found in frames.items()}
    anchors = arguments.anchors or most_anchors(dict(zip(arguments.source, weights, strict=True)), num_learned)
    return Comparison(
        policy=policy,
        datasets=datasets,
        tasks={"old": tuple(arguments.old_tasks), "new": tuple(arguments.new_tasks)} if arguments.old_tasks else {},
        seeds=tuple(map(int, arguments.seeds)),
        training={
            "max_steps": arguments.steps,
            "per_device_train_batch_size": arguments.batch_size,
            "learning_rate": arguments.learning_rate,
            "lr_scheduler_type": "cosine",
            "save_strategy": "steps",
            "save_steps": max(1, arguments.steps // SAVES),
            "save_total_limit": 1,
            "logging_steps": max(1, min(50, arguments.steps // 10)),
            "report_to": "none",
            **({"use_cpu": True} if arguments.device == "cpu" else {}),
            **arguments.mapping("train"),
        },
        retention={"retention": arguments.retention} | terms_of(anchoring),
        anchoring={"anchors": anchors, **device, **anchoring},
        rollout={name: value for name, value in of_rollouts.items() if value}
        | {"episodes": arguments.episodes}
        | device,
        loading=loading,
        device=device,
        held_out=held_out,
        held_out_anchors=min(MOST_ANCHORS, frames["old"][1]) if "old" in frames else 0,
    )


def check_tasks(arguments: CompareArguments) -> None:
    """Refuse, by a ValueError, tasks and options that the simulator has not."""
    if arguments.env is not None:
        from craft_trainer.simulation.lerobot_envs import environment_config

        for task in (*arguments.old_tasks, *arguments.new_tasks):
            environment_config(arguments.env, task, arguments.mapping("env_options"))
        return
    refuse_idle(arguments, ["env_options", "env_rename"], "it is of LeRobot's environments, and no env is given")
    if arguments.old_tasks:
        from craft_trainer.simulation.metaworld import check_task

        arguments.old_tasks = [check_task(task) for task in arguments.old_tasks]
        arguments.new_tasks = [check_task(task) for task in arguments.new_tasks]


def frames_of(dataset: str, held_out: float) -> tuple[int, int]:
    """Count the frames of ``dataset`` that are learned, and those of episodes that are held out."""
    from craft_trainer.models.held_out import held_out_episodes
    from craft_trainer.models.lerobot_dataset import first_sentences, load_metadata

    lengths = load_metadata(dataset).episodes["length"]
    if not held_out:
        return sum(lengths), 0
    try:
        chosen = held_out_episodes(first_sentences(dataset), range(len(lengths)), held_out)
    except ValueError as error:
        raise ValueError(f"{dataset}: {error}") from error
    number = sum(lengths[episode] for episode in chosen)
    return sum(lengths) - number, number


def most_anchors(sources: Mapping[str, float], num_learned: Mapping[str, int]) -> int:
    """Choose how many anchors: as many as usual, or as there are frames that ``sources`` read by their weights."""
    of_data, total = {"dataset": num_learned.get("old"), "new_task": num_learned.get("new")}, sum(sources.values())
    limits = (count * total / weight for source, weight in sources.items() if (count := of_data.get(source)))
    return int(min([MOST_ANCHORS, *limits]))


def refuse_unknown(jobs: "Sequence[Job]") -> None:
    """End the process, or raise a ValueError, for a setting that a command of the comparison does not know."""
    from craft_trainer.cli.main import understood

    for job in jobs:
        understood(job.argv[0], job.argv[1:], checks_places=False)


def run(arguments: CompareArguments) -> None:
    """Run what is missing, print the outcome, write the results and report.html."""
    from craft_trainer.files import checked, write_json
    from craft_trainer.hub.run_folder import in_use
    from craft_trainer.report.evidence import gather
    from craft_trainer.report.page import report_extra, write_page
    from craft_trainer.report.sentences import headlines
    from craft_trainer.suites.comparison import comparison_jobs, loss_results, rollout_results

    with report_extra():
        pass  # before the work, not after it
    comparison, folder = planned(arguments), Path(arguments.output)
    refuse_unknown(comparison_jobs(comparison, folder))
    with in_use(folder):
        seconds = run_claimed(
            folder,
            comparison.settings() | {"read": comparison.read()},
            "comparison",
            lambda: comparison_jobs(comparison, folder),
            num_workers=arguments.workers,
            num_threads=max(1, (os.cpu_count() or 1) // arguments.workers),
            preload=PRELOAD[:2],
        )
        collect, name = (
            (rollout_results, "results.json") if comparison.in_simulator else (loss_results, "held_out.json")
        )
        path = folder / name
        write_json(path, checked(collect(comparison, folder, seconds)))
    folders = [folder / f"seed{seed}" / method for seed in comparison.seeds for method in ("plain", "craft")]
    evidence = gather(results=[str(path)], runs=[] if comparison.in_simulator else list(map(str, folders)))
    print("\n" + "\n".join(headlines(evidence)))
    print(f"\nresults: {path}\nreport:  {write_page(evidence, folder / 'report.html')}")
