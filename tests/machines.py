"""Two machines on one: network namespaces, each with a host name and a table of hosts of its own.

They have one cable between them and nothing else. As on a Debian machine, each takes its own name for
127.0.1.1, where the other does not reach it. Needs root and the command `ip` (Debian's iproute2).
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import chain
import pytest
from torchrun import ENVIRONMENT

NAMES = ("alpha", "beta")
CABLE = "eth0"  # the interface of each
PORT = 29500
SECONDS = 300  # within which all must have ended


@dataclass(frozen=True)
class Machine:
    """One of the two. space: its network namespace. hosts: the file that is its /etc/hosts."""

    name: str
    space: str
    hosts: Path

    def command(self, words: Sequence[object]) -> list[str]:
        """A command on it."""
        inside = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
        own = ["unshare", "--uts", "--mount", "sh", "-c", inside, "sh", self.name, str(self.hosts)]
        return ["ip", "netns", "exec", self.space, *own, *map(str, words)]


@contextlib.contextmanager
def two_machines(folder: Path) -> Iterator[list[Machine]]:
    """Within it, two machines; skips the test where they are not permitted. folder: for their hosts files."""
    machines = []
    for i, name in enumerate(NAMES):
        others = [f"10.123.45.{j + 1} {other}" for j, other in enumerate(NAMES) if j != i]
        hosts = folder / f"{name}.hosts"
        hosts.write_text("\n".join(["127.0.0.1 localhost", f"127.0.1.1 {name}", *others]) + "\n")
        machines.append(Machine(name, f"dive-{os.getpid()}-{name}", hosts))
    try:
        try:
            _connect(machines)
        except FileNotFoundError as error:
            pytest.skip(f"no command {error.filename}: Debian has it in iproute2")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces: {error.stderr.strip()}")
        yield machines
    finally:
        with contextlib.suppress(FileNotFoundError):
            for machine in machines:
                subprocess.run(["ip", "netns", "delete", machine.space], capture_output=True, check=False)


def _connect(machines: Sequence[Machine]) -> None:
    for machine in machines:
        _run("ip", "netns", "add", machine.space)
    first, second = (machine.space for machine in machines)
    peer = ("peer", "name", CABLE, "netns", second)
    _run("ip", "link", "add", CABLE, "netns", first, "type", "veth", *peer)
    for i, machine in enumerate(machines):
        ip = ("ip", "-netns", machine.space)
        _run(*ip, "address", "add", f"10.123.45.{i + 1}/24", "dev", CABLE)
        _run(*ip, "link", "set", CABLE, "up")
        _run(*ip, "link", "set", "lo", "up")
        _run(*machine.command(["true"]))


def _run(*words: str) -> None:
    subprocess.run(words, capture_output=True, text=True, check=True)


def torchrun(
    machines: Sequence[Machine],
    meet_on: Machine,
    commands: Sequence[Sequence[object]],
    environment: Mapping[str, str] | None = None,
) -> list[chain.Outcome]:
    """`dive` with a command on each machine, one process on each, as docs/distributed.md starts them."""
    run = [sys.executable, "-m", "torch.distributed.run", "--nnodes", len(machines), "--nproc-per-node", 1]
    run += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"{meet_on.name}:{PORT}",
        "--rdzv-id",
        7,
        "-m",
        "dive",
    ]
    started = [
        subprocess.Popen(
            machine.command([*run, *words]),
            env=os.environ | ENVIRONMENT | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine, words in zip(machines, commands, strict=True)
    ]
    try:
        told = [one.communicate(timeout=SECONDS) for one in started]
    finally:
        for one in started:
            one.kill()
    return [chain.Outcome(one.returncode, *both) for one, both in zip(started, told, strict=True)]
