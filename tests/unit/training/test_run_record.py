"""run.json: what differs from the defaults, when, where; nothing secret, and nothing where it is not wanted."""

import json

import pytest
from runs import run
from toy import toy_anchors
from transformers import TrainerControl, TrainerState

from craft_trainer import CraftConfig
from craft_trainer.training.run_record import ALWAYS, ANCHORED, RUN_FILE, RunRecord, told_settings, versions


def config(folder, **settings):
    return CraftConfig(output_dir=str(folder), use_cpu=True, report_to="none", **settings)


def record(folder, step=0, **options):
    options = options or {"anchored": True}
    return RunRecord(**options), config(folder, max_steps=9), TrainerState(global_step=step), TrainerControl()


def read(folder):
    return json.loads((folder / RUN_FILE).read_text("utf-8"))


def test_it_is_there_from_the_first_step_and_ends_with_the_run(tmp_path):
    callback, *told = record(tmp_path / "run", inputs={"policy": "outputs/teacher", "rename": {}, "anchors": None})
    callback.on_train_begin(*told)
    begun = read(tmp_path / "run")
    assert begun["end"] is None
    assert begun["settings"]["policy"] == "outputs/teacher"
    assert begun["settings"]["max_steps"] == 9
    assert begun["units"] == []  # nothing is retained
    assert "rename" not in begun["settings"]
    assert begun["provenance"]["versions"] == versions()
    assert begun["provenance"]["device"] == "cpu"
    told[1].global_step = 9
    callback.on_train_end(*told)
    assert read(tmp_path / "run")["end"]["step"] == 9
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RUN_FILE]


def test_a_resumed_run_keeps_its_earlier_starts_and_a_new_one_does_not(tmp_path):
    """Seen to fail with the starts of the file always kept, and never kept."""
    for step in (0, 4, 6):
        callback, *told = record(tmp_path, step)
        callback.on_train_begin(*told)
    assert [start["step"] for start in read(tmp_path)["starts"]] == [0, 4, 6]
    callback, *told = record(tmp_path)
    callback.on_train_begin(*told)
    assert [start["step"] for start in read(tmp_path)["starts"]] == [0]


def test_every_start_has_the_settings_that_were_changed(tmp_path):
    """Seen to fail: the file told the settings of the last start, as if those of the first had been the same."""
    for step, dataset, rate in ((0, "a", 1e-4), (4, "b", 1e-4), (6, "b", 5e-5), (8, "b", 5e-5)):
        callback = RunRecord({"dataset": dataset}, anchored=True)
        given = config(tmp_path, max_steps=9, learning_rate=rate)
        callback.on_train_begin(given, TrainerState(global_step=step), TrainerControl())
    changed = [start.get("changed") for start in read(tmp_path)["starts"]]
    assert changed == [None, {"dataset": ["a", "b"]}, {"learning_rate": [1e-4, 5e-5]}, None]


def test_it_says_what_of_the_teacher_the_loss_is_a_fraction_of(tmp_path):
    """Seen to fail when only the terms were named, whose units a report cannot know, and with a variance for every
    distance."""
    for terms, distance, expected in (
        (["token_kl", "token_ce"], "mse", ["mean entropy"]),
        (["output"], "mse", ["variance"]),
        (["hidden"], "mse", ["variance"]),
        (["hidden"], "l1", ["standard deviation"]),
        (["hidden", "output"], "cosine", ["cosine distance", "variance"]),
    ):
        settings = config(tmp_path, retention_terms=terms, hidden_distance=distance)
        RunRecord(anchored=True).on_train_begin(settings, TrainerState(), TrainerControl())
        assert read(tmp_path)["units"] == expected


