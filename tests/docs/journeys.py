"""The commands of README and docs as journeys: one after the other in one folder as a reader would, only smaller.

``accelerate launch -m craft_trainer …`` and ``bash scripts/demo.sh …`` are run as the command that they start, in this
process; streams of the demo with one seed.
"""

import os
import re
import shutil
import subprocess
import sys
from itertools import chain, pairwise
from typing import NamedTuple

import yaml
from pages import DOCS, ROOT, blocks, command_lines

PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.glob("*.md")) if page.name != "quickstart.zh.md")]
CPU = ("--use_cpu", "true", "--dataloader_pin_memory", "false", "--disable_tqdm", "true")
FEW = ("--max_steps", "2", "--per_device_train_batch_size", "4", "--retention_batch_size", "4", "--save_steps", "1")
SAME = ("--learned_inputs", "allow")  # the old and the new data of a page may be one folder here
SMALLER = {  # words behind a command that win over its own
    "record": ("--episodes", "1"),
    "train": (*FEW, *CPU, *SAME),
    "cache build": ("--anchors", "16", "--batch_size", "8"),
    "cache verify": ("--rows", "4"),
    "rollout": ("--episodes", "1", "--num_envs", "1", "--max_steps", "5"),
    "mcq-from-demos": ("--episodes", "2", "--size", "32"),
    "demo": (
        *("--quick", "--workers", "1", "--demonstrations", "1", "--anchors", "32", "--episodes", "1"),
        *("--teacher_steps", "3", "--steps", "3"),
    ),
}
TRAINS, RESUME = ("train",), "--resume_from_checkpoint"
ONE_MORE = ["--max_steps", "3"]  # the run that is resumed was not interrupted
# `lerobot-eval` with episodes of three steps, for which it has no option:
EVALUATION = """
from lerobot.envs.metaworld import MetaworldEnv
from lerobot.scripts.lerobot_eval import main

begun = MetaworldEnv.__init__

def begin(self, *args, **kwargs):
    begun(self, *args, **kwargs)
    self._max_episode_steps = 3

MetaworldEnv.__init__ = begin
main()
"""
ELSEWHERE = {  # pattern of "page: line" → what runs it
    r": pip install |: source ": "scripts/env.sh",
    r": bash scripts/test\.sh( --quick)?$": ".ci/run",
    r"train_craft_hidden_dryrun\.sh": ".ci/run",
    r"--config_file configs/accelerate/": "tests/distributed/test_accelerate_configs.py",  # two processes, not four
    r": craft-trainer loss --model ": "tests/integration/test_text_loss.py",
    r": craft-trainer (compare|loss) ": "tests/integration/test_compare.py",  # recordings of several episodes
    r": craft-trainer film ": "tests/unit/simulation/test_film.py",
    r": craft-trainer suite report ": "tests/unit/suites/test_tables.py",
    r": craft-trainer suite run .*--jobs ": "tests/integration/test_suites.py",  # hours
    r": craft-trainer bench step ": "tests/unit/costs/test_step.py",  # with --quick, as the next two
    r": craft-trainer bench cache ": "tests/unit/costs/test_cache_bench.py",
    r": craft-trainer bench mcq ": "tests/unit/costs/test_mcq_bench.py",
    r": craft-trainer bench run": "tests/unit/costs/test_run_bench.py",  # minutes of training
    r"--num_processes 3 .* cache build ": "tests/integration/test_cache_commands.py",
    r"merge\.md: craft-trainer cache build .*own_texts": "tests/integration/test_language_commands.py",
    r"merge\.md: craft-trainer merge .*new_task": "tests/integration/test_merge_command.py",
    r"--quantization ": "tests/integration/test_quantized.py",  # where bitsandbytes is installed
    r"sequences\.md: craft-trainer cache build .*rollouts": "tests/integration/test_cache_sources.py",
    r"--streamed_rows ": "tests/integration/test_language_commands.py",
    r"s3://": "tests/unit/anchors/test_places.py",  # in a place of the memory
    # not in CI:
    r"scripts/policy_memory\.py": "scripts/policy_memory.py",  # minutes at full width, by hand
    r"lerobot-edit-dataset": "tests/docs/command_line.py",  # parsed by LeRobot's own parser
    r"scripts/instructions\.py": "scripts/instructions.py",  # three seeds of training, by hand
    r"scripts/spaces\.py": "tests/hub/test_questions_and_metrics.py",  # to a double of the Hub
    r"scripts/digits\.py": "scripts/digits.py",  # where Avalanche is installed, by hand
    r"python tests/reliability/": "tests/reliability/test_kills.py",  # hours; this is the short form
    r"-m full_size": "tests/integration/test_full_size.py",  # 20 GB
    r"pi0fast": "tests/integration/test_vla_path.py",  # as a toy; its real size needs a GPU of 80 GB
    r"pusht|aloha": "tests/integration/test_lerobot_world.py",  # where the environment's package is installed
    r"^examples\.md": "tests/docs/test_examples.py",
    r"results\.md: craft-trainer demo ": "tests/unit/suites/test_demo_story.py",  # hours
    r": craft-trainer cache build .*--source rollouts": "tests/integration/test_cache_sources.py",
    r"which_anchors\.md: craft-trainer demo ": "tests/unit/suites/test_demo_story.py",
}
JOURNEYS = (  # the first pattern that is found in "page: line" decides
    (r"^which_anchors\.md", "which_anchors"),
    (r"bash scripts/demo\.sh", "demo"),
    (r"my-org/", "hub"),
    (r": craft-trainer mcq-from-demos |outputs/mcq/questions", "questions"),
    (r"org/vlm", "pictures"),
    (r"/lm(_\w+)?\.yaml|outputs/lm/|org/model|: craft-trainer mcq |language_model\.py", "language"),
    (r"^(lerobot|adapters)\.md", "lerobot"),
    (r"^sequences\.md", "sequences"),
    (r"", "policies"),
)


