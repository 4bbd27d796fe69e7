"""A cache that was changed, and its checksums with it: what does not belong together is still refused."""

import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from seer import build

from craft_trainer.anchors.cache import STATISTICS_FILE, AnchorCache
from craft_trainer.anchors.provenance import PROVENANCE_FILE, Provenance, file_digest
from craft_trainer.anchors.verification import require_own_values
from craft_trainer.cli.main import main


@pytest.fixture
def copied(whole: AnchorCache, tmp_path: Path) -> Path:
    """A copy of the seer's cache that a test may damage."""
    return Path(shutil.copytree(whole.folder, tmp_path / "anchors"))


def forge(folder, change=lambda made: None):
    """Write checksums, fingerprint and what ``change`` does to the provenance, so that all of them fit."""
    content = json.loads((folder / PROVENANCE_FILE).read_text())
    content.pop("sha256")
    made = Provenance(**content)
    made.files.update({name: file_digest(folder / name) for name in made.files if (folder / name).is_file()})
    change(vars(made))
    made.write(folder)


def resaved(folder, change):
    """The dataset as ``change`` leaves it, in the place of the one in ``folder``."""
    changed = change(datasets.load_from_disk(str(folder)))
    changed.save_to_disk(str(folder.with_name("other")))
    for file in [*folder.glob("*.arrow"), folder / "state.json", folder / "dataset_info.json"]:
        file.unlink()
    for file in folder.with_name("other").iterdir():
        shutil.copy(file, folder / file.name)

    def files(made):
        kept = {"anchors.json", "README.md"}
        made["files"].clear()
        made["files"].update({one.name: file_digest(one) for one in folder.iterdir() if one.name not in kept})

    forge(folder, files)


def set_at(*path, to):
    def change(made):
        *way, last = path
        for key in way:
            made = made[key]
        if to is None:
            del made[last]
        else:
            made[last] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made["files"].clear(), "has no checksum of dataset_info.json, state.json, statistics"),
        (lambda made: made["files"].pop("state.json"), "has no checksum of state.json"),
        (lambda made: made["files"].pop("data-00000-of-00001.arrow"), "names data-00000-of-00001.arrow, of which"),
        (lambda made: made["files"].update({"../x": "0"}), "files names '../x', which is not a file of this folder"),
        (lambda made: made["files"].update({"/etc/passwd": "0"}), "files names '/etc/passwd', which"),
        (set_at("groups", to={}), "holds anchors {'"),
        (set_at("groups", "odd", to=-1), "groups.odd is -1, expected an integer ≥ 1"),
        (set_at("groups", to=[]), "groups is a list, expected an object"),
        (set_at("groups", to={"odd": 33, "even": 67}), "holds anchors {"),
        (set_at("teachers", to=[]), "teachers is [], expected a list of at least one"),
        (set_at("teachers", 0, "anchors", to=7), "holds 100 anchors, not as many as its teachers made"),
        (set_at("teachers", 0, "weights", to=5), "teachers[0].weights is 5, expected a name"),
        (set_at("features", to="all"), "features is 'all', expected a list"),
        (set_at("features", 0, "pooling", to="cls"), "columns hidden/ear/cls are missing"),
        (set_at("features", to=[]), "are not expected"),
        (set_at("storage", "output", to=False), "columns output are not expected"),
        (set_at("storage", "inputs", to="reference"), "are not expected"),
        (set_at("storage", "dtype", to="int8"), "storage.dtype is 'int8', expected one of float32, float16"),
        (set_at("storage", "batch_size", to=None), "storage.batch_size is missing"),
        (set_at("storage", "labels", to=[1]), "storage.labels is [1], expected a list of names"),
        (set_at("storage", "task_unit", to="variance"), "columns task are missing"),
        (set_at("sizes", to={}), "sizes and columns differ in"),
        (set_at("data", "frames", to="many"), "data.frames is 'many', expected an integer"),
        (set_at("versions", "torch", to=3), "versions.torch is 3, expected a name"),
    ],
)  # fmt: skip
def test_a_provenance_that_does_not_fit_is_refused_although_its_checksums_do(copied, change, message):
    """Each was accepted, or ended in a traceback."""
    forge(copied)
    AnchorCache(copied)
    forge(copied, change)
    with pytest.raises(ValueError, match=rf"{re.escape(message)}.*rebuild it"):
        AnchorCache(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda key, value: -value if "variance" in key else value, "has values that are not finite, or not positive"),
        (lambda key, value: value * 0 if "variance" in key else value, "not finite, or not positive"),
        (lambda key, value: value * float("nan"), "not finite, or not positive"),
        (lambda key, value: value[:-1], "of shape [3], not [4]"),
        (lambda key, value: value.int(), "is torch.int32 of shape"),
        (lambda key, value: None if "variance" in key else value, "missing or too many: variance/"),
    ],
)
def test_statistics_that_are_none_are_refused(copied, change, message):
    statistics = {key: change(key, value) for key, value in load_file(copied / STATISTICS_FILE).items()}
    kept = {key: value.contiguous() for key, value in statistics.items() if value is not None}
    save_file(kept, copied / STATISTICS_FILE)
    forge(copied)
    with pytest.raises(ValueError, match=re.escape(message)):
        AnchorCache(copied)


