"""What the processes that train a network together tell each other: torch's own collectives.

One process is a world of one, for which every answer is its own. Small values go over Gloo, gradients of a
CUDA device over NCCL. Outputs, state and decisions are the first process's; it tells the others.
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

TIMEOUT = timedelta(minutes=30)  # of a collective: the longest that one may be busy while others wait
CONNECTING = timedelta(minutes=1)  # that processes which have met may take to connect to each other
_LOOK_EVERY_SECONDS = 0.2  # for what takes longer
LOST = "another process of this command is gone; the same command resumes from its last saved state"

Value = TypeVar("Value")
_groups = 0  # that this process was in: each has keys of its own


@dataclass(frozen=True)
class Ranks:
    """The processes that do one thing together, as one of them sees them.

    Every method must be called by all of them, in one order. Each raises PeerError where
    another process has failed or is gone.

    >>> alone = Ranks()
    >>> alone.tell(3), alone.sum(torch.tensor([1, 2])), alone.gathered("one")
    (3, tensor([1, 2]), ['one'])
    """

    world: World = World()

    @property
    def rank(self) -> int:
        """Which one this is, from 0."""
        return self.world.rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self.world.size

    @property
    def alone(self) -> bool:
        """Whether this process is the only one."""
        return self.world.size == 1

    @property
    def first(self) -> bool:
        """Whether this one writes results and makes decisions."""
        return self.world.first

    @property
    def first_here(self) -> bool:
        """Whether this one is the first of its machine."""
        return self.world.local_rank == 0

    def tell(self, value: Value) -> Value:
        """The first process's value, which must be one that pickle takes."""
        if self.alone:
            return value
        told: list[Any] = [value if self.first else None]
        with lost_peers():
            distributed.broadcast_object_list(told, src=0)
        return told[0]

    def from_first(self, work: Callable[[], Value]) -> Value:
        """What `work` gives in the first process, which alone does it; what it raises ends all."""
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
        """The sum of every process's tensor on the CPU, of one shape and type."""
        if self.alone:
            return tensor
        total = tensor.clone()
        with lost_peers():
            distributed.all_reduce(total)
        return total

    def require_same(self, document: Mapping[str, Any], what: str) -> None:
        """Raise DiveError in every process where documents are not equal, naming which differ and in what."""
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
        """The first process of each machine goes through it before the others there begin.

        It may take as long as it takes.
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
        """Every process's value, by rank; they may be hours apart."""
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
        self.sum(
            torch.zeros(1)
        )  # the first process keeps the store, where no agent does, until all have read
        return values

    def require_exchange(self, device: torch.device) -> None:
        """Raise DiveError where tensors on the device cannot be brought together.

        To be called before anything relies on it: NCCL's first use fails in all processes at once.
        """
        if self.alone:
            return
        self.sum(torch.zeros(1))  # all are here: the time that follows is the exchange's alone
        try:
            _exchange(device)
        except RuntimeError as error:
            raise DiveError(
                f"process {self.rank} cannot exchange tensors on {device} with the others "
                f"({_told(error)}); each needs a GPU of its own, as with --device cuda; "
                "NCCL_DEBUG=INFO tells more, NCCL_SOCKET_IFNAME=NAME chooses the network"
            ) from error

    def share_buffers(self, module: torch.nn.Module) -> None:
        """Bring the first process's buffers (batch norm's statistics) to all."""
        if self.alone:
            return
        with lost_peers():
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)


ALONE = Ranks()


@contextlib.contextmanager
def ranks_on(device: torch.device) -> Iterator[Ranks]:
    """Within it, the processes that torchrun started for this command; one alone where it started none.

    A process group that there is already is used. After an error the one made here is left to the end of the
    process: the others must not take its end for the cause before the cause is told.
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
    """Raise DiveError where the processes, which all reach the store, do not reach each other.

    A group of its own, for its short timeout: one process alone finds out at once that it reaches nobody.
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
    """Add up a value of every process on the device, and wait for it."""
    one = torch.ones(1, device=device)
    distributed.all_reduce(one, async_op=True).wait(CONNECTING)
    one.item()


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Within it a failure of the connection to other processes is a PeerError."""
    try:
        yield
    except RuntimeError as error:
        if _of_a_connection(error):
            why = f" ({_told(error)})" if isinstance(error, distributed.DistBackendError) else ""
            raise PeerError(LOST + why) from error  # Gloo's texts tell no more, NCCL's say what failed
        raise


def _told(error: RuntimeError) -> str:
    """What torch says of an error, on one line."""
    return shortened(" ".join(str(error).split()), 200)


def _of_a_connection(error: RuntimeError) -> bool:
    """Whether an error is torch's where another process of the group has gone away, or does not answer."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


def _wait_for(key: str) -> None:
    """Wait until a key is in the store, however long; raises PeerError where another tells an error."""
    with lost_peers():
        store = peers.meet()
        while not store.check([key]):
            if store.check([peers.TOLD]):
                raise PeerError(LOST)
            time.sleep(_LOOK_EVERY_SECONDS)
