"""λ survives a checkpoint exactly, and the history of a resumed run is that of one that was never killed."""

import csv
import json
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from craft_trainer.callbacks import HISTORY_FILE, CraftStep, DualState, RetentionHistory, rows_until


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none")


def make_step(step: int) -> CraftStep:
    return CraftStep(step, 1 / 3, 1e-17 * step, 0.1 + 0.2, 0.05, -0.05, -1.0, step % 2 == 0, 2.5, 1e300)


def begin(arguments: TrainingArguments, step: int = 0, *, main_process: bool = True) -> RetentionHistory:
    history = RetentionHistory()
    state = TrainerState(global_step=step, is_world_process_zero=main_process)
    history.on_train_begin(arguments, state, TrainerControl())
    return history


def read(arguments: TrainingArguments) -> list[dict[str, str]]:
    with (Path(arguments.output_dir) / HISTORY_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_new_history_is_a_header(arguments: TrainingArguments) -> None:
    begin(arguments)
    text = (Path(arguments.output_dir) / HISTORY_FILE).read_text()
    assert text.splitlines() == [",".join(CraftStep._fields)]


def test_rows_give_back_the_numbers_that_were_written(arguments: TrainingArguments) -> None:
    history = begin(arguments)
    steps = [make_step(step) for step in (1, 2, 3)]
    for step in steps:
        history.add(step)
        assert read(arguments)[-1]["step"] == str(step.step)  # at once: a killed run leaves its history
    for row, step in zip(read(arguments), steps, strict=True):
        assert {name: float(text) for name, text in row.items()} == {k: float(v) for k, v in step._asdict().items()}
        assert row["conflict"] == ("1" if step.conflict else "0")


def test_a_new_run_drops_the_history_of_another(arguments: TrainingArguments) -> None:
    begin(arguments).add(make_step(1))
    begin(arguments)
    assert read(arguments) == []


def test_a_resumed_run_continues_after_its_checkpoint(arguments: TrainingArguments) -> None:
    """Killed after step 7, resumed from the checkpoint of step 4: steps 5 to 7 are made again."""
    uninterrupted = begin(arguments)
    for step in range(1, 10):
        uninterrupted.add(make_step(step))
    expected = (Path(arguments.output_dir) / HISTORY_FILE).read_bytes()

    killed = begin(arguments)
    for step in range(1, 8):
        killed.add(make_step(step)._replace(task_loss=float(step > 4)))
    path = Path(arguments.output_dir) / HISTORY_FILE
    path.write_text(path.read_text().replace("\n1,0.0", f"\n1,{1 / 3}"))
    resumed = begin(arguments, step=4)
    assert [row["step"] for row in read(arguments)] == ["1", "2", "3", "4"]
    for step in range(5, 10):
        resumed.add(make_step(step))
    lines = path.read_bytes().splitlines()
    assert lines[5:] == expected.splitlines()[5:]
    assert len(lines) == len(expected.splitlines())


@pytest.mark.parametrize("torn", ["5", "5,0.1,0.2", "5,0.1,0.2,1,0.05,-0.05,-1.0,1,2.5"])
def test_a_torn_row_is_dropped(arguments: TrainingArguments, torn: str) -> None:
    history = begin(arguments)
    history.add(make_step(4))
    path = Path(arguments.output_dir) / HISTORY_FILE
    with path.open("a", newline="") as file:
        file.write(torn)
    begin(arguments, step=5).add(make_step(6))
    assert [row["step"] for row in read(arguments)] == ["4", "6"]


def test_a_missing_history_is_started(arguments: TrainingArguments, tmp_path: Path) -> None:
    assert rows_until(tmp_path / "absent.csv", 5) == []
    begin(arguments, step=5).add(make_step(6))
    assert [row["step"] for row in read(arguments)] == ["6"]


def test_only_the_main_process_writes(arguments: TrainingArguments) -> None:
    history = begin(arguments, main_process=False)
    history.add(make_step(1))
    assert not (Path(arguments.output_dir) / HISTORY_FILE).exists()


@pytest.mark.parametrize("multiplier", [0.0, 1 / 3, 0.1 + 0.2, 1e-300, 99.99999999999999])
def test_the_multiplier_goes_through_json_exactly(multiplier: float) -> None:
    saved = DualState()
    saved.multiplier = multiplier
    restored = DualState.from_state(json.loads(json.dumps(saved.state())))
    assert restored.multiplier == multiplier


def test_the_multiplier_goes_through_trainers_own_state_file(tmp_path: Path) -> None:
    state = TrainerState(stateful_callbacks=[TrainerControl(), DualState(0.7)])
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    loaded = TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    assert DualState.from_state(loaded.stateful_callbacks["DualState"]).multiplier == 0.7
