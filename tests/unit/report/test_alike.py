"""What was not made alike stands side by side only with the words that say so."""

import json

import pytest
from report_inputs import mcq_document, write_demo, write_json, write_mcq, write_run

from craft_trainer.cli.main import main
from craft_trainer.report import gather, write_page
from craft_trainer.report.alike import unlike
from craft_trainer.report.document import as_document
from craft_trainer.report.page import as_markdown
from craft_trainer.report.remarks import remarks
from craft_trainer.report.sentences import headlines

TASKS = ("push-v3", "reach-v3", "window-close-v3")
NEW = "window-close-v3"


def rolled_out(folder, name, *, tasks=TASKS, episodes=200, policy=None, **settings):
    rows = [{"task": task, "episodes": episodes, "successes": episodes // 2} for task in tasks]
    given = {"policy": policy or f"outputs/{name}", "seed": 0, "max_steps": 500, "rows": rows}
    return str(write_json(folder / f"{name}.json", given | settings))


def said(evidence):
    """The texts, which are in every form of the report."""
    texts = [one.text for one in unlike(evidence)]
    assert texts == [one.text for one in remarks(evidence) if one.kind == "beware"][: len(texts)]
    assert all(text.partition(":")[0] in as_markdown(evidence) for text in texts)
    return texts


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"episodes": 100}, "episodes per task: 200 (teacher) against 100 (craft)"),
        ({"seed": 7}, "seed: 0 (teacher) against 7 (craft)"),
        ({"max_steps": 100}, "max_steps: 500 (teacher) against 100 (craft)"),
        ({"max_steps": None}, "max_steps: 500 (teacher) against the environment's own (craft)"),
        ({"env": "metaworld"}, "env: Meta-World by craft-trainer (teacher) against metaworld (craft)"),
        ({"tasks": TASKS[1:]}, "tasks: push-v3, reach-v3, window-close-v3 (teacher) against reach-v3, window-close-v3"),
    ],
)
def test_rollouts_that_were_not_made_alike(tmp_path, changes, what):
    """Seen to fail with every one of them: the figure drew a difference of the policies."""
    teacher, craft = rolled_out(tmp_path, "teacher"), rolled_out(tmp_path, "craft", **changes)
    (text,) = said(gather(rollouts=[teacher, craft]))
    assert text.startswith("These rollouts were not made alike")
    assert what in text


def test_options_of_an_environment_count_as_well(tmp_path):
    paths = [rolled_out(tmp_path, f"{n}", env="pusht", env_options={"episode_length": n}) for n in (100, 300)]
    (text,) = said(gather(rollouts=paths))
    assert "env_options: {'episode_length': 100} (100) against {'episode_length': 300} (300)" in text


def test_of_the_same_kind_nothing_is_said(tmp_path):
    """Also where a teacher was rolled out on old tasks alone, and one of four questions sets comes from elsewhere."""
    teacher = rolled_out(tmp_path, "teacher", tasks=TASKS[:2])
    assert said(gather(teacher=teacher, rollouts=[rolled_out(tmp_path, "craft")], new=[NEW])) == []
    data = {"sha256": "0f" * 32, "num_rows": 10}
    documents = [write_mcq(tmp_path / f"{n}.json", data={"path": f"{n}/q.jsonl"} | data) for n in "ab"]
    assert said(gather(choices=list(map(str, documents)))) == []
    runs = [str(write_run(tmp_path / name)) for name in ("one", "two")]
    assert said(gather(runs=runs, results=[str(write_demo(tmp_path / name)) for name in ("x", "y")])) == []


def test_a_share_of_the_teachers_success_needs_the_same_old_tasks(tmp_path):
    """Seen to fail: "craft kept 190 % of the teacher's old-task success", of the easy one of two tasks."""
    teacher, craft = rolled_out(tmp_path, "teacher"), rolled_out(tmp_path, "craft", tasks=("push-v3", NEW))
    evidence = gather(teacher=teacher, rollouts=[craft], new=[NEW])
    assert as_document(evidence)["rollouts"]["craft"]["kept"] is None
    assert headlines(evidence) == ("craft succeeded in 50 % of old-task episodes and reached 50 % on the new task.",)
    assert "old tasks: push-v3, reach-v3 (teacher) against push-v3 (craft)" in said(evidence)[0]


