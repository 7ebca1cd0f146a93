"""Computes and writes the blocks of an export; each block is written while the next one is computed."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from dive.cache.writer import BlockWriter
from dive.feeds.feed import Batch, side_thread
from dive.feeds.images import Images
from dive.progress import Progress
from dive.training.device import Runtime
from dive.training.inference import Viewer, batch_size, outputs


def write_missing(
    writer: BlockWriter,
    network: Viewer,
    images: Images,
    views: np.ndarray,
    runtime: Runtime,
    progress: Progress,
    missing: Sequence[int] | None = None,
) -> None:
    """Compute and write the missing blocks; a thread writes each while the next one is computed.

    network: returns what the cache's encoding stores, logits or features; in eval mode, on the runtime's
    device. views: (N, V) ids. missing: the blocks to compute; None for those that `writer.resumed` returns.
    """
    if missing is None:
        missing = writer.resumed(progress)
    size = batch_size(images.space.shape, runtime.device, network)
    plan = (batch for block in missing for batch in _batches(writer.rows(block), views, size))
    answers = outputs(network, images, plan, runtime)
    done = writer.blocks - len(missing)
    # NumPy's products of small matrices in several threads would slow down torch's threads by a tenth.
    with (
        threadpool_limits(1, "blas"),
        side_thread(runtime.device, "writer") as pool,
        progress.bar("export", writer.blocks, done) as bar,
    ):
        writing: Future[None] | None = None
        for block in missing:
            shape = views[writer.rows(block)].shape
            together = torch.cat([next(answers) for _ in range(math.ceil(shape[0] * shape[1] / size))])
            computed = _Computed.of(together.view(*shape, -1))
            if writing is not None:
                writing.result()
                bar.advance()
            writing = pool.submit(lambda at, answers: writer.write(at, answers.numpy()), block, computed)
        if writing is not None:
            writing.result()
            bar.advance()


def _batches(samples: slice, views: np.ndarray, size: int) -> Iterator[Batch]:
    """Every stored view (N, V) of some samples, in order, in batches of `size`."""
    block = views[samples].astype(np.int64)  # (rows, V)
    rows = np.repeat(np.arange(samples.start, samples.stop, dtype=np.int64), block.shape[1])
    columns = np.tile(np.arange(block.shape[1], dtype=np.int64), len(block))
    yield from Batch(rows, block.reshape(-1), columns).split(size)


@dataclass(frozen=True)
class _Computed:
    """Outputs of a network on the host.

    answers: (rows, V, …) float32. ready: the CUDA event after which they are complete; None if they are.
    """

    answers: torch.Tensor
    ready: torch.cuda.Event | None

    @classmethod
    def of(cls, answers: torch.Tensor) -> "_Computed":
        """Outputs on any device, copied to the host without waiting for the copy."""
        if answers.device.type != "cuda":
            return cls(answers, None)
        host = torch.empty(answers.shape, pin_memory=True).copy_(answers, non_blocking=True)
        ready = torch.cuda.Event(blocking=True)
        ready.record()
        return cls(host, ready)

    def numpy(self) -> np.ndarray:
        """The outputs; waits until they are complete."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.answers.numpy()
