"""``cache build --source``: anchors without old data, through build, verify and training."""

import json
import shutil

import pytest
from command_words import flags

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.normalisation import observed_moments

TRAIN = {"max_steps": 3, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}


ROLLOUTS = {"source": "rollouts", "tasks": "push-v3", "rollout_episodes": 2, "failed": "keep", "anchors": 6}


def build(teacher, folder, **options):
    return main(["cache", "build", *flags(**{"teacher": teacher, "output_dir": folder, "batch_size": 8} | options)])


def shorten_episodes(monkeypatch):
    from craft_trainer.simulation import acting

    monkeypatch.setattr(acting.record_policy, "__kwdefaults__", acting.record_policy.__kwdefaults__ | {"max_steps": 5})


@pytest.mark.parametrize(
    ("source", "options", "groups"),
    [
        ("statistics", {"anchors": 20}, {"states from statistics": 20}),
        ("statistics", {"anchors": 20, "correlations": "DATA"}, {"states from statistics": 20}),
        ("new_task", {"anchors": 5, "views": 3, "dataset": "DATA"}, None),
        ("dataset", {"anchors": 5, "views": 3, "dataset": "DATA"}, None),
        ("statistics,new_task", {"anchors": 11, "dataset": "DATA"}, {"statistics": 6, "new_task": 5}),
        ("statistics,new_task", {"anchors": 4, "views": 2, "dataset": "DATA"}, {"statistics": 6, "new_task": 4}),
        (
            "statistics,new_task",
            {"anchors": 11, "source_weights": [7, 1], "dataset": "DATA"},
            {"statistics": 10, "new_task": 1},
        ),
    ],
)
def test_it_is_built_verified_and_held(source, options, groups, teacher, tiny_dataset, tmp_path, capsys):
    options = {key: tiny_dataset if value == "DATA" else value for key, value in options.items()}
    folder = tmp_path / "cache"
    assert build(teacher, folder, source=source, **options) == 0
    cache = AnchorCache(folder)
    assert cache.provenance.data["source"] == source
    assert groups is None or cache.provenance.groups == groups
    assert cache.has_labels == (source == "dataset")
    assert main(["cache", "verify", *flags(cache=folder, teacher=teacher)]) == 0
    given = {"model": teacher, "anchors": folder, "dataset": tiny_dataset, "output_dir": tmp_path / "run"}
    held = ["--retention_terms", "hidden"]  # the same inputs are learned
    assert main(["train", *flags(**given | TRAIN), *held]) == 0
    assert capsys.readouterr().err.count("Error") == 0


def test_the_teachers_own_episodes_are_recorded_once_and_have_its_labels(teacher, tmp_path, capsys, monkeypatch):
    """An interrupted build's recording is used again, that of other settings is not."""
    shorten_episodes(monkeypatch)
    folder, told = tmp_path / "cache", tmp_path / "cache.rollouts"
    options = ROLLOUTS
    assert build(teacher, folder, **options) == 0
    cache = AnchorCache(folder)
    assert cache.has_labels
    assert cache.provenance.data["dataset"] == str(told)
    assert cache.provenance.data["frames"] == 10
    made_by = {key: cache.provenance.data[key] for key in ("tasks", "rollout_episodes", "failed", "seed")}
    assert made_by == {"tasks": ["push-v3"], "rollout_episodes": 2, "failed": "keep", "seed": 0}  # seen to fail
    shutil.rmtree(folder)
    before = {path: path.stat().st_mtime_ns for path in told.rglob("*")}
    assert build(teacher, folder, **options) == 0
    assert {path: path.stat().st_mtime_ns for path in told.rglob("*")} == before
    assert AnchorCache(folder).provenance.fingerprint == cache.provenance.fingerprint
    shutil.rmtree(folder)
    assert build(teacher, folder, **options | {"rollout_episodes": 3}) == 1
    assert "of another teacher or other settings" in capsys.readouterr().err


def test_a_second_build_does_not_rename_what_the_first_records(teacher, tmp_path, capsys, monkeypatch):
    """Seen to fail: it was refused, but the recording was called by its tasks, and used again as one of them."""
    from craft_trainer.simulation import acting

    shorten_episodes(monkeypatch)
    folder, own = tmp_path / "cache", acting.attempts_at

    def in_another_terminal(*arguments, **options):
        monkeypatch.setattr(acting, "attempts_at", own)
        assert build(teacher, folder, **ROLLOUTS | {"tasks": "reach-v3"}) == 1
        return own(*arguments, **options)

    monkeypatch.setattr(acting, "attempts_at", in_another_terminal)
    assert build(teacher, folder, **ROLLOUTS) == 0
    assert f"another process is recording {folder}.rollouts: wait until it is done" in capsys.readouterr().err
    assert json.loads((tmp_path / "cache.rollouts.json").read_text())["tasks"] == ["push-v3"]
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "cache.rollouts", "cache.rollouts.json"}


@pytest.mark.parametrize("place", ["{folder}/", "file://{folder}"])
def test_the_recording_lies_beside_the_cache_however_that_is_named(place, teacher, tmp_path, monkeypatch):
    """Seen to fail: it lay in the folder of the cache, which was refused then, or in a folder `file:`."""
    shorten_episodes(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert build(teacher, place.format(folder=tmp_path / "cache"), **ROLLOUTS) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "cache.rollouts", "cache.rollouts.json"}


