"""`make bench-gpu`: a student on a CUDA device, as a captured graph, alone and with others.

    python -m benchmarks.gpu [--out FILE.json]

Without a CUDA device it prints one line and measures nothing. It needs no network and no data.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measure import Figure, interleaved, report
from benchmarks.scene import Scene, Student, machine
from benchmarks.stepping import Stepping, run_of
from dive.progress import Progress
from dive.recipe.reading import with_epochs
from dive.training.device import Runtime, choose_device
from dive.training.loop import Run, train
from dive.training.precision import precisions

STUDENTS = 4
SHORT = 10  # epochs of the runs that are compared


class TimedSteps(Stepping):
    """Each call returns the seconds of one step, the mean over an epoch's full steps, on its own stream."""

    def __init__(self, student: Student, runtime: Runtime, graph: bool, autotune: bool = False) -> None:
        self._stream = torch.cuda.Stream(runtime.device)
        self._stream.wait_stream(torch.cuda.current_stream(runtime.device))
        with (
            torch.cuda.stream(self._stream),
            torch.backends.cudnn.flags(enabled=True, benchmark=autotune),
        ):
            super().__init__(student, runtime)
            if graph:
                self.step.capture()

    def __call__(self) -> float:
        """Seconds per step."""
        with torch.cuda.stream(self._stream):
            self.begin()
            steps = self.spec.steps_per_epoch - 1
            self._stream.synchronize()
            start = time.perf_counter()
            for _ in range(steps):
                self.step.advance()
            self._stream.synchronize()
            return (time.perf_counter() - start) / steps

    def losses(self) -> torch.Tensor:
        """The losses of the next epoch's steps, including the last, smaller one."""
        with torch.cuda.stream(self._stream):
            self.begin()
            for _ in range(self.spec.steps_per_epoch):
                self.step.advance()
            return self.step.losses.cpu()


def agreement(scene: Scene) -> Iterator[Figure]:
    """The losses of the graph's steps against those of eager steps: equal up to rounding."""
    runs = [TimedSteps(scene.student("cache"), scene.runtime, graph) for graph in (True, False)]
    graph, eager = (run.losses() for run in runs)
    worst = ((graph - eager).abs() / eager.abs()).max().item()
    yield Figure("losses of an epoch's steps, graph against eager, largest difference", worst, at_most=0.02)


def steps(scene: Scene) -> Iterator[Figure]:
    """One step, run in every available way."""
    cases = {
        "graph": TimedSteps(scene.student("cache"), scene.runtime, graph=True),
        "eager": TimedSteps(scene.student("cache"), scene.runtime, graph=False),
        "autotuned": TimedSteps(scene.student("cache"), scene.runtime, graph=True, autotune=True),
        "streamed": TimedSteps(scene.student("streamed"), scene.runtime, graph=True),
        "none": TimedSteps(scene.student(None), scene.runtime, graph=True),
        "online": TimedSteps(scene.student("online"), scene.runtime, graph=True),
    }
    for precision in precisions(scene.device):
        runtime = Runtime(scene.device, precision)
        cases[precision] = TimedSteps(scene.student("cache"), runtime, graph=True)
    times = interleaved(cases, rounds=7, warm_ups=2)
    yield times.figure("step as a graph / eager", "graph", "eager", at_most=0.4)
    yield Figure("step as a graph", 1000 * times.median("graph"), "ms")
    for precision in precisions(scene.device):
        yield Figure(f"step as a graph in {precision}", 1000 * times.median(precision), "ms")
    yield times.figure("step, cuDNN autotuned / not", "autotuned", "graph")
    yield times.figure("step, cache streamed / resident", "streamed", "graph", at_most=1.05)
    yield times.figure("step from cache / without distillation", "graph", "none", at_most=1.03)
    yield times.figure("step from cache / teacher online", "graph", "online")


def whole_run(scene: Scene, folder: Path) -> Iterator[Figure]:
    """The paper's student, all its epochs."""
    start = time.perf_counter()
    (run,) = _runs(scene, folder, students=1, epochs=scene.recipe.schedule.epochs)
    train([run], Progress(quiet=True))
    total = time.perf_counter() - start
    loop = sum(epoch.seconds for epoch in run.history)
    epochs = len(run.history)
    yield Figure(f"student from cache, {epochs} epochs, training loop alone", loop, "s", at_most=20)
    yield Figure("its start-up (capture) and saving", total - loop, "s")


def side_by_side(scene: Scene, folder: Path) -> Iterator[Figure]:
    """Several students at once against one."""

    def trained(students: int) -> float:
        runs = _runs(scene, folder, students, SHORT)
        train(runs, Progress(quiet=True))
        return max(sum(epoch.seconds for epoch in run.history) for run in runs)

    times = interleaved({"one": lambda: trained(1), "four": lambda: trained(STUDENTS)}, rounds=5)
    yield times.figure(f"{STUDENTS} students at once / one", "four", "one", at_most=2.0)


def _runs(scene: Scene, folder: Path, students: int, epochs: int) -> list[Run]:
    recipe = with_epochs(scene.recipe, epochs)
    return [
        run_of(
            scene.student("cache", replace(recipe, seed=seed), folder / f"student-s{seed}.pt"), scene.runtime
        )
        for seed in range(students)
    ]


def main() -> None:
    """Run the benchmarks, print their table, write JSON; exit with code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/gpu.json"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench-gpu skipped: this machine has no CUDA device that torch can use")
        return
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="dive-bench-") as name:
        folder = Path(name)
        scene = Scene(folder, choose_device("cuda"))
        for part in (agreement(scene), steps(scene), whole_run(scene, folder), side_by_side(scene, folder)):
            figures += part
            print(f"{figures[-1].name}: {figures[-1].shown}", file=sys.stderr)
    met = report("dive on a GPU", machine(scene.runtime), figures, options.out)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
