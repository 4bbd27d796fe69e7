"""Images of MuJoCo simulators without a display: one OpenGL context for the process, one camera for many simulators."""

import atexit
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8

VARIABLE = "MUJOCO_GL"
DRIVERS = (
    "Mesa's off-screen drivers (Debian, Ubuntu: apt-get install libegl1 libgl1-mesa-dri for egl, libosmesa6 for osmesa)"
)
try:
    import mujoco
except (AttributeError, RuntimeError, OSError) as error:  # PyOpenGL finds no library, or there is no such backend
    raise RuntimeError(
        f"MuJoCo fails with {VARIABLE}={os.environ.get(VARIABLE, '')} here ({error}): unset it, and what works is "
        f"chosen, or install {DRIVERS}"
    ) from error

HEADLESS = ("egl", "osmesa")  # in the order in which they are tried
NAME = "corner2"
POSITION = (0.75, 0.075, 0.7)  # where LeRobot puts this camera
KEY = f"observation.images.{NAME}"
PROBE = "import sys, importlib; importlib.import_module('mujoco.' + sys.argv[1]).GLContext(8, 8).make_current()"


class Camera:
    """The camera ``corner2`` of Meta-World as LeRobot's environment shows it, ``size`` × ``size`` pixels.

    It keeps the meshes and textures of the first of ``models`` and shows all of them: simulators of one task.

    Raises:
        RuntimeError: nothing on this machine renders; the message says what to install.
    """

    def __init__(self, models: Sequence[Any], size: int, *, shadows: bool = True) -> None:
        gl_context().make_current()
        for model in models:
            model.camera(NAME).pos = POSITION
        model = models[0]
        buffer = model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, size), max(buffer.offheight, size)
        self._size = size
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = model.camera(NAME).id
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def look(
        self, model: Any, data: Any
    ) -> tuple[UInt8[np.ndarray[Any, Any], "size size 3"], Float32[np.ndarray[Any, Any], "size size"]]:
        """Render the camera's picture, top row first, and each pixel's distance: metres along the camera's axis."""
        gl_context().make_current()  # another renderer may have come in between
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, self._view, everything, self._scene)
        pixels = np.empty((self._size, self._size, 3), dtype=np.uint8)
        area = mujoco.MjrRect(0, 0, self._size, self._size)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjr_render(area, self._scene, self._context)
        buffer = np.empty((self._size, self._size), dtype=np.float32)
        mujoco.mjr_readPixels(pixels, buffer, area, self._context)
        near, far = (model.stat.extent * plane for plane in (model.vis.map.znear, model.vis.map.zfar))
        distance = near / (1 - buffer * (1 - near / far))  # the buffer holds 0 at the near plane and 1 at the far one
        # the camera hangs upside down, and OpenGL's first row is the lowest
        return pixels[:, ::-1], distance[:, ::-1]

    def project(
        self, model: Any, data: Any, points: Float64[np.ndarray[Any, Any], "points 3"]
    ) -> Float64[np.ndarray[Any, Any], "points 3"]:
        """Project points of the world (metres) into the picture: column and row in pixels, distance as in `look`.

        With (x, y, -z) a point in the camera's own frame and f = size / (2 tan(fovy / 2)), OpenGL's column and row are
        size / 2 + f x / z and size / 2 + f y / z; the picture has its columns reversed.
        """
        camera = data.camera(NAME)
        x, y, z = ((points - camera.xpos) @ camera.xmat.reshape(3, 3) * (1, 1, -1)).T
        focal = self._size / 2 / np.tan(np.radians(model.camera(NAME).fovy[0]) / 2)
        return np.stack([self._size / 2 - focal * x / z, self._size / 2 + focal * y / z, z], axis=1)

    def close(self) -> None:
        """Give the graphics memory back."""
        gl_context().make_current()
        self._context.free()


@functools.cache
def gl_context() -> Any:
    """Make an off-screen OpenGL context, the same at every call; its kind is left in ``MUJOCO_GL``."""
    os.environ[VARIABLE] = choose_backend()
    context = importlib.import_module(f"mujoco.{os.environ[VARIABLE]}").GLContext(64, 64)
    atexit.register(context.free)  # before the library's own farewell, after which it could not
    return context


def choose_backend() -> str:
    """Choose what renders: ``MUJOCO_GL`` if it is set, glfw where there is a display, else the first that works.

    Raises:
        RuntimeError: none does.
    """
    given = os.environ.get(VARIABLE, "")
    displayed = sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    candidates = (given,) if given else ("glfw",) if displayed else HEADLESS
    for backend in candidates:
        if _renders(backend):
            return backend
    raise RuntimeError(
        f"no image can be rendered: {VARIABLE}={' and '.join(candidates)} fails here. Install {DRIVERS}, set "
        f"{VARIABLE} to egl, osmesa or glfw, or record and roll out without images"
    )


def _renders(backend: str) -> bool:
    """In a process of its own: one that fails leaves PyOpenGL bound to it."""
    probe = subprocess.run([sys.executable, "-c", PROBE, backend], capture_output=True, check=False)
    return probe.returncode == 0
