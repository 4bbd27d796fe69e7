"""Push the two `evaluate` modules to the Hub as Spaces of an owner: python scripts/spaces.py OWNER"""

import argparse
from pathlib import Path

from huggingface_hub import HfApi

METRICS = Path(__file__).parents[1] / "craft_trainer/evaluation/metrics"
KINDS = {"mcq_likelihood": "metric", "mcq_comparison": "comparison"}
IGNORED = ["__pycache__/*", "__init__.py"]


def push_space(api: HfApi, name: str, owner: str) -> str:
    """Fill the Space ``owner/name`` from the folder ``name``, and return its id."""
    repo_id = f"{owner}/{name}"
    api.create_repo(repo_id, repo_type="space", space_sdk="gradio", exist_ok=True)
    api.upload_folder(repo_id=repo_id, repo_type="space", folder_path=METRICS / name, ignore_patterns=IGNORED)
    return repo_id


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Push the `evaluate` modules to the Hub as Spaces.")
    parser.add_argument("owner", help="user or organisation of the Hub that you may write to (`hf auth login`)")
    owner = parser.parse_args().owner
    for name, kind in KINDS.items():
        print(f'evaluate.load("{push_space(HfApi(), name, owner)}", module_type="{kind}")')
