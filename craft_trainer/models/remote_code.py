"""Python code of a repository's own: it runs only if the user trusts that repository by name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from transformers import dynamic_module_utils
from transformers.generation import utils as generation

TRUST_VARIABLE = "CRAFT_TRAINER_TRUST_REMOTE_CODE"  # no file can set it: neither a checkpoint's nor a configuration


@contextmanager
def trusted_code_only() -> Iterator[None]:
    """Let transformers run code of a repository inside only if :data:`TRUST_VARIABLE` names it.

    LeRobot passes ``trust_remote_code=True`` for whatever tokenizers and models a policy's config.json names.

    Raises:
        PermissionError: something there needs code of another repository.
    """
    fetch, refused = dynamic_module_utils.get_cached_module_file, []

    def fetch_trusted(place: Any, *args: Any, **kwargs: Any) -> Any:
        if str(place) not in os.environ.get(TRUST_VARIABLE, "").split(","):
            refused.append(
                PermissionError(
                    f"{place} brings Python code of its own, which was not run. If you trust it, allow it by name: "
                    f"export {TRUST_VARIABLE}={place} (several: separated by commas)"
                )
            )
            raise refused[0]
        return fetch(place, *args, **kwargs)

    with (
        patch.object(dynamic_module_utils, "get_cached_module_file", fetch_trusted),
        patch.object(generation, "get_cached_module_file", fetch_trusted),
    ):
        try:
            yield
        except Exception as error:
            if refused:  # LeRobot says only that a tokenizer could not be loaded
                raise refused[0] from error
            raise
