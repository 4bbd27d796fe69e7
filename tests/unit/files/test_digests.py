"""What a digest of a folder notices."""

import pytest

from craft_trainer.files import digest_of


@pytest.mark.parametrize("size", [1, 70_000, 1_048_576, 5_000_000])
def test_contents_count_and_not_sizes_alone(size, tmp_path):
    """Seen to fail: weights that were trained again have the size of those before."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner/weights").write_bytes(b"0" * size)
    assert digest_of(first) == digest_of(second)
    (second / "inner/weights").write_bytes(b"1" * size)
    assert digest_of(first) != digest_of(second)


@pytest.mark.parametrize("place", [0, 65_536, 500_000, 1_048_575])
def test_every_byte_counts_up_to_a_mebibyte(place, tmp_path):
    data = bytearray(1_048_576)
    (tmp_path / "weights").write_bytes(data)
    before = digest_of(tmp_path)
    data[place] = 1
    (tmp_path / "weights").write_bytes(data)
    assert digest_of(tmp_path) != before
