"""``python -m craft_trainer`` is ``craft-trainer``."""

import sys

from craft_trainer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