def test_it_names_the_old_tasks_that_have_a_constraint_of_their_own(tmp_path):
    """Seen to fail: a report could not know of those that were in no retention pass."""
    for constraints, expected in (("per_group", ["door", "push"]), ("single", [])):
        settings = config(tmp_path, constraints=constraints)
        record = RunRecord(anchored=True, groups=("push", "door", "push"))
        record.on_train_begin(settings, TrainerState(), TrainerControl())
        assert read(tmp_path)["groups"] == expected


def test_a_damaged_file_does_not_stop_a_resumed_run(tmp_path):
    (tmp_path / RUN_FILE).write_text("{")
    callback, *told = record(tmp_path, 4)
    callback.on_train_begin(*told)
    assert [start["step"] for start in read(tmp_path)["starts"]] == [4]


def test_only_the_first_process_writes_and_only_where_it_is_wanted(tmp_path):
    callback, *told = record(tmp_path, anchored=False)
    callback.on_train_begin(*told)
    callback, args, state, control = record(tmp_path)
    state.is_world_process_zero = False
    callback.on_train_begin(args, state, control)
    callback.on_train_end(args, state, control)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["token", "hub_token", "api_key", "password", "client_secret"])
def test_secrets_are_left_out(tmp_path, name):
    """Seen to fail with the filter taken away."""
    args = config(tmp_path, hub_token="hf_secret", push_to_hub=False)
    told = json.dumps(told_settings({name: "hf_secret", "policy": "a"}, args, anchored=True), default=str)
    assert "hf_secret" not in told
    assert "policy" in told


def test_settings_are_those_that_were_changed_and_those_that_are_always_told(tmp_path):
    """An enum is its plain value; what Trainer fills in by itself is not listed."""
    args = config(tmp_path, epsilon=0.02, lr_scheduler_type="cosine", learning_rate=5e-5, warmup_steps=3)
    plain = told_settings({}, args, anchored=False)
    assert plain.pop("output_dir") == str(tmp_path)
    changed = {"epsilon": 0.02, "lr_scheduler_type": "cosine", "use_cpu": True, "warmup_steps": 3}
    assert {name: value for name, value in plain.items() if name not in ALWAYS} == changed
    assert (plain["learning_rate"], plain["seed"]) == (5e-5, 42)
    anchored = told_settings({}, args, anchored=True)
    assert set(ANCHORED) <= anchored.keys()
    assert not (set(ANCHORED) - {"epsilon"}) & plain.keys()


def test_a_new_run_in_an_old_folder_does_not_tell_of_the_old_one(tmp_path):
    """A plain run where a CRaFT run was: no λ, no end of another run. A resumed run keeps them. Seen to fail with the
    files left as they are."""
    names = ("lambda_history.csv", "lambda_history_groups.csv", "trainer_state.json")
    for step, kept in ((4, set(names)), (0, set())):
        for name in names:
            (tmp_path / name).write_text("of an earlier run")
        callback, args, state, control = record(tmp_path)
        state.global_step = step
        callback.on_train_begin(args, state, control)
        assert {path.name for path in tmp_path.iterdir()} - {"run.json"} == kept


def test_a_run_without_a_record_leaves_none_of_an_earlier_one(tmp_path):
    """Seen to fail: a report on plain weights said that the constraint of the earlier run was met."""
    anchors, saves = toy_anchors(tmp_path / "anchors"), {"save_strategy": "steps", "save_steps": 2}
    run(tmp_path / "run", anchors, **saves).save_model()
    told = {"run.json", "lambda_history.csv", "lineage.json"}
    assert told <= {path.name for path in (tmp_path / "run").iterdir()}
    run(tmp_path / "run", None, max_steps=2)
    assert not told & {path.name for path in (tmp_path / "run").iterdir()}


def test_a_resumed_run_without_a_record_removes_nothing(tmp_path):
    run(tmp_path, None, save_strategy="steps", save_steps=2)
    (tmp_path / "run.json").write_text("{}")
    run(tmp_path, None, resume=str(tmp_path / "checkpoint-2"))
    assert (tmp_path / "run.json").read_text() == "{}"
