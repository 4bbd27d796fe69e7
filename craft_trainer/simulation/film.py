"""A short film of policies side by side: the same episode of one Meta-World task, seen by the simulator's camera."""

import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from craft_trainer.files import write_atomically
from craft_trainer.simulation.metaworld import CONTROL_HZ, MetaWorldEnvs
from craft_trainer.simulation.rollout import run_block

if TYPE_CHECKING:
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.simulation.metaworld import Goal

ACTIONS_PER_FRAME = 4
SLOWDOWN = 2  # the film lasts so many times as long as the episode
FRAME_MS = round(1000 * SLOWDOWN * ACTIONS_PER_FRAME / CONTROL_HZ)
HOLD_MS = 1500  # the last frame stays, so that the verdicts can be read
COLOURS = 96  # of the palette
MARGIN = 6  # pixels around every line of text
SOLVED, FAILED, INK, PAPER = (26, 127, 55), (179, 38, 30), (32, 32, 32), (255, 255, 255)


@dataclass(frozen=True)
class Take:
    """One policy's attempt: pictures along the way, and after how many actions it had solved the task, if it did."""

    name: str
    pictures: Sequence[UInt8[np.ndarray[Any, Any], "size size 3"]]
    solved_after: int | None


def play(
    name: str,
    policy: "PolicyModel",
    task: str,
    goal: "Goal",
    *,
    size: int,
    max_steps: int,
    image_size: int | None,
    shadows: bool = True,
) -> Take:
    """Let ``policy`` act in the episode of ``goal``, with a picture of ``size`` pixels before every fourth action.

    ``image_size`` is that of the pictures that the policy itself sees, with ``shadows`` or without, or None if it sees
    none.
    """
    pictures, num_actions = [], 0
    envs = MetaWorldEnvs(task, 1, image_size=image_size, shadows=shadows)
    with closing(envs), closing(envs.viewer(size)) as viewer:
        observation = envs.reset([goal])  # after the viewer is made: a reset moves the simulator's camera to its place

        def on_step(*_: Any) -> None:
            nonlocal num_actions
            if num_actions % ACTIONS_PER_FRAME == 0:
                pictures.append(envs.seen_by(viewer, 0))
            num_actions += 1

        (solved,) = run_block(policy, envs, observation, max_steps=max_steps, on_step=on_step)
        pictures.append(envs.seen_by(viewer, 0))
    return Take(name, pictures, num_actions if solved else None)


def side_by_side(takes: Sequence[Take]) -> list[Image.Image]:
    """Frames with every take in a column of its own, its name above and its outcome below, once it is known."""
    length = max(len(take.pictures) for take in takes)
    return [_frame(takes, index) for index in range(length)]


def _frame(takes: Sequence[Take], index: int) -> Image.Image:
    size = len(takes[0].pictures[0])
    font = _font([*(take.name for take in takes), *(verdict(take)[0] for take in takes)], size)
    line = round(font.size) + 2 * MARGIN
    frame = Image.new("RGB", (size * len(takes), size + 2 * line), PAPER)
    draw = ImageDraw.Draw(frame)
    for column, take in enumerate(takes):
        left, centre = column * size, column * size + size // 2
        frame.paste(Image.fromarray(take.pictures[min(index, len(take.pictures) - 1)]), (left, line))
        draw.text((centre, MARGIN), take.name, fill=INK, font=font, anchor="ma")
        if index >= len(take.pictures) - 1:
            words, colour = verdict(take)
            draw.text((centre, line + size + MARGIN), words, fill=colour, font=font, anchor="ma")
    return frame


def _font(texts: Sequence[str], size: int) -> Any:
    """Choose the largest font, up to a twelfth of ``size``, in which every text fits into its column."""
    for points in range(max(10, size // 12), 6, -1):
        font = ImageFont.load_default(points)
        if max(font.getlength(text) for text in texts) <= size - 2 * MARGIN:
            return font
    return ImageFont.load_default(6)


def verdict(take: Take) -> tuple[str, tuple[int, int, int]]:
    """Say how the take ended, and in which colour: in seconds of the robot's time."""
    if take.solved_after is None:
        return "not solved", FAILED
    return f"solved in {take.solved_after / CONTROL_HZ:.1f} s", SOLVED


def save_film(frames: Sequence[Image.Image], path: Path) -> None:
    """Write ``frames`` as an animation that repeats, GIF or WebP by the name's ending."""
    durations = [FRAME_MS] * (len(frames) - 1) + [HOLD_MS]
    options: Mapping[str, Any] = {"save_all": True, "duration": durations, "loop": 0}
    if path.suffix == ".gif":  # one palette, so that still parts stay still
        palette = frames[-1].quantize(COLOURS)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    film = io.BytesIO()
    frames[0].save(film, format=path.suffix[1:], append_images=list(frames[1:]), **options)
    write_atomically(path, film.getvalue())
