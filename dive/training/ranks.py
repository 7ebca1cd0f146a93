"""Communication between the processes of one command, by torch's own collectives.

A single process is a world of size one, in which every method returns its own value. Small values go through
Gloo, gradients on CUDA through NCCL. Only the first process writes outputs and makes decisions, and it tells
the others.
"""

import base64
import contextlib
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from dive import peers
from dive.errors import DiveError, PeerError
from dive.printable import shortened
from dive.recipe.documents import differences
from dive.world import World, this_world

TIMEOUT = timedelta(minutes=30)  # the longest that a collective waits for a process that is busy
CONNECTING = timedelta(minutes=1)  # for processes that have met in the store to connect to each other
_LOOK_EVERY_SECONDS = 0.2  # between two looks at the store, when waiting without a time limit
LOST = "another process of this command is gone; the same command resumes from its last saved state"

Value = TypeVar("Value")
_groups = 0  # numbers the uses of the store, so that each has its own keys


@dataclass(frozen=True)
class Ranks:
    """The processes that do one task together, from the view of one of them.

    Every method that communicates must be called by all processes, in the same order. It raises PeerError if
    another process has failed or is gone.

    >>> alone = Ranks()
    >>> alone.tell(3), alone.sum(torch.tensor([1, 2])), alone.gathered("one")
    (3, tensor([1, 2]), ['one'])
    """

    world: World = World()

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.world.rank

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.world.size

    @property
    def alone(self) -> bool:
        """Whether this process is the only one."""
        return self.world.size == 1

    @property
    def first(self) -> bool:
        """Whether this process is the first, which writes results and makes decisions."""
        return self.world.first

    @property
    def first_here(self) -> bool:
        """Whether this process is the first on its machine."""
        return self.world.local_rank == 0

    def tell(self, value: Value) -> Value:
        """The value of the first process, in every process. It must be picklable."""
        if self.alone:
            return value
        told: list[Any] = [value if self.first else None]
        with lost_peers():
            distributed.broadcast_object_list(told, src=0)
        return told[0]

    def from_first(self, work: Callable[[], Value]) -> Value:
        """What `work` returns in the first process, which alone calls it.

        If it raises an error, the first process raises that error and the others raise PeerError.
        """
        if self.alone:
            return work()
        answer: list[Value] = []
        if self.first:
            try:
                answer.append(work())
            except Exception:
                with contextlib.suppress(PeerError):
                    self.tell(answer)  # so that the others do not wait in vain
                raise
        answer = self.tell(answer)
        if not answer:
            raise PeerError(LOST)
        return answer[0]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the tensors of all processes, which must be on the CPU and have one shape and dtype."""
        if self.alone:
            return tensor
        total = tensor.clone()
        with lost_peers():
            distributed.all_reduce(total)
        return total

    def require_same(self, document: Mapping[str, Any], what: str) -> None:
        """Raise DiveError in every process if documents differ, naming the processes and the keys."""
        if self.alone:
            return
        documents: list[Any] = [None] * self.size
        with lost_peers():
            distributed.all_gather_object(documents, dict(document))
        others = {rank: differences(documents[0], one) for rank, one in enumerate(documents) if rank}
        different = [f"process {rank} in {'; '.join(keys)}" for rank, keys in others.items() if keys]
        if different:
            raise DiveError(
                f"processes differ from process 0 in {what}: {', '.join(different)}; give every machine the "
                "same command, recipe and data"
            )

    @contextlib.contextmanager
    def one_a_machine_first(self) -> Iterator[None]:
        """A block that the first process of each machine completes before the others there enter it.

        There is no time limit.
        """
        if self.alone:
            yield
            return
        global _groups
        leader = self.rank - self.world.local_rank
        _groups += 1
        done = f"through/{_groups}/{leader}"
        if not self.first_here:
            _wait_for(done)
        yield
        if self.first_here:
            with lost_peers():
                peers.meet().set(done, "")

    def gathered(self, value: Value) -> list[Value]:
        """The values of all processes, by rank. Processes may call this hours apart."""
        if self.alone:
            return [value]
        global _groups
        _groups += 1
        with lost_peers():
            store = peers.meet()
            store.set(f"gathered/{_groups}/{self.rank}", base64.b64encode(pickle.dumps(value)).decode())
            keys = [f"gathered/{_groups}/{rank}" for rank in range(self.size)]
            for key in keys:
                _wait_for(key)
            values = [pickle.loads(base64.b64decode(store.get(key))) for key in keys]
        self.sum(torch.zeros(1))  # the first process may run the store: it must wait until all have read
        return values

    def require_exchange(self, device: torch.device) -> None:
        """Raise DiveError if the processes cannot exchange tensors on the device.

        To be called before anything relies on it. NCCL connects at its first use, and if that fails, it fails
        in all processes at once.
        """
        if self.alone:
            return
        self.sum(torch.zeros(1))  # all processes are here, so that the time limit covers the exchange only
        try:
            _exchange(device)
        except RuntimeError as error:
            raise DiveError(
                f"process {self.rank} cannot exchange tensors on {device} with the others "
                f"({_told(error)}); each needs a GPU of its own, as with --device cuda; "
                "NCCL_DEBUG=INFO tells more, NCCL_SOCKET_IFNAME=NAME chooses the network"
            ) from error

    def share_buffers(self, module: torch.nn.Module) -> None:
        """Copy the buffers of the first process (statistics of batch norm) to all processes."""
        if self.alone:
            return
        with lost_peers():
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)


ALONE = Ranks()


@contextlib.contextmanager
def ranks_on(device: torch.device) -> Iterator[Ranks]:
    """A context with the processes that torchrun started for this command, or `ALONE` without torchrun.

    An existing process group is used. After an error, the group created here is not destroyed before the
    process ends. Otherwise other processes might report its loss before this one reports the cause.
    """
    world = this_world()
    if world.size == 1:
        yield ALONE
        return
    if distributed.is_initialized():
        yield Ranks(world)
        return
    global _groups
    _groups += 1
    _require_connection(world)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with lost_peers():
        _init_group(f"group/{_groups}", backend, world, TIMEOUT)
    yield Ranks(world)
    distributed.destroy_process_group()


def _init_group(keys: str, backend: str, world: World, timeout: timedelta) -> None:
    store = distributed.PrefixStore(keys, peers.meet())
    distributed.init_process_group(
        backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout
    )


def _require_connection(world: World) -> None:
    """Raise DiveError if the processes, which all reach the store, do not reach each other.

    It creates a separate process group for the short timeout `CONNECTING`. A process without a connection
    fails at once; the timeout ends the wait of the others.
    """
    try:
        _init_group(f"connection/{_groups}", "gloo", world, CONNECTING)
        distributed.barrier()
        distributed.destroy_process_group()
    except RuntimeError as error:
        raise DiveError(
            f"process {world.rank} does not reach the others over the network ({_told(error)}); "
            "GLOO_SOCKET_IFNAME=NAME on each machine chooses the network to use, `ip address` lists them"
        ) from error


def _exchange(device: torch.device) -> None:
    """Sum one value per process on the device, and wait for the sum."""
    one = torch.ones(1, device=device)
    distributed.all_reduce(one, async_op=True).wait(CONNECTING)
    one.item()


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Within it, a failed connection to another process raises PeerError."""
    try:
        yield
    except RuntimeError as error:
        if _of_a_connection(error):
            why = f" ({_told(error)})" if isinstance(error, distributed.DistBackendError) else ""
            raise PeerError(LOST + why) from error  # only NCCL's texts say what failed
        raise


def _told(error: RuntimeError) -> str:
    """The text of one of torch's errors, shortened to one line."""
    return shortened(" ".join(str(error).split()), 200)


def _of_a_connection(error: RuntimeError) -> bool:
    """Whether an error is what torch raises if another process of the group is gone or does not answer."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


def _wait_for(key: str) -> None:
    """Wait for a key in the store, without a time limit; raises PeerError if a process reports an error."""
    with lost_peers():
        store = peers.meet()
        while not store.check([key]):
            if store.check([peers.TOLD]):
                raise PeerError(LOST)
            time.sleep(_LOOK_EVERY_SECONDS)
