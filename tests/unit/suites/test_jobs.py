"""Job graphs run by real worker processes; the commands append to a file, so their order can be read."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from craft_trainer.suites.jobs import LOG_TAIL_LINES, Job, run_jobs


def touch(argv: Sequence[str]) -> int:
    """``touch RESULT ORDER [exit STATUS]``: appends its result's name to ORDER, then makes RESULT."""
    result, order = Path(argv[0]), Path(argv[1])
    with order.open("a") as file:
        file.write(f"{result.name} {os.environ.get('OMP_NUM_THREADS')}\n")
    for line in range(30):
        print(f"line {line} of {result.name}")
    time.sleep(0.05)
    if len(argv) > 2:
        return int(argv[2])
    result.touch()
    return 0


def explode(_argv: Sequence[str]) -> int:
    raise KeyError("no such layer")


def make_jobs(folder: Path, graph: dict[str, tuple[str, ...]], failing: str = "") -> list[Job]:
    order = str(folder / "order")
    argv = {name: (str(folder / name), order, *(["3"] if name == failing else [])) for name in graph}
    return [Job(name, argv[name], folder / name, after) for name, after in graph.items()]


def started(folder: Path) -> list[str]:
    order = folder / "order"
    return [line.split(maxsplit=1)[0] for line in order.read_text().splitlines()] if order.exists() else []


def test_a_job_runs_after_those_it_needs_and_else_in_the_order_given(tmp_path: Path, monkeypatch: object) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    graph = {"last": ("left", "right"), "right": ("first",), "left": ("first",), "first": (), "alone": ()}
    seconds = run_jobs(make_jobs(tmp_path, graph), touch, log_dir=tmp_path / "logs", num_workers=1)
    # one worker: what is ready first in the list runs first
    assert started(tmp_path) == ["first", "right", "left", "last", "alone"]
    assert set(seconds) == set(graph) | {"total"}
    assert all(0.05 <= value < 600 for value in seconds.values())
    assert seconds["total"] >= sum(seconds[name] for name in graph)  # one worker
    # every job has its log, every worker one thread, and the caller's own setting is back
    assert "line 29 of left" in (tmp_path / "logs" / "left.log").read_text()
    assert {line.split()[1] for line in (tmp_path / "order").read_text().splitlines()} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_every_call_has_its_number_of_threads(tmp_path: Path) -> None:
    """The first call starts the server that the second one uses. Seen to fail with the environment of the server."""
    for threads in (2, 3):
        folder = tmp_path / str(threads)
        folder.mkdir()
        graph: dict[str, tuple[str, ...]] = {"only": ()}
        run_jobs(make_jobs(folder, graph), touch, log_dir=folder / "logs", num_workers=1, num_threads=threads)
        assert (folder / "order").read_text() == f"only {threads}\n"


def test_jobs_whose_result_exists_are_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    (tmp_path / "alone").touch()
    graph = {"first": (), "second": ("first",), "alone": ("second",)}
    seconds = run_jobs(make_jobs(tmp_path, graph), touch, log_dir=tmp_path / "logs", num_workers=2)
    assert started(tmp_path) == ["second"]
    assert set(seconds) == {"second", "total"}
    (tmp_path / "second").unlink()
    again = run_jobs(make_jobs(tmp_path, graph), touch, log_dir=tmp_path / "logs", num_workers=2)
    assert again["total"] > seconds["total"] + 0.05


def test_nothing_to_do_starts_no_worker(tmp_path: Path) -> None:
    (tmp_path / "only").touch()
    assert run_jobs(make_jobs(tmp_path, {"only": ()}), explode, log_dir=tmp_path / "logs", num_workers=1) == {}


def test_a_failing_job_raises_with_the_end_of_its_log_and_stops_what_needs_it(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, {"good": (), "bad": ("good",), "after": ("bad",)}, failing="bad")
    with pytest.raises(RuntimeError, match="bad ended with status 3; its log is") as error:
        run_jobs(jobs, touch, log_dir=tmp_path / "logs", num_workers=1)
    assert str(error.value).splitlines()[1:] == [f"line {n} of bad" for n in range(30 - LOG_TAIL_LINES, 30)]
    assert started(tmp_path) == ["good", "bad"]


