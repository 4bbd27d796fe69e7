"""``craft-trainer info``: versions, devices and what is installed."""

import importlib.metadata
import os
import platform

from craft_trainer.version import __version__

EXAMPLE = "craft-trainer info"
PACKAGES = (
    "torch", "transformers", "accelerate", "datasets", "huggingface_hub", "peft", "evaluate", "safetensors", "numpy",
    "bitsandbytes", "lerobot", "metaworld", "mujoco", "matplotlib", "jinja2",
)  # fmt: skip


def run() -> None:
    """Print one line per fact; paste it into a bug report."""
    for name, value in facts().items():
        print(f"- {name}: {value}")


def facts() -> dict[str, str]:
    """List the versions of Python, the platform and the packages, and the devices torch sees."""
    import torch

    accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": str(os.cpu_count()),
        "craft-trainer": __version__,
        **{name: _version(name) for name in PACKAGES},
        "accelerators": ", ".join(accelerators) or "none",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
