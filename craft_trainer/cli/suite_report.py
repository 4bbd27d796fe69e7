"""``craft-trainer suite report``: the tables and pictures of a page, from raw results."""

import os
from dataclasses import dataclass
from pathlib import Path

from craft_trainer.options import option

EXAMPLE = "craft-trainer suite report --raw docs/results/raw --page docs/results.md"


@dataclass(kw_only=True)
class SuiteReportArguments:
    """Name the folder of results, and the page."""

    raw: str = option("folder of the raw results of all suites, as of `suite run`")
    page: str = option(
        "Markdown file: what stands between a line <!-- suite: NAME/STREAM --> (a table of one stream), "
        "<!-- suite: NAME --> (all streams), <!-- suite: NAME against METHOD --> (paired differences), "
        "<!-- suite: NAME seconds --> or steps, or <!-- suite: NAME budgets --> (a picture; also frontier, matrix and "
        "curves) and a line <!-- end of suite --> is written anew"
    )
    pictures: str | None = option("folder of the pictures; by default images beside the page", None)


def run(arguments: SuiteReportArguments) -> None:
    """Write the tables and pictures anew, and leave everything else as it is."""
    from craft_trainer.files import write_atomically
    from craft_trainer.suites.page import written

    path = Path(arguments.page)
    folder = path.parent / "images" if arguments.pictures is None else Path(arguments.pictures)
    before = path.read_bytes().decode("utf-8")  # with its line ends as they are
    after = written(before, Path(arguments.raw), Path(os.path.relpath(folder, path.parent)).as_posix())
    if not after.blocks:
        raise ValueError(f"{path} has no table of a suite: begin one by a line <!-- suite: NAME/STREAM -->")
    if after.text != before:
        write_atomically(path, after.text)
    for name, picture in after.pictures.items():
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_file() or (folder / name).read_bytes() != picture:
            write_atomically(folder / name, picture)
            print(f"{folder / name}: written")
    print(f"{path}: {after.blocks} tables and pictures, {'written' if after.text != before else 'as they were'}")
