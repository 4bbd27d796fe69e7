"""``craft-trainer report``: several of anything, three formats, and where they go."""

import json
from pathlib import Path

import pytest
from full_disk import files_up_to

from craft_trainer.cli.arguments import parse_all
from craft_trainer.cli.main import main
from craft_trainer.cli.report import ReportArguments


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--run a --run b --output c", {"run": ["a", "b"], "output": "c"}),
        ("--run a b --format md --run=c", {"run": ["a", "b", "c"], "format": "md"}),
        ("--results a --mcq b --results c", {"results": ["a", "c"], "mcq": ["b"]}),
        ("--output=a=b --run n=c", {"output": "a=b", "run": ["n=c"]}),
    ],
)
def test_a_repeated_option_takes_all_its_values(given, meant):
    """argparse would keep the last. Seen to fail without Gathered."""
    (arguments,) = parse_all("report", "", [ReportArguments], given.split())
    assert arguments == ReportArguments(**meant)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two training runs that left only their state."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        Path(name).mkdir()
        log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
        state = {"global_step": 2, "max_steps": 2, "log_history": log}
        Path(name, "trainer_state.json").write_text(json.dumps(state))
    return tmp_path


def test_a_page_of_one_run_is_in_it_and_of_several_where_one_is(folders, capsys):
    assert main(["report", "--run", "first"]) == 0
    assert "report: first/report.html" in capsys.readouterr().out
    assert main(["report", "--run", "first", "--run", "second"]) == 0
    assert "report: report.html" in capsys.readouterr().out
    assert (folders / "first/report.html").read_text("utf-8").count("<svg") == 1
    assert "first, second: learned and kept" in (folders / "report.html").read_text("utf-8")


def test_json_and_markdown_are_printed_or_written(folders, capsys):
    """Printed alone, so that a pipe gets nothing else."""
    assert main(["report", "--run", "first", "second", "--format", "json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["settings"]) == ["first", "second"]
    assert main(["report", "--run", "one=first", "--format", "md", "--output", "report.md"]) == 0
    assert capsys.readouterr().out == "report: report.md\n"
    assert (folders / "report.md").read_text("utf-8").startswith("# A training run without a retention history")


@pytest.mark.parametrize(("output", "given"), [("rep.md", []), ("rep.json", []), ("rep.html", ["--format", "md"])])
def test_a_file_of_another_format_is_refused(folders, capsys, output, given):
    """Seen to fail: rep.md was a page."""
    assert main(["report", "--run", "first", *given, "--output", output]) == 1
    assert f"output is {output}, and format is" in (said := capsys.readouterr().err)
    assert f"give --format {output.partition('.')[2]}" in said
    assert not Path(output).exists()


@pytest.mark.parametrize("format_", ["html", "md", "json"])
def test_an_earlier_report_stays_where_the_disk_is_full(folders, capsys, format_):
    """Seen to fail with md and json, which were emptied first."""
    Path("report.it").write_text("the earlier one")
    with files_up_to(20):
        assert main(["report", "--run", "first", "--format", format_, "--output", "report.it"]) == 1
    assert "craft-trainer report: [Errno 27] File too large: 'report.it'" in capsys.readouterr().err
    assert Path("report.it").read_text() == "the earlier one"
    assert sorted(path.name for path in folders.iterdir()) == ["first", "report.it", "second"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to report: name at least one of --results, --run, --rollout, --mcq"),
        (["--run", "third"], "third: no such folder"),
        (["--run", "first", "--format", "pdf"], "format is 'pdf': it must be one of html, md, json"),
        (["--run", "first", "first"], "first is given twice"),
        (["--results", "first/trainer_state.json"], "expected the keys schema, stream"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folders, capsys, options, message):
    assert main(["report", *options]) == 1
    assert message in capsys.readouterr().err
    assert not list(folders.glob("**/*.html"))


def test_a_page_is_written_again_until_the_run_has_ended(folders, capsys, monkeypatch):
    """While it goes on an open page loads itself again, and the last one no longer does."""
    record = folders / "first" / "run.json"
    record.write_text(json.dumps({"settings": {"epsilon": 0.01}, "end": None}))
    page, seen = folders / "first" / "report.html", []

    def sleep(seconds):
        seen.append((seconds, '<meta http-equiv="refresh" content="5">' in page.read_text("utf-8")))
        if len(seen) == 2:
            record.write_text(json.dumps({"settings": {"epsilon": 0.01}, "end": {"step": 2, "time": "now"}}))

    monkeypatch.setattr("craft_trainer.cli.report.time.sleep", sleep)
    assert main(["report", "--run", "first", "--follow", "5"]) == 0
    assert seen == [(5.0, True), (5.0, True)]
    assert "refresh" not in page.read_text("utf-8")
    told = capsys.readouterr().out
    assert told.count("written again every 5 s until training ends") == 1
    assert told.endswith("report: first/report.html\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "first", "--follow", "0"], "follow is 0: it is at least 1 second"),
        (["--run", "first", "--follow", "5", "--format", "md"], "follow needs a page, and format is md"),
        (["--results", "x.json", "--follow", "5"], "follow needs a training run that goes on"),
    ],
)
def test_what_cannot_be_followed_is_refused(folders, capsys, options, message):
    assert main(["report", *options]) != 0
    assert message in capsys.readouterr().err
