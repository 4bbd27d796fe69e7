"""``craft-trainer cache VERB``: anchors, built, checked, shown, pushed and pulled."""

import importlib
from collections.abc import Sequence

from craft_trainer.cli.hints import nearest

VERBS = {
    "build": "a policy's features and actions on old-task samples",
    "build-lm": "a language model's features and tokens on texts of what it knows, or on texts of its own",
    "verify": "check every data file, and recompute some rows with the teacher",
    "info": "what a cache was made from, and its bytes per anchor",
    "push": "upload a cache to the Hub, with its card",
    "pull": "download a cache from the Hub, and check it",
}


def run(argv: Sequence[str]) -> None:
    """Run one of the verbs.

    Raises:
        ValueError: there is no such verb.
    """
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help"):
        lines = [f"  {name:<9} {text}" for name, text in VERBS.items()]
        print("usage: craft-trainer cache VERB [--config FILE.yaml] [--key value ...]\n\nverbs:\n" + "\n".join(lines))
        print("\n`craft-trainer cache VERB --help` explains a verb and gives an example.")
        return
    if verb not in VERBS:
        raise ValueError(f"no verb {verb!r}{nearest(verb, VERBS)}; there are {', '.join(VERBS)}")
    importlib.import_module(f"craft_trainer.cli.cache_{verb.replace('-', '_')}").run(argv[1:])
