"""`dive` in several processes that train together, forked ones, which begin quickly.

Forked processes find in their environment what torchrun would put there; the first of them keeps the store.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import chain

PLAIN = """
import torch
from torch import nn


def build(classes):
    \"\"\"A network without batch norm, and without kinks that magnify rounding.\"\"\"
    pooled = nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), pooled, nn.Flatten(), nn.Linear(32, classes))
"""
SECONDS = 150  # within which all must have ended


def plain_network() -> tuple[str, ...]:
    """Write the module of a network without batch norm here; the options that choose it."""
    Path("plain_network.py").write_text(PLAIN)
    return ("--set", "model.name=plain_network:build")


def free_port() -> int:
    """A port that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def forked(
    size: int,
    *words: object,
    more: Mapping[int, Sequence[object]] | None = None,
    faults: Mapping[int, Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[chain.Outcome]:
    """`dive` with these words in `size` processes; how each ended.

    more: words that some ranks have besides. faults: of some ranks, `module:name` of a function to what is
    done in its place: a pair of the call, from 1, and the error it raises, or the signal that it sends.
    settings: `module:name` to values set before the command starts.
    """
    common = {"dive.cli:LAST_SECONDS": 0.2, **(settings or {})}
    commands = [[*map(str, (*words, *(more or {}).get(rank, ())))] for rank in range(size)]
    each_faults = [(faults or {}).get(rank, {}) for rank in range(size)]
    return _in_processes(
        size, _command, [(one, dict(each), common) for one, each in zip(commands, each_faults, strict=True)]
    )


def called(size: int, function: Callable[[], None]) -> None:
    """Call a function in `size` processes; each must end well."""
    for outcome in _in_processes(size, _called, [(function,)] * size):
        assert outcome.code == 0, outcome


def _in_processes(size: int, target: Callable, arguments: Sequence[tuple]) -> list[chain.Outcome]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*chain.PRELOADED, "dive.training.shared"])
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(size):
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            environment = {name: str(value) for name, value in places.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            streams = (f"{folder}/{rank}.out", f"{folder}/{rank}.err")
            child = context.Process(
                target=_begin, args=(environment, os.getcwd(), streams, target, arguments[rank])
            )
            child.start()
            children.append(child)
        outcomes = []
        for rank, child in enumerate(children):
            child.join(SECONDS)
            if child.exitcode is None:
                child.kill()
                child.join()
            out, err = (Path(folder, f"{rank}.{name}").read_text() for name in ("out", "err"))
            outcomes.append(chain.Outcome(child.exitcode, out, err))
    return outcomes


def _begin(
    environment: Mapping[str, str], folder: str, streams: Sequence[str], target: Callable, arguments: tuple
) -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite run in the background ignores it
    os.environ.update(environment)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.chdir(folder)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))
    target(*arguments)


def _command(words: list[str], faults: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        setattr(*_owner(name), value)
    for spot, (call, error) in faults.items():
        place(spot, call, error)
    sys.argv = ["dive", *words]
    importlib.import_module("dive.cli").main()


def _called(function: Callable[[], None]) -> None:
    function()


def place(spot: str, call: int, error: Any) -> None:
    """Let a function's `call`-th call (from 1) raise an error, or send this process a signal."""
    owner, name = _owner(spot)
    real, calls = getattr(owner, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            if isinstance(error, int):
                os.kill(os.getpid(), error)
            raise error
        return real(*args, **kwargs)

    setattr(owner, name, counted)


def _owner(spot: str) -> tuple[Any, str]:
    module, _, path = spot.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, name


def told(outcomes: Sequence[chain.Outcome]) -> Iterator[str]:
    """The lines of all processes on stderr, without warnings."""
    for outcome in outcomes:
        for line in outcome.err.splitlines():
            if not line.startswith("warning: "):
                yield line
