"""LeRobot's own argument names, understood by our commands: the tables are in lerobot_names.yaml."""

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from craft_trainer.cli.words import Words, options_in, values_of
from craft_trainer.options import json_mapping

type Rule = str | dict[str, str]  # our name for the same, or the words that some of their values become

TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
NAMES: dict[str, dict[str, Rule]] = {command: table["names"] for command, table in TABLES.items()}
ENTRIES: dict[str, dict[str, str]] = {command: table["entries"] for command, table in TABLES.items()}
WITHOUT: dict[str, dict[str, str]] = {command: table["without"] for command, table in TABLES.items()}
ROOT = "dataset.root"  # the folder of what `dataset.repo_id` names: it wins, in whichever order they come


def translated(
    command: str, argv: Sequence[str], ours: Sequence[str], in_file: Mapping[str, Any] | None = None
) -> Words:
    """Replace LeRobot's names in the ``argv`` of ``command``; ``ours`` are names that keep their own meaning.

    Entries of a mapping are added to those ``in_file``, or take their place. What is neither LeRobot's nor ours stays
    as it is, for the parser to refuse.

    Raises:
        ValueError: LeRobot's name has no counterpart; the message says what there is instead.
    """
    if command not in NAMES:
        return list(argv)
    words: Words = []
    at_the_end: Words = []
    entries: dict[str, dict[str, object]] = {}
    for name, option in options_in(argv):
        mapping = _mapping_of(command, name)
        if name is None or name in ours:
            words += option
        elif name in NAMES[command]:
            (at_the_end if name == ROOT else words).extend(_renamed(NAMES[command][name], option))
        elif mapping is not None and _preset(command, name) is None and name not in WITHOUT[command]:
            entries.setdefault(mapping, {})[name.partition(".")[2]] = _entry(values_of(option))
        else:
            parts = [name.rpartition(".")[0]] if name.count(".") > 1 else []
            _refuse_without_counterpart(command, name, [*parts, _preset(command, name), name.partition(".")[0]])
            words += option
    for mapping, values in entries.items():
        if any(word.partition("=")[0] == f"--{mapping}" for word in argv):
            raise ValueError(f"--{mapping} and LeRobot's --… for its entries {', '.join(values)}: use one of the two")
        at_the_end += [f"--{mapping}", json.dumps(json_mapping(mapping, (in_file or {}).get(mapping)) | values)]
    return words + at_the_end


def mappings(command: str) -> Container[str]:
    """Options of ``command`` that are mappings, whose entries LeRobot's names with a dot are."""
    return ENTRIES.get(command, {}).values()


def hint_for_a_file(command: str, key: str) -> str | None:
    """Say what a YAML file of ours has instead of LeRobot's ``key``; None if that is no name of LeRobot's."""
    rule = NAMES.get(command, {}).get(key)
    if rule is not None:
        return f": here it is {rule!r}" if isinstance(rule, str) else f": it is LeRobot's; give it as --{key}=…"
    instead = WITHOUT.get(command, {}).get(key)
    return None if instead is None else f": it is LeRobot's and has no counterpart: {instead}"


def _entry(values: Words) -> object:
    """Read a value as YAML; a text that is none, as a regular expression may be, stays as it is."""
    text = " ".join(values)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _renamed(rule: Rule, option: Words) -> Words:
    values = values_of(option)
    if isinstance(rule, str):
        return [f"--{rule}", *values]
    return rule.get(str(yaml.safe_load(" ".join(values))).lower(), "").split()


def _mapping_of(command: str, name: str | None) -> str | None:
    return next((ours for start, ours in ENTRIES[command].items() if name and name.startswith(start)), None)


def _preset(command: str, name: str) -> str | None:
    """Find what ``name`` begins with, if it is of the optimizer or schedule of a policy, which Trainer does not use."""
    beginning = name.partition("_")[0]
    return beginning if "." in beginning and beginning in WITHOUT[command] else None


def refuse_without_effect(options: Mapping[str, object]) -> None:
    """Refuse entries of ``policy_options`` that `lerobot-train` reads of a policy and `train` does not."""
    for name in options:
        rule = NAMES["train"].get(f"policy.{name}")
        if rule is not None:
            ours = rule if isinstance(rule, str) else "use_cpu"
            raise ValueError(f"policy_options: {name} has no effect there: give it as --{ours}")
        _refuse_without_counterpart("train", f"policy.{name}", [_preset("train", f"policy.{name}")])


def _refuse_without_counterpart(command: str, name: str, beginnings: Sequence[str | None]) -> None:
    """Refuse ``name`` if it, or one of its ``beginnings``, is a name without counterpart."""
    for candidate in (name, *beginnings):
        if candidate in WITHOUT[command]:
            raise ValueError(
                f"--{name} is LeRobot's and has no counterpart in `{command}`: {WITHOUT[command][candidate]}"
            )
