"""``craft-trainer cache build``: what a teacher of any family makes of the samples that are to be held."""

from dataclasses import dataclass

from craft_trainer.cli.building import CacheArguments, named_sources, weights_of
from craft_trainer.cli.loading import LoadArguments
from craft_trainer.cli.sources import SOURCES, SourceArguments
from craft_trainer.cli.text_sources import TEXT_SOURCES, TextSourceArguments
from craft_trainer.options import option, require_at_least

PLACES = ("teacher", "dataset", "new_dataset", "correlations", "adapt_to")
EXAMPLE = "craft-trainer cache build --teacher outputs/teacher --source statistics --output_dir outputs/anchors"


@dataclass(kw_only=True)
class BuildArguments(SourceArguments, TextSourceArguments, LoadArguments, CacheArguments):
    """The teacher and the samples."""

    heading = CacheArguments.heading
    teacher: str = option(
        "checkpoint whose behaviour is to be kept, a folder or a Hub repository (org/name, org/name@revision): a "
        "LeRobot policy, or a language or vision-language model, also as a PEFT adapter"
    )
    source: list[str] = option(
        "of a policy: dataset (old demonstrations), new_task (the inputs of the data about to be learned), rollouts "
        "(frames of its own episodes in a simulator) or statistics (states drawn from what it normalises by: no data "
        "at all). Of a language model: dataset (old texts), own_texts (what it writes itself) or corpus (any text). Or "
        "several, by source_weights",
        ["dataset"],
    )
    dataset: str | None = option(
        "of a policy: LeRobot dataset, of the old tasks for source dataset, of the new one for new_task. Of a language "
        "model: old texts (JSON lines, a folder, or a dataset of the Hub), or the prompts that own_texts answer",
        None,
    )
    seed: int = option("chooses the samples, and what a language model writes", 0)

    def __post_init__(self) -> None:
        self.source = named_sources(self.source, (*SOURCES, *TEXT_SOURCES))
        weights_of(self.source, self.source_weights)  # refuses them before the teacher is loaded
        if self.inputs == "reference" and (self.source not in (["dataset"], ["corpus"]) or self.views):
            raise ValueError(
                "inputs reference needs rows to refer to: take source dataset or corpus alone, without views"
            )
        if "rollouts" in self.source:
            from craft_trainer.hub.storage import local_folder

            local_folder(self.output_dir, "source rollouts")  # records beside the cache
        require_at_least(self, 1, ["anchors", "num_tokens", "batch_size"])
        require_at_least(self, 0, ["seed", "num_workers"])
        TextSourceArguments.__post_init__(self)
        LoadArguments.__post_init__(self)


def run(arguments: BuildArguments) -> None:
    """Build the cache and say what it holds; several processes (accelerate launch) share the work."""
    from craft_trainer.models.pretrained import checkpoint_folder, is_policy

    with arguments.join() as processes:
        if is_policy(checkpoint_folder(arguments.teacher)):
            from craft_trainer.cli.policy_anchors import build
        else:
            from craft_trainer.cli.text_anchors import build
        cache = build(arguments, processes)
    processes.print(f"fingerprint {cache.provenance.fingerprint[:12]}: {arguments.output_dir}")
