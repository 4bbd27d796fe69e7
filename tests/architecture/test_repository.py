"""The repository keeps its own promises: configurations that run, a README that lists what is there, a light core."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from craft_trainer.benchmarks.demo import FINE_TUNING, RETENTION, TEACHER
from craft_trainer.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
HARDWARE = {"use_cpu", "dataloader_pin_memory"}  # the demo stays on the CPU; a user of the YAML need not
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))


def tracked_files():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listing.splitlines()]


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
    filled = arguments.parse("test", "", kinds[path.parent.name], ["--config", str(path)])
    for key, value in yaml.safe_load(path.read_text()).items():
        assert getattr(filled, key) == (list(map(str, value)) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("teacher", TEACHER), ("plain", FINE_TUNING), ("craft", FINE_TUNING | RETENTION)],
)
def test_training_configurations_are_those_of_the_demo(name, settings):
    from craft_trainer.cli import arguments, train
    from craft_trainer.config import CraftConfig

    path = ROOT / f"configs/train/metaworld_{name}.yaml"
    script, config = arguments.parse_all("train", "", [train.TrainArguments, CraftConfig], ["--config", str(path)])
    values = vars(script) | vars(config)
    settings = {key: value for key, value in settings.items() if key not in HARDWARE}
    for key, value in settings.items():
        assert values[key] == value or key == "report_to", key
    given = set(yaml.safe_load(path.read_text()))
    places = {"dataset", "output_dir", "policy", "anchors"}
    assert given - places == set(settings)


def test_pi0_fast_is_loaded_alike_by_its_configurations():
    """Anchors of another dtype, camera or statistics would not be the student's. Seen to fail with another dtype."""
    from craft_trainer.cli import arguments, train
    from craft_trainer.config import CraftConfig

    kinds, contents = [train.TrainArguments, CraftConfig], {}
    for name in ("anchors/pi0fast_aloha", "train/pi0fast_aloha_baseline", "train/pi0fast_aloha_craft"):
        path = ROOT / f"configs/{name}.yaml"
        contents[name.split("/")[0] + name[-5:]] = yaml.safe_load(path.read_text())
        if name.startswith("train"):
            script, config = arguments.parse_all("train", "", kinds, ["--config", str(path), "--use_cpu"])
            assert script.policy_options == {"dtype": "bfloat16", "gradient_checkpointing": True}
            assert config.learning_rate == 2.5e-5
    anchors, plain, craft = contents.values()
    assert anchors["teacher"] == craft["policy"]
    assert anchors["output_dir"] == craft["anchors"]
    for key in ("rename", "adapt_to", "dataset"):
        assert anchors[key] == craft[key] == plain[key], key
    assert anchors["policy_options"].items() <= craft["policy_options"].items()
    added = {"anchors", "retention_terms", "retention_batch_size", "epsilon", "multiplier_lr"}
    assert {key: value for key, value in craft.items() if key not in added} == plain | {
        "output_dir": craft["output_dir"]
    }


def test_the_core_imports_without_lerobot_and_metaworld():
    blocked = "import sys; sys.modules['lerobot'] = sys.modules['metaworld'] = None; "
    modules = "trainer, config, callbacks, report, anchors.cache, evaluation.rollout, cli.main, cli.arguments, cli.info"
    code = blocked + "; ".join(f"import craft_trainer.{module}" for module in modules.split(", "))
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True)


def test_without_lerobot_the_message_names_the_extra():
    code = "import sys; sys.modules['lerobot'] = None; import craft_trainer.models.lerobot"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "pip install 'craft-trainer[lerobot]'" in result.stderr


