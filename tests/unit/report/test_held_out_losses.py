"""Losses on held-out episodes: what the page says of them."""

import json
from pathlib import Path

import pytest

from craft_trainer.report import gather
from craft_trainer.report.document import as_document
from craft_trainer.report.page import as_html, as_markdown
from craft_trainer.report.remarks import remarks
from craft_trainer.report.sentences import headlines


def row(method: str, seed: int | None, old: float, new: float, retained: float = 0.0) -> dict[str, object]:
    return {"method": method, "seed": seed, "old": old, "new": new, "L_retain": retained}


KEPT = [row("teacher", None, 1.0, 3.0), row("plain", 0, 2.0, 1.0, 0.9), row("craft", 0, 1.1, 1.2, 0.01)]


def written(folder: Path, rows: list[dict[str, object]]) -> str:
    content = {"schema": 1, "seeds": [0], "frames": {"old": 40, "new": 30}, "rows": rows, "settings": {"steps": 5}}
    path = folder / "held_out.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_the_headline_has_every_loss(tmp_path: Path) -> None:
    (said,) = headlines(gather(results=[written(tmp_path, KEPT)]))
    assert said == (
        "Held-out episodes: on the old data the loss is 1 before, 2 after plain fine-tuning and 1.1 after CRaFT; on "
        "the new data the loss is 3 before, 1 after plain fine-tuning and 1.2 after CRaFT."
    )


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        (KEPT, "holds", "CRaFT kept 90 % of what plain fine-tuning lost on the old data."),
        (KEPT, "holds", "CRaFT's loss on the new data fell by 90 % of what plain's fell by."),
        (KEPT, "beware", "One seed"),
        ([*KEPT[:1], row("plain", 0, 1.0, 1.0), row("craft", 0, 1.0, 1.0)], "beware", "there was nothing to keep"),
        ([*KEPT[:1], row("plain", 0, 2.0, 3.0), row("craft", 0, 1.0, 3.0)], "beware", "nothing was learned"),
        ([*KEPT[:2], row("craft", 0, 1.0, 3.1)], "beware", "CRaFT did not lower the loss on the new data"),
        ([*KEPT[:2], row("craft", 0, 1.0, 2.9)], "beware", "fell by 5 % of what plain's fell by"),
        ([*KEPT[:2], row("craft", 0, 2.5, 1.0)], "beware", "by more than plain fine-tuning"),
    ],
)
def test_what_may_be_believed(rows: list[dict[str, object]], kind: str, said: str, tmp_path: Path) -> None:
    found = remarks(gather(results=[written(tmp_path, rows)]))
    assert [one.kind for one in found if said in one.text] == [kind], found


def test_a_table_has_the_mean_over_seeds(tmp_path: Path) -> None:
    evidence = gather(runs=[str(Path(written(tmp_path, [*KEPT, row("craft", 1, 1.3, 1.4, 0.03)])).parent)])
    page = as_markdown(evidence)
    assert "| CRaFT | 1.2 (1.1 to 1.3) | 1.3 (1.2 to 1.4) | 2 (1 to 3) | 2 |" in page
    assert "| teacher | 1 | 3 | 0 | – |" in page
    assert "1.2 (1.1 to 1.3)" in as_html(evidence)
    assert as_document(evidence)["held_out"][tmp_path.name]["losses"]["craft"][1]["old"] == 1.3


@pytest.mark.parametrize("broken", [{"rows": []}, {"rows": [{"method": "plain"}], "frames": {"old": 1, "new": 1}}, {}])
def test_another_file_is_refused(broken: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "held_out.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"held_out\.json"):
        gather(results=[str(tmp_path / "held_out.json")])


def test_a_row_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Seen to fail: files put together by hand had one seed twice in their mean."""
    with pytest.raises(ValueError, match=r"rows\[3\] repeats method 'craft' and seed 0"):
        gather(results=[written(tmp_path, [*KEPT, row("craft", 0, 9.0, 9.0)])])
