"""Words of a command line, and of a stranger's file on a terminal."""

from craft_trainer.cli.words import printable


def test_nothing_of_a_strangers_text_is_obeyed_by_a_terminal() -> None:
    """Seen to fail: `cache info` printed the names of groups as they were."""
    assert printable("two\x1b[2Jtasks\r, öffne die Tür\u202e") == "two�[2Jtasks�, öffne die Tür�"
