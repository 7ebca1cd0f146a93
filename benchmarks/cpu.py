"""`make bench`: every stage on this machine's CPU, each against what it should cost.

    python -m benchmarks.cpu [--full] [--only NAME ...] [--out FILE.json]

Large cases use an eighth of the rows; `--full` uses all.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch

from benchmarks.common_way import CommonWay
from benchmarks.encodings import encodings, tune_features
from benchmarks.measure import Figure, interleaved, report
from benchmarks.photographs import photographs
from benchmarks.scene import Scene, content_of_one_view, machine, write_cache
from benchmarks.sharding import sharding, training_ranks
from benchmarks.stepping import Epochs, Stepping
from benchmarks.tuning import in_process_of_its_own
from dive.cache.reader import LogitCache
from dive.cache.writer import CacheWriter
from dive.feeds.feed import Batch
from dive.feeds.images import one_view, views_of
from dive.models.features import FeatureNetwork
from dive.progress import Progress
from dive.recipe.views import AutoAugment, CropFlip
from dive.training.inference import batch_size
from dive.views.registry import view_space
from dive.views.space import ViewSpace
from dive.workflows.export_blocks import write_missing

CPU = torch.device("cpu")
INATURALIST = (437_513, 8_142)
TEMPERATURES = (1.0, 2.0, 3.0, 6.0, 20.0, 40.0)  # of the pairs τ 1 3 20 × p 0.5 1
NAIVE_ROWS = 1024  # in a batch of the softmax passes that tune is compared with
GATHER = 256  # rows in a gather
BATCH = 128  # views in a batch of a DataLoader


def steps(folder: Path, full: bool) -> Iterator[Figure]:
    """A student's step from the cache, against steps without a teacher, with an online one, and streamed."""
    scene = Scene(folder, CPU)
    sources = (None, "cache", "streamed", "online")
    stepping = {source or "none": Stepping(scene.student(source), scene.runtime) for source in sources}
    times = interleaved(stepping, rounds=30, warm_ups=3)
    seconds = times.medians()
    yield Figure(
        "step from cache / without distillation", times.ratio("cache", "none"), at_most=1.03, seconds=seconds
    )
    yield Figure("step from cache / teacher online", times.ratio("cache", "online"), seconds=seconds)
    yield Figure(
        "step, cache streamed / resident", times.ratio("streamed", "cache"), at_most=1.05, seconds=seconds
    )
    yield Figure("step from cache", 1000 * seconds["cache"], "ms")


def epochs(folder: Path, full: bool) -> Iterator[Figure]:
    """An epoch of ours against one of the common way, on the same images."""
    scene = Scene(folder, CPU, share=1 if full else 8)
    common = CommonWay(scene.samples.pictures.held, scene.samples.labels, scene.samples.counts, scene.recipe)
    ours = Epochs(scene.student("cache", out=folder / "student.pt"), scene.runtime)
    times = interleaved({"ours": ours, "common": common}, rounds=5)
    bar = 0.40 if scene.runtime.precision == "bf16" else 0.75
    name = f"epoch of ours ({scene.runtime.precision}) / of the common way (fp32)"
    yield times.figure(name, "ours", "common", at_most=bar)


def export(folder: Path, full: bool) -> Iterator[Figure]:
    """Images per second of an export, of logits and of features, against a bare forward loop."""
    scene = Scene(folder, CPU, share=8)
    samples = 256 if full else 64
    network, runtime = scene.network().eval(), scene.runtime
    viewers = {"float16": network, "features": FeatureNetwork(network, network.blank(3, scene.space.shape))}

    def exported(store: str) -> None:
        path = folder / f"export-{store}.h5"
        path.unlink(missing_ok=True)
        content = scene.content(samples, store)
        with CacheWriter(path, content) as writer:
            write_missing(writer, viewers[store], scene.images, content.views, runtime, Progress(quiet=True))
            writer.finish()

    rows = np.repeat(np.arange(samples), scene.space.size)
    ids = np.tile(np.arange(scene.space.size), samples)
    plan = Batch(rows, ids, ids).split(batch_size(scene.space.shape, CPU))
    ready = [network.normalised(views) for views in scene.batches(list(plan))]

    @torch.inference_mode()
    def bare() -> None:
        for batch in ready:
            with runtime.autocast():
                network.body(batch)

    cases = {store: partial(exported, store) for store in viewers}
    times = interleaved(cases | {"bare": bare}, rounds=5)
    for store in viewers:
        yield Figure(
            f"export of {store} / bare forward, images per second",
            times.ratio("bare", store),
            at_least=0.95,
            seconds=times.medians(),
        )


