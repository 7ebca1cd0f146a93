"""How much memory is available for held data: measured, not guessed."""

SHARE_OF_MEMORY = 0.6  # of the available memory: the most that held data may take
HOST_MEMORY = "/proc/meminfo"


def available() -> float:
    """Available memory in bytes; infinite if the system does not state it."""
    try:
        with open(HOST_MEMORY) as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")
    return int(line.split()[1]) * 1024
