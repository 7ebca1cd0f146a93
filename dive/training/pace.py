"""How often a run saves its state."""

import time

SAVING_SHARE = 0.02  # at most this share of the time goes into resumable state


class SavingPace:
    """Saves often, but spends no more than a share of the time on it."""

    def __init__(self) -> None:
        self._cost, self._last = 0.0, time.monotonic()

    def due(self, share: float) -> bool:
        """Whether it is time to save; share: of the time, spent on it."""
        return time.monotonic() - self._last >= self._cost / share

    def __enter__(self) -> None:
        self._last = time.monotonic()

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        self._cost, self._last = now - self._last, now
