"""Three stages of a policy by the commands: build, train, join, train on, killed and resumed, relabelled, refused."""

import json
import signal
import subprocess
import sys
import time

import pytest
from command_words import flags

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main

TRAIN = {
    "max_steps": 30,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "logging_steps": 10,
    "save_steps": 10,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "retention_batch_size": 4,
    "epsilon": 1e-2,
    "learned_inputs": "allow",  # the tiny dataset is what every stage learns
}


def built(folder, teacher, dataset, seed):
    command = ["cache", "build", *flags(teacher=teacher, dataset=dataset, anchors=20, seed=seed, output_dir=folder)]
    assert main(command) == 0


def join(folder, *caches):
    return main(["cache", "join", "--caches", *map(str, caches), *flags(anchors=30, output_dir=folder)])


@pytest.fixture(scope="module")
def sequence(tmp_path_factory, tiny_policy, tiny_dataset):
    """Two stages and what both teach, joined; the third starts from ``second``."""
    folder = tmp_path_factory.mktemp("sequence")
    tiny_policy().save_pretrained(folder / "first")
    built(folder / "anchors1", folder / "first", tiny_dataset, seed=0)
    given = flags(model=folder / "first", anchors=folder / "anchors1", dataset=tiny_dataset, **TRAIN)
    assert main(["train", *given, *flags(output_dir=folder / "second")]) == 0
    built(folder / "anchors2", folder / "second", tiny_dataset, seed=1)
    assert join(folder / "joined", folder / "anchors1", folder / "anchors2") == 0
    return folder


def test_frames_are_kept_with_all_their_views(sequence, tiny_dataset, tmp_path, capsys):
    """Of two caches, and of a joined one with a third. Every group and every cache has its share. Without views there
    are none to be kept, and not both counts can be given."""
    caches = []
    for number, teacher in enumerate(("first", "second", "first")):
        given = {
            "teacher": sequence / teacher,
            "dataset": tiny_dataset,
            "views": 2,
            "seed": number,
            "anchors": 12 - number,
        }
        assert main(["cache", "build", *flags(**given, output_dir=tmp_path / f"{number}")]) == 0
        caches.append(AnchorCache(tmp_path / f"{number}"))

    def frames(cache):
        """Of what was copied: the group, and inputs of every frame beside those of its views."""
        states = [tuple(row) for row in cache.dataset["input/observation.state"][:]]
        return {tuple(states[start : start + 3]) for start in range(0, len(states), 3)}

    joined = tmp_path / "joined"
    words = ["cache", "join", "--caches", f"{tmp_path}/0,{tmp_path}/1", "--output_dir", str(joined)]
    assert main([*words, "--frames", "8"]) == 0
    kept = AnchorCache(joined)
    assert [teacher["anchors"] for teacher in kept.provenance.teachers] == [12, 12]
    assert list(kept.provenance.groups.values()) == [12, 12]
    assert frames(kept) < frames(caches[0]) | frames(caches[1])
    again = ["cache", "join", "--caches", f"{joined},{tmp_path}/2", "--frames", "6", "--output_dir", f"{joined}2"]
    assert main(again) == 0
    assert len(AnchorCache(f"{joined}2")) == 18
    assert frames(AnchorCache(f"{joined}2")) < frames(kept) | frames(caches[2])
    assert main(["cache", "info", "--cache", str(joined)]) == 0
    info = capsys.readouterr().out
    assert "made from    dataset, 2 views, view_noise 0.1" in info
    assert "settings     views 2, anchors_kept True, view_noise 0.1" in info
    cut, whole, parts = tmp_path / "cut", tmp_path / "whole", f"{tmp_path}/0,{tmp_path}/1"
    for folder, number in ((cut, 20), (whole, 1000)):
        assert main(["cache", "join", "--caches", parts, *flags(anchors=number, output_dir=folder)]) == 0
    made = flags(cache=cut, teacher=sequence / "first", output_dir=f"{cut}again")
    assert main(["cache", "relabel", *made]) == 0
    assert main(["cache", "join", "--caches", f"{whole},{tmp_path}/2", *flags(frames=6, output_dir=f"{whole}2")]) == 0
    assert len(AnchorCache(f"{whole}2")) == 18
    for more, told in (
        ([*words[:3], f"{cut},{tmp_path}/2", "--frames", "8"], "has no views of every frame: give"),
        ([*words[:3], f"{cut}again,{tmp_path}/2", "--frames", "8"], "has no views of every frame: give"),
        (
            [*words[:3], f"{sequence}/anchors1,{sequence}/anchors2", "--frames", "8"],
            "has no views of every frame: give",
        ),
        ([*words[:4], "--anchors", "8", "--frames", "8"], "anchors, frames: say how many of one to keep"),
        ([*words[:4], "--frames", "0"], "frames is 0: it must be at least 1"),
        ([*words[:4], "--anchors", "0"], "anchors is 0: it must be at least 1"),
    ):
        assert main([*more, "--output_dir", str(tmp_path / "not")]) == 1
        assert told in capsys.readouterr().err


