"""The sessions of noxfile.py are there and ask for what they say; to run them takes hours and is not done here."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SESSIONS = {"deepspeed", "lerobot", "newest", "lowest", "quantization", "wheel", "trainer"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def noxfile():
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sessions_are_listed():
    command = [sys.executable, "-m", "nox", "--list", "--noxfile", ROOT / "noxfile.py"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^[*-] (\w+) -> \S", listed, re.MULTILINE)) == SESSIONS


def test_contributing_names_every_session():
    """Seen to fail with one line taken out."""
    named = re.findall(r"^    nox -s (\w+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert set(named) == SESSIONS


def test_every_requirement_of_a_user_has_a_lower_bound(noxfile):
    """So that `lowest` means something. Seen to fail with `tqdm` for `tqdm>=4.66`."""
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *extras["peft"], *extras["mcq"], *extras["report"]]
    asked.remove("craft-trainer[mcq]")  # which the report brings along
    given = [re.match(r"([\w-]+)>=([\d.]+)", text) for text in asked]
    assert all(given), asked
    assert noxfile.lower_bounds() == [f"{name}=={version}" for name, version in map(re.Match.groups, given)]


REPORT = """<testsuites><testsuite errors="0" failures="0" tests="{tests}" skipped="{skipped}"/></testsuites>"""


class Session:
    """Stands for nox's: writes the report that pytest would have written."""

    posargs = ()

    def __init__(self, folder, report):
        self.folder, self.report, self.failed = folder, report, None

    def create_tmp(self):
        return str(self.folder)

    def run(self, *_words, **_options):
        (self.folder / "junit.xml").write_text(self.report)

    def log(self, text):
        self.logged = text

    def error(self, text):
        self.failed = text


@pytest.mark.parametrize(("skipped", "fails"), [(5, False), (6, True)])
def test_a_session_that_skips_almost_everything_fails(noxfile, tmp_path, skipped, fails):
    """Seen to fail with skipped tests counted."""
    session = Session(tmp_path, REPORT.format(tests=25, skipped=skipped))
    noxfile.run_tests(session, at_least=20)
    assert session.logged == f"{25 - skipped} passed, {skipped} skipped"
    assert bool(session.failed) == fails


CASES = """<testsuites><testsuite>{}</testsuite></testsuites>"""
CASE = '<testcase classname="m.T" name="{{}}">{}</testcase>'
GOOD, BAD, SKIPPED = (CASE.format(outcome) for outcome in ("", "<failure/>", "<skipped/>"))


@pytest.mark.parametrize(
    ("ours", "lost"),
    [
        (GOOD.format("one") + GOOD.format("two") + BAD.format("three"), []),
        (GOOD.format("one") + BAD.format("two") + GOOD.format("three"), ["m.T::two"]),
        (GOOD.format("one") + SKIPPED.format("two"), ["m.T::two"]),
        (GOOD.format("one") + GOOD.format("two") + BAD.format("two"), ["m.T::two"]),
        ("", ["m.T::one", "m.T::two"]),
    ],
)
def test_craft_trainer_passes_what_trainer_passes(noxfile, tmp_path, ours, lost):
    """Seen to fail with failures compared in place of passes: tests that did not run were not missed."""
    theirs = GOOD.format("one") + GOOD.format("two") + BAD.format("three")
    session = TwoRuns(tmp_path, [CASES.format(theirs), CASES.format(ours)])
    noxfile.trainer.func(session)
    named = session.failed.splitlines()[1:] if session.failed else []
    assert named == lost


class TwoRuns(Session):
    """Trainer's run, then CraftTrainer's."""

    def __init__(self, folder, reports):
        super().__init__(folder, None)
        self.reports, self.posargs = reports, (str(folder), "-x")

    def install(self, *_words, **_options):
        pass

    def chdir(self, _folder):
        return nullcontext()

    def run(self, *words, **_options):
        assert ("as_craft_trainer" in words) == (len(self.reports) == 1)
        (self.folder / "junit.xml").write_text(self.reports.pop(0))