def test_states_are_in_the_units_of_the_policy(teacher, tmp_path):
    assert build(teacher, tmp_path / "cache", source="statistics", anchors=400) == 0
    inputs = AnchorCache(tmp_path / "cache").batch(range(400)).inputs
    for name, (mean, std) in observed_moments(PolicyModel.from_pretrained(teacher)).items():
        scaled = (inputs[name] - mean) / std
        assert scaled.mean().abs() < 0.2
        assert 0.9 < scaled.std() < 1.4
    assert "action" not in inputs


def test_two_builds_are_the_same_bytes(teacher, tiny_dataset, tmp_path):
    options = {"source": "dataset,statistics", "dataset": tiny_dataset, "anchors": 8, "views": 2}
    assert build(teacher, tmp_path / "one", **options) == build(teacher, tmp_path / "two", **options) == 0
    first, second = AnchorCache(tmp_path / "one"), AnchorCache(tmp_path / "two")
    assert first.provenance.fingerprint == second.provenance.fingerprint
    assert build(teacher, tmp_path / "three", **options | {"view_noise": 0.2}) == 0
    assert AnchorCache(tmp_path / "three").provenance.fingerprint != first.provenance.fingerprint


def test_instructions_for_a_policy_that_reads_none(teacher, tiny_dataset, tmp_path, capsys):
    """Seen to fail: the same frames counted as other inputs, so anchors of what is learned were not refused."""
    (tmp_path / "prompts.txt").write_text("open the drawer\n")
    options = {"source": "new_task", "dataset": tiny_dataset, "prompts_file": tmp_path / "prompts.txt", "anchors": 10}
    assert build(teacher, tmp_path / "cache", **options) == 1
    assert "prompts_file has no effect here: this act reads no instructions. Leave it out" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_old_instructions_on_new_frames(teacher, tiny_dataset, tmp_path, monkeypatch):
    """As of a policy that reads them."""
    monkeypatch.setattr("craft_trainer.anchors.trial.reads_instructions", lambda *_: True)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("open the drawer\n\nclose it\nopen the drawer\n")
    options = {"source": "new_task", "dataset": tiny_dataset, "prompts_file": prompts, "anchors": 10}
    assert build(teacher, tmp_path / "cache", **options) == 0
    cache = AnchorCache(tmp_path / "cache")
    assert cache.provenance.groups == {"close it": 5, "open the drawer": 5}
    assert cache.provenance.data["prompts"] == ["open the drawer", "close it"]
    assert set(cache.batch(range(10)).inputs["task"]) == {"open the drawer", "close it"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"source": "drawn"}, "source is 'drawn'"),
        ({"source": "dataset"}, "give it by --dataset"),
        ({"source": "dataset,new_task", "dataset": "org/x"}, "by --new_dataset"),
        ({"source": "statistics", "new_dataset": "DATA"}, "new_dataset has no effect"),
        ({"source": "dataset", "dataset": "org/x", "prompts_file": "x"}, "prompts_file has no effect"),
        ({"source": "dataset", "dataset": "org/x", "correlations": "org/x"}, "correlations has no effect"),
        ({"source": "statistics", "dataset": "org/x"}, "dataset has no effect"),
        ({"source": "dataset", "dataset": "org/x", "state_width": 3}, "state_width has no effect"),
        ({"source": "statistics", "view_noise": 0.5}, "view_noise has no effect here: there are no views"),
        ({"source": "rollouts"}, "name Meta-World tasks by --tasks, or give --env"),
        ({"source": "statistics", "tasks": "push-v3"}, "tasks has no effect"),
        ({"source": "statistics", "failed": "keep"}, "failed has no effect"),
        ({"source": "new_task"}, "about to be learned: give it by --dataset"),
        ({"source": "statistics", "views": 2, "view_noise": 0}, "are copies"),
        ({"source": "dataset", "dataset": "DATA", "held_out_only": True}, "give their share by held_out"),
        ({"source": "rollouts", "tasks": "push-v3", "failed": "repeat"}, "failed must be drop or keep"),
        ({"source": "statistics", "selection": "k_center"}, "selection has no effect here: as many states are drawn"),
        ({"source": "statistics", "num_tokens": 8}, "num_tokens has no effect here: act predicts no tokens"),
        ({"source": "statistics", "inputs": "reference"}, "source dataset or corpus alone"),
        (
            {"source": "new_task", "dataset": "DATA", "new_dataset": "DATA"},
            "dataset has no effect here: source new_task",
        ),
        ({"source": "statistics,new_task", "dataset": "DATA", "anchors": 1}, "at least one of each"),
        ({"source": "statistics", "source_weights": [1]}, "source_weights has no effect with one source"),
        ({"source": "statistics,new_task", "dataset": "DATA", "source_weights": [1]}, "above 0 for each of statistics"),
        ({"source": "statistics,new_task", "dataset": "DATA", "source_weights": [1, 0]}, "above 0 for each of statist"),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_refused(options, reason, teacher, tiny_dataset, tmp_path, capsys):
    given = {name: tiny_dataset if value == "DATA" else value for name, value in options.items()}
    assert build(teacher, tmp_path / "cache", **given) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
