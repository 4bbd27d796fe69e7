"""Once more, after a while: for what may pass, like an overloaded Hub or a dropped connection."""

import logging
import time
from collections.abc import Callable

from craft_trainer.hub.errors import retry_after

PAUSES = (5.0, 20.0)  # seconds before the second and before the third attempt
LONGEST_PAUSE = 120.0  # even if the Hub asks for more
logger = logging.getLogger(__name__)


def with_retries[Result](call: Callable[[], Result]) -> Result:
    """What ``call`` returns, tried again after each of :data:`PAUSES` while it raises ConnectionError.

    Other errors are raised at once, and that of the last attempt.
    """
    for pause in PAUSES:
        try:
            return call()
        except ConnectionError as error:
            seconds = max(pause, min(retry_after(error), LONGEST_PAUSE))
            logger.warning("%s (once more in %.0f s)", error, seconds)
        time.sleep(seconds)
    return call()
