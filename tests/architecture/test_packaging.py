"""What is built from the repository holds all of it, and says the same version everywhere. No network is needed."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import craft_trainer

ROOT = Path(__file__).parents[2]
NAME = f"craft_trainer-{craft_trainer.__version__}"
CONFIGS = "craft_trainer/configs"  # a link to configs/


@pytest.fixture(scope="module")
def tracked():
    """Names of the files that git tracks; skips where there is no repository, as in an unpacked sdist."""
    if not (ROOT / ".git").exists():
        pytest.skip("what is compared is what git tracks")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.rstrip("\0").split("\0"))


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    """Folder with the sdist of a copy that holds nothing but tracked files, and the wheel of that sdist.

    A copy, so that neither files that git ignores nor the list of a build before it (`*.egg-info/SOURCES.txt`) are in.
    """
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", built, copy]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return built


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        yield {name.split("/", 1)[1] for name in archive.getnames() if archive.getmember(name).isfile()}


def in_package(tracked):
    """What the wheel must hold: the package's files, with the configurations in place of the link to them."""
    configs = {f"craft_trainer/{name}" for name in tracked if name.startswith("configs/")}
    return {name for name in tracked if name.startswith("craft_trainer/")} - {CONFIGS} | configs


def test_the_wheel_holds_every_file_of_the_package(wheel, tracked):
    """Seen to fail without the pattern of the templates, and without that of the configurations."""
    held = {name for name in wheel.namelist() if not name.startswith(f"{NAME}.dist-info/")}
    assert held == in_package(tracked)
    assert {f"{CONFIGS}/train/dryrun.yaml", "craft_trainer/py.typed"} <= held


def test_files_of_the_wheel_are_those_of_the_repository(wheel, tracked):
    for name in in_package(tracked):
        assert wheel.read(name) == (ROOT / name).read_bytes(), name


def test_the_sdist_holds_every_tracked_file(sdist, tracked):
    """Seen to fail without `graft tests`."""
    assert (tracked - {CONFIGS}) - sdist == set()
    assert {"LICENSE", "docs/index.md", "tests/conftest.py"} <= sdist
    added = {name for name in sdist - tracked if not name.startswith((f"{CONFIGS}/", "craft_trainer.egg-info/"))}
    assert added == {"PKG-INFO"}


def test_the_wheel_says_what_it_is(wheel):
    metadata = message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))
    assert metadata["Version"] == craft_trainer.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert wheel.read(f"{NAME}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"craft-trainer = craft_trainer.cli.main:main" in wheel.read(f"{NAME}.dist-info/entry_points.txt")
    plain = {Requirement(text).name for text in metadata.get_all("Requires-Dist") if "extra" not in text}
    assert {"torch", "transformers"} <= plain
    assert not plain & {"lerobot", "metaworld", "matplotlib", "peft"}


def test_the_version_is_the_same_everywhere():
    """Its home is `craft_trainer/version.py`. Seen to fail with 0.1.1 there."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == craft_trainer.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = next(line for line in changelog.splitlines() if line.startswith("## "))
    assert newest.split()[1] == craft_trainer.__version__
