"""Every command of README and docs has its place: on a journey that is run here, or in what ``ELSEWHERE`` names.

Two journeys take minutes and are no part of CI: ``bash scripts/test.sh -m walk``.
"""

import json
import re
from collections import Counter

import numpy as np
import pytest
from fakehub import Client, HubDouble
from journeys import ELSEWHERE, JOURNEYS, documented, follow, in_process, of
from lm_folders import save_lines, save_tiny_lm
from pages import ROOT
from PIL import Image
from report_inputs import write_demo, write_mcq, write_rollout
from vlm_processors import vlm_and_processor

QUIET = ("ignore::UserWarning:torch.*", "ignore::FutureWarning")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to stand in, with the configurations."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def link(target, source):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def test_every_command_has_one_place():
    """Seen to fail with a pattern that no line has, and with a file that is not there."""
    commands = documented()
    assert len(commands) > 80
    for pattern, runs in ELSEWHERE.items():
        assert any(re.search(pattern, str(command)) for command in commands), pattern
        assert (ROOT / runs).is_file(), runs
    used = {command.journey for command in commands if command.elsewhere is None}
    assert used == {name for _, name in JOURNEYS}
    walked = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert used <= walked, "a journey without a test"


def test_no_page_trains_twice_into_one_folder():
    """The second command would be refused. Seen to fail with a command's --output_dir taken away."""
    places = [
        (command.page, command.output_dir)
        for command in documented()
        if command.output_dir is not None and "configs/accelerate" not in str(command)  # one of them is chosen
    ]
    assert len(places) > 12
    assert not [place for place, count in Counter(places).items() if count > 1]


@pytest.mark.slow
def test_policies(place, capsys):
    """Seen to fail with the dataset of a configuration renamed."""
    pytest.importorskip("metaworld")
    write_demo(place / "outputs/demo")
    write_demo(place / "outputs/mine", seeds=(0,))
    for method in ("teacher", "plain", "craft"):
        tasks = ("push-v3", "reach-v3", "window-close-v3")
        write_rollout(place / f"{method}.json", policy=f"outputs/{method}", tasks=tasks)
    write_mcq(place / "mcq.json")
    guides = ("quickstart.md", "experiment.md", "training.md", "anchors.md")
    commands = of("policies", *guides)
    stand_ins = {"my/old_tasks": "outputs/data/old", "my/new_task": "outputs/data/new"}
    again = [
        command for command in commands if "my/old_tasks" in command.words
    ]  # into the folder of the guide's anchors
    done = follow([command for command in commands if command not in again], in_process(capsys), stand_ins=stand_ins)
    (place / "outputs/anchors").rename(place / "outputs/first")
    assert len(again) == 1
    done |= follow(again, in_process(capsys), stand_ins=stand_ins)
    ours = {"record", "cache build", "cache verify", "cache info", "train", "merge", "rollout", "report", "suite"}
    assert set(done) == ours
    assert (place / "comparison.html").is_file()


def test_sequences(place, capsys, tiny_policy, tiny_dataset):
    """Two stages and what comes between them, as the page has it."""
    tiny_policy().save_pretrained(place / "outputs/teacher")
    stand_ins = {name: str(tiny_dataset) for name in ("my/old_tasks", "my/task1", "my/task2")}
    done = follow(of("sequences", "sequences.md"), in_process(capsys), stand_ins=stand_ins)
    assert set(done) == {"cache build", "train", "cache join", "cache relabel"}
    assert (place / "outputs/stage2/lineage.json").is_file()


@pytest.mark.filterwarnings(*QUIET)
def test_which_anchors(place, capsys, tiny_policy, tiny_dataset, monkeypatch):
    """Every situation that a tiny policy can be in; it succeeds at no task, so nothing is kept of its episodes. It is
    an ACT, which stands for a policy that reads instructions."""
    monkeypatch.setattr("craft_trainer.anchors.trial.reads_instructions", lambda *_: True)
    tiny_policy().save_pretrained(place / "outputs/teacher")
    save_tiny_lm(place / "org/model")
    (place / "old_instructions.txt").write_text("open the drawer\nclose it\n")
    stand_ins = {name: str(tiny_dataset) for name in ("my/old_tasks", "my/few_frames", "my/new_task")}
    done = follow(of("which_anchors"), in_process(capsys), stand_ins=stand_ins)
    assert done == {"cache build": 6, "train": 3, "rollout": 3, "report": 1}


@pytest.mark.slow
@pytest.mark.filterwarnings(*QUIET)
def test_language(place, capsys):
    """`openai/gsm8k` is a folder with the columns that the Hub's dataset has."""
    for name in ("HuggingFaceTB/SmolLM2-135M-Instruct", "org/model", "outputs/teacher"):
        save_tiny_lm(place / name)
    save_tiny_lm(place / "outputs/craft", seed=1)
    new = [{"prompt": f"Where is the puck {n}?", "completion": " left of the goal" * (1 + n % 3)} for n in range(24)]
    old = [{"text": "hello world " + "the answer is yes " * (n % 6) + str(n), "topic": "ab"[n % 2]} for n in range(24)]
    asked = [{"question": f"Is it {n}?", "choices": ["yes", "the goal"], "answer_index": n % 2} for n in range(6)]
    prompts = [{"prompt": f"Where is the goal {n}?"} for n in range(24)]
    for name, rows in (("new", new), ("old", old), ("questions", asked), ("prompts", prompts)):
        save_lines(place / f"{name}.jsonl", rows)
    mathematics = place / "openai/gsm8k/main"
    mathematics.mkdir(parents=True)
    sums = [{"question": row["prompt"], "answer": row["completion"]} for row in new]
    for split, rows in (("train", sums[4:]), ("test", sums[:4])):
        save_lines(mathematics / f"{split}.jsonl", rows)
    splits = "".join(f"  - split: {split}\n    path: main/{split}.jsonl\n" for split in ("train", "test"))
    (place / "openai/gsm8k/README.md").write_text(f"---\nconfigs:\n- config_name: main\n  data_files:\n{splits}---\n")
    more = {"cache verify": ("--batch_size", "4"), "python": ("--steps", "2")}
    done = follow(of("language", "language_models.md"), in_process(capsys), more=more)
    assert set(done) == {"cache build", "train", "cache verify", "mcq", "python"}
    assert (place / "outputs/lm/lora/adapter_model.safetensors").is_file()
    assert json.loads((place / "mcq.json").read_text())["comparison"]["num_items"] == len(asked)


