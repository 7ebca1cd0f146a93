"""How often a run saves its state."""

import time

SAVING_SHARE = 0.02  # the largest share of the time to spend on saving resumable state


class SavingPace:
    """Decides when to save: often, but within a share of the time. It is entered as a context to save."""

    def __init__(self) -> None:
        self._cost, self._last = 0.0, time.monotonic()

    def due(self, share: float) -> bool:
        """Whether it is time to save. share: the largest share of the time to spend on saving."""
        return time.monotonic() - self._last >= self._cost / share

    def __enter__(self) -> None:
        self._last = time.monotonic()

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        self._cost, self._last = now - self._last, now
