"""``craft-trainer push``: a finished run to the Hub, with its card; also what a push during training did not bring."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from craft_trainer.options import option

if TYPE_CHECKING:
    from craft_trainer.hub.facts import RunFacts

PLACES = ("run", "results")
EXAMPLE = "craft-trainer push --run outputs/craft --repo my-org/my-policy --results outputs/demo/results.json"


@dataclass
class PushArguments:
    """The run and the repository."""

    run: str = option("output_dir of a run")
    repo: str | None = option(
        "model repository, owner/name, made if it is not there; by default the one that the run was to go to",
        None,
    )
    private: bool | None = option(
        "true: a repository that is made is private, and one that is there and public is refused; by default a new one "
        "is what its owner has set",
        None,
    )
    revision: str | None = option("branch to push to, by default main; it is made if it is not there", None)
    results: str | None = option("results.json whose table and figure the card shows; by default that in the run", None)
    checkpoints: bool = option("the checkpoints as well, with the state to resume from", False)


def run(arguments: PushArguments) -> None:
    """Write the card anew and upload the folder in one commit."""
    from craft_trainer.hub.card import add_results, write_card
    from craft_trainer.hub.facts import RunFacts
    from craft_trainer.hub.readme import is_by_hand, text_of
    from craft_trainer.hub.repository import Repository
    from craft_trainer.hub.run_folder import WEIGHTS, all_files, checkpoints, run_files

    folder = Path(arguments.run)
    facts, saved = RunFacts.read(folder), checkpoints(folder) if arguments.checkpoints else []
    if arguments.checkpoints and not saved:
        raise ValueError(f"checkpoints has no effect: {folder} holds no checkpoint-*. Leave checkpoints out")
    before = text_of(folder)
    if arguments.results is not None and before is not None and is_by_hand(before):
        raise ValueError(
            f"results has no effect: {folder / 'README.md'} is by hand and goes as it is, without their table. Write "
            "it into that file and leave results out, or delete the file, and a new one is written"
        )
    results = add_results(folder, None if arguments.results is None else Path(arguments.results))
    name, revision = destination(arguments, facts)
    if facts.local_base:
        print(f"warning: {facts.local_base}")
    repository = Repository(name, "model", revision, arguments.private).opened()
    facts = replace(facts, repo=repository.name, revision=revision)
    if not write_card(folder, facts, before=before, results=results):
        print(f"{folder / 'README.md'} is by hand and goes as it is")
    files = run_files(folder)
    for checkpoint in saved:
        files |= all_files(checkpoint, prefix=f"{checkpoint.name}/")
    commit = repository.commit(files, f"Step {facts.step}, method {facts.method}", replaces=WEIGHTS)
    print(f"{len(files)} files of {folder}: {repository.name} at {commit.oid}")


def destination(arguments: PushArguments, facts: "RunFacts") -> tuple[str, str | None]:
    """Find repository and branch: those that are given, else those of the run, which must name a repository."""
    from craft_trainer.hub.resolve_path import HubPlace

    if arguments.repo is None and facts.repo is None:
        raise ValueError(f"{arguments.run} has not been pushed anywhere yet: say where with --repo owner/name")
    if arguments.repo is None:
        return str(facts.repo), arguments.revision or facts.revision
    repo, revision = HubPlace.of(arguments.repo, arguments.revision)
    return repo, revision or (facts.revision if repo == facts.repo else None)
