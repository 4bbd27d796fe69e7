"""The environments that craft_trainer is tested in.

    nox --list
    nox -s newest                     # one of them; words after -- go to pytest
    nox -s trainer -- ~/transformers  # a checkout of the oldest release that pyproject.toml allows
    nox --envdir /tmp/nox -s lowest   # its environment elsewhere

Each environment is new and takes 5 to 9 GB. With uv (`pip install 'nox[uv]'`) they share their files with its cache.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"

EXTRAS = ("peft", "mcq", "report")  # of the sessions without LeRobot
INSTALL = {"UV_COMPILE_BYTECODE": "1"}  # or Python does it at every start where PYTHONDONTWRITEBYTECODE is set
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
THEIR_OWN = (  # deprecations that libraries tell each other about: "how it begins:category"
    "`is_gradient_checkpointing` is deprecated:FutureWarning",  # PEFT asks transformers
    "`gradient_checkpointing` is deprecated:FutureWarning",  # its new name is not in transformers 5.5
    "`past_key_values` is deprecated:FutureWarning",  # nor is that of this
    "__array__ implementation doesn't accept a copy keyword:DeprecationWarning",  # transformers hands tensors to NumPy
    ":pyparsing.warnings.PyparsingDeprecationWarning",  # of the oldest matplotlib
)
TESTS_OF_TRAINER = ("parameterized", "pytest-timeout", "sentencepiece", "optuna", "psutil")  # what they import
NOT_ON_CPU = ("*distributed*", "*fsdp*", "*tpu*")


@nox.session
def lerobot(session: nox.Session) -> None:
    """LeRobot's pins: every test."""
    session.install("--editable", ".[all,dev]", env=INSTALL)
    run_tests(session, at_least=3100)


@nox.session
def newest(session: nox.Session) -> None:
    """The newest releases of everything, which LeRobot does not take yet: the core, PEFT, questions, reports."""
    session.install("--upgrade", "--editable", f".[{','.join(EXTRAS)},dev]", env=INSTALL)
    run_tests(session, at_least=2550, ignored=THEIR_OWN)


@nox.session
def lowest(session: nox.Session) -> None:
    """The same with the lower bounds of pyproject.toml."""
    bounds = Path(session.create_tmp(), "lower_bounds.txt")
    bounds.write_text("\n".join(lower_bounds()) + "\n")
    session.install("--editable", f".[{','.join(EXTRAS)},dev]", "--constraint", str(bounds), env=INSTALL)
    run_tests(session, at_least=2550, ignored=THEIR_OWN)


@nox.session
def quantization(session: nox.Session) -> None:
    """Bases of 4 and 8 bits, on the CPU: what the others skip for want of bitsandbytes."""
    session.install("--editable", ".[quantization,mcq,report,dev]", env=INSTALL)
    chosen = ("tests/integration/test_quantized.py", "tests/unit/models/test_quantization.py", "tests/unit/costs")
    run_tests(session, *chosen, at_least=66, ignored=THEIR_OWN)


