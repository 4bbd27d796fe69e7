"""CraftTrainer, and the same of any other Trainer: retention and publishing mixed into it."""

import dataclasses
import importlib
import sys
from copy import copy
from functools import cache
from typing import Any

from transformers import Trainer, TrainingArguments

from craft_trainer.hub.hub_trainer import HubMixin
from craft_trainer.training.checkpoints import CheckpointMixin
from craft_trainer.training.config import SETTINGS, CraftConfig, RetentionArguments
from craft_trainer.training.finite import FiniteMixin
from craft_trainer.training.mixin import RetentionMixin
from craft_trainer.training.settings import RetentionSettings


class CraftTrainer(RetentionMixin, FiniteMixin, CheckpointMixin, HubMixin, Trainer):  # type: ignore[misc]  # is not typed
    """HuggingFace's ``Trainer`` with retention: see :class:`craft_trainer.training.mixin.RetentionMixin`."""

    args: CraftConfig


@cache
def retaining(base: type[Trainer]) -> type[Any]:
    """``base`` with retention: a class named Craft… that takes ``anchors`` beside everything that ``base`` takes.

    >>> from trl import SFTTrainer  # doctest: +SKIP
    >>> CraftSFTTrainer = retaining(SFTTrainer)  # doctest: +SKIP

    Raises:
        TypeError: ``base`` is no ``transformers.Trainer``.
    """
    if not (isinstance(base, type) and issubclass(base, Trainer)):
        raise TypeError(f"retaining takes a subclass of transformers.Trainer, not {base!r}")
    if issubclass(base, RetentionMixin):
        return base
    if base is Trainer:
        return CraftTrainer
    return _importable("retaining", base, (RetentionMixin, FiniteMixin, CheckpointMixin, HubMixin, base), {})


@cache
def retaining_config(base: type[TrainingArguments]) -> type[Any]:
    """``base`` with the settings of retention: a dataclass named Craft… that keeps every field and default of ``base``.

    A setting whose name ``base`` uses already has ``retention_`` before it: GRPO clips by ``epsilon``, so that in
    ``CraftGRPOConfig`` the bound of L_retain is ``retention_epsilon``.

    Raises:
        TypeError: ``base`` is no ``transformers.TrainingArguments``.
    """
    if not (isinstance(base, type) and issubclass(base, TrainingArguments)):
        raise TypeError(f"retaining_config takes a subclass of transformers.TrainingArguments, not {base!r}")
    if issubclass(base, RetentionArguments):
        return base
    if base is TrainingArguments:
        return CraftConfig
    used = {item.name: item for item in dataclasses.fields(base)}
    own = {item.name: item for item in dataclasses.fields(RetentionSettings)}
    renamed = {name: f"retention_{name}" for name in SETTINGS if name in used}
    body: dict[str, Any] = {"renamed": renamed, "__annotations__": {}}
    for name, here in renamed.items():
        for key, item in ((name, used[name]), (here, own[name])):
            body["__annotations__"][key], body[key] = item.type, copy(item)
    made = _importable("retaining_config", base, (RetentionArguments, base), body)
    return dataclasses.dataclass(repr=False)(made)


def _importable(maker: str, base: type, bases: tuple[type, ...], body: dict[str, Any]) -> type[Any]:
    """The class Craft… of ``base``, which pickle finds again in any process by the name that says how to make it."""
    name = f"Craft{base.__name__}"
    body |= {
        "__module__": __name__,
        "__doc__": f"{base.__name__} with retention; made by ``{maker}``.\n\n{base.__doc__}",
    }
    made = type(name, bases, body)
    made.__qualname__ = f"{maker}({base.__module__}:{base.__qualname__})".replace(".", "/")
    setattr(sys.modules[__name__], name, made)
    return made


def __getattr__(name: str) -> Any:
    """Find the class that :func:`_importable` has named ``name``, for pickle."""
    maker, _, place = name.removesuffix(")").partition("(")
    if maker not in ("retaining", "retaining_config") or ":" not in place:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, names = place.replace("/", ".").partition(":")
    found: Any = importlib.import_module(module)
    for part in names.split("."):
        found = getattr(found, part)
    return {"retaining": retaining, "retaining_config": retaining_config}[maker](found)