@pytest.mark.slow
@pytest.mark.filterwarnings(*QUIET)
def test_pictures(place, capsys):
    """Texts about images."""
    save_vlm(place / "org/vlm")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    for name, start in (("new", 0), ("old", 5)):
        rows = [
            {"prompt": f"push the w{start + n} :", "completion": "red puck", "image": f"{n % 4}.png"}
            for n in range(10, 26)
        ]
        save_lines(place / f"{name}.jsonl", rows)
    done = follow(of("pictures"), in_process(capsys))
    assert done == {"cache build": 1, "train": 1}
    assert (place / "outputs/vlm/model.safetensors").is_file()


def save_vlm(folder, name="smolvlm"):
    model, processor = vlm_and_processor(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings(*QUIET)
def test_questions(place, capsys, rendering):
    """Pictures of the simulator, and two vision-language models asked about them."""
    pytest.importorskip("metaworld")
    for name in ("teacher", "craft"):
        save_vlm(place / f"outputs/{name}")
    commands = of("questions", "embodied.md")
    done = follow(commands, in_process(capsys))
    assert set(done) == {"mcq-from-demos", "mcq"}
    assert json.loads((place / "outputs/mcq.json").read_text())["comparison"]["num_items"] >= 4


@pytest.mark.walk
def test_demo(place, capsys):
    """Every stream of the pages, with policies of three steps."""
    pytest.importorskip("metaworld")
    commands = of("demo", "quickstart.md")
    assert follow(commands, in_process(capsys)) == {"demo": len(commands)}
    assert len(list((place / "outputs").glob("*/report.html"))) == len(commands) - 1, (
        "--quick is where the whole goes on"
    )


@pytest.mark.slow
def test_hub(place, tiny_policy, tiny_anchors, tiny_dataset, tmp_path_factory):
    """On the double of the Hub, over LFS, by a process that knows no other."""
    pytest.importorskip("metaworld")
    tiny_policy().save_pretrained(place / "outputs/teacher")
    for name in ("old", "new"):
        link(place / f"outputs/data/{name}", tiny_dataset)
    link(place / "outputs/anchors", tiny_anchors.folder)
    write_demo(place / "outputs/demo")
    commands = of("hub", "hub.md", "anchors.md")
    (push,) = [command for command in commands if command.page == "README.md"]
    commands.remove(push)
    commands.insert(1, push)  # behind the first training: later ones make the results of the second push too old
    with HubDouble() as hub:
        for kind, name, folder in (("model", "my-teacher", "teacher"), ("dataset", "my-anchors", "anchors")):
            files = {path.name: path.read_bytes() for path in (place / "outputs" / folder).iterdir() if path.is_file()}
            hub.repos[kind, f"my-org/{name}"].tags["v1"] = hub.upload(kind, f"my-org/{name}", files)
        client = Client(hub.url, tmp_path_factory.mktemp("hf_home"), xet=False)

        def run(words):
            result = client.command(*words)
            policy = hub.repos.get(("model", "my-org/my-policy"))
            if policy is not None and "v1" not in policy.tags:
                policy.tags["v1"] = policy.refs["main"]
            return result.status, result.out + result.err

        try:
            done = follow(commands, run)
        finally:
            client.close()
        assert {name for _, name in hub.repos} == {
            f"my-org/my-{name}" for name in ("teacher", "anchors", "policy", "private-policy", "questions")
        }
    assert set(done) == {"train", "push", "rollout", "cache verify", "cache push", "cache pull", "mcq-from-demos"}
    assert (place / "outputs/pulled/anchors.json").is_file()


@pytest.mark.walk
def test_lerobot(place, capsys, rendering):
    """LeRobot's own programs before ours and behind."""
    pytest.importorskip("metaworld")
    from test_lerobot_world import LOADING, POLICY

    least = POLICY | LOADING | {"steps": 1, "batch_size": 2}
    small = {
        "record": ("--episodes", "1", "--image_size", "48"),
        "train": ("--steps=2", "--batch_size=4", "--retention_batch_size=4", "--save_strategy=no", "--use_cpu=true"),
        "lerobot-train": [f"--{key}={value}" for key, value in least.items()],
        "lerobot-eval": (
            "--eval.n_episodes=1",
            "--eval.batch_size=1",
            "--eval.use_async_envs=false",
            "--policy.device=cpu",
        ),
        "cache build": ("--anchors", "8", "--batch_size", "4"),
    }
    commands = of("lerobot", "lerobot.md")  # whose policy the adapters are on
    done = follow(commands, in_process(capsys), more=small)
    assert set(done) == {"record", "lerobot-train", "cache build", "train", "lerobot-eval", "rollout"}