def test_a_teacher_that_is_another_policy_or_the_student_itself(tmp_path):
    run = write_run(tmp_path / "run")
    told = json.loads((run / "run.json").read_text())
    told["settings"] |= {"model": "outputs/base"}
    write_json(run / "run.json", told)
    files = {"teacher": rolled_out(tmp_path, "teacher"), "rollouts": [rolled_out(tmp_path, "craft")]}
    (text,) = said(gather(**files, runs=[str(run)], new=[NEW]))
    assert text.startswith(
        "The teacher's rollout is of outputs/teacher, and the training runs started from outputs/base"
    )
    same = rolled_out(tmp_path, "again", policy="outputs/teacher")
    (text,) = said(gather(teacher=files["teacher"], rollouts=[same], new=[NEW]))
    assert text.startswith("again is a rollout of outputs/teacher, and so is the teacher's")


SETTINGS = mcq_document()["settings"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data": {"path": "other.jsonl"}}, "questions: path questions.jsonl (a: org/teacher"),
        ({"settings": SETTINGS | {"template": "Q: {question}"}}, "template: 'Question: {question}' (a: org/teacher"),
        ({"settings": SETTINGS | {"delimiter": ""}}, "delimiter: ' ' (a: org/teacher"),
        ({"settings": SETTINGS | {"chat": True}}, "chat: False (a: org/teacher"),
        ({"dtype": "bfloat16"}, "dtype: float32 (a: org/teacher, a: outputs/craft, b: outputs/craft) against bfloat16"),
    ],
)
def test_checkpoints_that_were_not_asked_alike(tmp_path, changes, what):
    """Seen to fail: "2 checkpoints answered 50 to 80 % of their questions right", of two question files."""
    first, second = write_mcq(tmp_path / "a.json"), write_mcq(tmp_path / "b.json", **changes)
    (text,) = said(gather(choices=[str(first), str(second)]))
    assert text.startswith("These checkpoints were not asked alike")
    assert what in text


def test_results_and_runs_that_were_not_made_alike(tmp_path):
    demos = [write_demo(tmp_path / "a"), write_demo(tmp_path / "b", old=("push-v3",))]
    (text,) = said(gather(results=list(map(str, demos))))
    assert "old tasks: push-v3, reach-v3 (a) against push-v3 (b)" in text
    runs = []
    for name, dataset in (("one", "org/old"), ("two", "org/new")):
        runs.append(str(write_run(tmp_path / name)))
        told = json.loads((tmp_path / name / "run.json").read_text())
        write_json(tmp_path / name / "run.json", told | {"settings": {"dataset": dataset}})
    (text,) = said(gather(runs=runs))
    assert "The losses of these runs were not measured alike" in text
    assert "dataset: org/old (one) against org/new (two)" in text


def test_it_stands_beside_the_figure_and_on_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = [rolled_out(tmp_path, name, seed=seed) for seed, name in enumerate(("plain", "craft"))]
    html = write_page(gather(rollouts=paths), tmp_path / "page.html").read_text("utf-8")
    part = html[html.index("<h3>Rollouts</h3>") :]
    assert part.index("seed: 0 (plain) against 1 (craft)") < part.index("<figure")
    assert main(["report", "--rollout", *paths]) == 0
    assert "beware: These rollouts were not made alike" in capsys.readouterr().out


def test_comparisons_on_held_out_episodes_of_other_data(tmp_path):
    """A page of a single one goes beside it. Seen to fail: it went into the working directory."""
    rows = [{"method": "craft", "seed": 0, "old": 1.0, "new": 1.0, "L_retain": 0.1}]
    for name, frames in (("a", 100), ("b", 50)):
        settings = {"policy": "outputs/teacher", "datasets": {"old": f"org/{name}", "new": "org/new"}}
        held = {"rows": rows, "frames": {"old": frames, "new": 10}, "settings": settings}
        write_json(tmp_path / name / "held_out.json", held)
    (text,) = said(gather(results=[str(tmp_path / "a"), str(tmp_path / "b")]))
    assert "old dataset: org/a (a) against org/b (b)" in text
    assert "old frames: 100 (a) against 50 (b)" in text
    assert main(["report", "--results", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a" / "report.html").is_file()
