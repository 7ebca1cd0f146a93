"""The plan of a sharded export, `NAME.shards`: what all its shards must have in common.

The file has two lines: JSON, and its SHA-256 in hexadecimal. The first process writes it, under its own lock;
the others take the values from it.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dive import files, outputs
from dive.cache.part import DamagedError, Record, require_own_file
from dive.errors import BusyError, OutputError

_FORMAT = "dive-shards"
_LARGEST = 1 << 20
_TURN = 0.05  # seconds


@dataclass(frozen=True)
class Plan:
    """What the shards of a cache have in common.

    launch: a string that identifies the start of torchrun that wrote the plan, None without torchrun.
    """

    identity: dict[str, Any]
    facts: dict[str, Any]
    producer: str
    launch: str | None = None

    def begins(self, record: Record) -> Record:
        """The given record with the identity, facts and producer of this plan."""
        return replace(record, identity=self.identity, facts=self.facts, producer=self.producer)


def plan_path(path: Path) -> Path:
    """The path of the plan of the shards of the cache `path`."""
    return path.with_name(path.name + ".shards")


def is_own(file: Path) -> bool:
    """Whether a file begins like a plan."""
    try:
        with files.open_regular(file) as opened:
            return opened.read(64).startswith(f'{{"format": "{_FORMAT}"'.encode())
    except OSError:
        return False


KIND = outputs.Kind("the plan of a sharded export", is_own)


def read_plan(path: Path) -> Plan | None:
    """The plan of the cache `path`, or None if it does not exist.

    Raises DamagedError if the plan is damaged or malformed, OutputError if the file cannot be read or is not
    a plan written by dive.
    """
    file = plan_path(path)
    require_own_file(file)
    outputs.refuse_foreign(file, KIND)
    try:
        with files.open_regular(file) as opened:
            text, _, digest = opened.read(_LARGEST).rstrip(b"\n").rpartition(b"\n")
        if files.sha256(text) != digest.decode("ascii", "replace"):
            raise ValueError("it does not match its digest")
        document = json.loads(text)
        if document.pop("format") != _FORMAT:
            raise ValueError("it is of another format")
        plan = Plan(**document)
        if not (isinstance(plan.identity, dict) and isinstance(plan.facts, dict)):
            raise ValueError("its identity and facts are not mappings")
        if not (isinstance(plan.producer, str) and isinstance(plan.launch, str | None)):
            raise ValueError("its producer or launch is not a string")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"cannot read {file}: {error.strerror}; give another --out") from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise DamagedError(f"{file} is damaged ({error}); --force starts over") from error
    return plan


def write_plan(path: Path, plan: Plan) -> None:
    """Write the plan of the cache `path`; raises OSError."""
    text = json.dumps({"format": _FORMAT, **asdict(plan)}).encode()
    files.write_bytes(plan_path(path), text + b"\n" + files.sha256(text).encode() + b"\n")


@contextmanager
def planning(path: Path) -> Iterator[None]:
    """Holds the lock on the plan of the cache `path`; waits while another process holds it."""
    while True:
        with suppress(BusyError):
            lock = ExitStack()
            lock.enter_context(outputs.only_writer(plan_path(path)))
            break
        time.sleep(_TURN)
    with lock:
        files.remove_stale(plan_path(path))
        yield
