"""Which processes a command has left, by its session; `start_new_session` of subprocess makes it one."""

import os
import signal
import time
from pathlib import Path

LAST_BREATH = 60.0  # seconds within which whatever a command had started must end, if slow to start itself


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(") ")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def lingering(session: int) -> float:
    """Seconds until a session has no process any more, at most LAST_BREATH: then what lives is killed."""
    start = time.monotonic()
    while living := members(session):
        if time.monotonic() - start > LAST_BREATH:
            for process in living:
                os.kill(process, signal.SIGKILL)
            return LAST_BREATH
        time.sleep(0.01)
    return round(time.monotonic() - start, 2)


def workers(session: int) -> list[int]:
    """Those processes of a session that load data, by the name that torch gives them."""
    names = {process: Path(f"/proc/{process}/comm").read_text().strip() for process in members(session)}
    return [process for process, name in names.items() if name == "pt_data_worker"]