def test_a_job_that_raises_stops_the_graph_and_leaves_its_traceback_in_its_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'no such layer'"):
        run_jobs(make_jobs(tmp_path, {"only": ()}), explode, log_dir=tmp_path / "logs", num_workers=1)
    assert "KeyError: 'no such layer'" in (tmp_path / "logs" / "only.log").read_text()


def test_a_job_that_waits_for_none_that_is_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never be done"):
        run_jobs(make_jobs(tmp_path, {"only": ("typo",)}), touch, log_dir=tmp_path / "logs", num_workers=1)


def fail_or_touch(argv: Sequence[str]) -> int:
    return 3 if argv[0].endswith("bad") else touch(argv)


def test_others_run_on_after_a_failure_if_that_is_asked_for_and_each_end_is_told(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, {"bad": (), "after": ("bad",), "good": (), "last": ("good",)})
    told: list[set[str]] = []
    with pytest.raises(RuntimeError, match="bad ended with status 3"):
        run_jobs(
            jobs,
            fail_or_touch,
            log_dir=tmp_path / "logs",
            num_workers=1,
            keeps_going=True,
            on_done=lambda done, seconds: told.append(set(done) & ({*seconds} | {"good", "last"})),
        )
    assert started(tmp_path) == ["good", "last"]
    assert told == [set(), {"good"}, {"good", "last"}]


def run_forever(argv: Sequence[str]) -> int:
    Path(argv[0]).touch()
    time.sleep(600)
    return 0


def test_a_job_ends_with_a_killed_parent(tmp_path: Path) -> None:
    """Or it would write on while the next call begins anew. Seen to fail without the thread that watches."""
    job = Job("long", (str(tmp_path / "pid"),), tmp_path / "never")
    parent = multiprocessing.get_context("spawn").Process(target=_run_alone, args=(job, tmp_path))
    parent.start()
    child = None
    for _ in range(6000):
        found = [one for one in psutil.Process(parent.pid).children(recursive=True) if one.is_running()]
        if (tmp_path / "pid").exists():
            child = found
            break
        time.sleep(0.05)
    parent.kill()
    parent.join()
    assert child
    _, alive = psutil.wait_procs(child, timeout=60)
    assert alive == []


def _run_alone(job: Job, folder: Path) -> None:
    run_jobs([job], run_forever, log_dir=folder / "logs", num_workers=1)


def stop_or_sleep(argv: Sequence[str]) -> int:
    if argv[0] == "stop":
        raise SystemExit(2)
    time.sleep(60)
    return 0


def test_a_failure_ends_the_other_jobs_at_once(tmp_path: Path) -> None:
    jobs = [Job(name, (name,), tmp_path / name) for name in ("sleep", "stop")]
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="stop ended with status 2"):
        run_jobs(jobs, stop_or_sleep, log_dir=tmp_path / "logs", num_workers=2)
    assert time.monotonic() - start < 30


def test_a_module_that_fails_at_import_is_left_to_the_jobs_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MuJoCo does where its driver is missing. Seen to fail: `EOFError: unexpected EOF`, of every job."""
    (tmp_path / "no_driver.py").write_text("raise AttributeError('no driver')")
    monkeypatch.syspath_prepend(tmp_path)
    jobs = make_jobs(tmp_path, {"only": ()})
    in_fresh_process = multiprocessing.get_context("spawn").Process(target=_run_preloading, args=(jobs, tmp_path))
    in_fresh_process.start()  # whose server of processes has not been started
    in_fresh_process.join()
    assert in_fresh_process.exitcode == 0
    assert started(tmp_path) == ["only"]


def _run_preloading(jobs: list[Job], folder: Path) -> None:
    run_jobs(jobs, touch, log_dir=folder / "logs", num_workers=1, preload=["no_driver"])