def test_statistics_of_other_anchors_are_found_by_verify(copied, capsys):
    """Twice the variance makes every ε twice as wide; accepted before, checksums fitting."""
    require_own_values(AnchorCache(copied))
    statistics = load_file(copied / STATISTICS_FILE)
    doubled = {key: value * (2 if "variance" in key else 1) for key, value in statistics.items()}
    save_file(doubled, copied / STATISTICS_FILE)
    forge(copied)
    assert main(["cache", "verify", "--cache", str(copied)]) == 1
    assert "is not that of its anchors; rebuild it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dataset: dataset.remove_columns("output"), "columns output are missing"),
        (lambda dataset: dataset.remove_columns("group"), "columns group are missing"),
        (lambda dataset: dataset.add_column("other", [1] * len(dataset)), "columns other are not expected"),
        (lambda dataset: dataset.select(range(50)), "holds anchors"),
        (lambda dataset: dataset.remove_columns("row").add_column("row", [None] * 99 + [1]), "column row has 99 rows"),
    ],
)
def test_other_columns_and_rows_are_refused(copied, change, message):
    resaved(copied, change)
    with pytest.raises(ValueError, match=re.escape(message)):
        AnchorCache(copied)


def test_anchors_in_another_order_are_found_by_verify(copied):
    order = np.random.default_rng(0).permutation(100)
    resaved(copied, lambda dataset: dataset.select(order).flatten_indices())
    with pytest.raises(ValueError, match="of other rows than its provenance says"):
        require_own_values(AnchorCache(copied))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (PROVENANCE_FILE, "[]"),
        (PROVENANCE_FILE, "{"),
        (PROVENANCE_FILE, "null"),
        (PROVENANCE_FILE, "[" * 100_000),
        ("state.json", "[]"),
        ("state.json", '{"_data_files": [{"filename": "../../x.arrow"}]}'),
        ("dataset_info.json", "[]"),
        ("dataset_info.json", '{"features": {"row": {"_type": "Nothing"}}}'),
    ],
)
def test_descriptions_that_are_none_are_refused_by_name(copied, file, content):
    """`anchors.json` = `[]` was an AttributeError."""
    (copied / file).write_text(content)
    if file != PROVENANCE_FILE:
        forge(copied)
    with pytest.raises(ValueError, match=rf"{copied}.*rebuild it"):
        AnchorCache(copied)


def test_nothing_of_this_machine_and_no_markup_of_strangers_is_in_the_card(tmp_path):
    """Seen to fail with the absolute path of the teacher in the README, and a group that was an HTML tag."""
    group = "<img src=x onerror=alert(1)> [a](http://b) | `c`\n# title"
    cache = build(
        tmp_path / "cache",
        groups=[group] * 50 + ["/other"] * 50,
        source={"dataset": "/srv/somebody/demos + org/demos", "frames": 1000},
        teacher_path=r"C:\Users\somebody\seer",
    )
    readme = (cache.folder / "README.md").read_text()
    assert "somebody" not in readme
    assert "of demos + org/demos" in readme
    assert r"| \<img src=x onerror=alert(1)\> \[a\](http://b) \| \`c\` # title | 50 |" in readme
    published = cache.provenance.published()
    assert "somebody" not in json.dumps(published.document())
    assert published.compute_fingerprint() == cache.provenance.fingerprint
    assert published.groups == cache.provenance.groups