class Command(NamedTuple):
    """A line of a page."""

    page: str
    words: list[str]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"

    @property
    def elsewhere(self):
        """What runs it, if no journey does."""
        return next((runs for pattern, runs in ELSEWHERE.items() if re.search(pattern, str(self))), None)

    @property
    def journey(self):
        """The journey that it belongs to."""
        return next(name for pattern, name in JOURNEYS if re.search(pattern, str(self)))

    @property
    def output_dir(self):
        """Where a training command writes to; None for another command, and for one that goes on or only prints."""
        words = self.ours or [""]
        if words[0] not in TRAINS or RESUME in words or "--print-config" in words:
            return None
        given = dict(pairwise(words)) | dict(word.split("=", 1) for word in words if "=" in word)
        config = given.get("--config")
        return given.get("--output_dir") or yaml.safe_load((ROOT / config).read_text())["output_dir"]

    @property
    def ours(self):
        """The words behind ``craft-trainer``; None for another program."""
        if self.words[:2] == ["bash", "scripts/demo.sh"]:
            return ["demo", *self.words[2:]]
        if self.words[0] == "craft-trainer":
            return self.words[1:]
        return self.words[self.words.index("craft_trainer") + 1 :] if "craft_trainer" in self.words else None


def documented():
    """Every command of every page."""
    return [
        Command(page.name, words) for page in PAGES for words in chain.from_iterable(map(command_lines, blocks(page)))
    ]


def of(journey, *order):
    """The commands of a journey, page by page, those of ``order`` first; one that comes again is left out."""
    pages = [*order, *(page.name for page in PAGES if page.name not in order)]
    mine = [command for command in documented() if command.elsewhere is None and command.journey == journey]
    found = {}
    for command in sorted(mine, key=lambda command: pages.index(command.page)):
        found.setdefault(tuple(command.words), command)
    return list(found.values())


def kind_of(ours):
    """``train``, ``cache build``, …"""
    return " ".join(ours[: 2 if ours[0] == "cache" else 1])


def smaller(command, stand_ins, more):
    """Our own words of a command with what makes it small; ``more`` wins over ``SMALLER``."""
    words = [stand_ins.get(word, word) for word in command.ours]
    kind = kind_of(words)
    words += (SMALLER | more).get(kind, ())
    return words + (ONE_MORE if RESUME in words else [])


def follow(commands, run, *, stand_ins=None, more=None):
    """Run them in turn by ``run(words)`` → (status, what it said); the kinds of those that ran, with their numbers."""
    done = {}
    for command in commands:
        if command.ours is None:
            other_program(command.words, more or {})
            kind = command.words[0]
        else:
            words = smaller(command, stand_ins or {}, more or {})
            if command.output_dir is not None:  # a reader follows one page; here another may have been before
                shutil.rmtree(command.output_dir, ignore_errors=True)
            status, said = run(words)
            assert status == 0, f"{command}\nas {' '.join(words)}\n{said[-2000:]}"
            kind = kind_of(words)
        done[kind] = done.get(kind, 0) + 1
    return done


def in_process(capsys):
    """Runs words by ``main``, here."""
    from craft_trainer.cli.main import main

    def run(words):
        try:
            status = main(words)
        except SystemExit as ended:  # of --print-config
            status = ended.code
        return status, capsys.readouterr().err

    return run


def other_program(words, more):
    """A command of LeRobot, or a script, in a process of its own."""
    program, *given = words
    given += more.get(program, ())
    if program == "python":
        start = [str(ROOT / given.pop(0))]
    elif program == "lerobot-eval":
        start = ["-c", EVALUATION]
    else:
        start = ["-m", f"lerobot.scripts.{program.replace('-', '_')}"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *start, *given], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-3000:]}"
