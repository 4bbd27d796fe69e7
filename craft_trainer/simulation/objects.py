"""Everyday names of the thing that each Meta-World task handles."""

from collections.abc import Mapping

_TASKS_OF: Mapping[str, str] = {
    "a puck": "push push-back push-wall pick-place pick-place-wall pick-out-of-hole bin-picking hand-insert "
    "reach reach-wall sweep sweep-into shelf-place",
    "a basketball": "basketball",
    "a football": "soccer",
    "a drawer": "drawer-open drawer-close",
    "a door": "door-open door-close door-lock door-unlock",
    "a push button": "button-press button-press-wall button-press-topdown button-press-topdown-wall",
    "a coffee machine": "coffee-button coffee-pull coffee-push",
    "a window": "window-open window-close",
    "a faucet": "faucet-open faucet-close",
    "a lever": "lever-pull",
    "a handle on a box": "handle-press handle-press-side handle-pull handle-pull-side",
    "a dial": "dial-turn",
    "a hammer": "hammer",
    "a plate": "plate-slide plate-slide-side plate-slide-back plate-slide-back-side",
    "a peg": "peg-insert-side peg-unplug-side",
    "a ring nut": "assembly disassemble",
    "a stick": "stick-push stick-pull",
    "a box with a lid": "box-close",
}

OBJECT_OF: Mapping[str, str] = {f"{task}-v3": noun for noun, tasks in _TASKS_OF.items() for task in tasks.split()}


def the(noun: str) -> str:
    """A noun as something known: the drawer, for a drawer."""
    return f"the {noun.removeprefix('a ')}"
