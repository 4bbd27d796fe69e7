"""Words of a command line, and of a stranger's file on a terminal."""

from craft_trainer.cli.words import printable


def test_nothing_of_a_strangers_text_is_obeyed_by_a_terminal() -> None:
    """Such as the names of groups, which `cache info` prints."""
    assert printable("two\x1b[2Jtasks\r, öffne die Tür\u202e") == "two�[2Jtasks�, öffne die Tür�"