@nox.session
def deepspeed(session: nox.Session) -> None:
    """ZeRO 1, 2 and 3 on the CPU, two processes: what the others skip for want of DeepSpeed."""
    session.install("--editable", ".[peft,report,dev]", env=INSTALL)
    on_cpu = {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0"}
    session.install("--no-build-isolation", "deepspeed>=0.19.8", env=INSTALL | on_cpu)  # its setup.py imports torch
    run_tests(session, "tests/distributed/test_deepspeed.py", at_least=9, ignored=THEIR_OWN)


@nox.session
def wheel(session: nox.Session) -> None:
    """The wheel alone, in an empty folder: the dry run, the quick demo, the report, questions."""
    root, folder = Path.cwd(), Path(session.create_tmp()).resolve() / "wheel"
    session.run("rm", "-rf", str(folder), external=True)
    session.run(sys.executable, "-m", "build", "--outdir", str(folder), str(root), external=True)
    (built,) = folder.glob("*.whl")
    session.install(f"{built}[all]", env=INSTALL)
    session.chdir(folder)
    launch = ("accelerate", "launch", "--config_file", "configs/accelerate/cpu.yaml", "-m", "craft_trainer")
    for command in (
        ("craft-trainer", "info"),
        ("craft-trainer", "configs"),
        (*launch, "dryrun", "--config", "configs/train/dryrun.yaml"),
        ("python", str(root / "tests/twins/tiny_question_model.py"), "model", "questions.jsonl"),
        ("craft-trainer", "mcq", "--model", "model", "--data", "questions.jsonl"),
        ("craft-trainer", "demo", "--quick"),
        ("craft-trainer", "report", "--results", "outputs/demo/results.json", "--output", "report.html"),
    ):
        session.run(*command, env=QUIET)


@nox.session
def trainer(session: nox.Session) -> None:
    """Trainer's own tests, from a checkout of transformers: CraftTrainer without anchors passes what Trainer passes."""
    if not session.posargs:
        session.error("give the path of a checkout of transformers: nox -s trainer -- ~/transformers")
    checkout, *words = session.posargs
    (version,) = [bound for bound in lower_bounds() if bound.startswith("transformers==")]
    session.install("--editable", f".[{','.join(EXTRAS)},dev]", version, *TESTS_OF_TRAINER, env=INSTALL)
    theirs = tests_of_trainer(session, Path(checkout).resolve(), words)
    ours = tests_of_trainer(session, Path(checkout).resolve(), ["-p", "as_craft_trainer", *words])
    session.log(f"Trainer passes {len(theirs)} of its tests, CraftTrainer {len(ours)}")
    if len(theirs) < 250 and not words:
        session.error(f"Trainer passes only {len(theirs)} of its tests: are they those of another version?")
    if theirs - ours:
        session.error("Trainer passes these and CraftTrainer does not:\n" + "\n".join(sorted(theirs - ours)))


def lower_bounds() -> list[str]:
    """``name==version`` for every ``name>=version`` that a user's installation without LeRobot asks for."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    asked = map(Requirement, sum((extras[name] for name in EXTRAS), start=project["dependencies"]))
    return [f"{one.name}=={bound.version}" for one in asked for bound in one.specifier if bound.operator == ">="]


def run_tests(session: nox.Session, *chosen: str, at_least: int, ignored: tuple[str, ...] = ()) -> None:
    """Pytest, of the files ``chosen`` or of all.

    An error if fewer than ``at_least`` tests passed, since what needs a missing package is skipped.
    """
    report = Path(session.create_tmp()).resolve() / "junit.xml"
    filters = [word for warning in ignored for word in ("-W", f"ignore:{warning}")]
    session.run("craft-trainer", "info")
    session.run(
        *("pytest", "-q", "-n", "2", "--dist", "loadfile", f"--junitxml={report}", *filters),
        *(session.posargs or chosen),
        env=QUIET,
    )
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, skipped = (sum(int(suite.attrib[name]) for suite in suites) for name in ("tests", "skipped"))
    passed = tests - skipped  # a failure has ended the session already
    session.log(f"{passed} passed, {skipped} skipped")
    if passed < at_least and not session.posargs:
        session.error(f"only {passed} tests passed, at least {at_least} should: is something skipped that must run?")


def tests_of_trainer(session: nox.Session, checkout: Path, words: list[str]) -> set[str]:
    """Run ``tests/trainer`` of ``checkout`` on the processor.

    Returns:
        The tests that passed.
    """
    report = Path(session.create_tmp()).resolve() / "junit.xml"
    tests = checkout / "tests" / "trainer"
    left_out = [f"--ignore-glob={tests / pattern}" for pattern in NOT_ON_CPU]
    setup = ("-q", "--timeout=300", "--continue-on-collection-errors", "--override-ini=log_cli=0")
    with session.chdir(checkout):
        session.run(
            *("pytest", *setup, f"--junitxml={report}", *left_out, *words, str(tests)),
            env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parent / "tests/peers")},
            success_codes=[0, 1],  # tests that need the Hub fail without it
        )
    return passed(report)


def passed(report: Path) -> set[str]:
    """The tests of a JUnit report that neither failed nor were skipped."""
    good, bad = set[str](), set[str]()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        outcome = bad if {"failure", "error", "skipped"} & {child.tag for child in case} else good
        outcome.add(f"{case.attrib['classname']}::{case.attrib['name']}")
    return good - bad  # a failing teardown is a case of its own
