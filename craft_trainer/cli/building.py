"""Shared parts of the commands that build an anchor cache: their options, and the build."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from craft_trainer.options import option, refuse_idle, split_list

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.features import FeatureSpec
    from craft_trainer.anchors.processes import Processes
    from craft_trainer.anchors.sources.source import Samples
    from craft_trainer.models.base import AnchoredModel


class Defaults(NamedTuple):
    """Defaults of the options in one family of models."""

    layers: str
    pooling: str
    batch_size: int


@dataclass(kw_only=True)
class CacheArguments:
    """The samples that become anchors, what of the teacher is kept, and where it goes."""

    heading = "the teacher, the anchors and their cache"
    teacher: str
    output_dir: str = option(
        "folder of the new anchor cache, here or at a place that fsspec knows (s3://bucket/folder, gs://…, hf://…); it "
        "must not exist"
    )
    layers: list[str] | None = option(
        "hidden layers: indices (-1 is the last) or module paths; none for no features. By default -1 of a policy, "
        "none of a language model",
        None,
    )
    pooling: list[str] | None = option(
        "of every layer: none (every token), mean_masked, mean_image_tokens, last_token, cls_token, or several. By "
        "default none of a policy, mean_masked of a language model",
        None,
    )
    anchors: int = option("number of samples", 1000)
    selection: str = option(
        "which samples of a dataset: stratified (evenly over tasks, phases and episodes; of texts over groups), "
        "uniform, or k_center (spread over the features of the last layer, which takes a pass of the teacher over all "
        "samples)",
        "stratified",
    )
    seed: int = option("chooses the samples", 0)
    output: bool = option(
        "keep the teacher's output (action chunk or tokens) as well; false is hidden features only", True
    )
    inputs: str = option("embedded (the samples are in the cache) or reference (only their rows are)", "embedded")
    dtype: str = option("of the features in the cache: float32 or float16", "float32")
    num_tokens: int = option("top-k tokens kept per position, of a teacher that predicts tokens", 32)
    batch_size: int | None = option(
        "samples per forward pass of the teacher; by default 64 of a policy, 16 of a language model", None
    )
    num_workers: int = option("processes that load samples ahead of the teacher", 0)
    device: str | None = option("cpu, cuda, …; by default the teacher's own, or the first accelerator", None)

    def fill(self, defaults: Defaults) -> None:
        """Give the options that the family of the teacher decides, where they are not given, their ``defaults``."""
        if split_list(self.layers or [defaults.layers]) == ["none"]:
            refuse_idle(self, ["pooling"], "no hidden layers are kept")
        if not self.output:
            refuse_idle(self, ["num_tokens"], "output is false, so no tokens are kept")
        self.layers = split_list(self.layers or [defaults.layers])
        self.pooling = split_list(self.pooling or [defaults.pooling])
        self.batch_size = defaults.batch_size if self.batch_size is None else self.batch_size

    def join(self) -> "Processes":
        """Join the processes that share the work (accelerate launch); refuse an ``output_dir`` that exists."""
        import torch
        from accelerate import PartialState

        from craft_trainer.anchors.building import refuse_existing
        from craft_trainer.anchors.processes import Processes
        from craft_trainer.hub.storage import place_of

        refuse_existing(place_of(self.output_dir))
        self.processes = Processes(PartialState(cpu=not torch.cuda.is_available()))
        return self.processes

    def specs(self, teacher: "AnchoredModel", processes: "Processes") -> "list[FeatureSpec]":
        """Find the features of ``layers``, and say which modules those are."""
        from craft_trainer.anchors.features import feature_specs, layer_paths

        paths = layer_paths(teacher, self.layers or [])
        for layer, path in paths.items():
            processes.print(f"layer {layer} → {path}")
        return feature_specs(paths.values(), self.pooling or [])

    def rows(
        self,
        samples: "Samples",
        count: int,
        teacher: "AnchoredModel",
        processes: "Processes",
        allowed: Sequence[int] | None = None,
    ) -> list[int]:
        """Choose the ``count`` rows of ``samples`` that become anchors, in the main process for all.

        They are among those ``allowed``, by default all.

        Raises:
            ValueError: unknown rule, or more anchors than samples.
        """
        from craft_trainer.anchors.selection import chosen_rows
        from craft_trainer.anchors.teacher_pass import candidate_features

        assert self.batch_size is not None
        size, strata = self.batch_size, samples.strata
        among = list(range(len(samples)) if allowed is None else allowed)
        chosen: list[int] = processes.once(
            lambda: chosen_rows(
                self.selection,
                [strata[row] for row in among],
                count,
                seed=self.seed,
                features=lambda: candidate_features(teacher, samples.batch, len(samples), batch_size=size)[among],
            )
        )
        return [among[row] for row in chosen]

    def build(self, teacher: "AnchoredModel", samples: Any, processes: "Processes", **where: Any) -> "AnchorCache":
        """Run the teacher over the rows of ``samples``; ``where`` are the other arguments of ``build_anchor_cache``."""
        from craft_trainer.anchors.building import build_anchor_cache

        assert self.batch_size is not None
        return build_anchor_cache(
            teacher,
            samples.batch,
            self.output_dir,
            batch_size=self.batch_size,
            teacher_path=self.teacher,
            num_tokens=self.num_tokens,
            output=self.output,
            inputs=self.inputs,
            dtype=self.dtype,
            num_workers=self.num_workers,
            processes=processes,
            **where,
        )


def require_sources(given: Sequence[str], known: Iterable[str], family: str) -> None:
    """Refuse, by a ValueError, a source that the teacher's ``family`` has not."""
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"{family}, and source {unknown[0]} is not for those: take {', '.join(known)}, or several")


def named_sources(source: Sequence[Any], known: Iterable[str]) -> list[str]:
    """The names in ``source``, a list or one word; a ValueError if one is unknown or repeated, or there is none."""
    names, words = split_list(source), list(dict.fromkeys(known))
    if unknown := [name for name in names if name not in words]:
        raise ValueError(f"source is {unknown[0]!r}: it must be one of {', '.join(words)}, or several")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"source is {names}: name at least one, and none twice")
    return names


def weights_of(source: Sequence[str], weights: Any) -> list[float]:
    """The weight of each source, by default 1; a ValueError unless there is a number above 0 for each of several."""
    if weights is None:
        return [1.0] * len(source)
    if len(source) == 1:
        raise ValueError(f"source_weights has no effect with one source, {source[0]}: drop it")
    is_list = isinstance(weights, list) and len(weights) == len(source)
    if not is_list or not all(isinstance(one, int | float) and 0 < one < float("inf") for one in weights):
        raise ValueError(f"source_weights is {weights}: give a number above 0 for each of {', '.join(source)}")
    return [float(one) for one in weights]
