"""``craft-trainer configs``: in an empty folder, the commands of the documentation find what they name."""

from pathlib import Path

import pytest

from craft_trainer.cli.main import main

ROOT = Path(__file__).parents[3]


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_configuration_of_the_repository_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail with `*.yaml` for `rglob("*.yaml")`, which leaves out every folder."""
    assert main(["configs"]) == 0
    assert files(here / "configs") == files(ROOT / "configs")
    printed = set(capsys.readouterr().out.split())
    assert printed == {f"configs/{name}" for name in files(ROOT / "configs")}


def test_what_is_the_same_already_may_be_written_again(here: Path) -> None:
    assert main(["configs"]) == main(["configs"]) == 0


def test_a_file_that_was_edited_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else is written beside it. Seen to fail without the comparison."""
    edited = here / "mine/train/metaworld_craft.yaml"
    edited.parent.mkdir(parents=True)
    edited.write_text("epsilon: 0.5\n")
    assert main(["configs", "--output_dir", "mine"]) == 1
    assert "mine/train/metaworld_craft.yaml was changed" in capsys.readouterr().err
    assert files(here / "mine") == {"train/metaworld_craft.yaml": "epsilon: 0.5\n"}


def test_a_configuration_that_is_not_here_names_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What somebody sees who installed the wheel and types a line of the README."""
    assert main(["record", "--config", "configs/record/metaworld_old.yaml"]) == 1
    assert "`craft-trainer configs` writes the configurations" in capsys.readouterr().err
    assert main(["configs"]) == 0
    assert main(["record", "--config", "configs/record/metaworld_odl.yaml"]) == 1
    assert "no such file here: did you mean 'configs/record/metaworld_old.yaml'?" in capsys.readouterr().err
    assert main(["record", "--config", "elsewhere.yaml"]) == 1
    assert "craft-trainer configs" not in capsys.readouterr().err
