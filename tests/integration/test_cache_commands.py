"""``craft-trainer cache``: build, verify, info, and training on what they give."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_words import flags

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main
from craft_trainer.models.lerobot_dataset import PolicyDataset

TRAIN = {"max_steps": 3, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
TRAIN |= {"learned_inputs": "allow"}  # the tiny dataset is both what is known and what is learned


def build(teacher, dataset, folder, **options):
    settings = {"teacher": teacher, "dataset": dataset, "output_dir": folder, "anchors": 30, "batch_size": 8}
    return main(["cache", "build", *flags(**settings | options)])


@pytest.fixture(scope="module")
def anchors(tmp_path_factory, teacher, tiny_dataset):
    folder = tmp_path_factory.mktemp("anchors") / "cache"
    assert build(teacher, tiny_dataset, folder, layers="0,-1", pooling="mean_masked,last_token") == 0
    return folder


@pytest.fixture(scope="module")
def references(tmp_path_factory, teacher, tiny_dataset):
    folder = tmp_path_factory.mktemp("references") / "cache"
    assert build(teacher, tiny_dataset, folder, inputs="reference") == 0
    return folder


def test_layers_are_printed_and_every_pooling_of_each_is_cached(teacher, tiny_dataset, tmp_path, capsys):
    assert build(teacher, tiny_dataset, tmp_path / "cache", layers="0,-1", pooling="mean_masked,last_token") == 0
    text = capsys.readouterr().out
    assert "layer -1 → policy.model.decoder\n" in text
    assert [tuple(spec) for spec in AnchorCache(tmp_path / "cache").specs] == [
        (path, pooling)
        for path in ("policy.model.encoder.layers.0", "policy.model.decoder")
        for pooling in ("mean_masked", "last_token")
    ]


def test_none_among_the_layers_is_no_layer(teacher, tiny_dataset, tmp_path, capsys):
    """Seen to fail: each layer was printed with the path of the next."""
    assert build(teacher, tiny_dataset, tmp_path / "cache", layers="none,-1,0") == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("layer ")]
    assert printed == ["layer -1 → policy.model.decoder", "layer 0 → policy.model.encoder.layers.0"]


def test_anchors_are_shared_out_over_tasks_and_phases(teacher, tiny_dataset, tiny_policy, tmp_path):
    assert build(teacher, tiny_dataset, tmp_path / "cache") == 0
    cache = AnchorCache(tmp_path / "cache")
    assert set(cache.provenance.groups.values()) == {15}
    dataset = PolicyDataset(str(tiny_dataset), tiny_policy().policy_config)
    rows = cache.dataset["row"]
    assert [dataset.task_of_frame[row] for row in rows] == cache.groups
    assert len({dataset.episode_of_frame[row] for row in rows}) == 6
    assert cache.provenance.data["fingerprint"] == dataset.fingerprint()


@pytest.mark.parametrize("selection", ["uniform", "k_center"])
def test_other_selections_choose_other_rows(teacher, tiny_dataset, anchors, tmp_path, selection):
    assert build(teacher, tiny_dataset, tmp_path / "cache", selection=selection) == 0
    rows = AnchorCache(tmp_path / "cache").dataset["row"]
    assert len(set(rows)) == 30
    assert list(rows) != list(AnchorCache(anchors).dataset["row"])


def test_an_unknown_selection_is_refused(teacher, tiny_dataset, tmp_path, capsys):
    assert build(teacher, tiny_dataset, tmp_path / "cache", selection="k_centre") == 1
    assert "it must be one of uniform, stratified, k_center" in capsys.readouterr().err


@pytest.mark.parametrize("which", ["anchors", "references"])
def test_a_cache_of_its_own_teacher_is_verified(request, which, teacher, capsys):
    folder = request.getfixturevalue(which)
    assert main(["cache", "verify", *flags(cache=folder, teacher=teacher, rows=20)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ok  ")]
    assert lines[0] == "ok  4 files of 30 anchors have the bytes they were written with"
    assert lines[1] == "ok  rows, and means and variances of the features, are those that it says it has"
    assert lines[2] == "ok  made by this teacher: weights, processors and configuration"
    assert any(line.startswith("ok  output recomputed on 20 anchors: within ") for line in lines[3:])
    assert len(lines) == 5 + len(AnchorCache(folder).specs)


def test_a_flipped_bit_is_found(anchors, tmp_path, capsys):
    folder = shutil.copytree(anchors, tmp_path / "cache")
    (file,) = folder.glob("*.arrow")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert main(["cache", "verify", *flags(cache=folder)]) == 1
    assert f"{file} is missing or damaged" in capsys.readouterr().err


def test_features_that_are_not_the_teachers_are_found(anchors, teacher, monkeypatch, capsys):
    """Sealed with the right checksums, as a build on broken hardware would be."""
    honest = AnchorCache._features
    monkeypatch.setattr(AnchorCache, "_features", lambda self, column, rows: honest(self, column, rows) + 0.01)
    assert main(["cache", "verify", *flags(cache=anchors, teacher=teacher)]) == 1
    assert "the teacher's own features deviate by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": 4}, "rows has no effect here: no teacher is given"),
        ({"rename": '{"a": "b"}'}, "rename has no effect here: no teacher is given"),
        ({"teacher": True, "teacher_dtype": "bfloat16"}, "teacher_dtype has no effect on a policy"),
        ({"teacher": True, "dataset": "."}, "holds its inputs and reads no dataset: leave out ."),
    ],
)
def test_verifying_refuses_options_without_effect(anchors, teacher, options, said, capsys):
    """Seen to fail: every one was accepted."""
    options = options | ({"teacher": teacher} if "teacher" in options else {})
    assert main(["cache", "verify", *flags(cache=anchors, **options)]) == 1
    assert said in capsys.readouterr().err


def test_training_refuses_a_dataset_for_anchors_with_inputs(anchors, teacher, tiny_dataset, tmp_path, capsys):
    """Seen to fail: the dataset was never opened."""
    given = flags(model=teacher, dataset=tiny_dataset, **TRAIN, anchors=anchors, anchors_dataset=tiny_dataset)
    assert main(["train", *given, *flags(output_dir=tmp_path / "run")]) == 1
    assert f"holds its inputs and reads no dataset: leave out {tiny_dataset}" in capsys.readouterr().err


def test_another_teacher_is_refused_with_both_fingerprints(anchors, tiny_policy, tmp_path, capsys):
    other = tiny_policy(seed=1)
    other.save_pretrained(tmp_path / "other")
    assert main(["cache", "verify", *flags(cache=anchors, teacher=tmp_path / "other")]) == 1
    error = capsys.readouterr().err
    assert other.fingerprint()["weights"][:12] in error
    assert AnchorCache(anchors).provenance.teachers[0]["weights"][:12] in error


def test_info_says_what_a_cache_holds(anchors, teacher, capsys):
    assert main(["cache", "info", *flags(cache=anchors)]) == 0
    text = capsys.readouterr().out
    provenance = AnchorCache(anchors).provenance
    assert f"teacher      {teacher}, weights {provenance.teachers[0]['weights'][:12]}" in text
    sizes = dict(line.rsplit(maxsplit=1) for line in text.split("bytes per anchor\n")[1].splitlines())
    assert set(sizes) == {"row and group", "inputs", "hidden features", "output", "task loss", "in all"}
    total = sum(provenance.sizes.values()) / 30
    assert float(sizes["in all"].replace(",", "")) == pytest.approx(total, abs=1)
    assert float(sizes["hidden features"]) == 4 * 16 * 4  # two layers, two poolings, sixteen numbers of four bytes


def test_training_follows_references(references, anchors, teacher, tiny_dataset, tmp_path):
    """The same step as with embedded samples: the features held are the same, so L_retain is."""
    given = flags(model=teacher, dataset=tiny_dataset, **TRAIN, retention_batch_size=8)
    embedded = tmp_path / "embedded"
    assert build(teacher, tiny_dataset, embedded) == 0
    for name, folder in (("a", references), ("b", embedded)):
        assert main(["train", *given, *flags(anchors=folder, output_dir=tmp_path / name)]) == 0
    histories = [np.genfromtxt(tmp_path / name / "lambda_history.csv", delimiter=",") for name in "ab"]
    assert histories[0][-1, 2] > 0
    assert np.array_equal(histories[0], histories[1], equal_nan=True)  # the header, and angles that were not measured


def test_references_into_a_dataset_that_changed_are_refused(references, teacher, tiny_dataset, tmp_path, capsys):
    moved = shutil.copytree(tiny_dataset, tmp_path / "data")
    verify = ["cache", "verify", *flags(cache=references, teacher=teacher, dataset=moved)]
    assert main(verify) == 0
    (moved / "meta" / "info.json").write_text((moved / "meta" / "info.json").read_text() + "\n")
    assert main(verify) == 1
    error = capsys.readouterr().err
    assert AnchorCache(references).provenance.data["fingerprint"][:12] in error
    assert "restore that revision, or rebuild" in error


def test_three_launched_processes_build_what_one_builds(teacher, tiny_dataset, tmp_path):
    """By torchrun, as ``accelerate launch`` does. Seen to fail when each took itself for the first."""
    assert build(teacher, tiny_dataset, tmp_path / "one", batch_size=3) == 0
    words = flags(teacher=teacher, dataset=tiny_dataset, output_dir=tmp_path / "three", anchors=30, batch_size=3)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "3",
        "-m",
        "craft_trainer",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*launch, "cache", "build", *words], check=True, env=environment, capture_output=True)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "three" / file.name).read_bytes()


def test_a_cache_at_a_url_is_built_shown_verified_and_trained_on(teacher, tiny_dataset, tmp_path, monkeypatch, capsys):
    """Seen to fail when ``memory:`` was a folder here, and training said that there is no such folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "copies"))
    monkeypatch.chdir(tmp_path)  # where the last line would find a folder ``memory:``
    place = "memory://of_commands/cache"
    assert build(teacher, tiny_dataset, place) == 0
    assert f"--anchors {place} --dataset" in capsys.readouterr().out
    assert main(["cache", "info", *flags(cache=place)]) == 0
    assert main(["cache", "verify", *flags(cache=place, teacher=teacher)]) == 0
    words = flags(model=teacher, anchors=place, dataset=tiny_dataset, output_dir=tmp_path / "run", **TRAIN)
    assert main(["train", *words]) == 0
    assert build(teacher, tiny_dataset, place) == 1
    assert f"{place} exists: delete it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if ":" in path.name] == []


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["pull", "--repo", "me/anchors", "--output_dir", "memory://pulled"], "cache pull"),
        (["join", "--caches", "one,two", "--anchors", "9", "--output_dir", "memory://joined"], "cache join"),
        (
            ["build", "--teacher", "t", "--source", "rollouts", "--tasks", "push-v3", "--output_dir", "memory://built"],
            "source rollouts",
        ),
    ],
)
def test_what_writes_here_only_refuses_urls(words, what, capsys):
    assert main(["cache", *words]) == 1
    assert f"{what} writes to folders of this machine, and {words[-1]} is none" in capsys.readouterr().err


def test_an_unknown_kind_of_place_is_refused(teacher, tiny_dataset, capsys):
    assert build(teacher, tiny_dataset, "s33://bucket/cache") == 1
    assert "Protocol not known: s33" in capsys.readouterr().err


def test_a_build_that_is_interrupted_says_where_it_goes_on(teacher, tiny_dataset, tmp_path, monkeypatch, capsys):
    calls = []
    load = PolicyDataset.batch

    def interrupted(self, rows):
        calls.append(rows)
        if len(calls) > 10:  # one to see what is packed, a shard of eight, and one of the next
            raise KeyboardInterrupt
        return load(self, rows)

    monkeypatch.setattr(PolicyDataset, "batch", interrupted)
    assert build(teacher, tiny_dataset, tmp_path / "cache", batch_size=3) == 130
    assert (
        f"24 of 30 anchors are kept in {tmp_path / 'cache.partial'}: the same call goes on" in capsys.readouterr().err
    )
    monkeypatch.undo()
    assert build(teacher, tiny_dataset, tmp_path / "cache", batch_size=3) == 0
    assert len(AnchorCache(tmp_path / "cache")) == 30
    assert torch.isfinite(AnchorCache(tmp_path / "cache").batch(range(30)).teacher.output).all()
