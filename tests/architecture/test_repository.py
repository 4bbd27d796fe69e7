"""The repository keeps its own promises: configurations that run, a tree that lists what is there, a light core."""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from craft_trainer.cli.main import COMMANDS
from craft_trainer.suites.demo import FINE_TUNING, RETENTION, TEACHER

ROOT = Path(__file__).parents[2]
HARDWARE = {"use_cpu", "dataloader_pin_memory"}  # the demo stays on the CPU; a user of the YAML need not
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))


def tracked_files():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listing.splitlines()]


def test_shapes_of_arrays_are_said_in_a_way_that_every_numpy_takes():
    """With numpy 2.5 and jaxtyping 0.3.11 an import that meets a jaxtyping shape of an NDArray ends in a TypeError."""
    named = r"\b[A-Z]\w+\[NDArray\["
    found = [path for path in tracked_files() if path.suffix == ".py" and re.search(named, (ROOT / path).read_text())]
    assert not found, "say Float[np.ndarray[Any, Any], …]"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_starts_with_the_command_that_uses_it(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    name = str(path.relative_to(ROOT))
    script = "scripts/train_craft_hidden_dryrun.sh"
    assert any(name in line or script in line for line in head), f"{name}: no command names it"


@pytest.mark.parametrize(
    "name",
    ["record/metaworld_old", "record/metaworld_new", "anchors/metaworld", "anchors/pi0fast_aloha", "demo/untuned"],
)
def test_data_configurations_are_understood(name):
    from craft_trainer.cli import arguments, cache_build, demo, record

    kinds = {"record": record.RecordArguments, "anchors": cache_build.BuildArguments, "demo": demo.DemoArguments}
    path = ROOT / f"configs/{name}.yaml"
    (filled,) = arguments.parse_all("test", "", [kinds[path.parent.name]], ["--config", str(path)])
    for key, value in yaml.safe_load(path.read_text()).items():
        assert getattr(filled, key) == (list(map(str, value)) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("teacher", TEACHER), ("plain", FINE_TUNING), ("craft", FINE_TUNING | RETENTION)],
)
def test_training_configurations_are_those_of_the_demo(name, settings):
    from craft_trainer.cli import arguments, train

    path = ROOT / f"configs/train/metaworld_{name}.yaml"
    script, config = arguments.parse_all("train", "", [train.TrainArguments, "TrainConfig"], ["--config", str(path)])
    values = vars(script) | vars(config)
    settings = {key: value for key, value in settings.items() if key not in HARDWARE}
    for key, value in settings.items():
        assert values[key] == value or key == "report_to", key
    given = {"epsilon" if key == "retention" else key for key in yaml.safe_load(path.read_text())}  # sets epsilon
    places = {"dataset", "output_dir", "model", "anchors"}
    assert given - places == set(settings)


def test_pi0_fast_is_loaded_alike_by_its_configurations():
    """Anchors of another dtype, camera or statistics would not be the student's. Seen to fail with another dtype."""
    from craft_trainer.cli import arguments, train

    kinds, contents = [train.TrainArguments, "TrainConfig"], {}
    for name in ("anchors/pi0fast_aloha", "train/pi0fast_aloha_baseline", "train/pi0fast_aloha_craft"):
        path = ROOT / f"configs/{name}.yaml"
        contents[name.split("/")[0] + name[-5:]] = yaml.safe_load(path.read_text())
        if name.startswith("train"):
            script, config = arguments.parse_all("train", "", kinds, ["--config", str(path), "--use_cpu"])
            assert script.policy_options == {"dtype": "bfloat16", "gradient_checkpointing": True}
            assert config.learning_rate == 2.5e-5
    anchors, plain, craft = contents.values()
    assert anchors["teacher"] == craft["model"]
    assert anchors["output_dir"] == craft["anchors"]
    for key in ("rename", "adapt_to", "dataset"):
        assert anchors[key] == craft[key] == plain[key], key
    assert anchors["policy_options"].items() <= craft["policy_options"].items()
    added = {"anchors", "retention_terms", "retention_batch_size", "retention", "multiplier_lr"}
    assert {key: value for key, value in craft.items() if key not in added} == plain | {
        "output_dir": craft["output_dir"]
    }


def test_the_core_imports_without_lerobot_and_metaworld():
    blocked = "import sys; sys.modules['lerobot'] = sys.modules['metaworld'] = None; "
    modules = "training.trainer, report, anchors.cache, simulation.rollout, cli.main, cli.arguments, cli.info"
    code = blocked + "; ".join(f"import craft_trainer.{module}" for module in modules.split(", "))
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True)


def test_without_lerobot_the_message_names_the_extra():
    code = "import sys; sys.modules['lerobot'] = None; import craft_trainer.models.lerobot"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "pip install 'craft-trainer[lerobot]'" in result.stderr


def listed_tree():
    """Paths of the files that the indented tree of docs/architecture.md lists."""
    tree = re.search(r"```text\n(craft_trainer/.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL).group(
        1
    )
    folders, files = [], set()
    for line in filter(str.strip, tree.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        else:
            files.add("/".join([*folders, name]))
    return files


def test_the_tree_is_the_repository():
    files = {
        str(path)
        for path in tracked_files()
        if path.parts[0] in ("craft_trainer", "scripts", "configs") and path.name != "__init__.py"
    }
    assert listed_tree() == files


def test_the_quick_tests_are_of_every_folder():
    """Seen to fail with a folder left out, and with a file that is not there."""
    spec = importlib.util.spec_from_file_location("all_tests", ROOT / "tests/conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    tests = [path.relative_to("tests") for path in tracked_files() if path.parts[0] == "tests"]
    tests = [path for path in tests if path.name.startswith("test_")]
    assert conftest.QUICK.keys() == {path.parent.as_posix() for path in tests}
    assert {f"{folder}/{name}" for folder, name in conftest.QUICK.items()} <= {path.as_posix() for path in tests}


def test_the_readme_commands_exist():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^\s*(?:\$ )?(bash scripts/\S+|craft-trainer \S+)", readme, re.MULTILINE)
    assert "bash scripts/demo.sh" in commands
    assert "bash scripts/test.sh" in commands
    for command in commands:
        program, name = shlex.split(command)[:2]
        assert (ROOT / name).is_file() if program == "bash" else name in COMMANDS, command


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by that name alone: of two it collects the first, and says so after all others have run."""
    names = Counter(path.name for path in tracked_files() if path.parts[0] == "tests" and path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_nothing_is_left_to_fill_in():
    for path in tracked_files():
        if path.suffix == ".md":
            assert "@@" not in (ROOT / path).read_text(), path


def test_nothing_names_this_machine():
    home = re.compile(r"/(root|home/\w+|work|farm)/")
    for path in tracked_files():
        if (ROOT / path).suffix in {".py", ".md", ".sh", ".yaml", ".toml", ".cfg"} and path.name != Path(__file__).name:
            assert not home.search((ROOT / path).read_text()), path
