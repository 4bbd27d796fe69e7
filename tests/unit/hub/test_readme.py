"""Which README may be written again, and what of its header stays."""

import pytest
from huggingface_hub import ModelCard

from craft_trainer.hub.readme import README, is_by_hand, signed, text_of, write

OURS = {"library_name": "lerobot", "tags": ["craft_trainer"], "base_model": "org/base"}
PEFT = (
    "---\nlibrary_name: peft\ntags:\n- base_model:adapter:/data/me/base\n---\n\n# Model Card for Model ID\n\n[More]\n"
)


def test_a_card_of_ours_is_written_again(tmp_path):
    assert write(tmp_path, OURS, "# One", None)
    assert write(tmp_path, OURS, "# Two", text_of(tmp_path))
    assert "# Two" in (tmp_path / README).read_text()
    assert "# One" not in (tmp_path / README).read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("# One", "# One, and more"),
        lambda text: text + "\nA line at the end.\n",
        lambda text: "# Mine\n",
        lambda text: "---\nlicense: mit\n---\n# Mine\n",
        lambda text: "---\n: : broken\n---\n# Mine\n",
    ],
    ids=["changed", "added to", "new", "new with a header", "a broken header"],
)
def test_a_text_by_hand_stays(tmp_path, change):
    """Byte for byte, even if a library has written another one meanwhile. Seen to fail without the digest."""
    mine = change(signed(OURS, "# One", None))
    assert is_by_hand(mine)
    (tmp_path / README).write_text(PEFT)
    assert not write(tmp_path, OURS, "# Two", mine)
    assert (tmp_path / README).read_text() == mine


def test_lines_of_the_header_stay(tmp_path):
    """The user's licence and tags, not what is made anew. Seen to fail with the old base model kept."""
    before = signed(OURS, "# One", None).replace("tags:\n", "license: mit\ntags:\n- mine\n")
    assert not is_by_hand(before)
    assert write(tmp_path, {"library_name": "lerobot", "tags": ["craft_trainer"]}, "# Two", before)
    data = ModelCard.load(tmp_path / README).data
    assert (data.license, data.tags, data.base_model) == ("mit", ["craft_trainer", "mine"], None)


def test_cards_of_libraries_give_way(tmp_path):
    """And nothing of theirs stays: PEFT's tags hold the path of the base."""
    assert write(tmp_path, OURS, "# Ours", PEFT)
    assert "/data/me" not in (tmp_path / README).read_text()


def test_the_header_is_one_that_the_hub_reads():
    card = ModelCard(signed(OURS, "# One\n\n---\n\nrule", None))
    assert card.data.to_dict() == {"library_name": "lerobot", "tags": ["craft_trainer"], "base_model": "org/base"}
    assert card.text.strip().endswith("rule")
