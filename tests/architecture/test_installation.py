"""What makes `.venv` (scripts/env.sh, install.py): which Python, is there room, uv or pip, and what after a failure."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[2]
PIP = "-m pip install --quiet --disable-pip-version-check"
SETTINGS = """
[global]
index-url = https://other/simple
timeout = 100
[install]
index-url = https://name:password@mirror/simple
extra-index-url =
    https://one/simple
    https://two/simple
find-links =
    {folder}
    /not/there
constraint = {folder}/constraints.txt
"""


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
    functions = (ROOT / "scripts/env.sh").read_text().split("install_environment() {")[0]
    environment = os.environ | environment
    command = ["bash", "-euc", functions + call]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def disks(tmp_path):
    """Runs a function of env.sh in an empty checkout where `df` reports so many GB of free space."""
    checkout, temporary, programs = (tmp_path / name for name in ("checkout", "temporary", "programs"))
    for folder in (checkout, temporary, programs):
        folder.mkdir()

    def run(call, checkout_free, temporary_free=None):
        names = ["/", "/"] if temporary_free is None else ["/home", "/tmp"]
        free = [checkout_free, checkout_free if temporary_free is None else temporary_free]
        lines = [f"fs 0 0 {size * 1024**2 + 5} 0% {name}" for size, name in zip(free, names, strict=True)]
        write_program(
            programs / "df", f'echo header; case $2 in *temporary) echo "{lines[1]}";; *) echo "{lines[0]}";; esac'
        )
        path = {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
        return run_function(call, path, checkout)

    return run


def write_program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_full_disk_is_named_before_anything_is_installed(disks, tmp_path):
    """Instead of `No space left on device` after minutes. Seen to fail without the comparison."""
    ended = disks("check_space", 8)
    assert ended.returncode == 1
    assert f"{tmp_path}/checkout: 8 GB are free, 9 GB are needed (for .venv)" in ended.stderr
    assert disks("check_space", 9).returncode == 0


def test_what_an_interrupted_installation_left_is_counted(disks, tmp_path):
    """Seen to fail with all of it asked for again."""
    (tmp_path / "checkout/.venv").mkdir()
    write_program(tmp_path / "programs/du", f"echo {4 * 1024**2} .venv")
    assert disks("check_space", 5).returncode == 0
    assert "4 GB are free, 5 GB are needed" in disks("check_space", 4).stderr


@pytest.mark.parametrize(
    ("free", "said"),
    [
        ((15, None), ""),
        ((14, None), "/checkout: 14 GB are free, 15 GB are needed (for .venv and pip's downloads)"),
        ((0, 6), ""),
        ((100, 5), "/temporary: 5 GB are free, 6 GB are needed (for pip's downloads; TMPDIR="),
    ],
)
def test_pip_needs_room_for_its_downloads(disks, free, said):
    """On the same disk or on another. Seen to fail with the sum asked of both."""
    ended = disks("check_download_space", *free)
    assert ended.returncode == bool(said)
    assert said in ended.stderr


def test_what_is_installed_needs_no_room_again(disks, tmp_path):
    """Only what an extra or a new requirement adds. Seen to fail without the look at the stamps."""
    (tmp_path / "checkout/.venv").mkdir()
    assert disks("check_space", 2).returncode == 1, "an environment that was never finished"
    (tmp_path / "checkout/.venv/.installed-all").touch()
    assert disks("check_space", 1).returncode == 0
    assert disks("check_space", 0).returncode == 1
    assert disks("check_download_space", 2).returncode == 0
    assert disks("check_download_space", 1).returncode == 1


@pytest.fixture
def install_packages(tmp_path):
    """Runs env.sh's installation where Python only notes what it is asked; what holds one of the words ``failing``
    ends with status 1."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    asked = tmp_path / "asked.txt"

    def run(*failing):
        patterns = "|".join(["nothing", *failing])
        write_program(
            tmp_path / ".venv/bin/python",
            f'mkdir -p .venv/.uv; echo "$*" >> {asked}; case "$*" in {patterns}) exit 1;; esac',
        )
        asked.unlink(missing_ok=True)
        ended = run_function("check_download_space() { true; }; install_packages --editable .", {}, tmp_path)
        left = {name for name in (".uv", ".unfinished") if (tmp_path / ".venv" / name).exists()}
        return ended, asked.read_text().splitlines(), left

    return run