def third(sequence, dataset, folder, **changes):
    """The command of the third stage."""
    given = {"model": sequence / "second", "anchors": sequence / "joined", "dataset": dataset, "output_dir": folder}
    return ["train", *flags(**given | TRAIN | changes)]


@pytest.mark.slow
def test_a_third_stage_that_is_killed_and_resumed_equals_one_that_was_not(sequence, tiny_dataset, tmp_path):
    """By SIGKILL, in a process of its own. Bit for bit, with the lineage."""
    assert main(third(sequence, tiny_dataset, tmp_path / "whole")) == 0
    command = third(sequence, tiny_dataset, tmp_path / "killed")
    process = subprocess.Popen([sys.executable, "-m", "craft_trainer", *command], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed/checkpoint-10/trainer_state.json").is_file():
        assert process.poll() is None, "the run ended before it wrote a checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert main([*command, "--resume_from_checkpoint", "last"]) == 0
    for name in ("model.safetensors", "lambda_history.csv", "lineage.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    lineage = json.loads((tmp_path / "killed/lineage.json").read_text())
    teachers = AnchorCache(sequence / "joined").provenance.teachers
    assert [one["weights"] for one in lineage["lineage"]] == [one["weights"] for one in teachers]


def test_a_stranger_is_refused_and_relabelling_is_the_way_out(sequence, tiny_dataset, tiny_policy, tmp_path, capsys):
    tiny_policy(seed=3).save_pretrained(tmp_path / "stranger")
    stranger = {"model": tmp_path / "stranger", "max_steps": 1}
    assert main(third(sequence, tiny_dataset, tmp_path / "run", **stranger)) == 1
    assert "make this start the teacher of all with `craft-trainer cache relabel`" in capsys.readouterr().err
    made = flags(cache=sequence / "joined", teacher=tmp_path / "stranger", output_dir=tmp_path / "relabelled")
    assert main(["cache", "relabel", *made, "--teacher_dtype", "bfloat16"]) == 1
    assert "teacher_dtype has no effect on a policy: give its dtype in policy_options" in capsys.readouterr().err
    assert main(["cache", "relabel", *made]) == 0
    assert "30 anchors, all of teacher" in capsys.readouterr().out
    assert main(["cache", "verify", *flags(cache=tmp_path / "relabelled", teacher=tmp_path / "stranger")]) == 0
    stranger |= {"anchors": tmp_path / "relabelled"}
    assert main(third(sequence, tiny_dataset, tmp_path / "run", **stranger)) == 0


def test_each_teacher_verifies_its_share_and_info_names_both(sequence, capsys):
    shares = {"first": 14, "second": 16}  # of two groups with 15 each, of which both teachers have some
    for teacher, share in shares.items():
        assert main(["cache", "verify", *flags(cache=sequence / "joined", teacher=sequence / teacher)]) == 0
        told = capsys.readouterr().out
        assert f"recomputed on {share} anchors" in told
        assert f"the other {30 - share} anchors are of other teachers" in told
    assert main(["cache", "info", *flags(cache=sequence / "joined")]) == 0
    told = capsys.readouterr().out
    for teacher, made in zip(shares, AnchorCache(sequence / "joined").provenance.teachers, strict=True):
        assert f"{sequence / teacher}, weights {made['weights'][:12]}, of {shares[teacher]} anchors" in told


def test_the_second_stage_alone_and_a_folder_that_exists_are_refused(sequence, tmp_path, capsys):
    assert join(tmp_path / "joined", sequence / "anchors1") == 1
    assert "one cache alone has nothing to be joined with" in capsys.readouterr().err
    assert join(sequence / "joined", sequence / "anchors1", sequence / "anchors2") == 1
    assert "joined exists: delete it, or choose another folder" in capsys.readouterr().err
