"""λ survives a checkpoint exactly, and the history of a resumed run is that of one that was never killed."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy import ToyModel
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from craft_trainer.optim.angle import UpdateAngle
from craft_trainer.optim.constraints import EVERYTHING, GroupConstraintState
from craft_trainer.optim.dual import Constraint
from craft_trainer.training.callbacks import (
    GROUP_HISTORY_FILE,
    HISTORY_FILE,
    LOGGED,
    CraftStep,
    DualState,
    RetentionHistory,
    rows_until,
)

AWKWARD = [0.0, 1 / 3, 0.1 + 0.2, 1e-300, 5e-324, 99.99999999999999]


class Angle:
    """An angle that is known."""

    def __init__(self, value: float = -0.25) -> None:
        self.value = value

    def cosine(self) -> float:
        return self.value


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(tmp_path / "run"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        restore_callback_states_from_checkpoint=True,
    )


def make_step(step: int, **changes: Any) -> CraftStep:
    numbers = {name: 1 / (3 + index) for index, name in enumerate(CraftStep._fields)}
    return CraftStep(**numbers | {"step": step, "retention_loss": 1e-17 * step, "update_cosine": 0.0})._replace(
        **changes
    )


def group_states(step: int) -> list[GroupConstraintState]:
    return [
        GroupConstraintState("push, the puck", 3, 0.1 * step, 1 / 3, 0.05, -0.05),
        GroupConstraintState("open", 5, 0.0, 2.0, 1, -1),
    ]


def begin(
    arguments: TrainingArguments, step: int = 0, *, main_process: bool = True, by_group: bool = False
) -> RetentionHistory:
    history = RetentionHistory(by_group=by_group)
    state = TrainerState(global_step=step, is_world_process_zero=main_process)
    history.on_train_begin(arguments, state, TrainerControl())
    return history


def add(history: RetentionHistory, arguments: TrainingArguments, *steps: CraftStep) -> None:
    """As the trainer does: take the pass, then the optimizer steps."""
    for step in steps:
        history.add(step, Angle(step.update_cosine), group_states(step.step))
        history.on_optimizer_step(arguments, TrainerState(), TrainerControl())


def read(arguments: TrainingArguments, name: str = HISTORY_FILE) -> list[dict[str, str]]:
    with (Path(arguments.output_dir) / name).open(newline="") as file:
        return list(csv.DictReader(file))


# the multipliers


def awkward_state() -> DualState:
    saved = DualState(0.7, ["door", "drawer, left", "λ"])
    saved.constraints["door"] = Constraint(0.1 + 0.2, 1e-300, 7, 3, 1 / 3)
    saved.constraints["λ"] = Constraint(99.99999999999999, -5e-324)
    saved.warned, saved.rounding = True, 1e-14
    return saved


def assert_same(left: DualState, right: DualState) -> None:
    assert left.constraints == right.constraints
    assert all(type(constraint) is Constraint for constraint in left.constraints.values())
    assert left.constraints["drawer, left"].smoothed is None
    assert (left.warned, left.rounding) == (right.warned, right.rounding)
    assert (left.groups, left.initial, left.multiplier) == (right.groups, right.initial, right.multiplier)


@pytest.mark.parametrize("number", AWKWARD)
def test_a_multiplier_goes_through_json_exactly(number: float) -> None:
    saved = DualState()
    saved.constraints[EVERYTHING] = Constraint(number, -number, 3, number)
    restored = DualState.from_state(json.loads(json.dumps(saved.state())))
    assert restored.constraints == {EVERYTHING: Constraint(number, -number, 3, number)}
    assert restored.multiplier == number


def test_the_multipliers_go_through_trainers_own_state_file(tmp_path: Path) -> None:
    state = TrainerState(stateful_callbacks=[TrainerControl(), awkward_state()])
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    loaded = TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    assert_same(DualState.from_state(loaded.stateful_callbacks["DualState"]), awkward_state())


def test_multipliers_of_other_constraints_are_refused(arguments: TrainingArguments) -> None:
    state = TrainerState(global_step=3, stateful_callbacks=[])
    state.stateful_callbacks = {"DualState": awkward_state().state()}
    with pytest.raises(ValueError, match=r"has multipliers for \['door', .*this run needs \['window'\]: resume with"):
        DualState(0.5, ["window"]).on_train_begin(arguments, state, TrainerControl())


def test_trainer_itself_restores_the_multipliers(arguments: TrainingArguments, tmp_path: Path) -> None:
    """By its own ``_load_callback_state``, which makes a new callback and sets plain values on it.

    Seen to fail without the setter of ``constraints``: they were then dictionaries.
    """
    TrainerState(stateful_callbacks=[awkward_state()]).save_to_json(str(tmp_path / "state.json"))
    trainer = Trainer(ToyModel(), arguments, callbacks=[DualState(0.5, ["door"])])
    trainer.state = TrainerState.load_from_json(str(tmp_path / "state.json"))
    trainer._load_callback_state()
    (restored,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, DualState)]
    assert_same(restored, awkward_state())


def test_a_new_run_starts_anew_and_a_resumed_one_does_not(arguments: TrainingArguments) -> None:
    """Training twice with one trainer does not take over the λ of the first time."""
    callback, state = awkward_state(), TrainerState(stateful_callbacks={})
    callback.on_train_begin(arguments, state, TrainerControl())
    assert callback.constraints == dict.fromkeys(callback.groups, Constraint(0.7))
    assert len({id(constraint) for constraint in callback.constraints.values()}) == 3
    assert (callback.warned, callback.rounding) == (False, 0.0)
    assert state.stateful_callbacks["DualState"] == callback.state()

    saved = json.loads(json.dumps({"DualState": awkward_state().state()}))
    resumed, state = DualState(0.7, awkward_state().groups), TrainerState(global_step=4, stateful_callbacks=saved)
    resumed.on_train_begin(arguments, state, TrainerControl())
    assert_same(resumed, awkward_state())
    resumed.on_train_end(arguments, state, TrainerControl())
    assert state.stateful_callbacks["DualState"] == awkward_state().state()


def test_a_checkpoint_without_multipliers_is_refused(arguments: TrainingArguments) -> None:
    state = TrainerState(global_step=4, stateful_callbacks={})
    with pytest.raises(ValueError, match=r"checkpoint of step 4 was saved without anchors and holds no λ: resume it"):
        DualState().on_train_begin(arguments, state, TrainerControl())


def test_the_multiplier_is_the_sum_over_the_constraints() -> None:
    callback = DualState(0.0, ["a", "b"])
    callback.constraints["a"].multiplier, callback.constraints["b"].multiplier = 0.25, 2.0
    assert callback.multiplier == 2.25


# the history


def test_a_new_history_is_a_header(arguments: TrainingArguments) -> None:
    begin(arguments, by_group=True)
    folder = Path(arguments.output_dir)
    assert (folder / HISTORY_FILE).read_text().splitlines() == [",".join(CraftStep._fields)]
    header = (folder / GROUP_HISTORY_FILE).read_text().splitlines()
    assert header == ["step,group,num_anchors,retention_loss,multiplier,epsilon,violation"]
    assert sorted(path.name for path in folder.iterdir()) == [HISTORY_FILE, GROUP_HISTORY_FILE]


def test_rows_give_back_the_numbers_that_were_written(arguments: TrainingArguments) -> None:
    history = begin(arguments)
    steps = [make_step(step) for step in (1, 2, 3)]
    for step in steps:
        add(history, arguments, step)
        assert read(arguments)[-1]["step"] == str(step.step)  # at once: a killed run leaves its history
    for row, step in zip(read(arguments), steps, strict=True):
        assert {name: float(text) for name, text in row.items()} == {k: float(v) for k, v in step._asdict().items()}
    assert not (Path(arguments.output_dir) / GROUP_HISTORY_FILE).exists()


def test_a_line_is_written_when_the_optimizer_has_stepped(arguments: TrainingArguments) -> None:
    """With the angle of that step. Seen to fail when the line was written by ``add``."""
    model = nn.Linear(2, 1, bias=False)
    history, angle = begin(arguments), UpdateAngle([model.weight])
    angle.keep(0, torch.tensor([[3.0, 4.0]]))
    history.add(make_step(1), angle)
    assert read(arguments) == []
    with torch.no_grad():
        model.weight += torch.tensor([[0.0, -2.0]])
    history.on_optimizer_step(arguments, TrainerState(), TrainerControl())
    assert float(read(arguments)[0]["update_cosine"]) == pytest.approx(-0.8)
    history.on_optimizer_step(arguments, TrainerState(), TrainerControl())  # a step without a pass
    assert len(read(arguments)) == 1


@pytest.mark.parametrize(("norm", "expected"), [(0.0, 0.0), (1e-7, 0.0), (1e-5, -0.25), (math.nan, 0.0)])
def test_the_angle_to_rounding_errors_is_not_told(arguments: TrainingArguments, norm: float, expected: float) -> None:
    """Where the student still equals its teacher, the direction of g_retain means nothing."""
    history = begin(arguments)
    step = make_step(1, task_grad_norm=1.0, retention_grad_norm=norm)
    history.add(step, Angle(-0.25))
    history.on_optimizer_step(arguments, TrainerState(), TrainerControl())
    assert float(read(arguments)[0]["update_cosine"]) == expected


def test_groups_have_a_line_each(arguments: TrainingArguments) -> None:
    history = begin(arguments, by_group=True)
    add(history, arguments, make_step(1), make_step(4))
    rows = read(arguments, GROUP_HISTORY_FILE)
    assert [(row["step"], row["group"]) for row in rows] == [
        (step, group) for step in ("1", "4") for group in ("push, the puck", "open")
    ]
    assert float(rows[2]["retention_loss"]) == 0.1 * 4
    assert float(rows[2]["multiplier"]) == 1 / 3
    assert rows[1]["num_anchors"] == "5"


def test_a_new_run_drops_the_history_of_another(arguments: TrainingArguments) -> None:
    add(begin(arguments, by_group=True), arguments, make_step(1))
    begin(arguments, by_group=True)
    assert read(arguments) == read(arguments, GROUP_HISTORY_FILE) == []


def test_a_resumed_run_continues_after_its_checkpoint(arguments: TrainingArguments) -> None:
    """Killed after step 7, resumed from the checkpoint of step 4: steps 5 to 7 are made again, in both files."""
    files = [Path(arguments.output_dir) / name for name in (HISTORY_FILE, GROUP_HISTORY_FILE)]
    add(begin(arguments, by_group=True), arguments, *(make_step(step) for step in range(1, 10)))
    expected = [file.read_bytes() for file in files]

    killed = begin(arguments, by_group=True)
    add(
        killed,
        arguments,
        *(make_step(step, task_loss=float(step > 4) or make_step(1).task_loss) for step in range(1, 8)),
    )
    assert files[0].read_bytes() != expected[0][: len(files[0].read_bytes())]
    resumed = begin(arguments, step=4, by_group=True)
    assert [row["step"] for row in read(arguments)] == ["1", "2", "3", "4"]
    assert [row["step"] for row in read(arguments, GROUP_HISTORY_FILE)] == ["1", "1", "2", "2", "3", "3", "4", "4"]
    add(resumed, arguments, *(make_step(step) for step in range(5, 10)))
    assert [file.read_bytes() for file in files] == expected


@pytest.mark.parametrize("torn", ["5", "5,0.1,0.2", "5" + ",1" * (len(CraftStep._fields) - 2)])
def test_a_torn_row_is_dropped(arguments: TrainingArguments, torn: str) -> None:
    history = begin(arguments)
    add(history, arguments, make_step(4))
    path = Path(arguments.output_dir) / HISTORY_FILE
    with path.open("a", newline="") as file:
        file.write(torn)
    add(begin(arguments, step=5), arguments, make_step(6))
    assert [row["step"] for row in read(arguments)] == ["4", "6"]


def test_a_pass_without_its_optimizer_step_is_forgotten_by_a_new_run(arguments: TrainingArguments) -> None:
    history = begin(arguments)
    history.add(make_step(1), Angle())
    history.on_train_begin(arguments, TrainerState(is_world_process_zero=True), TrainerControl())
    history.on_optimizer_step(arguments, TrainerState(), TrainerControl())
    assert read(arguments) == []
    assert history.take_means() == {}


def test_a_missing_history_is_started(arguments: TrainingArguments, tmp_path: Path) -> None:
    assert rows_until(tmp_path / "absent.csv", 5) == []
    add(begin(arguments, step=5), arguments, make_step(6))
    assert [row["step"] for row in read(arguments)] == ["6"]


def test_only_the_main_process_writes_but_all_log(arguments: TrainingArguments) -> None:
    history = begin(arguments, main_process=False, by_group=True)
    add(history, arguments, make_step(1))
    assert not Path(arguments.output_dir).exists()
    assert history.take_means()["retention/lambda"] == make_step(1).multiplier


def test_logs_are_means(arguments: TrainingArguments) -> None:
    """Since the last log."""
    history = begin(arguments)
    assert history.take_means() == {}
    history.add(make_step(0, epsilon=3.0, update_cosine=None), None)  # a pass at which the angle is not measured
    history.on_optimizer_step(arguments, TrainerState(), TrainerControl())
    add(history, arguments, make_step(1, epsilon=1.0), make_step(2, epsilon=2.0))
    add(history, arguments, make_step(6, epsilon=6.0, update_cosine=0.5))
    means = history.take_means()
    assert means.keys() == set(LOGGED.values())
    assert set(LOGGED) == set(CraftStep._fields) - {"step", "task_loss"}
    assert means["retention/epsilon"] == 3.0
    assert means["retention/update_cosine"] == pytest.approx(0.5 / 3)
    assert history.take_means() == {}


def test_logs_of_groups_are_means_over_the_passes_they_were_in(arguments: TrainingArguments) -> None:
    """Seen to fail with means over all groups, and with those of the last log kept."""
    history = begin(arguments, by_group=True)
    history.add(make_step(1), None, group_states(1))
    history.add(make_step(2), None, group_states(3)[:1])
    history.on_optimizer_step(arguments, TrainerState(), TrainerControl())
    logs = history.take_means()
    assert logs["retention/loss/push, the puck"] == pytest.approx(0.2)
    assert (logs["retention/lambda/open"], logs["retention/epsilon/open"]) == (2.0, 1.0)
    history.add(make_step(3), None, group_states(3)[:1])
    history.on_optimizer_step(arguments, TrainerState(), TrainerControl())
    assert not any(name.endswith("/open") for name in history.take_means())


def test_the_task_loss_of_a_step_is_the_sum_of_its_micro_batches() -> None:
    """Each is already divided by their number, as Trainer does."""
    history = RetentionHistory()
    for loss in (0.5, 0.25, 0.0):
        history.add_task_loss(torch.tensor(loss))
    assert history.take_task_loss().item() == 0.75
    history.add_task_loss(torch.tensor(1.0))
    assert history.take_task_loss().item() == 1.0


@pytest.mark.parametrize(
    "damage",
    [
        *({"multiplier": value} for value in (-4.0, math.nan, math.inf, "1", None)),
        *({"passes_violated": value} for value in (-5, 1.5, True, None)),
        *({"smoothed": math.nan}, {"drift": -1.0}, {"interval": -5}),
    ],
    ids=str,
)
def test_a_constraint_that_no_run_has_is_refused(arguments: TrainingArguments, damage: dict[str, Any]) -> None:
    """In a checkpoint without a manifest."""
    saved = DualState().state()
    saved["attributes"]["constraints"][EVERYTHING] |= damage
    state = TrainerState(global_step=4, stateful_callbacks={"DualState": saved})
    with pytest.raises(ValueError, match=r"trainer_state\.json of the checkpoint has a constraint of .* no run has"):
        DualState().on_train_begin(arguments, state)
