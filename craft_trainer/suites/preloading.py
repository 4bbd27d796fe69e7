"""Imports what the processes of jobs share, before they are forked; they are named by an environment variable.

What cannot be imported is left to the jobs that need it: their logs say why, and the others run.
"""

import importlib
import os
from contextlib import suppress

VARIABLE = "CRAFT_TRAINER_PRELOAD"

for name in os.environ.get(VARIABLE, "").split():
    with suppress(Exception):
        importlib.import_module(name)
