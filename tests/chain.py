"""The five commands as tests run them: in this process, or in one that dies at a chosen moment.

`Chain` is what they make of the digits, made once a session: a teacher of three epochs, its caches
and a student. Tests read these files and never change them.
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dive.cache.writer import BlockWriter
from dive.cli import main
from dive.training.step import Step

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "digits_lt" / "bbn.yaml"
PRELOADED = [
    "dive.workflows.student",
    "dive.workflows.teacher",
    "dive.workflows.export",
    "sklearn.datasets",
    "torch._dynamo",
]
# Before anything starts the fork server of the tests, which imports only once what it is told to, and torch
# in it reads only then what `dive` under torchrun sets.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
# As most tests run teacher and student, also where there is a GPU.
DIGITS = ("--config", CONFIG, "--device", "cpu", "--precision", "fp32", "--quiet")


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (minus the signal that killed it), stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out, parse_constant=_refuse_constant)

    @property
    def complaint(self) -> str:
        """The line on stderr of a command that failed as it should: one line, and nothing on stdout.

        Warnings may come before it.
        """
        assert self.code in (1, 2), self
        assert self.out == "", self.out
        assert self.err.endswith("\n"), self.err
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1 and lines[0].startswith("dive: "), self.err
        return lines[0]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def dive(*arguments: object) -> Outcome:
    """Run `dive` with these arguments in this process, as the command line would."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    argv, ctrl_c = sys.argv, signal.getsignal(signal.SIGINT)
    sys.argv = ["dive", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = argv
        signal.signal(signal.SIGINT, ctrl_c)  # the command's process would end now
    return Outcome(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def succeed(*arguments: object) -> Outcome:
    """Run `dive` as `dive` does; it must end well."""
    outcome = dive(*arguments)
    assert outcome.code == 0, outcome
    return outcome


@contextlib.contextmanager
def stopped_at(step: int, error: type[BaseException] = KeyboardInterrupt) -> Iterator[None]:
    """An exception, Ctrl-C's if no other is given, comes just before a step, counted from 1 over all runs."""
    real, calls = Step.advance, []

    def stopping(self: Step) -> None:
        calls.append(1)
        if len(calls) == step:
            raise error
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "advance", stopping)
        yield


@contextlib.contextmanager
def stopped_after(blocks: int) -> Iterator[None]:
    """Ctrl-C comes when so many blocks of a cache are written."""
    real, calls = BlockWriter.write, []

    def stopping(self: BlockWriter, block: int, values: np.ndarray) -> None:
        if len(calls) == blocks:
            raise KeyboardInterrupt
        calls.append(1)
        real(self, block, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockWriter, "write", stopping)
        yield


def struck(
    spot: str,
    call: int,
    *arguments: object,
    by: signal.Signals = signal.SIGKILL,
    settings: Mapping[str, object] | None = None,
) -> Outcome:
    """Run `dive` in a process of its own, in this folder, and send it a signal at a chosen moment.

    spot: `module:name` of a function; the signal comes just before its `call`-th call (from 1).
    settings: `module:name` to values set before the command starts. stdout is not kept.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # a command in this process may have asked for less
    with tempfile.NamedTemporaryFile() as err:
        words = [str(argument) for argument in arguments]
        child = context.Process(
            target=_run_struck,
            args=(
                spot,
                call,
                words,
                by,
                dict(settings or {}),
                torch.get_num_threads(),
                os.getcwd(),
                err.name,
            ),
        )
        child.start()
        child.join(120)
        assert child.exitcode is not None, "the command still runs"
        return Outcome(child.exitcode, "", Path(err.name).read_text())


def _run_struck(
    spot: str,
    call: int,
    words: list[str],
    by: signal.Signals,
    settings: dict[str, object],
    threads: int,
    folder: str,
    err: str,
) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite run in the background ignores it
    os.chdir(folder)
    for name, value in settings.items():
        setattr(*_owner(name), value)
    owner, name = _owner(spot)
    setattr(owner, name, _striking(getattr(owner, name), call, by))
    sys.argv = ["dive", *words]
    with open(err, "w") as sys.stderr, open(os.devnull, "w") as sys.stdout:
        main()


def _owner(spot: str) -> tuple[Any, str]:
    module, _, path = spot.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, name


def _striking(function: Callable, call: int, by: signal.Signals) -> Callable:
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), by)
        return function(*args, **kwargs)

    return counted


def files_under(folder: Path = Path()) -> dict[str, bytes]:
    """Every file under a folder with its content: what must not change when a command refuses."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Chain:
    """A small teacher on the digits, its caches and a student of it; each made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def teacher(self) -> Path:
        """A teacher of three epochs in fp32."""
        path = self.folder / "teacher.pt"
        succeed("teacher", *DIGITS, "--epochs", 3, "--out", path)
        return path

    def _export(self, name: str, *options: object) -> Path:
        path = self.folder / name
        succeed("export-logits", *DIGITS, "--teacher", self.teacher, "--out", path, *options)
        return path

    @cached_property
    def cache(self) -> Path:
        """All nine views, float16."""
        return self._export("all.h5")

    @cached_property
    def features_cache(self) -> Path:
        """All nine views, the features."""
        return self._export("features.h5", "--store", "features")

    @cached_property
    def clean_cache(self) -> Path:
        """The clean view alone."""
        return self._export("clean.h5", "--views", "clean")

    @cached_property
    def drawn_cache(self) -> Path:
        """Four drawn views of each image."""
        return self._export("drawn.h5", "--views", 4)

    @cached_property
    def student(self) -> Path:
        """A student of three epochs from all views."""
        path = self.folder / "student.pt"
        succeed("student", *DIGITS, "--cache", self.cache, "--epochs", 3, "--out", path)
        return path
