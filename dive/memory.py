"""How much memory there is for data that are held: measured, not guessed."""

SHARE_OF_MEMORY = 0.6  # of what is free: the most that held data may take
HOST_MEMORY = "/proc/meminfo"


def available() -> float:
    """Bytes of memory that programs can still have; without limit where the system does not say."""
    try:
        with open(HOST_MEMORY) as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")
    return int(line.split()[1]) * 1024
