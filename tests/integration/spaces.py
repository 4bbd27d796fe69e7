"""Pushes the folders of the `evaluate` modules as Spaces, for tests against a Hub or a double of it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfApi

METRICS = Path(__file__).parents[2] / "craft_trainer/evaluation/metrics"
KINDS = {"mcq_likelihood": "metric", "mcq_comparison": "comparison"}


def push_space(api: "HfApi", name: str, owner: str) -> str:
    """Fill the Space ``owner/name`` from the folder ``name``; give its id for ``evaluate.load(id, module_type=…)``."""
    repo_id = f"{owner}/{name}"
    api.create_repo(repo_id, repo_type="space", space_sdk="gradio", exist_ok=True)
    ignored = ["__pycache__/*", "__init__.py"]
    api.upload_folder(repo_id=repo_id, repo_type="space", folder_path=METRICS / name, ignore_patterns=ignored)
    return repo_id
