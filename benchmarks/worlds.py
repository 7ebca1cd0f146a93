"""A command in several processes, with the environment variables that torchrun would set."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence


def printed(words: Sequence[object], size: int = 1, threads: int = 1) -> str:
    """Run `dive` with these words in `size` processes of `threads` threads; the first one's stdout.

    The processes begin when all have loaded their libraries. Raises CalledProcessError if one fails.
    """
    port = _free_port()
    members = [_member(words, rank, size, threads, port) for rank in range(size)]
    try:
        for member in members:
            assert member.stdout is not None and member.stdout.readline() == "ready\n"
        for member in members:
            assert member.stdin is not None
            member.stdin.write("go\n")
            member.stdin.flush()
        told = [member.communicate()[0] for member in members]
        for member in members:
            if member.returncode:
                raise subprocess.CalledProcessError(member.returncode, member.args)
        return told[0]
    finally:
        for member in members:
            member.kill()
            member.wait()


def _member(words: Sequence[object], rank: int, size: int, threads: int, port: int) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    if size > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        environment |= {name: str(value) for name, value in places.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.member", *map(str, words)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