def test_uv_installs_and_its_cache_goes(install_packages):
    """Seen to fail with the cache left behind."""
    ended, asked, left = install_packages()
    assert (ended.returncode, ended.stderr, left) == (0, "", set())
    assert asked == [f"{PIP} --only-binary uv uv>=0.11", "scripts/install.py --editable ."]


@pytest.mark.parametrize("failing", ["*only-binary*", "*install.py*"])
def test_pip_installs_what_uv_cannot(install_packages, failing):
    """No uv for this machine, or an error of it; half a package may be there. Seen to fail with uv's end as the end."""
    ended, asked, left = install_packages(failing)
    assert (ended.returncode, left) == (0, set())
    assert "uv could not" in ended.stderr
    assert asked[-1] == f"{PIP} --force-reinstall --editable ."


def test_an_installation_that_did_not_end_is_made_anew(install_packages, tmp_path):
    """Half of its last package may be there. Seen to fail with the mark removed always, and without --reinstall."""
    ended, _, left = install_packages("*install.py*", "*force-reinstall*")
    assert ended.returncode == 1
    assert ".unfinished" in left
    _, asked, left = install_packages()
    assert asked[-1] == "scripts/install.py --reinstall --editable ."
    assert not left
    (tmp_path / ".venv/.installed-all").touch()
    _, asked, _ = install_packages("*install.py*")
    assert asked[-1] == f"{PIP} --editable .", "what is whole stays"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Writes the only settings of pip that there are."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "system"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return (tmp_path / "pip.conf").write_text


@pytest.fixture
def installer():
    """scripts/install.py."""
    pytest.importorskip("pip")
    spec = importlib.util.spec_from_file_location("install", ROOT / "scripts/install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_uv_installs_from_where_pip_would(installer, settings, tmp_path):
    """As pip itself reads its settings. Seen to fail without the constraints, and with a folder that is not there."""
    settings(SETTINGS.format(folder=tmp_path))
    expected = {
        "UV_DEFAULT_INDEX": "https://name:password@mirror/simple",
        "UV_INDEX": "https://one/simple https://two/simple",
        "UV_FIND_LINKS": str(tmp_path),
        "UV_CONSTRAINT": f"{tmp_path}/constraints.txt",
    }
    found = installer.variables(installer.settings_of_pip())
    assert found | expected == found, "beside what /etc/pip.conf says"


def test_what_uv_is_not_told_of_is_left_to_pip(installer, settings, capsys, monkeypatch):
    """Seen to fail without the look at it."""
    settings("[global]\nno-index = true\n")
    monkeypatch.setattr(installer.os, "execve", None)
    with pytest.raises(SystemExit, match="3"):
        installer.main(["--editable", "."])
    assert "no_index" in capsys.readouterr().err


def test_passwords_are_not_on_the_command_line(installer, settings, monkeypatch, tmp_path):
    """Seen to fail with --default-index."""
    settings(SETTINGS.format(folder=tmp_path))
    execve = mock.Mock(side_effect=SystemExit)
    monkeypatch.setattr(installer.os, "execve", execve)
    with pytest.raises(SystemExit):
        installer.main(["--editable", "."])
    _, words, environment = execve.call_args.args
    assert words[-2:] == ["--editable", "."]
    assert "--compile-bytecode" in words
    assert not [word for word in words if "password" in str(word)]
    assert "password" in environment["UV_DEFAULT_INDEX"]


def test_the_pages_say_what_the_script_asks_for():
    """Seen to fail with another figure in either README."""
    size = run_function("echo $ENVIRONMENT_SIZE", {}).stdout.strip()
    for page, words in (("README.md", "6 to {} GB"), ("README.zh-CN.md", "6 到 {} GB")):
        assert words.format(size) in (ROOT / page).read_text(), page
