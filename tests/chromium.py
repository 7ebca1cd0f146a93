"""The Chromium of this machine, and how it is started."""

import os
import shutil
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)


def launch(playwright: Any) -> Any:
    """It, without a window."""
    options = ["--no-sandbox"] if os.geteuid() == 0 else []  # which it asks of root
    return playwright.chromium.launch(executable_path=PATH, args=options)