def tune(folder: Path, full: bool) -> Iterator[Figure]:
    """The tune pass at iNaturalist's shape against a softmax pass for each pair in torch."""
    cache = _inaturalist(folder, share=1 if full else 8)
    logits = torch.from_numpy(cache.encoded_whole())
    peaks = []
    reading = []

    def ours() -> float:
        document, peak = in_process_of_its_own(cache.path, TEMPERATURES)
        peaks.append(peak)
        reading.append(document["reading"])
        return document["tune"]

    def naive() -> None:
        _softmax_passes(logits, NAIVE_ROWS)

    times = interleaved({"tune": ours, "softmax passes": naive}, rounds=5)
    size = "" if full else ", 1/8 of the rows"
    seconds = times.medians() | {"reading": float(np.median(reading))}
    speed = times.ratio("softmax passes", "tune")
    yield Figure(f"softmax passes in torch / tune, 6 temperatures{size}", speed, at_least=3, seconds=seconds)
    yield Figure(f"tune, 6 temperatures{size}", seconds["tune"], "s")
    yield Figure("tune / a pass that only reads", seconds["tune"] / seconds["reading"])
    yield Figure("memory of tune beyond the file", max(peaks) / 1e9, "GB", at_most=1)


def _inaturalist(folder: Path, share: int) -> LogitCache:
    """A one-view cache of iNaturalist 2018's shape."""
    n, classes = INATURALIST[0] // share, INATURALIST[1]
    return write_cache(folder / "inaturalist.h5", content_of_one_view(n, classes, "float16"))


def _softmax_passes(logits: torch.Tensor, rows: int) -> None:
    """Σ softmax(z/T) over rows, a pass for each temperature; tune computes more than these sums."""
    flat = logits.reshape(-1, logits.shape[2])
    for temperature in TEMPERATURES:
        sums = torch.zeros(flat.shape[1], dtype=torch.float64)
        for batch in flat.split(rows):
            sums += torch.softmax(batch.float() / temperature, dim=1).sum(dim=0)


def reading(folder: Path, full: bool) -> Iterator[Figure]:
    """Random rows of the cache against NumPy's gather of the same bytes from a memory map."""
    scene = Scene(folder, CPU, share=1 if full else 8)
    resident, path = scene.logits.feed(GATHER), scene.cache.path
    with h5py.File(path) as file:
        offset = file["logits"].id.get_offset()
    mapped = np.memmap(path, np.float16, "r", offset=offset, shape=scene.cache.shape)
    n, views, _ = mapped.shape
    draws = np.random.default_rng(0).integers(0, (n, views), (200, GATHER, 2))
    as_torch = [(torch.from_numpy(draw[:, 0].copy()), torch.from_numpy(draw[:, 1].copy())) for draw in draws]

    def ours() -> None:
        for rows, columns in as_torch:
            resident.batch(rows, columns, columns)

    def numpy() -> None:
        for draw in draws:
            mapped[draw[:, 0], draw[:, 1]]

    times = interleaved({"cache": ours, "memmap": numpy}, rounds=21, warm_ups=2)
    yield Figure(
        "cache gather / NumPy memmap gather",
        times.ratio("cache", "memmap"),
        at_most=1.5,
        seconds=times.medians(),
    )


def batches_of_views(folder: Path, full: bool) -> Iterator[Figure]:
    """Views of a batch made one at a time against all at once, as a DataLoader gets them."""
    scene, rng = Scene(folder, CPU, share=8), np.random.default_rng(0)
    pictures = scene.samples.pictures.held[:BATCH]
    for views in (CropFlip(), AutoAugment()):
        space = view_space(views.kind, pictures.shape[1:3], **views.keys())
        ids = rng.integers(space.size or 2**62, size=(20, BATCH)).tolist()

        def singly(space: ViewSpace = space, ids: list[list[int]] = ids) -> None:
            for batch in ids:
                np.stack([one_view(space, one, view) for one, view in zip(pictures, batch, strict=True)])

        def together(space: ViewSpace = space, ids: list[list[int]] = ids) -> None:
            for batch in ids:
                views_of(space, pictures, batch)

        times = interleaved({"singly": singly, "together": together}, rounds=7)
        yield times.figure(
            f"views of {views.kind}, one at a time / a batch of {BATCH}", "singly", "together", at_least=3
        )


def startup(folder: Path, full: bool) -> Iterator[Figure]:
    """`dive --help` against a bare Python."""

    def run(*words: str) -> Callable[[], None]:
        return lambda: (
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL) and None
        )

    cases = {"help": run("-m", "dive", "--help"), "python": run("-c", "pass")}
    times = interleaved(cases, rounds=11)
    yield times.figure("dive --help / python -c pass", "help", "python")
    yield Figure("dive --help", times.median("help"), "s", at_most=0.5)


BENCHMARKS = {
    f.__name__: f
    for f in (
        steps,
        encodings,
        epochs,
        export,
        tune,
        tune_features,
        reading,
        photographs,
        sharding,
        training_ranks,
        batches_of_views,
        startup,
    )
}


def main() -> None:
    """Run the benchmarks, print their table, write JSON; exit with code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="all rows of every case")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/cpu.json"))
    options = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="dive-bench-") as folder:
        runtime = Scene(Path(folder), CPU).runtime
        print(f"precision {runtime.precision}: {runtime.reason}", file=sys.stderr)
        for name in options.only:
            start = time.monotonic()
            figures += BENCHMARKS[name](Path(folder), options.full)
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    title = "dive on a CPU" + (", all rows" if options.full else "")
    sys.exit(0 if report(title, machine(runtime), figures, options.out) else 1)


if __name__ == "__main__":
    main()