def readme_tree():
    """Paths of the files that README's indented tree lists."""
    tree = re.search(r"```text\n(craft_trainer/.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
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


def test_the_readme_tree_is_the_repository():
    files = {
        str(path)
        for path in tracked_files()
        if path.parts[0] in ("craft_trainer", "scripts", "configs") and path.name != "__init__.py"
    }
    assert readme_tree() == files


def test_the_readme_commands_exist():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^\s*(?:\$ )?(bash scripts/\S+|craft-trainer \S+)", readme, re.MULTILINE)
    assert "bash scripts/demo.sh" in commands
    assert "bash scripts/test.sh" in commands
    for command in commands:
        program, name = shlex.split(command)[:2]
        assert (ROOT / name).is_file() if program == "bash" else name in COMMANDS, command


def test_nothing_is_left_to_fill_in():
    for path in tracked_files():
        if path.suffix == ".md":
            assert "@@" not in (ROOT / path).read_text(), path


def test_a_named_python_is_the_one_that_is_used(tmp_path):
    chosen = tmp_path / "with space" / "python"
    chosen.parent.mkdir()
    chosen.symlink_to(sys.executable)
    found = run_find_python({"PYTHON": str(chosen)})
    assert (found.returncode, found.stdout.strip()) == (0, str(chosen))


def test_without_a_python_the_script_says_what_to_do(tmp_path):
    found = run_find_python({"PYTHON": str(tmp_path / "missing")})
    assert found.returncode == 1
    assert "PYTHON=/path/to/python" in found.stderr


def run_find_python(environment):
    return run_function("find_python", environment)


def run_function(call, environment, cwd=ROOT):
    """A function of env.sh, without what is done at its end."""
    functions = (ROOT / "scripts/env.sh").read_text().split("install_environment()")[0]
    environment = os.environ | environment
    command = ["bash", "-euc", functions + call]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def check_space(tmp_path):
    """Runs env.sh's check in an empty checkout where `df` reports so many GB of free space."""
    checkout, temporary, programs = (tmp_path / name for name in ("checkout", "temporary", "programs"))
    for folder in (checkout, temporary, programs):
        folder.mkdir()

    def run(checkout_free, temporary_free=None):
        names = ["/", "/"] if temporary_free is None else ["/home", "/tmp"]
        free = [checkout_free, checkout_free if temporary_free is None else temporary_free]
        lines = [f"fs 0 0 {size * 1024**2 + 5} 0% {name}" for size, name in zip(free, names, strict=True)]
        write_program(
            programs / "df", f'echo header; case $2 in *temporary) echo "{lines[1]}";; *) echo "{lines[0]}";; esac'
        )
        path = {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
        return run_function("check_space", path, checkout)

    return run


def write_program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_full_disk_is_named_before_anything_is_installed(check_space, tmp_path):
    """Instead of pip's `No space left on device` after minutes. Seen to fail without the comparison."""
    ended = check_space(checkout_free=9)
    assert ended.returncode == 1
    assert f"{tmp_path}/checkout: 9 GB are free, 15 GB are needed (for .venv and pip's downloads)" in ended.stderr


@pytest.mark.parametrize(("free", "status"), [(14, 1), (15, 0)])
def test_the_space_needed_is_that_of_environment_and_downloads(check_space, free, status):
    assert check_space(checkout_free=free).returncode == status


@pytest.mark.parametrize(
    ("free", "said"),
    [
        ((9, 6), ""),
        ((8, 100), "/checkout: 8 GB are free, 9 GB are needed (for .venv)"),
        ((100, 5), "/temporary: 5 GB are free, 6 GB are needed (for pip's downloads; TMPDIR="),
    ],
)
def test_two_disks_are_asked_separately(check_space, free, said):
    """Seen to fail with the sum asked of both."""
    ended = check_space(*free)
    assert ended.returncode == bool(said)
    assert said in ended.stderr


def test_what_is_installed_needs_no_room_again(check_space, tmp_path):
    """Only what an extra or a new requirement adds. Seen to fail without the look at the stamps."""
    (tmp_path / "checkout/.venv").mkdir()
    assert check_space(checkout_free=2).returncode == 1, "an environment that was never finished"
    (tmp_path / "checkout/.venv/.installed-all").touch()
    assert check_space(checkout_free=2).returncode == 0
    assert check_space(checkout_free=1).returncode == 1


@pytest.fixture
def install_packages(tmp_path):
    """Runs env.sh's installation where pip and uv only say what they are asked, and uv ends with a status."""
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    settings = (
        'case "$5" in :env:.index-url) echo https://mirror/simple;; global.extra-index-url) printf "a\\nb\\n";;'
        " *) exit 1;; esac"
    )
    asked = tmp_path / "asked.txt"
    write_program(programs / "python", f'if [ "$3" = config ]; then {settings}; else echo "pip $*" >> {asked}; fi')

    def run(uv_status, **environment):
        write_program(programs / "uv", f'echo "uv $UV_CACHE_DIR $*" >> {asked}; mkdir .venv/.uv; exit {uv_status}')
        environment = {"UV_CACHE_DIR": ""} | environment
        ended = run_function("install_packages --editable .[all]", environment, tmp_path)
        assert not (tmp_path / ".venv/.uv").exists()
        return ended, asked.read_text().splitlines()

    return run


def test_uv_installs_from_where_pip_would(install_packages):
    """A mirror, a further index. Seen to fail without the index, and with the cache left behind."""
    ended, (begun, asked) = install_packages(0)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert begun.endswith("install --quiet --disable-pip-version-check uv")
    assert asked.startswith("uv .venv/.uv pip install ")
    assert "--compile-bytecode" in asked
    assert asked.endswith(" --default-index https://mirror/simple --index a --index b --editable .[all]")


def test_a_cache_of_the_users_own_is_used(install_packages):
    """Seen to fail with ours always."""
    _, (_, asked) = install_packages(0, UV_CACHE_DIR="mine")
    assert asked.startswith("uv mine pip install ")


def test_pip_installs_what_uv_cannot(install_packages):
    """Seen to fail with uv's failure as the end."""
    ended, asked = install_packages(2)
    assert ended.returncode == 0
    assert "uv could not" in ended.stderr
    assert asked[-1].endswith("pip install --quiet --disable-pip-version-check --editable .[all]")


def test_the_pages_say_what_the_script_asks_for():
    """Seen to fail with another figure in either README."""
    sizes = run_function("echo $ENVIRONMENT_SIZE $DOWNLOAD_SIZE", {}).stdout.split()
    for page, words in (("README.md", "6 to {} GB, and {} GB"), ("README.zh-CN.md", "6 到 {} GB，下载时另需 {} GB")):
        assert words.format(*sizes) in (ROOT / page).read_text(), page


def test_nothing_names_this_machine():
    home = re.compile(r"/(root|home/\w+|work|farm)/")
    for path in tracked_files():
        if (ROOT / path).suffix in {".py", ".md", ".sh", ".yaml", ".toml", ".cfg"} and path.name != Path(__file__).name:
            assert not home.search((ROOT / path).read_text()), path
